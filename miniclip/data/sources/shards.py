"""Tar files in webdataset's layout, on this machine or elsewhere."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from miniclip.data.shards.cache import ShardCache
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.classes import named, read_class_names
from miniclip.data.shards.images import ShardImages, TarContents
from miniclip.data.shards.left_out import LeftOut, merged
from miniclip.data.shards.opening import OpenedShard, open_local
from miniclip.data.shards.places import expanded, ids_of, is_pattern, is_remote
from miniclip.data.shards.remote import all_fitting
from miniclip.data.shards.remote_shards import open_remote
from miniclip.data.sources.base import DataSource
from miniclip.data.sources.checks import check_val_fraction, existing_path
from miniclip.data.sources.rows import PART_OF_WORD, PARTS
from miniclip.data.sources.walk import examples
from miniclip.data.split import SEEDED_VAL, Split, labels_of
from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.errors import SettingError, above_zero, at_least

log = logging.getLogger(__name__)

Urls = str | Sequence[str]
"""A path, a folder, an address, a pattern of these, or a list of such."""


class Shards(DataSource):
    """Tar files whose members `KEY.jpg` and `KEY.txt` or `KEY.json` are an image and its captions.

    Where each image lies stands in an index beside each file, which is made where it is missing; so images
    are read in any order, and the order is exact whatever the workers and processes.

    Args:
        urls: the shards: a path, a folder, a pattern with {0000..0011}, {a,b}, * or ?, an address
            (https://, s3://), or a list of these. Those called `val-*` or `test-*`, as parquet files are,
            validate and test if `val_urls` and `test_urls` name no others.
        val_urls, test_urls: shards of these parts; null finds them among `urls`. Without any for validation
            a seeded fraction of the training images validates.
        caption_column: field of the .json with the captions, a text or a list of texts; `caption.en` is the
            field en of objects. Null takes `captions` of the .json, else the .txt, else a usual field.
        class_column: field of the .json with an image's class; null takes the .cls where every image of a
            part has one. An image without captions has its class for one.
        class_names: text file whose line n, from 0, is the name of the class that the .cls calls n.
        captions_per_line: each line of a .txt is a caption; false: all of it is one.
        shuffle_window: how many shards an epoch mixes at a time; null mixes all images.
        max_cache_gb: what fetched shards may take below `cache_dir`, 10^9 bytes; the one whose last use is
            longest ago is removed first. Null does not limit it.
        val_fraction, split_seed: see `FolderSource`.
        source_settings: see `DataSource`.

    Raises:
        SettingError: when a shard does not exist.
    """

    places = (*DataSource.places, "urls", "val_urls", "test_urls", "class_names")

    def __init__(
        self,
        *,
        urls: Urls,
        val_urls: Urls | None,
        test_urls: Urls | None,
        caption_column: str | None,
        captions_per_line: bool,
        shuffle_window: int | None,
        max_cache_gb: float | None,
        val_fraction: float,
        split_seed: int,
        class_column: str | None = None,
        class_names: str | None = None,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        if shuffle_window is not None:
            at_least("shuffle_window", shuffle_window, 1, hint=" shard, or null for all")
        if max_cache_gb is not None:
            above_zero("max_cache_gb", max_cache_gb)
        self.urls = urls
        self.named = {
            setting: expanded(setting, places)
            for setting, places in (("urls", urls), ("val_urls", val_urls), ("test_urls", test_urls))
            if places is not None
        }
        self.reading = CaptionReading(caption_column, captions_per_line, class_column)
        self.class_names = None if class_names is None else existing_path("class_names", class_names)
        self.shuffle_window = shuffle_window
        max_bytes = None if max_cache_gb is None else int(max_cache_gb * 1e9)
        self.shard_cache = ShardCache(self.cache_dir / "shards", max_bytes)
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, ...]:
        parts = self._parts()
        opened = self._opened([place for places in parts.values() for place in places])
        splits = {part: self._split(part, [opened[place] for place in parts[part]]) for part in parts}

        train, test = splits["train"], [splits["test"]] if "test" in splits else []
        if "val" in splits:
            return (train, splits["val"], *test)
        return (*train.set_apart(SEEDED_VAL, fraction=self.val_fraction, seed=self.split_seed), *test)

    def _parts(self) -> dict[str, list[str]]:
        """The shards of each part.

        Raises:
            SettingError: when none is left to train on.
        """
        named = {setting: _all_found(setting, places) for setting, places in self.named.items()}
        parts = {part: named[f"{part}_urls"] for part in ("val", "test") if f"{part}_urls" in named}
        named_elsewhere = {place for places in parts.values() for place in places}

        train: list[str] = []
        for place in named["urls"]:
            if place in named_elsewhere:
                continue
            part = _part_of(place)
            # a shard called val-0000.tar trains where the user says which ones validate
            if part == "train" or f"{part}_urls" in named:
                train.append(place)
            else:
                parts.setdefault(part, []).append(place)

        if not train:
            found = examples([PurePosixPath(place).name for place in named["urls"]])
            allowed = f"names no shard to train on, only {found}; say which they are with data.val_urls=..."
            raise SettingError("urls", self.urls, allowed)
        if self.use != "all":
            _tell_parts_that_train(train)
        return {"train": train, **parts}

    def _opened(self, places: Sequence[str]) -> Mapping[str, tuple[str, OpenedShard]]:
        """By its place each shard, and how its images are called."""
        local = [place for place in places if not is_remote(place)]
        remote = [place for place in places if is_remote(place)]
        shards = [
            *open_local(local, self.reading, folder=self.cache_dir / "shard-indexes"),
            *(open_remote(remote, self.reading, self.shard_cache) if remote else ()),
        ]
        opened = dict(zip([*local, *remote], shards, strict=True))
        if remote:
            log.info(
                "Images of remote shards are not compared between the parts, which would fetch all of "
                "them; miniclip doctor compares them."
            )
        self._decide_what_is_fetched([opened[place].shard.stamp.num_bytes for place in remote])
        return {name: (own_id, opened[name]) for name, own_id in zip(places, ids_of(places), strict=True)}

    def _decide_what_is_fetched(self, sizes: Sequence[int]) -> None:
        """Fetch a window ahead where the cache holds two; warn where it does not hold one."""
        limit = self.shard_cache.max_bytes
        window, largest = self.shuffle_window or len(sizes), sorted(sizes, reverse=True)
        at_a_time = sum(largest[:window])
        self.fetches_ahead = bool(sizes) and (limit is None or sum(largest[: 2 * window]) <= limit)
        if limit is not None and at_a_time > limit:
            log.warning(
                "An epoch mixes remote shards of %.3g GB at a time, and data.max_cache_gb=%g holds less: "
                "they are fetched again and again. Mix fewer with data.shuffle_window=..., and name the "
                "shards that validate with data.val_urls=...",
                at_a_time / 1e9,
                limit / 1e9,
            )

    def _split(self, name: str, opened: Sequence[tuple[str, OpenedShard]]) -> Split:
        indexes = [shard.index for _, shard in opened]
        left_out = merged((shard_id, shard.index.left_out) for shard_id, shard in opened)
        allowed = self.max_broken_fraction if self.skips_broken else None
        LeftOut(name, sum(map(len, indexes)), left_out).check(allowed)

        contents = TarContents(
            [shard.shard for _, shard in opened],
            np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index) for index in indexes]),
            np.concatenate([index.offsets for index in indexes]),
            np.concatenate([index.sizes for index in indexes]),
        )
        ids = StringArray.of(f"{shard_id}/{key}" for shard_id, shard in opened for key in shard.index.keys)
        images = ShardImages(
            contents,
            ids,
            decode_size=self.decode_size,
            shuffle_window=self.shuffle_window,
            fetches_ahead=self.fetches_ahead,
        )
        captions: Any = StringListArray.joined([index.captions for index in indexes])
        labels: Any = StringArray.joined([index.labels for index in indexes])
        if self.class_names is not None:  # also in captions, where not all images have a class
            labels, captions = named(labels, captions, read_class_names(self.class_names))
        return Split(name, ids, images, captions, labels_of(name, labels))


def _all_found(setting: str, places: Sequence[str]) -> list[str]:
    """The places, with what fits for each pattern of addresses."""
    found = [
        each
        for place in places
        for each in (all_fitting(place) if is_remote(place) and is_pattern(place) else [place])
    ]
    if not found:
        raise SettingError(setting, places[0], "no shard fits this pattern")
    return found


def _tell_parts_that_train(places: Sequence[str]) -> None:
    """Warn of shards which their folder calls another part's, since their own name alone counts."""
    folders = Counter(folder for own_id in ids_of(places) for folder in own_id.split("/")[:-1])
    others = [folder for folder in folders if PART_OF_WORD.get(folder.lower(), "train") != "train"]
    if others:
        log.warning(
            "Shards in folders called %s train as the others do: a part is told by the name of a shard "
            "alone, val-0000.tar say. Name them with data.val_urls=... or data.test_urls=...",
            ", ".join(others),
        )


def _part_of(place: str) -> str:
    """Which part a shard is of by its name, `val-0000.tar` say; others train."""
    word = re.split(r"[-_.]", PurePosixPath(place).name.lower(), maxsplit=1)[0]
    return next((part for part, words in PARTS.items() if word in words), "train")
