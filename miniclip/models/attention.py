"""Attention over the tokens of a caption. Padding never reaches the result.

Every attention is called as `attention(tokens (T, D), places) -> (T, D)` on the real tokens of a batch of
captions, one behind the other; `places`, a `TokenPlaces`, lays them out as (B, L, D) where they mix.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import SettingError

FEW_KEYS = 256
"""Up to so many keys the plain products beat torch's fused kernel on the CPU, three times at 32 keys."""


class TokenPlaces:
    """Where the real tokens of a padded batch lie, so that all but the mixing runs on them alone.

    Half of a batch of captions is padding. On CUDA the padded places are computed all the same: counting
    the real ones would wait for the device, and shapes would change with every batch.

    Args:
        attention_mask: (B, L) bool, true on real tokens.
    """

    def __init__(self, attention_mask: Tensor):
        self.attention_mask = attention_mask
        is_cpu = attention_mask.device.type == "cpu"
        self._real = attention_mask.flatten().nonzero().squeeze(1) if is_cpu else None

    def pack(self, padded: Tensor) -> Tensor:
        """`(B, L, D) -> (T, D)`"""
        flat = padded.flatten(0, 1)
        return flat if self._real is None else flat.index_select(0, self._real)

    def pad(self, packed: Tensor) -> Tensor:
        """`(T, D) -> (B, L, D)`, zero where there is no token."""
        shape = (*self.attention_mask.shape, packed.shape[1])
        if self._real is None:
            return packed.view(shape).masked_fill(~self.attention_mask[..., None], 0)
        empty = packed.new_zeros(shape[0] * shape[1], shape[2])
        return empty.index_copy(0, self._real, packed).view(shape)


class FullAttention(nn.Module):
    """Exact multi-head self-attention (Vaswani et al. 2017), on torch's fused kernel where that pays."""

    def __init__(self, *, width: int, num_heads: int, context_length: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, places: TokenPlaces) -> Tensor:
        qkv = places.pad(self.qkv(tokens)).chunk(3, dim=-1)
        mask = places.attention_mask[:, None, None, :]
        return self.out(places.pack(_attend(*qkv, num_heads=self.num_heads, mask=mask)))


class LinformerAttention(nn.Module):
    """Linformer self-attention (Wang et al. 2020, arXiv 2006.04768, eq. 7) of the package linformer.

    Keys and values are projected along the sequence from L to k places. Weights are those of the
    package's module; its forward pass knows no mask and pads, so it is written anew here: padded tokens
    enter the projection as zeros, and since it has no bias they add nothing.

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

    def forward(self, tokens: Tensor, places: TokenPlaces) -> Tensor:
        layer = self.attention
        queries, keys, values = (places.pad(x(tokens)) for x in (layer.to_q, layer.to_k, layer.to_v))
        length = keys.shape[1]
        keys = layer.proj_k[:length].T @ keys
        values = layer.proj_v[:length].T @ values
        return layer.to_out(places.pack(_attend(queries, keys, values, num_heads=layer.heads)))


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, *, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention a head: `(B, L, D), (B, K, D), (B, K, D) -> (B, L, D)`."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    if queries.device.type == "cpu" and keys.shape[1] <= FEW_KEYS:
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(dim=-1).to(v.dtype) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


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
