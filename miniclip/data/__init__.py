"""Data sources: each delivers a training and a validation split of captioned images."""

from miniclip.data.classes import ImageClasses
from miniclip.data.dataset import CaptionedImages, Source, Split
from miniclip.data.flickr import CocoCaptions, Flickr8k, Flickr30k
from miniclip.data.folder import Folder
from miniclip.data.hub import Hub
from miniclip.data.openmoji import OpenMoji
from miniclip.data.parquet import Parquet
from miniclip.data.table import CSVTable

__all__ = [
    "CSVTable",
    "CaptionedImages",
    "CocoCaptions",
    "Flickr8k",
    "Flickr30k",
    "Folder",
    "Hub",
    "ImageClasses",
    "OpenMoji",
    "Parquet",
    "Source",
    "Split",
]
