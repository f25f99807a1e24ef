"""The training loop and what keeps it exact: one update, precision, checkpoints, randomness."""

from miniclip.training.budget import Budget
from miniclip.training.precision import Precision
from miniclip.training.step import StepResult, TrainingStep
from miniclip.training.train import FitResult, Trainer, TrainingSetup

__all__ = ["Budget", "FitResult", "Precision", "StepResult", "Trainer", "TrainingSetup", "TrainingStep"]
