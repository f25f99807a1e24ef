"""What a run leaves behind: its directory and its loggers."""

from miniclip.tracking.loggers import JsonlLogger, RunFacts, TensorboardLogger, WandbLogger
from miniclip.tracking.run_directory import RunDirectory, save_arrays, write_text

__all__ = [
    "JsonlLogger",
    "RunDirectory",
    "RunFacts",
    "TensorboardLogger",
    "WandbLogger",
    "save_arrays",
    "write_text",
]
