"""Attention over the tokens of a caption. Padding never reaches the result.

Every attention is called as `attention(tokens (T, D), packing) -> (T, D)` on the real tokens of a batch of
captions, one behind the other; `packing`, a `TokenPacking`, lays them out as (B, L, D) where they mix.

The packages' own forward passes let padding in: Performer's into the sums over keys, Nystroemformer's into
where its landmarks lie and, by a maximum over the batch, from one caption into another, Reformer's into the
sorting. Here weights and building blocks are the packages', masks and layout are ours.
"""

from miniclip.models.attention.base import TokenPacking
from miniclip.models.attention.bigbird import BigBirdAttention
from miniclip.models.attention.full import FullAttention
from miniclip.models.attention.linformer import (
    FusedLinformerAttention,
    LinformerAttention,
    linformer_attention,
)
from miniclip.models.attention.nystrom import NystromAttention
from miniclip.models.attention.performer import PerformerAttention
from miniclip.models.attention.reformer import ReformerAttention

__all__ = [
    "BigBirdAttention",
    "FullAttention",
    "FusedLinformerAttention",
    "LinformerAttention",
    "NystromAttention",
    "PerformerAttention",
    "ReformerAttention",
    "TokenPacking",
    "linformer_attention",
]
