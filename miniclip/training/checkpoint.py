"""Checkpoints: plain tensors and plain data in one file that is whole or not there."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from miniclip.errors import UserError

FORMAT = 2
"""What is written. Format 1 counted positions in batches; it is read as well."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, replacing it in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def copy_checkpoint(source: Path, target: Path) -> None:
    """Give a written checkpoint a second name; as a hard link where the file system has them."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Raises:
        UserError: when it is missing, damaged or of another format.
    """
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"The checkpoint {path} is damaged or no checkpoint ({reason}).") from None
    if not isinstance(content, dict) or content.get("format") not in (1, FORMAT):
        raise UserError(f"The file {path} is not a MiniCLIP checkpoint of format {FORMAT}.")
    return _from_format_1(content) if content["format"] == 1 else content


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of version 0.1.0 as format 2 has it."""
    trainer = content["config"]["trainer"]
    progress = dict(content["progress"])
    progress["position"] = progress.pop("batch") * trainer["batch_size"]
    progress["forward_passes"] = None
    progress["total_seconds"] = progress["seconds"]
    # whether the last epoch was validated is not known; if the run ends here, it is so once more
    best = progress["best"]
    progress["validated_step"] = 0 if best is None else best["step"]
    progress["validations"] = progress["epoch"] // trainer["validate_every_epochs"]
    return {**content, "format": FORMAT, "progress": progress}


def load_model(model: nn.Module, checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Load the checkpoint's weights.

    Raises:
        UserError: when it is of another architecture; names the settings that differ.
    """
    theirs, ours = checkpoint["model"], model.state_dict()
    wrong = [
        key
        for key in sorted(theirs.keys() | ours.keys())
        if key not in theirs or key not in ours or theirs[key].shape != ours[key].shape
    ]
    if wrong:
        parts = ("encoder", "projection", "temperature", "tokenizer", "embed_dim", "context_length")
        settings = [
            f"{name}={value} (here {flatten(config).get(name)})"
            for name, value in flatten(checkpoint["config"]).items()
            if name.startswith(parts) and flatten(config).get(name) != value
        ]
        raise UserError(
            f"The checkpoint is of another architecture: {len(wrong)} tensors differ, the first is "
            f"{wrong[0]}. It was made with {', '.join(settings) or 'other training captions'}."
        )
    model.load_state_dict(theirs)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
