"""Ten steps of one process out of several, for test_steps.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.models.synced_batch_norm import synced_batch_norms
from miniclip.positives import PositivePairs
from miniclip.training import TrainingStep
from tests.bundles import fill_zeros
from tests.conftest import TINY

CASES: dict[str, tuple[str, ...]] = {
    "adamw": ("optimizer=adamw",),
    "sam": ("optimizer=sam",),
    "muon": ("optimizer=muon",),
    "sam on muon": ("optimizer=sam_on_muon",),
    "functional sam": ("optimizer=functional_sam",),
    "several positives": (
        "optimizer=adamw",
        "loss.multi_positive=true",
        "loss.label_smoothing=0.1",
        "loss.chunk_size=3",
    ),
    "accumulation": ("optimizer=sam", "trainer.accumulate_steps=2"),
    "micro-batches": ("optimizer=sam", "trainer.micro_batch_size=3"),
    "functional sam in micro-batches": ("optimizer=functional_sam", "trainer.micro_batch_size=3"),
    "batch norm": ("optimizer=sam", "encoder.image.architecture=test_resnet"),
}
"""What N processes do as one with the whole batch would."""

OWN_PERTURBATION = ("optimizer=sam", "optimizer.rho=0.5", "optimizer.sync_perturbation=false")
"""Each process perturbs along its own gradient."""

NUM_STEPS = 10
BATCH = 8


def training_step(settings: Sequence[str], world: World) -> TrainingStep:
    """The step of a model from one seed in all processes."""
    tower = "encoder.image.architecture=test_convnext"
    cfg = compose(*TINY, tower, "precision=fp32", *settings)
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300).train()
    fill_zeros(model)
    trainer = instantiate.make(cfg, "trainer")
    return TrainingStep(
        model,
        model.loss,
        instantiate.make_optimizer(cfg, model),
        instantiate.make_precision(cfg, trainer),
        grad_clip_norm=1.0,
        micro_batch_size=trainer.micro_batch_size,
        world=world,
    )


def batch(seed: int, rows: slice) -> Batch:
    """Rows of a batch; two of its images are one, two captions are equal."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    token_ids = torch.randint(300, (BATCH, 6), generator=generator)
    captions = ["a", "b", "c", "d", "e", "a", "f", "g"]
    positives = PositivePairs.of(torch.tensor([0, 1, 2, 3, 4, 5, 1, 7])[rows], captions[rows])
    return Batch(images[rows], token_ids[rows], torch.ones_like(token_ids[rows]).bool(), positives)


def ten_steps(settings: Sequence[str], world: World) -> dict[str, Tensor]:
    """Losses, the norm of each gradient, and the weights at the end."""
    step = training_step(settings, world)
    with synced_batch_norms(step.model, world, wanted=not world.is_alone):
        return steps_of(step, settings, world)


def steps_of(step: TrainingStep, settings: Sequence[str], world: World) -> dict[str, Tensor]:
    """The same of a step as it is."""
    count = 2 if "trainer.accumulate_steps=2" in settings else 1
    results = []
    for number in range(NUM_STEPS):
        rows = world.rows(BATCH)
        results.append(step([batch(count * number + part, rows) for part in range(count)]))
    return {
        "losses": torch.stack([result.loss for result in results]),
        "norms": torch.stack([result.grad_norm for result in results]),
        "weights": torch.cat([value.detach().flatten() for value in step.model.parameters()]),
        "buffers": torch.cat([value.detach().flatten().float() for value in step.model.buffers()]),
    }


def one_step(settings: Sequence[str], world: World) -> dict[str, Tensor]:
    """Loss, gradient and weights of one step."""
    step = training_step(settings, world)
    result = step([batch(0, world.rows(BATCH))])
    return {
        "loss": result.loss,
        "metrics": torch.tensor([name in result.metrics for name in ("sharpness", "perturbation_norm")]),
        "buffers": torch.cat([value.flatten().float() for value in step.model.buffers()]),
        "gradient": torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None]),
        "weights": torch.cat([p.detach().flatten() for p in step.model.parameters()]),
    }


def steps_with_bad_image(world: World) -> dict[str, Tensor]:
    """A step whose last row alone is NaN, which one of the processes reads, and its norm."""
    step = training_step(("optimizer=sam", "optimizer.sync_perturbation=false"), world)
    before = torch.cat([value.detach().flatten() for value in step.model.state_dict().values()])
    own = batch(0, world.rows(BATCH))
    if world.rank == 1:
        own.images[-1] = torch.nan
    result = step([own])
    after = torch.cat([value.detach().flatten() for value in step.model.state_dict().values()])
    return {"norm": result.grad_norm, "moved": (after - before).abs().max()}


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    world = World.current()
    found: dict[str, Any] = {name: ten_steps(settings, world) for name, settings in CASES.items()}
    found["own perturbation"] = one_step(OWN_PERTURBATION, world)
    found["own statistics"] = one_step(CASES["batch norm"], world)
    found["bad image"] = steps_with_bad_image(world)
    torch.save(found, out / f"{world.rank}.pt")
    dist.destroy_process_group()
