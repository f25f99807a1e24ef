"""Data sources: each delivers a training and a validation split of captioned images."""

from miniclip.data.dataset import CaptionedImages, Source, Split
from miniclip.data.flickr import Flickr8k, Flickr30k
from miniclip.data.openmoji import OpenMoji
from miniclip.data.table import CSVTable

__all__ = ["CSVTable", "CaptionedImages", "Flickr8k", "Flickr30k", "OpenMoji", "Source", "Split"]
