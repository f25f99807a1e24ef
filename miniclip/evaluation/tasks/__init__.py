"""Evaluation tasks, a file each: settings in the constructor, a check, a run."""

from miniclip.evaluation.tasks.few_shot import FewShotProbe
from miniclip.evaluation.tasks.health import EmbeddingHealth
from miniclip.evaluation.tasks.images import ExampleImages
from miniclip.evaluation.tasks.linear_probe import LinearProbe
from miniclip.evaluation.tasks.retrieval import Retrieval
from miniclip.evaluation.tasks.sharpness import Sharpness
from miniclip.evaluation.tasks.zero_shot import ZeroShot

__all__ = [
    "EmbeddingHealth",
    "ExampleImages",
    "FewShotProbe",
    "LinearProbe",
    "Retrieval",
    "Sharpness",
    "ZeroShot",
]
