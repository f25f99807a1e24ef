"""What a checkpoint may hold: its parts and their kinds, held against a file before anything uses it."""

import math
import re
import typing
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import torch

from miniclip.errors import UserError
from miniclip.signature import fits
from miniclip.training.progress import Progress

PLAIN = (str, int, float, bool, type(None))
DEEPEST = 20
"""Levels that a config may have; a real one has five."""

MOST_VALUES = 100_000
"""Values that a config may have; one that holds the same list many times would never be walked through."""

HYDRA_KEYS = ("_target_", "_partial_")
"""The keys in underscores that a config may hold, as the place of a part; others steer Hydra."""

FREE_KEYS = "config.encoder.text.config"
"""The configuration of a Hugging Face model, whose keys are its own, numbers among them."""


OF_BEST: dict[str, Any] = {"step": int, "epoch": int, "val/rsum": float, "protocol": str}
"""What goes on to be read of the best validation's record."""


DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Kinds of numbers that a model may have."""

LARGEST_CHANNEL = 1e6
"""Above any mean and deviation of a channel."""


class _Part(NamedTuple):
    """A part of a checkpoint.

    Attributes:
        fits: whether a value may be it.
        kind: of value that it has to be, in words.
    """

    fits: Callable[[Any], bool]
    kind: str


def check_contents(content: dict[str, Any]) -> None:
    """Hold the parts of a checkpoint against their kinds, and its config against plain data.

    Raises:
        UserError: names the part and what is wrong with it.
    """
    for name in PARTS:
        if name not in content:
            raise UserError(f"it holds no {name!r}")
        check_part(name, content[name])
    for name, part in OPTIONAL_PARTS.items():
        if name in content and not part.fits(content[name]):
            raise UserError(f"its {name!r} is not {part.kind}")
    check_plain(content["config"], "config")


def check_part(name: str, value: Any) -> None:
    """Hold one part of a checkpoint against its kind.

    Raises:
        UserError: when it is none.
    """
    if not PARTS[name].fits(value):
        raise UserError(f"its {name!r} is not {PARTS[name].kind}")


def check_progress(progress: dict[str, Any]) -> None:
    """Hold the progress of a run against `Progress`; counts and seconds are finite and not negative.

    Raises:
        UserError: names the entry that is not.
    """
    kinds = typing.get_type_hints(Progress)
    for name, value in progress.items():
        if name not in kinds:
            raise UserError(f"its progress counts {shown(name)}, which no run does")
        is_number = isinstance(value, int | float)
        if not fits(value, kinds[name]) or (is_number and not 0 <= value < math.inf):
            raise UserError(f"its progress has {name}={shown(value)}")
    best = progress.get("best")
    if best is not None and not all(isinstance(best.get(name), kind) for name, kind in OF_BEST.items()):
        raise UserError("its progress has no record of the best validation")


def check_plain(
    value: Any, path: str, *, in_list: bool = False, counter: Iterator[int] | None = None
) -> None:
    """Refuse whatever is not plain, fully resolved data: a run writes its config resolved.

    Interpolations would read the environment or other nodes, keys in underscores steer Hydra, and a part
    in a list is one that no run has.

    Args:
        counter: of the values of the whole config.

    Raises:
        UserError: names the path and what was found there.
    """
    counter = count() if counter is None else counter
    if next(counter) > MOST_VALUES:
        raise UserError(f"it holds more than {MOST_VALUES:,} values")
    if path.count(".") > DEEPEST:
        raise UserError(f"it is nested too deep at {path[:60]}")
    if type(value) is dict:
        for key, below in value.items():
            _check_key(key, path, in_list=in_list)
            check_plain(below, f"{path}.{key}", in_list=in_list, counter=counter)
    elif type(value) is list:
        for index, below in enumerate(value):
            check_plain(below, f"{path}.{index}", in_list=True, counter=counter)
    elif type(value) not in PLAIN:
        raise UserError(f"{path} is no plain value but of the type {type(value).__name__}")
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{path} holds an interpolation: {shown(value)}")


def shown(value: Any) -> str:
    """A value from a stranger's file as it may be printed: short, and without control characters."""
    text = ascii(value) if type(value) in PLAIN else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_key(key: Any, path: str, *, in_list: bool) -> None:
    is_free = path.startswith(FREE_KEYS)
    if type(key) is not str and not (is_free and type(key) is int):
        raise UserError(f"{path} has a key that is no text: {shown(key)}")
    name = str(key)
    can_be_part = path != "config" and not in_list
    steers_hydra = name[:1] == name[-1:] == "_" and not (can_be_part and name in HYDRA_KEYS)
    if "${" in name or steers_hydra:
        raise UserError(f"{path} has the key {shown(key)}")


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and name.isprintable() and _is_tensor(tensor) for name, tensor in value.items()
    )


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of real numbers, each of which the file holds."""
    return (
        type(value) is torch.Tensor
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in DTYPES
        # one number may stand for billions
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _is_optimizer(value: Any) -> bool:
    return (
        type(value) is dict
        and type(value.get("state")) is dict
        and type(value.get("param_groups")) is list
        and all(type(group) is dict for group in value["param_groups"])
        and all(_are_moments(moments) for moments in value["state"].values())
    )


def _are_moments(value: Any) -> bool:
    """Whether a value is what an optimizer keeps of a parameter."""
    return type(value) is dict and all(
        _is_tensor(below) for below in value.values() if isinstance(below, torch.Tensor)
    )


def _is_tokenizer(value: Any) -> bool:
    kinds = {"backend": str, "pad_token": str, "context_length": int, "pad_to_multiple_of": int}
    return type(value) is dict and all(type(value.get(name)) is kind for name, kind in kinds.items())


def _is_preprocessing(value: Any) -> bool:
    channels: list[Any] = [value.get(name) for name in ("mean", "std")] if isinstance(value, dict) else []
    return (
        len(channels) == 2
        and all(isinstance(numbers, list) and len(numbers) == 3 for numbers in channels)
        and all(
            type(number) in (int, float) and abs(number) < LARGEST_CHANNEL
            for numbers in channels
            for number in numbers
        )
        and min(channels[1]) > 0
    )


def _is_signature(value: Any) -> bool:
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_dict(value: Any) -> bool:
    return type(value) is dict


PARTS = {
    "model": _Part(_is_model, "a dict of tensors by name"),
    "optimizer": _Part(_is_optimizer, "the state of an optimizer"),
    "scaler": _Part(_is_dict, "a dict"),
    "progress": _Part(_is_dict, "a dict"),
    "tokenizer": _Part(_is_tokenizer, "the state of a tokenizer"),
    "preprocessing": _Part(_is_preprocessing, "a mean and a positive deviation for each channel"),
    "config": _Part(_is_dict, "a dict"),
    "random_state": _Part(_is_dict, "a dict"),
}

OPTIONAL_PARTS = {"signature": _Part(_is_signature, "a text of 64 hexadecimal digits")}
"""Parts that a checkpoint can lack: those of earlier versions, and of a user who cannot keep a key."""
