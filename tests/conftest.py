"""Shared material: the real data folder where there is one, and small sets made on the spot."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.metrics.health import Health
from miniclip.runs import RunDirectory, RunFacts
from miniclip.stop_signals import SIGNALS
from miniclip.training import TrainingStep
from miniclip.training.digests import DIGESTS
from miniclip.training.resuming import go_on
from tests.in_process import Answer, miniclip_in_process

ROOT = Path(__file__).resolve().parent.parent

OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf/optimizer").glob("*.yaml"))

for ignored in (each for each in SIGNALS if signal.getsignal(each) is signal.SIG_IGN):
    # a script has started the tests in the background, or nohup has; what they start would ignore it, too
    signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those that ask for one: what is exact here is so on a CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """Let the collector of garbage leave alone what is imported: torch alone is a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests, and the processes they start, keep a key: not in the user's own folder."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(folder))  # Windows, where caches move with it
        found = platformdirs.user_state_path("miniclip")
        assert found.is_relative_to(folder), f"a newer platformdirs is needed, this one gives {found}"
        yield folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, named by MINICLIP_TEST_DATA."""
    folder = os.environ.get("MINICLIP_TEST_DATA")
    if folder is None:
        pytest.skip("needs the real data sets: set MINICLIP_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve small JPEG files, 0.jpg ... 11.jpg, each of one colour of its own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        pixels = np.full((40, 50, 3), [20 * index, 255 - 20 * index, 128], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return folder


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of noise with a caption each, which worker processes can read."""
    folder = tmp_path_factory.mktemp("noise")
    noise = np.random.default_rng(0)
    for index in range(40):
        pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"noise of number {index}\n")
    return folder


def run_miniclip(
    *overrides: str, cwd: Path | None = None, timeout: float = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python run.py ...` as a user types it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        cwd=cwd or ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def miniclip_command(folder: Path, *arguments: object) -> Answer:
    """`miniclip ...` in this process and in a folder, whose cache is not the user's."""
    return miniclip_in_process(*arguments, cwd=folder, HOME=str(folder))


TINY = (
    "encoder/image=timm",
    "encoder.image.architecture=test_resnet",
    "encoder.text.width=32",
    "encoder.text.num_layers=1",
    "image_size=32",
    "embed_dim=32",
    "data.limit=40",
    "trainer.batch_size=8",
    "trainer.budget.epochs=2",
)
"""The whole recipe, small: five steps an epoch, a second or two."""


def fit(folder: Path, *overrides: str) -> RunDirectory:
    """Train in this process and return the run directory."""
    return fit_config(folder, compose(*overrides))


def fit_config(folder: Path, cfg: DictConfig) -> RunDirectory:
    """The same of a composed config."""
    run = RunDirectory(folder)
    trainer, experiment, logger = build(cfg, run)
    checkpoint = go_on(trainer.resume, run, experiment.config)
    logger.start(run.metrics, RunFacts("test", experiment.config))
    summary, _ = trainer.fit(experiment, run, logger, checkpoint=checkpoint)
    logger.finish(failed=False, summary=summary, figures={})
    return run


def health_of(*, rank: float) -> dict[str, float]:
    """What a record says of features that spread, but for their rank."""
    measures = dict.fromkeys(Health._fields, -2.0) | {"image_rank": 9.0, "text_rank": rank}
    return {f"health/{name}": value for name, value in measures.items()}


def parts_of(checkpoint: Path) -> dict[str, Any]:
    """The parts of a checkpoint without their digests: changed and written anew, they are well-formed."""
    content = torch.load(checkpoint, weights_only=True)
    del content[DIGESTS]
    return content


def interrupt_at_step(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """End the run in place of a step, as a second Ctrl-C does: nothing is saved."""
    original = TrainingStep.__call__
    steps = count(1)

    def interrupted(self: TrainingStep, batches: Any) -> Any:
        if next(steps) == step:
            raise KeyboardInterrupt
        return original(self, batches)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)


def signal_at_step(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Send this process a Ctrl-C as a step begins, which is then the last one."""
    original = TrainingStep.__call__
    steps = count(1)

    def signaled(self: TrainingStep, batches: Any) -> Any:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batches)

    monkeypatch.setattr(TrainingStep, "__call__", signaled)


def kill_in_its_first_job(folder: Path, *overrides: str) -> None:
    """Launch a sweep, and kill it when its first job has a checkpoint."""
    command = [sys.executable, str(ROOT / "run.py"), "-m", *overrides, f"hydra.sweep.dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("0_*/checkpoints/last.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()


CLASSES = ("blue_square", "red_square", "green_square")


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of twenty squares of one color each."""
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for index in range(20):
            pixels = generator.integers(0, 120, (40, 50, 3), dtype=np.uint8)
            pixels[..., (number + 2) % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def class_settings(class_folder: Path) -> list[str]:
    """What trains on the squares, whose captions are the names of their classes."""
    data = ["data=imagefolder", f"data.root={class_folder}", "data.val_fraction=0.5", "data.flip=false"]
    return [*TINY, *data, "optimizer=adamw"]


@pytest.fixture(scope="session")
def class_run(tmp_path_factory: pytest.TempPathFactory, class_folder: Path) -> RunDirectory:
    """A run on the squares; tests that write into it take a copy."""
    return fit(tmp_path_factory.mktemp("class_run"), *class_settings(class_folder))


@pytest.fixture
def miniclip(tmp_path: Path) -> Callable[..., Answer]:
    """The command `miniclip WORDS` in an empty folder, whose cache is not the user's."""
    return partial(miniclip_in_process, cwd=tmp_path, HOME=str(tmp_path))
