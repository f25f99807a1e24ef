"""Cost of a step of SAM and its family over one of AdamW, on the default model.

python -m benchmarks.step_cost [ROUNDS] [SETTING=VALUE ...]
"""

import sys
from functools import partial

import torch

from benchmarks.figures import tell
from benchmarks.timing import alternate, conditions
from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.training import Trainer, TrainingStep

OPTIMIZERS = (
    "adamw",
    "muon",
    "sam",
    "sam_norm_only",
    "looksam",
    "interval",
    "msam",
    "asam",
    "gsam",
    "vasso",
    "fsam",
    "async_sam",
    "random_sam",
    "lesam",
    "ssam",
    "wsam",
    "functional_sam",
    "sam_text_tower",
    "sam_image_tower",
)
"""What takes the same passes in every cycle of the steps below."""

CYCLE = 5
"""Steps timed together: those that perturb now and then do so once in five."""


def step(*overrides: str) -> TrainingStep:
    """The step of `python run.py OVERRIDES`."""
    cfg = compose(*overrides)
    torch.manual_seed(0)
    trainer: Trainer = instantiate.make(cfg, "trainer")
    model = instantiate.make_model(cfg, vocab_size=4096).to(trainer.device)
    model.to(memory_format=torch.channels_last)
    return TrainingStep(
        model,
        instantiate.make(cfg, "loss"),
        instantiate.make_optimizer(cfg, model),
        instantiate.make_precision(cfg, trainer),
        grad_clip_norm=trainer.grad_clip_norm,
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    shared = sys.argv[2:]
    steps = {name: step(f"optimizer={name}", *shared) for name in OPTIMIZERS}
    device = next(steps["sam"].model.parameters()).device
    images = torch.randn(64, 3, 48, 48, device=device).contiguous(memory_format=torch.channels_last)
    token_ids = torch.randint(4096, (64, 12), device=device)
    batch = Batch(images, token_ids, torch.ones_like(token_ids, dtype=torch.bool))

    def one_cycle(training_step: TrainingStep) -> None:
        for _ in range(CYCLE):
            training_step([batch])

    times = alternate(
        {name: partial(one_cycle, each) for name, each in steps.items()}, rounds=rounds, warmup=1
    )

    print(conditions("torch", "torchvision"))
    print(f"median of {rounds} alternating rounds of {CYCLE} steps, batch 64 at 48 pixels")
    for name in steps:
        print(f"{1000 * times.median(name) / CYCLE:8.1f} ms", end="  ")
        tell(times.figure(name, over="adamw", unit="times the seconds of a step"))


if __name__ == "__main__":
    main()
