"""Too little memory is told with the settings that take less."""

import pkgutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.commands.console import one_line_errors
from miniclip.commands.out_of_memory import out_of_memory_text
from miniclip.files import read_json
from miniclip.runs import RunDirectory
from tests.conftest import TINY
from tests.in_process import Answer, train_in_process

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.31 "
    "GiB is free. Including non-PyTorch memory, this process has 77 GiB memory in use. If reserved but "
    "unallocated memory is large try setting ..."
)

CONFIG = """\
trainer: {batch_size: 64, accumulate_steps: 3}
image_size: 224
encoder: {text: {width: 256}, image: {checkpoint_activations: false}}
precision: {dtype: float32}
"""


def test_the_settings_that_help_are_named_with_their_values(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(CONFIG)
    assert out_of_memory_text(torch.OutOfMemoryError(OF_CUDA), run) == (
        "Out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
        "79.10 GiB of which 1.31 GiB is free. Take the batch in parts, slower and with all its negatives: "
        "trainer.micro_batch_size=32. Slower, too: encoder.image.checkpoint_activations=true. Half the "
        "batch (trainer.batch_size=64 now): trainer.batch_size=32 trainer.accumulate_steps=6, with as many "
        "images per step but half the negatives. Lower one of image_size=224, encoder.text.width=256. Or "
        "precision=amp instead of fp32."
    )


def test_a_batch_of_two_is_not_halved_and_amp_is_not_advised_twice(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config("trainer: {batch_size: 3, accumulate_steps: 1}\nprecision: {dtype: auto}\n")
    assert out_of_memory_text(MemoryError(), run) == "Out of memory: none left."


def test_parts_that_are_too_large_are_halved(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(CONFIG.replace("accumulate_steps: 3", "micro_batch_size: 10"))
    assert "negatives: trainer.micro_batch_size=5." in out_of_memory_text(MemoryError(), run)


def test_a_run_without_memory_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a config, too: memory can go before it is written."""
    assert out_of_memory_text(MemoryError("no"), RunDirectory(tmp_path)).startswith("Out of memory: no.")

    def without_memory(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError(OF_CUDA)

    monkeypatch.setattr("miniclip.training.step.TrainingStep.__call__", without_memory)
    answer = train_in_process(*TINY, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert answer.returncode == 1
    (line,) = (line for line in answer.stderr.splitlines() if "Out of memory" in line)
    assert "trainer.batch_size=4 trainer.accumulate_steps=2" in line and "image_size=32" in line
    assert line.startswith("Error: ") and "Traceback" not in answer.stderr


PHASES = {
    "the model is moved": ("torch.nn.Module.to", 1),
    "the first pass": ("miniclip.models.clip.CLIP.encode_image", 1),
    "the second pass of SAM": ("miniclip.models.clip.CLIP.encode_image", 2),
    "validation": ("miniclip.training.validation.encode", 1),
    "saving": ("miniclip.training.checkpointer.save_checkpoint", 1),
    "a task of eval": ("miniclip.evaluation.evaluation.Evaluation.run", 1),
    "figures": ("matplotlib.figure.Figure.savefig", 1),
}
"""What wants memory in a run, and the call of it that gets none."""


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_without_memory_is_told_and_recorded(
    phase: str, noise_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, call = PHASES[phase]
    fail_at_call(monkeypatch, target, call)
    run = tmp_path / "run"
    data = ["data=folder", f"data.root={noise_folder}", "tokenizer.vocab_size=300", "optimizer=sam"]
    answer = train_in_process(*TINY[:-1], *data, "trainer.budget.steps=2", f"hydra.run.dir={run}")

    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    (line,) = (line for line in answer.stderr.splitlines() if "Out of memory" in line)
    assert "Tried to allocate 2.00 GiB" in line
    assert "trainer.batch_size=4 trainer.accumulate_steps=2" in line and "image_size=32" in line
    status = read_json(run / "status.json")
    assert status["status"] == "out_of_memory" and status["reason"] in line


def test_commands_without_memory_are_told_in_one_line(
    class_run: RunDirectory,
    class_folder: Path,
    miniclip: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_at_call(monkeypatch, "miniclip.models.clip.CLIP.encode_image", 1)
    answer = miniclip("embed", class_run.path, class_folder, "-o", "index")
    assert answer.returncode == 1 and len(answer.stderr.splitlines()) == 1
    assert "Tried to allocate 2.00 GiB" in answer.stderr
    assert "Take a smaller --batch-size (64 now). Name another device: --device cpu" in answer.stderr


@pytest.mark.parametrize(
    ("options", "error", "advice"),
    [
        ({}, MemoryError, ""),
        ({"device": "auto"}, MemoryError, ""),  # the computer's own has run out
        ({"device": "auto"}, torch.OutOfMemoryError, " Name another device: --device cpu takes"),
        ({"device": "cpu", "batch_size": 8}, MemoryError, " Take a smaller --batch-size (8 now)."),
    ],
)
def test_only_options_that_the_command_has_are_advised(
    options: dict[str, Any], error: type[Exception], advice: str
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors([], options):
        raise error
    told = str(ended.value.code)
    assert told.startswith("Error: Out of memory") and advice in told
    assert ("--device" in told, "--batch-size" in told) == ("--device" in advice, "--batch-size" in advice)


def fail_at_call(monkeypatch: pytest.MonkeyPatch, target: str, number: int) -> None:
    """Have the n-th call of a function or method find no memory."""
    original = pkgutil.resolve_name(target)
    calls = count(1)

    def without_memory(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise torch.OutOfMemoryError(OF_CUDA)
        return original(*arguments, **options)

    monkeypatch.setattr(target, without_memory)
