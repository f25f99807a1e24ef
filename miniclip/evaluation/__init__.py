"""Evaluation of trained models: tasks, and the models under test."""

from miniclip.evaluation.comparison import comparison
from miniclip.evaluation.evaluation import Evaluation, flat_numbers, result_text
from miniclip.evaluation.models import DatasetEncoder, OpenClipModel
from miniclip.evaluation.task import Result, Task, TaskContext, Unsuited

__all__ = [
    "DatasetEncoder",
    "Evaluation",
    "OpenClipModel",
    "Result",
    "Task",
    "TaskContext",
    "Unsuited",
    "comparison",
    "flat_numbers",
    "result_text",
]
