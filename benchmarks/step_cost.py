"""Cost of a step of SAM and its family over one of AdamW, on the default model at 64 pixels.

python -m benchmarks.step_cost [ROUNDS] [SETTING=VALUE ...]
"""

from functools import partial

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.steps import device_of, noise, step
from benchmarks.timing import alternate, conditions
from miniclip.allocator import keep_freed_memory
from miniclip.training import TrainingStep

OPTIMIZERS = (
    "muon",
    "muon_short",
    "sam",
    "late_sam",
    "sam_on_muon",
    "per_layer_sam",
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
"""Those whose passes are known beforehand; stochastic_sam and aesam mix steps of adamw and of sam."""

CYCLES = {"muon": 4, "muon_short": 2, "late_sam": 5, "sam_on_muon": 4, "looksam": 5, "interval": 5}
"""Steps of which one does more than the others; they are timed together, as a run of so many."""

BATCH_SIZE = 128
IMAGE_SIZE = 64
"""Pixels: what the other speeds on CPU cores are measured at, too."""


def main() -> None:
    arguments = arguments_of(__doc__, rounds=7, settings=())
    rounds, shared = arguments.rounds, arguments.settings
    keep_freed_memory()  # as a run does
    adamw = step("optimizer=adamw", *shared)
    batch = noise(BATCH_SIZE, IMAGE_SIZE, num_tokens=12, device=device_of(adamw))

    def run(training_step: TrainingStep, num_steps: int) -> None:
        for number in range(num_steps):
            training_step.optimizer.fraction_done = number / num_steps
            training_step([batch])

    print(conditions("torch", "torchvision"))
    print(f"median of {rounds} rounds, batch {BATCH_SIZE} at {IMAGE_SIZE} pixels, in turn with AdamW")
    for name in OPTIMIZERS:
        other = step(f"optimizer={name}", *shared)
        cycle = CYCLES.get(name, 1)
        passes = other.optimizer.num_passes(cycle) / cycle

        # a step beside a step: what the machine's speed does in between is little
        times = alternate(
            {"adamw": partial(run, adamw, cycle), name: partial(run, other, cycle)},
            rounds=rounds,
        )
        figure = times.figure(name, over="adamw", unit="times the seconds of a step")
        print(f"{1000 * times.median(name) / cycle:8.1f} ms", end="  ")
        tell(figure._replace(name=f"{name}, passes: {passes:g}"))


if __name__ == "__main__":
    main()
