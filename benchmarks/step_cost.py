"""Cost of a step of SAM and its family over one of AdamW, on the default model.

python -m benchmarks.step_cost [ROUNDS] [SETTING=VALUE ...]
"""

import sys
from functools import partial

from benchmarks.figures import tell
from benchmarks.steps import device_of, noise, step
from benchmarks.timing import alternate, conditions
from miniclip.training import TrainingStep

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


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    shared = sys.argv[2:]
    steps = {name: step(f"optimizer={name}", *shared) for name in OPTIMIZERS}
    batch = noise(64, 48, num_tokens=12, device=device_of(steps["sam"]))

    def one_cycle(training_step: TrainingStep) -> None:
        for _ in range(CYCLE):
            training_step([batch])

    times = alternate(
        {name: partial(one_cycle, each) for name, each in steps.items()}, rounds=rounds, warmup=1
    )

    print(conditions("torch", "torchvision"))
    print(f"median of {rounds} alternating rounds of {CYCLE} steps, batch 64 at 48 pixels")
    for name, each in steps.items():
        figure = times.figure(name, over="adamw", unit="times the seconds of a step")
        if name != "adamw":
            passes = each.optimizer.num_passes(CYCLE) / CYCLE
            figure = figure._replace(name=f"{name}, passes: {passes:g}")
        print(f"{1000 * times.median(name) / CYCLE:8.1f} ms", end="  ")
        tell(figure)


if __name__ == "__main__":
    main()
