"""Sharpness-aware optimizers, parameter groups and schedules."""

from miniclip.optim.muon import MuonAdamW
from miniclip.optim.parameter_groups import parameter_groups
from miniclip.optim.sam import SAM, frozen_statistics
from miniclip.optim.sam_variants import GSAM, MSAM, LookSAM
from miniclip.optim.schedule import (
    Constant,
    Schedule,
    WarmupCosine,
    scale_learning_rates,
    set_learning_rate,
)

__all__ = [
    "GSAM",
    "MSAM",
    "SAM",
    "Constant",
    "LookSAM",
    "MuonAdamW",
    "Schedule",
    "WarmupCosine",
    "frozen_statistics",
    "parameter_groups",
    "scale_learning_rates",
    "set_learning_rate",
]
