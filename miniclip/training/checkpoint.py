"""Checkpoints: plain tensors and plain data in one file that is whole or not there."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from miniclip.errors import UserError

FORMAT = 1


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
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"The file {path} is not a MiniCLIP checkpoint of format {FORMAT}.")
    return content


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
            f"{name}={value} (here {_flat(config).get(name)})"
            for name, value in _flat(checkpoint["config"]).items()
            if name.startswith(parts) and _flat(config).get(name) != value
        ]
        raise UserError(
            f"The checkpoint is of another architecture: {len(wrong)} tensors differ, the first is "
            f"{wrong[0]}. It was made with {', '.join(settings) or 'other training captions'}."
        )
    model.load_state_dict(theirs)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
