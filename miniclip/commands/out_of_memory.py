"""What a run says that had too little memory: which of its settings take less, and to what values."""

from typing import Any

import torch

from miniclip.errors import UserError
from miniclip.files import flatten
from miniclip.runs import RunFiles

SMALLEST_BATCH = 4
"""Images of a batch that can be halved: a loss needs two."""

SIZES = ("image_size", "context_length", "embed_dim", "encoder.text.width", "encoder.text.num_layers")
"""Settings besides the batch that memory goes with."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory, on whichever device."""
    # on the CPU torch raises a plain RuntimeError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory_text(error: BaseException, run: RunFiles) -> str:
    """One line: how much was wanted, and the settings that help, with the values they have.

    Args:
        error: torch's, or Python's.
        run: whose config says the values.
    """
    settings = _settings(run)
    advice = [
        _in_parts(settings),
        _computed_again(settings),
        _half_the_batch(settings),
        _smaller(settings),
        _lower_precision(settings),
    ]
    return " ".join(part for part in [wanted(error), *advice] if part)


def wanted(error: BaseException) -> str:
    """A sentence on the memory that was not there."""
    # torch goes on with a page about its allocator
    what = (str(error).splitlines() or ["none left"])[0].partition(" Including non-PyTorch")[0]
    return f"Out of memory: {what.strip(' .')}."


def _settings(run: RunFiles) -> dict[str, Any]:
    """The run's settings by their full names; none where its config cannot be read."""
    try:
        return flatten(run.read_config())
    except (OSError, UserError, ValueError):
        return {}


def _in_parts(settings: dict[str, Any]) -> str:
    rows_at_once = settings.get("trainer.micro_batch_size") or settings.get("trainer.batch_size")
    if rows_at_once is None or rows_at_once < SMALLEST_BATCH:
        return ""
    return (
        "Take the batch in parts, slower and with all its negatives: "
        f"trainer.micro_batch_size={rows_at_once // 2}."
    )


def _computed_again(settings: dict[str, Any]) -> str:
    """Advice for a tower that has the setting and keeps its activations."""
    keeps = settings.get("encoder.image.checkpoint_activations") is False
    return "Slower, too: encoder.image.checkpoint_activations=true." if keeps else ""


def _half_the_batch(settings: dict[str, Any]) -> str:
    batch_size = settings.get("trainer.batch_size")
    num_batches = settings.get("trainer.accumulate_steps", 1)
    if batch_size is None or batch_size < SMALLEST_BATCH:
        return ""
    return (
        f"Half the batch (trainer.batch_size={batch_size} now): trainer.batch_size={batch_size // 2} "
        f"trainer.accumulate_steps={2 * num_batches}, with as many images per step but half the negatives."
    )


def _smaller(settings: dict[str, Any]) -> str:
    now = [f"{name}={settings[name]}" for name in SIZES if name in settings]
    return f"Lower one of {', '.join(now)}." if now else ""


def _lower_precision(settings: dict[str, Any]) -> str:
    return "Or precision=amp instead of fp32." if settings.get("precision.dtype") == "float32" else ""
