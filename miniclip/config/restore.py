"""From a checkpoint back to objects: a config out of a file is data from a stranger, and calls nothing.

`miniclip.pretrained` reads the checkpoint and makes its parts: each is looked up in an exact table of
parts and names (pretrained/parts.py), and its settings are held against the signature of its class. Hydra,
which would instantiate and resolve whatever it meets on the way, never sees them.

What a config names is opened as data at most, and that only where this user's signature says that they
wrote it, or where they name it again. Weights come from the checkpoint, and so does the configuration of a
Hugging Face model; no cache is written where a file says.
"""

import logging
import os
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from miniclip.config.compose import compose
from miniclip.data import DataSource, ImageTextDataset, Split
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import SettingError, UserError, counted
from miniclip.models import CLIP
from miniclip.pretrained import ModelBundle
from miniclip.pretrained.loading import (
    bundle_of,
    full_name,
    make,
    named_after,
    named_by,
    read_checkpoint,
)
from miniclip.pretrained.parts import Config, check_config, checked_part
from miniclip.provenance import is_ours
from miniclip.runs.job_key import changes_nothing
from miniclip.tokenizers import Tokenizer
from miniclip.training.contents import shown

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint rebuilds without further settings.

    Attributes:
        checkpoint: the file it came from.
        config: the resolved config of its run, with the changes asked for; it holds no interpolation.
        preprocessing: of images for the model: the checkpoint's, with the changes asked for.
        unopened: settings of the data that name places in a file which this user did not sign.
        altered: changes asked for that make other data of the same files, "data.eval_crop=center" say.
        own_data: settings of the run's own data, at the places asked for; None where another kind was.
        is_elsewhere: whether a data set was asked for by name, at another place than the run's.
        trained_on: fingerprint of the part that the run was trained on; None where the file does not say.
    """

    checkpoint: Path
    config: DictConfig
    model: CLIP
    tokenizer: Tokenizer
    preprocessing: EvalPreprocessing
    unopened: tuple[str, ...]
    altered: tuple[str, ...] = ()
    own_data: Config | None = None
    is_elsewhere: bool = False
    trained_on: str | None = None

    def datasets(self, **settings: Any) -> tuple[ImageTextDataset, ImageTextDataset]:
        """The training and the validation data set of the run.

        Args:
            settings: of the data, to take instead of the config's.

        Raises:
            UserError: when a place of the data is named by nothing but a stranger's file.
        """
        config = _as_plain(self.config)
        self._refuse_places(settings.keys())
        config["data"] |= settings
        source = make(config, "data")
        try:
            return source.datasets()
        except SettingError as error:
            raise SettingError(full_name("data", error.setting), error.value, error.allowed) from None

    def refuse_seen(self, train: ImageTextDataset, measured: ImageTextDataset) -> None:
        """Stop where images would be measured that have trained the run; see `datasets`.

        Settings and files say anew which images are held out, so that others, or one image more, divide
        them otherwise. Where the files are no longer those of the run it can only be warned of.

        Raises:
            UserError: when a changed setting makes it so.
        """
        is_known = self.trained_on is not None and self.own_data is not None
        if not is_known or train.is_streamed or len(train) == 0:  # all images, which is what was asked for
            return
        if train.split.fingerprint() == self.trained_on:
            return

        unlike = self._settings_unlike_the_run()
        own = self._part_trained_on() if unlike else None
        if own is None:
            if not self.is_elsewhere:
                log.warning(
                    "The images and captions read here are not those that %s was trained on, or are "
                    "divided otherwise: images that it was trained on may be among the measured ones.",
                    self.checkpoint,
                )
            return

        seen = set(own.ids)
        num_seen = sum(image_id in seen for image_id in measured.split.ids)
        if num_seen > 0:
            raise UserError(
                f"{' '.join(unlike)}: {num_seen:,} of the {counted(len(measured), 'image')} of this "
                f"{measured.split.name} part have trained the run. Take the run's own settings of the "
                "data, or measure every image by that name: data.use=all."
            )

    def _settings_unlike_the_run(self) -> list[str]:
        """Settings of the data that are not the run's, typed or of a data set that was named."""
        own, now = typing.cast(Config, self.own_data), _as_plain(self.config)["data"]
        return [
            f"data.{name}={value}"
            for name, value in sorted(now.items())
            if own.get(name, ...) != value and not changes_nothing(f"data.{name}")
        ]

    def _part_trained_on(self) -> Split | None:
        """What the run was trained on, of the files that are read here; None where it is not there."""
        # nothing is decoded for this
        as_trained = {**typing.cast(Config, self.own_data), "cache": "none", "on_broken_image": "raise"}
        try:
            own, _ = make({"data": as_trained}, "data").datasets()
        except UserError:  # files of other columns, say, which are another data set
            return None
        is_known = not own.is_streamed and own.split.fingerprint() == self.trained_on
        return own.split if is_known else None

    def _refuse_places(self, named: Collection[str]) -> None:
        """Stop before a place is opened that the user has not named."""
        unnamed = [name for name in self.unopened if name not in named]
        if not unnamed:
            return
        data = _as_plain(self.config)["data"]
        theirs = ", ".join(f"data.{name}={shown(data[name])}" for name in unnamed)
        wanted = " ".join(f"data.{name}=..." for name in unnamed)
        raise UserError(
            f"The checkpoint {self.checkpoint} was not trained by you on this machine (it lacks your "
            f"signature), so what its config names is not opened: {theirs}. Say yourself where the data "
            f"is, {wanted}, or take another data set, data=NAME. This also holds for your own runs of "
            "another machine or of version 0.1.0."
        )

    def named(self, name: str) -> ModelBundle:
        """The model with what goes with it, under a name for tables."""
        return ModelBundle(name, _as_plain(self.config), self.model, self.tokenizer, self.preprocessing)

    def loss(self) -> typing.Callable[..., torch.Tensor]:
        """The loss of the run, with what it learned."""
        return self.model.loss

    def optimizer(self) -> Config:
        """Settings of the run's optimizer, as they stand in its config: no part is made of them."""
        settings = _as_plain(self.config).get("optimizer")
        return settings if isinstance(settings, dict) else {}


def restore(path: Path, *changes: str) -> Restored:
    """Rebuild the model of a run directory (its best checkpoint) or of a checkpoint, on the CPU.

    Args:
        path: of the run directory or checkpoint.
        changes: "data.root=/elsewhere" and the like; "data=NAME" takes another data set with its defaults.

    Raises:
        UserError: when there is no whole checkpoint, its weights are not finite, or its config holds
            anything but the settings of MiniCLIP's own parts.
    """
    checkpoint = read_checkpoint(path)
    with named_after(checkpoint.path), named_by("data"):
        is_own = is_ours(checkpoint.content["config"]["data"], checkpoint.content.get("signature"))

    config = _changed(checkpoint.config, changes)
    check_config(config)
    unopened = () if is_own else _unnamed_places(config, changes)

    bundle = bundle_of(checkpoint, config)
    return Restored(
        checkpoint.path,
        OmegaConf.create(config),
        bundle.model,
        bundle.tokenizer,
        bundle.preprocessing,
        unopened,
        altered=_altered(checkpoint.config, config, changes),
        own_data=_own_data(checkpoint.config, config),
        is_elsewhere=any(change.startswith("data=") for change in changes)
        and _is_elsewhere(checkpoint.config, config),
        trained_on=_trained_on(checkpoint.content),
    )


def _unnamed_places(config: Config, changes: tuple[str, ...]) -> tuple[str, ...]:
    """Settings of the data that name a place, where no change of the user says which."""
    if any(change.startswith("data=") for change in changes):  # the user's own data set
        return ()
    source, settings = checked_part(config, "data")
    named = {change.partition("=")[0] for change in changes}
    return tuple(
        name
        for name in typing.cast(type[DataSource], source).places
        if settings.get(name) is not None and f"data.{name}" not in named
    )


def _own_data(config: Config, changed: Config) -> Config | None:
    """The run's settings of its data, at the places asked for; None where another kind of data is."""
    if config["data"].get("_target_") != changed["data"].get("_target_"):
        return None
    return {**config["data"], **_places(changed)}


def _trained_on(content: dict[str, Any]) -> str | None:
    """What a checkpoint says of the part that it was trained on."""
    fingerprints = content.get("data")
    return fingerprints.get("train") if isinstance(fingerprints, dict) else None


def _places(config: Config) -> Config:
    """The settings of the data that name places."""
    source, settings = checked_part(config, "data")
    return {name: settings.get(name) for name in typing.cast(type[DataSource], source).places}


def _is_elsewhere(config: Config, changed: Config) -> bool:
    """Whether the data lie at other places than the run's, however these are written."""
    there, here = (
        {name: _real(place) for name, place in _places(each).items() if name != "cache_dir"}
        for each in (config, changed)
    )
    return there != here


def _real(place: Any) -> Any:
    return os.path.realpath(os.path.expanduser(place)) if isinstance(place, str) else place


def _altered(config: Config, changed: Config, changes: tuple[str, ...]) -> tuple[str, ...]:
    """The changes that say otherwise than the run what is made of its files, and not where they lie."""
    source, settings = checked_part(changed, "data")
    own = config["data"] if config["data"].get("_target_") == changed["data"].get("_target_") else {}
    named = [change.partition("=")[0].removeprefix("data.") for change in changes]
    return tuple(
        f"data.{name}={settings[name]}"
        for name in sorted(set(named) & settings.keys())
        if name not in typing.cast(type[DataSource], source).places
        and not changes_nothing(f"data.{name}")
        and own.get(name, ...) != settings[name]
    )


def _changed(config: Config, changes: tuple[str, ...]) -> Config:
    """The config with the user's changes, which are resolved by themselves and never against the file's."""
    if any(change.startswith("data=") for change in changes):
        own = [change for change in changes if change.startswith(("data=", "data."))]
        seen = [f"image_size={config['data']['image_size']}", f"seed={config['seed']}"]
        data = compose(*seen, f"data.eval_crop={config['data']['eval_crop']}", *own).data
        config = {**config, "data": OmegaConf.to_container(data, resolve=True)}
        changes = tuple(change for change in changes if change not in own)
    known = OmegaConf.create(config)
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or OmegaConf.select(known, key, default=...) is ...:
            raise UserError(
                f"{change}: the run has no setting {key}; give SETTING=VALUE, data.root=... say"
            )
    asked = OmegaConf.to_container(OmegaConf.from_dotlist(list(changes)), resolve=True)
    return _as_plain(OmegaConf.merge(known, asked))


def _as_plain(config: Any) -> Config:
    return typing.cast(Config, OmegaConf.to_container(config))
