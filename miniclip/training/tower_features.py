"""Frozen towers' features of a run's images and captions: computed once, kept on disk, trained on."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.features import CaptionFeatures, FeatureDataset, Features, kept_features
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.models.folded_batch_norm import with_folded_batch_norms
from miniclip.models.frozen_towers import head_of
from miniclip.training.progress import image_bar
from miniclip.training.setup import TrainingSetup

log = logging.getLogger(__name__)

FORMAT = {"image": 2, "text": 2}
"""Part of the name of every file: another one makes all features of its kind anew."""

IMAGES_AT_ONCE = {"cpu": 32, "cuda": 256}
CAPTIONS_AT_ONCE = 64
"""How many go through a tower at a time; on a CPU few, whose activations stay in its cache."""

LEARNED = "proj."
"""What the names of a frozen tower's weights begin with that learn all the same."""

FREE = ("checkpoint_activations", "embed_dim", "lr_factor", "name", "trainable", "weights")
"""Settings of a tower that do not change its features, or that its weights answer for."""


def on_features(setup: TrainingSetup, *, device: torch.device, num_workers: int) -> TrainingSetup:
    """The same run, whose model and data begin behind the frozen towers.

    What the towers make of the training and the validation part is read from `setup.feature_folder`, and
    computed where it is not there. The weights are those of `setup`.

    Raises:
        UserError: when an image cannot be read, or the features cannot be kept.
    """
    assert setup.feature_folder is not None
    towers = _Towers(setup, setup.feature_folder, device=device, num_workers=num_workers)
    datasets = setup.train_set, setup.val_set
    log.info(
        "Training on what the frozen towers make of images and captions, kept in %s; nothing is augmented, "
        "and data.crop_scale has no effect.",
        towers.folder,
    )

    captions = list(dict.fromkeys(text for each in datasets for text in each.split.captions.flat()))
    train_set, val_set = (FeatureDataset(each, towers.of_images(each)) for each in datasets)
    lookup = CaptionFeatures(
        captions,
        towers.of_captions(captions).rows,
        context_length=setup.tokenizer.context_length,
    )
    return replace(
        setup, model=head_of(setup.model), tokenizer=lookup, train_set=train_set, val_set=val_set
    )


class _Towers:
    """The frozen towers of a run, and where their features are kept.

    A file is named after all that its features follow from: another tower, other weights, another
    preprocessing or other data make another file.
    """

    def __init__(self, setup: TrainingSetup, folder: Path, *, device: torch.device, num_workers: int):
        self.setup = setup
        self.folder = folder
        self.device = device
        self.num_workers = num_workers
        setup.model.eval()

    def of_images(self, dataset: ImageTextDataset) -> Features:
        """Features of all images of a data set's split, in order."""
        split, crop = dataset.split, dataset.crop
        seen = {
            "split": split.fingerprint(),
            "pixels": repr(split.images.identity),
            "crop": [type(crop).__name__, crop.image_size],
            "preprocessing": self.setup.preprocessing,
        }
        path = self._path("image", self.setup.model.image_encoder, seen)
        return kept_features(
            path, len(split), lambda: self._compute_of_images(dataset), images=dataset.images
        )

    def of_captions(self, captions: list[str]) -> Features:
        """Features of captions, in order."""
        seen = {"captions": captions, "tokenizer": self.setup.tokenizer.state()}
        path = self._path("text", self.setup.model.text_encoder, seen)
        return kept_features(path, len(captions), lambda: self._compute_of_captions(captions))

    def _path(self, kind: str, tower: nn.Module, seen: Mapping[str, Any]) -> Path:
        """The file of what a tower makes of what it sees."""
        config = self.setup.config["encoder"][kind]
        facts = {
            "format": FORMAT[kind],
            "tower": {name: value for name, value in config.items() if name not in FREE},
            "weights": fingerprint_of(tower),
            "dtype": str(self.setup.precision.dtype),
            **seen,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-features-{digest[:24]}.safetensors"

    @torch.inference_mode()
    def _compute_of_images(self, dataset: ImageTextDataset) -> Features:
        # one item for each image, whatever captions it trains with
        images = ImageTextDataset(
            dataset.split,
            dataset.crop,
            max_broken_fraction=dataset.max_broken_fraction,
            images=dataset.images,
        )
        loader = Loader(
            images,
            sequential_batches(len(images), IMAGES_AT_ONCE.get(self.device.type, 64)),
            device=self.device,
            num_workers=self.num_workers,
        )
        tower = self._image_tower(dataset.crop.image_size)

        rows: list[Tensor] = []
        problems: dict[int, tuple[str, str]] = {}
        start = 0
        bar = image_bar(f"features of {dataset.split.name}", num_images=len(images))
        with closing(loader), bar:
            for batch in loader:
                with self.setup.precision.autocast():
                    rows.append(tower.features(batch.images).float().cpu())

                # where another image stands in
                indices = torch.arange(start, start + len(batch.images))
                broken = indices[batch.image_ids != indices].tolist()
                for row, problem in zip(broken, batch.problems, strict=True):
                    problems[row] = str(problem), problem.reason
                start += len(batch.images)
                bar.update(len(batch.images))
        return Features(torch.cat(rows), problems)

    def _image_tower(self, image_size: int) -> Any:
        """The image tower; in float32, whose rounding does not show, one with folded batch norms."""
        tower = self.setup.model.image_encoder
        if self.setup.precision.dtype is not torch.float32:
            return tower
        return with_folded_batch_norms(tower, image_size)

    @torch.inference_mode()
    def _compute_of_captions(self, captions: list[str]) -> Features:
        tower: Any = self.setup.model.text_encoder

        # those of one length together, so that little is padded
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        rows: list[Tensor] = []
        with image_bar("features of captions", num_images=len(captions)) as bar:
            for start in range(0, len(order), CAPTIONS_AT_ONCE):
                chunk = [captions[index] for index in order[start : start + CAPTIONS_AT_ONCE]]
                token_ids, mask = self.setup.tokenizer.encode(chunk)
                with self.setup.precision.autocast():
                    features = tower.features(token_ids.to(self.device), mask.to(self.device))
                rows.append(features.float().cpu())
                bar.update(len(chunk))
        return Features(torch.cat(rows)[torch.tensor(order).argsort()], {})


def fingerprint_of(tower: nn.Module) -> str:
    """A hash of a tower's frozen weights and running statistics."""
    digest = hashlib.sha256()
    for name, tensor in _frozen(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _frozen(named: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in named if not name.startswith(LEARNED))
