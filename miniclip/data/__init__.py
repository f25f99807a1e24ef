"""Data sources: each delivers a training and a validation split of captioned images."""

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.sources.base import DataSource
from miniclip.data.sources.classes import ImageClasses
from miniclip.data.sources.coco import CocoCaptions
from miniclip.data.sources.flickr import Flickr8k, Flickr30k
from miniclip.data.sources.folder import Folder
from miniclip.data.sources.hub import Hub
from miniclip.data.sources.openmoji import OpenMoji
from miniclip.data.sources.parquet import Parquet
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
    "Split",
]
