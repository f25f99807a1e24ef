"""Folders that a model is saved or exported into: none may hold two."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from miniclip.errors import UserError
from miniclip.files import read_json
from miniclip.runs import RunFiles

ONNX_CONFIG = "onnx.json"
"""A folder with this file holds a model in ONNX; `miniclip.deploy.onnx_files` says what is in it."""

DUAL_ENCODER = "vision-text-dual-encoder"
"""What transformers calls the models that an export writes."""


def check_target(folder: Path, library: str, paths: Iterable[Path]) -> None:
    """Stop where a model in a folder would be mixed with another one, or mistaken for it.

    Args:
        library: format in which the model is to be written; a former one in it is replaced.
        paths: of the files to be written.

    Raises:
        UserError: when the folder is a run, holds a model in another format, or a file that is of no model.
    """
    if RunFiles(folder).checkpoints.is_dir():
        raise UserError(f"{folder} is a run, whose model would be taken for this one. Give another folder.")

    found = format_of(folder)
    if found not in (None, library):
        raise UserError(f"{folder} holds a model in the format {found}. Give another folder: -o FOLDER")

    strangers = [path.name for path in paths if found is None and path.exists()]
    if strangers:
        raise UserError(
            f"{folder} holds no model, but {', '.join(strangers)}, which would be written over. Remove "
            "what is not needed, or give another folder: -o FOLDER"
        )


def format_of(folder: Path) -> str | None:
    """The format of the model that a folder holds, or None."""
    if (folder / ONNX_CONFIG).exists():
        return "onnx"
    if (folder / "open_clip_config.json").exists():
        return "open_clip"
    if not (folder / "config.json").exists():
        return None

    config = {}
    with suppress(ValueError, AttributeError):
        config = dict(read_json(folder / "config.json"))
    if config.get("library") == "miniclip":
        return "safetensors"
    kind = config.get("model_type")
    if kind is None:
        return None
    return "transformers" if kind == DUAL_ENCODER else f"transformers ({kind})"
