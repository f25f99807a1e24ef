"""Contrastive losses: functions of features, scale and parameters of their own, in float32."""

from miniclip.losses.base import Loss
from miniclip.losses.clip import ClipLoss
from miniclip.losses.siglip import SigLipLoss

__all__ = ["ClipLoss", "Loss", "SigLipLoss"]
