"""Evaluation of trained models: tasks, and the models under test."""

from miniclip.evaluation.comparison import comparison
from miniclip.evaluation.evaluation import Evaluation, flat_numbers
from miniclip.evaluation.models import EmbeddingModel, OpenClipModel
from miniclip.evaluation.task import Result, Task, TaskContext, Unsuited

__all__ = [
    "EmbeddingModel",
    "Evaluation",
    "OpenClipModel",
    "Result",
    "Task",
    "TaskContext",
    "Unsuited",
    "comparison",
    "flat_numbers",
]
