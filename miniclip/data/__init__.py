"""Data sources: each delivers captioned images in a training and a validation split, some in a test split.

The classes are imported when they are first asked for, so that a folder is walked without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniclip.data.dataset import ImageTextDataset
    from miniclip.data.sources.base import DataSource
    from miniclip.data.sources.classes import ImageClasses
    from miniclip.data.sources.coco import CocoCaptions
    from miniclip.data.sources.flickr import Flickr8k, Flickr30k
    from miniclip.data.sources.folder import Folder
    from miniclip.data.sources.hub import Hub
    from miniclip.data.sources.openmoji import OpenMoji
    from miniclip.data.sources.parquet import Parquet
    from miniclip.data.sources.shards import Shards
    from miniclip.data.sources.table import CSVTable
    from miniclip.data.split import Split

__all__ = [
    "CSVTable",
    "CocoCaptions",
    "DataSource",
    "Flickr8k",
    "Flickr30k",
    "Folder",
    "Hub",
    "ImageClasses",
    "ImageTextDataset",
    "OpenMoji",
    "Parquet",
    "Shards",
    "Split",
]

_MODULES = {
    "CSVTable": "sources.table",
    "CocoCaptions": "sources.coco",
    "DataSource": "sources.base",
    "Flickr8k": "sources.flickr",
    "Flickr30k": "sources.flickr",
    "Folder": "sources.folder",
    "Hub": "sources.hub",
    "ImageClasses": "sources.classes",
    "ImageTextDataset": "dataset",
    "OpenMoji": "sources.openmoji",
    "Parquet": "sources.parquet",
    "Shards": "sources.shards",
    "Split": "split",
}
"""Where below this package each class is."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
