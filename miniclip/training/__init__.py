"""The training loop and what keeps it exact: one step, precision, checkpoints, randomness."""

from miniclip.training.budget import Budget
from miniclip.training.loop import FitResult
from miniclip.training.precision import Precision
from miniclip.training.setup import TrainingSetup
from miniclip.training.step import StepResult, TrainingStep
from miniclip.training.trainer import Trainer

__all__ = ["Budget", "FitResult", "Precision", "StepResult", "Trainer", "TrainingSetup", "TrainingStep"]
