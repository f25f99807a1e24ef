"""What a run leaves behind: its directory and its loggers."""

from miniclip.tracking.loggers import JsonlLogger, WandbLogger
from miniclip.tracking.run_directory import RunDirectory, write_text

__all__ = ["JsonlLogger", "RunDirectory", "WandbLogger", "write_text"]
