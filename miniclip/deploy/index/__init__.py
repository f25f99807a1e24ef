"""Indexes: the vectors of many images, kept up to date and searched; nothing here needs torch."""

from miniclip.deploy.index.reader import EXACT_LIMIT, Entry, Found, Index
from miniclip.deploy.index.source import ImageSource
from miniclip.deploy.index.sources import open_source
from miniclip.deploy.index.update import Changes, update
from miniclip.deploy.index.writer import IndexWriter, check_model, open_writer

__all__ = [
    "EXACT_LIMIT",
    "Changes",
    "Entry",
    "Found",
    "ImageSource",
    "Index",
    "IndexWriter",
    "check_model",
    "open_source",
    "open_writer",
    "update",
]
