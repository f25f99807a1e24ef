"""Making the parts that a config names, and errors in the words of who typed it."""

import re
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from miniclip.config.groups import groups
from miniclip.config.schema import check_is_part, full_name, select
from miniclip.data import DataSource, ImageTextDataset
from miniclip.errors import SettingError, UserError
from miniclip.files import flatten
from miniclip.losses import Loss
from miniclip.models import CLIP
from miniclip.optim import PassOptimizer, as_pass_optimizer, parameter_groups, scale_learning_rates
from miniclip.signature import signature_of
from miniclip.training import Precision, Trainer


def make(cfg: DictConfig, part: str) -> Any:
    """A part of the config, "data" say; a `_partial_` one lacks its run-time values."""
    node = select(cfg, part)
    if part.replace(".", "/") in groups():
        check_is_part(cfg, part.replace(".", "/"))
    with names_of(cfg, part):
        return hydra.utils.instantiate(node, _convert_="all")


def read_data(cfg: DictConfig) -> tuple[ImageTextDataset, ImageTextDataset]:
    """The training and the validation data set of a config."""
    source: DataSource = make(cfg, "data")
    with names_of(cfg, "data"):
        return source.datasets()


def make_model(cfg: DictConfig, *, vocab_size: int) -> CLIP:
    """Towers, projection, temperature and loss.

    Raises:
        SettingError: when the loss is no `Loss`.
    """
    return CLIP(
        image_encoder=make(cfg, "encoder.image"),
        text_encoder=_call(cfg, "encoder.text", vocab_size=vocab_size),
        projection=make(cfg, "projection"),
        temperature=make(cfg, "temperature"),
        loss=_make_loss(cfg),
    )


def make_optimizer(cfg: DictConfig, model: torch.nn.Module) -> PassOptimizer:
    """The optimizer over the model's parameter groups."""
    settings, _ = signature_of(hydra.utils.get_object(cfg.optimizer._target_))
    extra = {"model": model} if "model" in settings else {}
    optimizer = _call(cfg, "optimizer", parameter_groups(model), **extra)

    scale_learning_rates(optimizer)
    return as_pass_optimizer(optimizer)


def make_precision(cfg: DictConfig, trainer: Trainer) -> Precision:
    """Autocast and scaler for the trainer's device."""
    return _call(cfg, "precision", device=trainer.device)


def _make_loss(cfg: DictConfig) -> Loss:
    """The loss, of which training asks more than its value."""
    loss = make(cfg, "loss")
    if not isinstance(loss, Loss):
        target = select(cfg, "loss")._target_
        raise SettingError("loss._target_", target, "must be derived from miniclip.losses.Loss")
    return loss


def _call(cfg: DictConfig, part: str, *args: Any, **kwargs: Any) -> Any:
    """Complete a `_partial_` part with what is known only at run time."""
    factory = make(cfg, part)
    with names_of(cfg, part):
        return factory(*args, **kwargs)


@contextmanager
def names_of(cfg: DictConfig, part: str) -> Iterator[None]:
    """Turn a part's errors into ones that name settings as the user types them."""
    try:
        yield
    except Exception as raised:
        error = raised.__cause__ if isinstance(raised, InstantiationException) else raised
        if isinstance(error, SettingError):
            name = full_name(cfg, part, error.setting)
            raise SettingError(name, error.value, error.allowed) from None
        if isinstance(error, UserError):
            raise error from None
        lacking = re.search(r"missing .* arguments?: '(\w+)'", str(error))
        if isinstance(error, TypeError) and lacking:
            below = re.search(r"full_key: (\S+)", str(raised))  # Hydra's path of a part in this one
            name = f"{below[1] if below else part}.{lacking[1]}"
            raise UserError(f"{name} is needed: give {name}=...") from error
        is_of_sizes = isinstance(error, RuntimeError) and "overflow" in str(error)
        if isinstance(error, ValueError | TypeError) or is_of_sizes:
            blamed = _blamed(cfg, part, str(error))
            if blamed is not None:
                raise SettingError(*blamed, str(error)) from error
            raise UserError(f"{part}: {error}. Change its settings, {part}.*") from error
        raise


def _blamed(cfg: DictConfig, part: str, message: str) -> tuple[str, Any] | None:
    """The one setting below a part whose number a message of another package ends with, and its value.

    torch says "Invalid learning rate: -1". Of several settings of this value the one counts with which a
    word begins, as in "Invalid epsilon value: -1".
    """
    number = re.search(r": ([-+]?\d*\.?\d+(?:e[-+]?\d+)?)$", message)
    node = select(cfg, part)
    if number is None or not isinstance(node, DictConfig):
        return None

    settings = flatten(typing.cast(dict[str, Any], OmegaConf.to_container(node, resolve=True)))
    blamed = [path for path, value in settings.items() if float(number[1]) in _numbers(value)]
    if len(blamed) > 1:
        blamed = [path for path in blamed if f" {path.rpartition('.')[2]}" in message]
    if len(blamed) != 1:
        return None

    (path,) = blamed
    parent, _, setting = f"{part}.{path}".rpartition(".")
    return full_name(cfg, parent, setting), settings[path]


def _numbers(value: Any) -> list[float]:
    """A number, or those of a list."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
