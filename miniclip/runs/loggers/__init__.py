"""Loggers: metrics.jsonl always, Weights & Biases and TensorBoard as views of it."""

from miniclip.runs.loggers.jsonl_logger import JsonlLogger
from miniclip.runs.loggers.tensorboard_logger import TensorboardLogger
from miniclip.runs.loggers.view import RunFacts, View
from miniclip.runs.loggers.wandb_logger import WandbLogger

__all__ = ["JsonlLogger", "RunFacts", "TensorboardLogger", "View", "WandbLogger"]
