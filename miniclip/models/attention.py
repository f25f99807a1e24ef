"""Attention over the tokens of a caption. Padding never reaches the result.

Every attention is called as `attention(tokens (B, L, D), attention_mask (B, L) bool) -> (B, L, D)`, where
the mask is true on real tokens; what it returns at padded places has no meaning.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import SettingError


class FullAttention(nn.Module):
    """Exact multi-head self-attention (Vaswani et al. 2017) on torch's fused kernel."""

    def __init__(self, *, width: int, num_heads: int, context_length: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, L, D / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2))


class LinformerAttention(nn.Module):
    """Linformer self-attention (Wang et al. 2020, arXiv 2006.04768, eq. 7) of the package linformer.

    Keys and values are projected along the sequence from L to k places. The package knows no mask;
    here padded tokens enter the projection as zeros, and since it has no bias they add nothing.

    Args:
        k: number of places the sequence is projected to.

    Raises:
        SettingError: when k is not within 1 ... context_length.
        ImportError: when the package linformer is missing.
    """

    def __init__(self, *, width: int, num_heads: int, context_length: int, k: int):
        super().__init__()
        if not 1 <= k <= context_length:
            raise SettingError("k", k, f"must lie between 1 and context_length={context_length}")
        from linformer import LinformerSelfAttention

        self.attention = LinformerSelfAttention(dim=width, seq_len=context_length, k=k, heads=num_heads)
        for projection in (self.attention.proj_k, self.attention.proj_v):
            _start_as_folding(projection)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        real = tokens.masked_fill(~attention_mask[..., None], 0)
        return self.attention(tokens, context=real)


@torch.no_grad()
def _start_as_folding(projection: Tensor) -> None:
    """Let place i of the sequence (L, k) enter place i modulo k: captions of up to k tokens start with
    exact attention, which learns faster than the package's random mixtures of all tokens."""
    places = torch.arange(len(projection), device=projection.device)
    projection.zero_()
    projection[places, places % projection.shape[1]] = 1


def linformer_attention(*, width: int, num_heads: int, context_length: int, k: int) -> nn.Module:
    """`LinformerAttention`, or exact attention with a warning where the package is missing."""
    sizes = {"width": width, "num_heads": num_heads, "context_length": context_length}
    try:
        return LinformerAttention(**sizes, k=k)
    except ImportError:
        warnings.warn(
            "The package linformer is not installed: exact attention is used in its place and k has "
            "no effect. Install it with: pip install linformer",
            stacklevel=2,
        )
        return FullAttention(**sizes)
