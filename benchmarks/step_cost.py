"""What a SAM step costs over an AdamW step on the default model.

python -m benchmarks.step_cost [ROUNDS] [SETTING=VALUE ...]
"""

import sys

import torch

from benchmarks.timing import alternate, conditions
from miniclip import build
from miniclip.cli import compose
from miniclip.training import Trainer, TrainingStep


def step(*overrides: str) -> TrainingStep:
    """The update of `python run.py OVERRIDES`."""
    cfg = compose(*overrides)
    torch.manual_seed(0)
    trainer: Trainer = build.make(cfg, "trainer")
    model = build.make_model(cfg, vocab_size=4096).to(trainer.device)
    model.to(memory_format=torch.channels_last)
    return TrainingStep(
        model,
        build.make(cfg, "loss"),
        build.make_optimizer(cfg, model),
        build.make_precision(cfg, trainer),
        grad_clip_norm=trainer.grad_clip_norm,
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    shared = sys.argv[2:]
    steps = {name: step(f"optimizer={name}", *shared) for name in ("adamw", "sam")}
    device = next(steps["sam"].model.parameters()).device
    images = torch.randn(64, 3, 48, 48, device=device).contiguous(memory_format=torch.channels_last)
    token_ids = torch.randint(4096, (64, 12), device=device)
    batch = images, token_ids, torch.ones_like(token_ids, dtype=torch.bool)
    times = alternate(
        {name: lambda update=update: update(*batch) for name, update in steps.items()},  # type: ignore[misc]
        rounds=rounds,
    )
    print(conditions("torch", "torchvision"))
    print(f"median of {rounds} alternating pairs, batch 64 at 48 pixels")
    for name in steps:
        ratio = times.ratio(name, over="adamw")
        print(f"{name:8} {1000 * times.median(name):8.1f} ms   {ratio:.3f} x adamw")


if __name__ == "__main__":
    main()
