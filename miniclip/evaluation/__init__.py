"""Evaluation of trained models: tasks, and the models under test."""

from miniclip.evaluation.evaluation import TASKS, Evaluation, Result, comparison, flat_numbers
from miniclip.evaluation.models import EmbeddingModel, MiniCLIPModel, OpenClipModel

__all__ = [
    "TASKS",
    "EmbeddingModel",
    "Evaluation",
    "MiniCLIPModel",
    "OpenClipModel",
    "Result",
    "comparison",
    "flat_numbers",
]
