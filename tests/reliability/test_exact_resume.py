"""Stopped anywhere and resumed, a run comes to what it would have come to: to the bit, in every variant."""

import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import OPTIMIZERS
from tests.reliability.trials import TINY, Trial, before_call, outcome, signal_self

STEP = "miniclip.training.step:TrainingStep.__call__"
ENCODE = "miniclip.training.validation:encode"

NUM_IMAGES = 40
BATCHES = ("trainer.batch_size=8", "data.val_fraction=0.4")
"""24 images train: three steps an epoch, nine in all."""

ATTENTIONS = ("linformer", "linformer_fused", "full", "performer", "nystrom", "reformer", "bigbird")
PRECISIONS = ("fp32", "amp", "bf16", "fp16")
BASES = ("adamw", "muon", "nadam", "sgd")

VARIANTS: dict[str, Sequence[str]] = {
    **{f"optimizer={name}": [f"optimizer={name}"] for name in OPTIMIZERS},
    **{f"base={name}": [f"optimizer/base={name}"] for name in BASES},
    **{f"rho_schedule={name}": [f"optimizer.rho_schedule={name}"] for name in ("warmup", "lr")},
    "per layer": ["optimizer.per_layer=true", "optimizer.measure_every=2"],
    **{f"captions={name}": [f"data.captions={name}"] for name in ("first", "random", "all")},
    "multi_positive": ["data.captions=all", "loss.multi_positive=true", "loss.label_smoothing=0.1"],
    "siglip": ["loss=siglip", "temperature=learned"],
    **{f"temperature={name}": [f"temperature={name}"] for name in ("dynamic", "fixed", "learned")},
    "temperature.sam=reuse": ["temperature.sam=reuse"],
    **{f"precision={name}": [f"precision={name}"] for name in PRECISIONS},
    "accumulate": ["trainer.accumulate_steps=2", "trainer.batch_size=4"],
    "budget.steps": ["trainer.budget.steps=7"],
    "budget.forward_passes": ["trainer.budget.forward_passes=13", "optimizer=interval"],
    "passes as they come": ["trainer.budget.forward_passes=13", "optimizer=aesam"],
    "validate_every_epochs": ["trainer.validate_every_epochs=2"],
    "checkpoint_every_epochs": ["trainer.checkpoint_every_epochs=1"],
    "checkpoint_every_steps": ["trainer.checkpoint_every_steps=2", "trainer.keep_last=2"],
    "save_in_background": ["trainer.save_in_background=true", "trainer.checkpoint_every_steps=1"],
    "grad_clip_norm": ["trainer.grad_clip_norm=0.1"],
    "dropout": ["encoder.text.dropout=0.2"],
    **{f"attention={name}": [f"encoder/text/attention={name}"] for name in ATTENTIONS},
    **{f"crop={name}": [f"data.crop={name}"] for name in ("resized", "shifted")},
    "crop=eval": ["data.crop=eval", "data.flip=false"],
    "eval_crop=center": ["data.eval_crop=center", "data.flip=false"],
    **{f"cache={name}": [f"data.cache={name}", "data.crop=shifted"] for name in ("memory", "disk")},
    "workers": ["trainer.num_workers=2"],
    "workers, cache=memory": ["trainer.num_workers=2", "data.cache=memory"],
    "schedule=constant": ["schedule=constant"],
    "last_stage": ["encoder.image.trainable=last_stage", "encoder.image.freeze_batch_norm_stats=true"],
    "projection": ["projection=separate"],
    "broken images": ["data.on_broken_image=skip", "data.max_broken_fraction=0.5"],
}
"""What can be set to several values, each by itself; all else is as in the default recipe."""

HANDFUL: dict[str, Sequence[str]] = {
    "looksam": [
        "optimizer=looksam",
        "optimizer/base=muon",
        "encoder/text/attention=performer",
        "encoder.text.dropout=0.1",
        "data.captions=all",
        "loss.multi_positive=true",
        "trainer.num_workers=2",
        "trainer.budget.steps=10",
    ],
    "fp16": [
        "optimizer=gsam",
        "optimizer/base=sgd",
        "precision=fp16",
        "loss=siglip",
        "temperature=learned",
        "data.cache=disk",
        "data.crop=shifted",
        "trainer.accumulate_steps=2",
        "trainer.batch_size=4",
    ],
    "bf16": [
        "optimizer=interval",
        "precision=bf16",
        "encoder/text/attention=reformer",
        "data.cache=memory",
        "trainer.num_workers=2",
        "trainer.budget.forward_passes=13",
        "trainer.validate_every_epochs=2",
    ],
}
"""Variants together, so that a few runs meet many."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise with three captions each; one file is no image, of those that train."""
    folder = tmp_path_factory.mktemp("photographs")
    noise = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        pixels = noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        captions = [f"noise of number {index}", f"gray number {index}", "noise"]
        (folder / f"{index:02}.txt").write_text("\n".join(captions) + "\n")
    return folder


def run(settings: Sequence[str], folder: Path, **how: Any) -> int:
    """The exit status of a run."""
    trial = Trial(*settings, f"hydra.run.dir={folder}", output=folder.with_suffix(".txt"), **how)
    status = trial.wait()
    assert status in (0, 143), trial.printed
    return status


def assert_exact(
    settings: Sequence[str],
    tmp_path: Path,
    instants: Sequence[tuple[str, int]],
    *,
    at_last: Sequence[str] = (),
    elsewhere: bool = False,
) -> None:
    """Hold a run that is stopped at instants, one after another, against one that is not.

    Args:
        at_last: settings of the part that comes to the end.
        elsewhere: whether that is in another directory.
    """
    whole, stopped, last = tmp_path / "whole", tmp_path / "stopped", tmp_path / "stopped"
    run(settings, whole)

    for target, number in instants:
        stop = before_call(target, number, signal_self(signal.SIGTERM))
        assert run([*settings, "trainer.resume=auto"], stopped, before=stop) == 143

    if elsewhere:
        last = tmp_path / "elsewhere"
    resume = f"trainer.resume={stopped if elsewhere else 'auto'}"
    assert run([*settings, resume, *at_last], last) == 0
    assert_same(outcome(last), outcome(whole))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare what two runs came to, and name the parts that differ."""
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing


def settings_of(variant: Sequence[str], photographs: Path, tmp_path: Path) -> list[str]:
    data = ["data=folder", f"data.root={photographs}", f"data.cache_dir={tmp_path / 'cache'}"]
    own = {each.partition("=")[0] for each in variant}
    kept = [each for each in (*TINY, *BATCHES) if each.partition("=")[0] not in own]
    return [*kept, *data, *variant]


def random_instants(name: str) -> list[tuple[str, int]]:
    """Two steps, of which the second counts from the first, or a step and the validation after it."""
    chance = random.Random(name)
    second = chance.choice([(STEP, chance.randint(1, 3)), (ENCODE, 1)])
    return [(STEP, chance.randint(1, 3)), second]


@pytest.mark.parametrize("variant", HANDFUL)
def test_a_stopped_run_comes_to_the_same(variant: str, photographs: Path, tmp_path: Path) -> None:
    settings = settings_of(HANDFUL[variant], photographs, tmp_path)
    how: dict[str, Any] = {
        "looksam": {"at_last": ["trainer.num_workers=0"]},
        "fp16": {"elsewhere": True},
        "bf16": {"at_last": ["trainer.num_workers=1"]},
    }
    assert_exact(settings, tmp_path, random_instants(variant), **how[variant])


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_in_every_variant_a_stopped_run_comes_to_the_same(
    variant: str, photographs: Path, tmp_path: Path
) -> None:
    if variant == "broken images":
        photographs = with_broken(photographs, tmp_path / "broken")
    settings = settings_of(VARIANTS[variant], photographs, tmp_path)
    assert_exact(settings, tmp_path, random_instants(variant))


def with_broken(photographs: Path, folder: Path) -> Path:
    """A copy of a folder in which every fifth image cannot be read."""
    shutil.copytree(photographs, folder)
    for path in sorted(folder.glob("*.png"))[::5]:
        path.write_bytes(path.read_bytes()[:100])
    return folder


@pytest.mark.long
@pytest.mark.parametrize("num_workers", [(0, 2), (2, 0), (1, 3)])
def test_the_number_of_workers_changes_nothing(
    num_workers: tuple[int, int], photographs: Path, tmp_path: Path
) -> None:
    first, last = (f"trainer.num_workers={number}" for number in num_workers)
    settings = settings_of([first, "data.captions=random"], photographs, tmp_path)
    assert_exact(settings, tmp_path, random_instants(first + last), at_last=[last])


@pytest.mark.long
@pytest.mark.parametrize("target", [STEP, ENCODE])
def test_a_run_goes_on_in_another_directory(target: str, photographs: Path, tmp_path: Path) -> None:
    settings = settings_of(["encoder.text.dropout=0.1"], photographs, tmp_path)
    assert_exact(settings, tmp_path, [(target, 2)], elsewhere=True)
