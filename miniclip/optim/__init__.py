"""Sharpness-aware optimizers, parameter groups and schedules."""

from miniclip.optim.descents import (
    Descent,
    Functional,
    Renormalized,
    ReusedAscent,
    SurrogateGap,
    WeightedGap,
)
from miniclip.optim.directions import Averaged, Direction, Gradient, LastGradient, Momentum, Random
from miniclip.optim.muon import MuonAdamW
from miniclip.optim.parameter_groups import parameter_groups
from miniclip.optim.passes import PassOptimizer, SinglePass, as_pass_optimizer
from miniclip.optim.randomness import Randomness
from miniclip.optim.sam import SAM
from miniclip.optim.sam_variants import GSAM, MSAM, LookSAM
from miniclip.optim.schedule import (
    Constant,
    Schedule,
    WarmupCosine,
    WarmupStableDecay,
    scale_learning_rates,
    set_learning_rate,
)
from miniclip.optim.skipped import forget_skipped_state
from miniclip.optim.statistics import frozen_statistics
from miniclip.optim.unusual_gradient import UnusualGradient

__all__ = [
    "GSAM",
    "MSAM",
    "SAM",
    "Averaged",
    "Constant",
    "Descent",
    "Direction",
    "Functional",
    "Gradient",
    "LastGradient",
    "LookSAM",
    "Momentum",
    "MuonAdamW",
    "PassOptimizer",
    "Random",
    "Randomness",
    "Renormalized",
    "ReusedAscent",
    "Schedule",
    "SinglePass",
    "SurrogateGap",
    "UnusualGradient",
    "WarmupCosine",
    "WarmupStableDecay",
    "WeightedGap",
    "as_pass_optimizer",
    "forget_skipped_state",
    "frozen_statistics",
    "parameter_groups",
    "scale_learning_rates",
    "set_learning_rate",
]
