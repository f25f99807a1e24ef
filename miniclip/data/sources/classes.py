"""Classification sets of torchvision, whose captions are the names of the classes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from miniclip.data.images import ImageFiles, Images
from miniclip.data.sources.base import FolderSource
from miniclip.data.sources.part_folders import (
    PartWords,
    part_folders,
    tell_parts_that_train,
    tell_what_is_in_no_part,
)
from miniclip.data.sources.walk import examples, find_images, is_visible, name_below
from miniclip.data.split import SEEDED_VAL, Split
from miniclip.errors import BrokenImage, SettingError, counted

log = logging.getLogger(__name__)

ClassSet = Literal["ImageFolder", "CIFAR10", "CIFAR100", "Food101", "OxfordIIITPet"]

FILES = {"Food101": "_image_files", "OxfordIIITPet": "_images"}
"""Where torchvision keeps the paths of a set's images; it decodes them without their rotation, say."""


class ImageClasses(FolderSource):
    """A classification set of torchvision; nothing is downloaded.

    An image's only caption is the name of its class, with spaces for underscores. ImageFolder takes a
    folder for each class, below `train`, `val` and `test` where there are such. Of a set without a
    validation part, as all the others are, a seeded fraction of the training part validates.

    Args:
        dataset: torchvision's name of it.
        part_words: what ImageFolder's parts may be called, as of `Folder`; "exact" knows `valid` and
            `validation`, too, and takes `train` alone for a class.
        folder_settings: see `FolderSource`; torchvision looks for its own folder inside `root`.

    Raises:
        SettingError: when the files are not there.
    """

    def __init__(self, *, dataset: ClassSet, part_words: PartWords = "exact", **folder_settings: Any):
        super().__init__(**folder_settings)
        self.dataset = dataset
        self.part_words = part_words

    def splits(self) -> tuple[Split, ...]:
        try:
            parts = self._published()
        except (RuntimeError, FileNotFoundError) as error:
            raise SettingError("root", self.root, f"does not hold {self.dataset} ({error})") from None
        if self.eval_split is None and len(parts) > 1:  # configs of before `eval_split`
            train, *held_out = parts
            return self._split(train, parts[train]), self._split(held_out[0], parts[held_out[0]])

        val = next((part for part in parts if part not in ("train", "test")), None)
        test = [self._split("test", parts["test"])] if "test" in parts else []
        train_split = self._split("train", parts["train"])
        if val is not None:
            return (train_split, self._split(val, parts[val]), *test)
        seeded = train_split.set_apart(SEEDED_VAL, fraction=self.val_fraction, seed=self.split_seed)
        return (*seeded, *test)

    def _published(self) -> dict[str, Any]:
        """The parts by name, the validation part by that of its folder, in this order."""
        if self.dataset != "ImageFolder":
            return {part: self._part(part) for part in ("train", "test")}

        exact = ("train", "val", "valid", "validation", "test")
        folders = part_folders(self.root, self.part_words, exact=exact)
        train = folders.get("train")
        is_part = len(folders) > 1 or (self.part_words == "usual" and _holds_classes(train, self.root))
        if train is None and self.use != "all":
            tell_parts_that_train(self.root, folders.values())
        if train is None or not is_part:
            return {"train": ClassFolders(self.root, root=self.root)}
        tell_what_is_in_no_part(self.root, folders.values())
        names = {part: folder.name.lower() if part == "val" else part for part, folder in folders.items()}
        return {names[part]: ClassFolders(folder, root=self.root) for part, folder in folders.items()}

    def _part(self, part: str) -> Any:
        import torchvision.datasets as sets

        if self.dataset in ("CIFAR10", "CIFAR100"):
            return getattr(sets, self.dataset)(str(self.root), train=part == "train")
        names = {"train": "trainval"} if self.dataset == "OxfordIIITPet" else {}
        return getattr(sets, self.dataset)(str(self.root), split=names.get(part, part))

    def _split(self, name: str, part: Any) -> Split:
        # torchvision has no one name for the classes of images
        numbers: Sequence[int] = part.targets if hasattr(part, "targets") else part._labels
        labels = [part.classes[number].replace("_", " ") for number in numbers]

        images: Images
        if isinstance(part, ClassFolders):
            ids = part.names
            images = ImageFiles(part.folder, ids, decode_size=self.decode_size)
        else:
            ids = [f"{self.dataset} {name} {row}" for row in range(len(labels))]
            images = self._images(part, ids)
        return Split(name, ids, images, ([label] for label in labels), labels)

    def _images(self, part: Any, ids: Sequence[str]) -> Images:
        """The images of a part of torchvision's: their files, or what is in its arrays."""
        files = getattr(part, FILES.get(self.dataset, ""), None)
        if files is None:
            return TorchvisionImages(part, ids)
        folder = Path(part._images_folder)
        return ImageFiles(
            folder, [name_below(folder, path) for path in files], decode_size=self.decode_size
        )


def _holds_classes(folder: Path | None, root: Path) -> bool:
    """Whether a folder holds folders with images in them, and is no class itself."""
    return folder is not None and any("/" in name for name in find_images(folder, root=root))


class ClassFolders:
    """The images of a folder with a folder inside for each class, which may hold folders again.

    Classes are the visible folders with an image in them; torchvision's own walk makes a class of
    `.ipynb_checkpoints`, too.

    Args:
        folder: where the folders of the classes are.
        root: what a walk stays in; see `visible_files`.

    Attributes:
        names: of the images, relative to `folder`.
        classes: names of the classes, in order.
        targets: by image its class, as a place in `classes`.

    Raises:
        SettingError: when no class has an image.
    """

    def __init__(self, folder: Path, *, root: Path):
        self.folder = folder
        images = find_images(folder, root=root)
        self.names = [name for name in images if "/" in name]
        class_of_image = [name.split("/")[0] for name in self.names]

        self.classes = sorted(set(class_of_image))
        places = {name: place for place, name in enumerate(self.classes)}
        self.targets = [places[name] for name in class_of_image]

        if not self.names:
            raise SettingError("root", folder, "holds no folder with images; one for each class is needed")
        self._tell_what_is_left_out(len(images) - len(self.names))

    def _tell_what_is_left_out(self, num_classless: int) -> None:
        if num_classless:
            log.warning(
                "%s: %s in no class's folder left out.", self.folder, counted(num_classless, "image")
            )

        folders = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        empty = [name for name in folders if is_visible(name) and name not in self.classes]
        if empty:
            log.warning(
                "%s: %s without an image, so no class: %s.",
                self.folder,
                counted(len(empty), "folder"),
                examples(empty),
            )


class TorchvisionImages(Images):
    """The images (3, H, W) uint8 of a data set of torchvision.

    Args:
        dataset: its items are pairs of an image of Pillow and something else.
        ids: how an error calls the images.
    """

    def __init__(self, dataset: Any, ids: Sequence[str]):
        self.dataset = dataset
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = self.dataset[index][0].convert("RGB")
        except FileNotFoundError as error:
            raise BrokenImage(f"The image {error.filename} is missing.", "missing") from None
        except (OSError, UnidentifiedImageError) as error:
            raise BrokenImage(f"The image {self.ids[index]} cannot be read ({error}).") from None
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)

    @property
    def identity(self) -> tuple[str, str]:
        """Which set it is, and where."""
        return type(self.dataset).__name__, str(self.dataset.root)
