"""Trained models as they are used: from a run, a checkpoint or a saved folder."""

from miniclip.pretrained.bundle import ModelBundle
from miniclip.pretrained.model import MiniCLIP

__all__ = ["MiniCLIP", "ModelBundle"]
