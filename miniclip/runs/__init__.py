"""What a run leaves behind: its directory and its loggers."""

from miniclip.runs.loggers import JsonlLogger, RunFacts, TensorboardLogger, WandbLogger
from miniclip.runs.run_directory import RunDirectory, State, read_state, save_arrays

__all__ = [
    "JsonlLogger",
    "RunDirectory",
    "RunFacts",
    "State",
    "TensorboardLogger",
    "WandbLogger",
    "read_state",
    "save_arrays",
]
