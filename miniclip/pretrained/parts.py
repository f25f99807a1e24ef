"""The exact table of what a checkpoint's config can make: nothing else is ever called by a name in it."""

import types
import typing
from collections.abc import Iterable
from typing import Any

import miniclip.data
import miniclip.losses
import miniclip.models
from miniclip.errors import SettingError, UserError
from miniclip.signature import described, fits, signature_of
from miniclip.training.contents import check_plain, shown

Config = dict[str, Any]
"""A config as plain data: dicts, lists, texts, numbers, true, false and null."""

Maker = typing.Callable[..., Any]
"""A class, or a function that makes one of several."""

ROOT_TYPES: dict[str, type] = {
    "name": str,
    "seed": int,
    "embed_dim": int,
    "image_size": int,
    "context_length": int,
    "device": str,
}
"""The keys that groups share, at the root of a config."""


def _named(module: types.ModuleType, *names: str) -> dict[str, Maker]:
    return {f"{module.__name__}.{name}": getattr(module, name) for name in names}


PARTS = {
    "data": _named(
        miniclip.data,
        "CSVTable",
        "CocoCaptions",
        "Flickr8k",
        "Flickr30k",
        "Folder",
        "Hub",
        "ImageClasses",
        "OpenMoji",
        "Parquet",
        "Shards",
    ),
    "encoder.image": _named(miniclip.models, "TimmEncoder", "TorchvisionEncoder"),
    "encoder.text": _named(miniclip.models, "BagOfTokens", "HFTextModel", "TextEncoder"),
    "encoder.text.attention": _named(
        miniclip.models,
        "BigBirdAttention",
        "FullAttention",
        "FusedLinformerAttention",
        "LinformerAttention",
        "NystromAttention",
        "PerformerAttention",
        "ReformerAttention",
        "linformer_attention",
    ),
    "projection": _named(
        miniclip.models, "LinearProjection", "NoProjection", "ProjectionMLP", "SeparateProjection"
    ),
    "temperature": _named(miniclip.models, "DynamicTemperature", "FixedTemperature", "LearnedTemperature"),
    "loss": _named(miniclip.losses, "ClipLoss", "SigLipLoss"),
}
"""All that a checkpoint's config can make: the names that each part may have."""

PARTIAL = ("encoder.text", "encoder.text.attention")
"""Parts that are completed with what is known only at run time."""


MODEL_PARTS = tuple(part for part in PARTS if part != "data")
"""The parts that make up a model; its loss may have learned something, too."""


def check_config(config: Config) -> None:
    """Hold a config against the table and its settings against the signatures, before anything is made."""
    check_plain(config, "config")
    for key, kind in ROOT_TYPES.items():
        if not fits(config.get(key), kind):
            raise SettingError(key, shown(config.get(key)), f"must be {described(kind)}")
    if not config["name"].isprintable():
        raise SettingError("name", shown(config["name"]), "must be letters that can be printed")
    check_parts(config, PARTS)


def check_parts(config: Config, parts: Iterable[str]) -> None:
    """Hold some parts against the table, and their settings against the signatures."""
    for part in parts:
        if part != "encoder.text.attention" or "attention" in node_at(config, "encoder.text"):
            checked_part(config, part)


def checked_part(config: Config, part: str) -> tuple[Maker, Config]:
    """The class of a part, one of the table, and its settings.

    Raises:
        UserError: when anything else stands there.
    """
    node = node_at(config, part)
    target = node.get("_target_")
    if type(target) is not str or target not in PARTS[part]:
        raise UserError(f"its config wants to call {shown(target)} as {part}")
    if node.get("_partial_", False) is not (part in PARTIAL):
        raise UserError(f"{part}._partial_ is {shown(node.get('_partial_'))}")

    settings = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    names, hints = signature_of(PARTS[part][target])
    for name, value in settings.items():
        hint = hints.get(name)
        if value == "???":
            raise UserError(f"{part}.{name} is needed: give {part}.{name}=...")
        if name not in names or hint is None:
            raise UserError(f"{part}.{shown(name)} is no setting of {target}")
        if not fits(value, hint):
            raise SettingError(f"{part}.{name}", shown(value), f"must be {described(hint)}")
    return PARTS[part][target], settings


def node_at(config: Config, part: str) -> Config:
    """The dict of a part: one key after the other, so that no key with a dot stands for another part."""
    node: Any = config
    for key in part.split("."):
        node = node.get(key) if type(node) is dict else None
    if type(node) is not dict:
        raise UserError(f"its config has no part {part}")
    return node
