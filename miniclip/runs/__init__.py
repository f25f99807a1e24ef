"""What a run leaves behind: its directory and its loggers."""

from miniclip.runs.loggers import JsonlLogger, RunFacts, TensorboardLogger, View, WandbLogger
from miniclip.runs.run_directory import RunDirectory
from miniclip.runs.run_files import RunFiles, find_runs
from miniclip.runs.small_files import DamagedFile
from miniclip.runs.state import State, read_state

__all__ = [
    "DamagedFile",
    "JsonlLogger",
    "RunDirectory",
    "RunFacts",
    "RunFiles",
    "State",
    "TensorboardLogger",
    "View",
    "WandbLogger",
    "find_runs",
    "read_state",
]
