"""Kinds of norm layers, which have gains and biases in place of weights."""

from torch import nn

BATCH_NORM = nn.modules.batchnorm._NormBase
"""What all batch and instance norms of torch have in common, also the synchronized and the lazy ones.

torch has no public name for it. Tried with torch 2.14.
"""

NORM_LAYERS = (BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
