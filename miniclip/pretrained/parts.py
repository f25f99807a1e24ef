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
"""All that a checkpoint's config can make: the names that may stand at each place."""

PARTIAL = ("encoder.text", "encoder.text.attention")
"""Parts that are completed with what is known only at run time."""


MODEL_PARTS = tuple(place for place in PARTS if place != "data")
"""The places that make up a model; its loss may have learned something, too."""


def check_config(config: Config) -> None:
    """Hold a config against the table and its settings against the signatures, before anything is made."""
    check_plain(config, "config")
    for key, kind in ROOT_TYPES.items():
        if not fits(config.get(key), kind):
            raise SettingError(key, shown(config.get(key)), f"must be {described(kind)}")
    if not config["name"].isprintable():
        raise SettingError("name", shown(config["name"]), "must be letters that can be printed")
    check_parts(config, PARTS)


def check_parts(config: Config, places: Iterable[str]) -> None:
    """Hold the parts at some places against the table, and their settings against the signatures."""
    for place in places:
        if place != "encoder.text.attention" or "attention" in node_at(config, "encoder.text"):
            checked_part(config, place)


def checked_part(config: Config, place: str) -> tuple[Maker, Config]:
    """The class at a place, one of the table, and its settings.

    Raises:
        UserError: when anything else stands there.
    """
    node = node_at(config, place)
    target = node.get("_target_")
    if type(target) is not str or target not in PARTS[place]:
        raise UserError(f"its config wants to call {shown(target)} as {place}")
    if node.get("_partial_", False) is not (place in PARTIAL):
        raise UserError(f"{place}._partial_ is {shown(node.get('_partial_'))}")

    settings = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    names, hints = signature_of(PARTS[place][target])
    for name, value in settings.items():
        hint = hints.get(name)
        if value == "???":
            raise UserError(f"{place}.{name} is needed: give {place}.{name}=...")
        if name not in names or hint is None:
            raise UserError(f"{place}.{shown(name)} is no setting of {target}")
        if not fits(value, hint):
            raise SettingError(f"{place}.{name}", shown(value), f"must be {described(hint)}")
    return PARTS[place][target], settings


def node_at(config: Config, place: str) -> Config:
    """The dict at a place: one key after the other, so that no key with a dot stands for another place."""
    node: Any = config
    for key in place.split("."):
        node = node.get(key) if type(node) is dict else None
    if type(node) is not dict:
        raise UserError(f"its config has no part {place}")
    return node
