"""Attention over the tokens of a caption. Padding never reaches the result.

Every attention is called as `attention(tokens (T, D), places) -> (T, D)` on the real tokens of a batch of
captions, one behind the other; `places`, a `TokenPacking`, lays them out as (B, L, D) where they mix.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import SettingError

FEW_KEYS = 256
"""Up to so many keys the plain products beat torch's fused kernel on the CPU, three times at 32 keys."""


class TokenPacking:
    """Where the real tokens of a padded batch lie, so that all but the mixing runs on them alone.

    Half of a batch of captions is padding. On CUDA the padded places are computed all the same: counting
    the real ones would wait for the device, and shapes would change with every batch.

    Args:
        attention_mask: (B, L) bool, true on real tokens.
    """

    def __init__(self, attention_mask: Tensor):
        self.attention_mask = attention_mask
        self._real: Tensor | None = None
        self._is_full = False
        if self.is_packed:
            real = attention_mask.flatten().nonzero().squeeze(1)
            self._is_full = len(real) == attention_mask.numel()
            self._real = None if self._is_full else real

    @property
    def is_packed(self) -> bool:
        """Whether real tokens are gathered."""
        return self.attention_mask.device.type == "cpu"

    @property
    def length(self) -> int:
        """L, places of a caption."""
        return self.attention_mask.shape[1]

    def pack(self, padded: Tensor) -> Tensor:
        """`(B, L, D) -> (T, D)`"""
        flat = padded.flatten(0, 1)
        return flat if self._real is None else flat.index_select(0, self._real)

    def pad(self, packed: Tensor) -> Tensor:
        """`(T, D) -> (B, L, D)`, zero where there is no token."""
        shape = (*self.attention_mask.shape, packed.shape[1])
        if self._is_full:
            return packed.view(shape)
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

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        queries, keys, values = split_heads(places.pad(self.qkv(tokens)), 3 * self.num_heads).chunk(
            3, dim=1
        )
        mixed = attend(queries, keys, values, places.attention_mask[:, None, None, :])
        return self.out(places.pack(merge_heads(mixed)))


class LinformerAttention(nn.Module):
    """Linformer self-attention (Wang et al. 2020, arXiv 2006.04768, eq. 7): the package linformer's module.

    Keys and values are projected along the sequence from L to k places. The package knows no mask. Padded
    tokens are given to it as zeros, which add nothing: neither its key and value layers nor its projection
    have a bias.

    Args:
        k: number of places the sequence is projected to.
        share_kv: one projection, of keys that are values as well.
        one_kv_head: one head of keys and values for all heads of queries.

    Raises:
        SettingError: when k is not within 1 ... context_length.
        ImportError: when the package linformer is missing.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        context_length: int,
        k: int,
        share_kv: bool = False,
        one_kv_head: bool = False,
    ):
        super().__init__()
        _check_places(k, context_length)
        from linformer import LinformerSelfAttention

        self.attention = LinformerSelfAttention(
            dim=width,
            seq_len=context_length,
            k=k,
            heads=num_heads,
            share_kv=share_kv,
            one_kv_head=one_kv_head,
        )
        start_as_folding(self.attention.proj_k)
        if not share_kv:
            start_as_folding(self.attention.proj_v)

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        return places.pack(self.attention(places.pad(tokens)))


class FusedLinformerAttention(nn.Module):
    """The same in fewer operations; takes the weights of the package's module.

    Where k is less than the caption's length the sequence is reduced before the key and value layers, which
    then see k places instead of L: W (E^T x) = E^T (x W).

    Args:
        k: see `LinformerAttention`; None projects nothing, which is exact attention with the same other
            weights.
        share_kv, one_kv_head: see `LinformerAttention`.
        per_head: a projection for each head (the paper's first choice) instead of one for all.

    Raises:
        SettingError: when k is not within 1 ... context_length, or per-head projections of one head are
            asked for.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        context_length: int,
        k: int | None,
        share_kv: bool = False,
        one_kv_head: bool = False,
        per_head: bool = False,
    ):
        super().__init__()
        if k is not None:
            _check_places(k, context_length)
        if per_head and one_kv_head:
            raise SettingError("per_head", per_head, "needs one_kv_head=false")
        self.num_heads = num_heads
        self.kv_heads = 1 if one_kv_head else num_heads
        kv_width = width // num_heads * self.kv_heads
        heads = (num_heads,) if per_head else ()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, kv_width, bias=False)
        self.proj_k = None if k is None else _folding(*heads, context_length, k)
        self.share_kv = share_kv
        if not share_kv:
            self.to_v = nn.Linear(width, kv_width, bias=False)
            self.proj_v = None if k is None else _folding(*heads, context_length, k)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        keys = self._reduced(tokens, places, self.to_k, self.proj_k)
        values = keys if self.share_kv else self._reduced(tokens, places, self.to_v, self.proj_v)
        queries = split_heads(places.pad(self.to_q(tokens)), self.num_heads)
        mask = places.attention_mask[:, None, None, :] if self.proj_k is None else None
        return self.to_out(places.pack(merge_heads(attend(queries, keys, values, mask))))

    def _reduced(
        self, tokens: Tensor, places: TokenPacking, layer: nn.Linear, projection: Tensor | None
    ) -> Tensor:
        """Keys or values at k places, or at all, (B, heads, k or L, width of a head)."""
        if projection is None:
            return split_heads(places.pad(layer(tokens)), self.kv_heads)
        reduction = projection[..., : places.length, :].transpose(-1, -2)
        if projection.ndim == 3:
            return reduction @ split_heads(places.pad(layer(tokens)), self.kv_heads)
        if projection.shape[1] < places.length:
            return split_heads(layer(reduction @ places.pad(tokens)), self.kv_heads)
        return split_heads(reduction @ places.pad(layer(tokens)), self.kv_heads)


def linformer_attention(
    *,
    width: int,
    num_heads: int,
    context_length: int,
    k: int,
    share_kv: bool = False,
    one_kv_head: bool = False,
) -> nn.Module:
    """`LinformerAttention`, or exact attention with a warning where the package is missing."""
    sizes = {"width": width, "num_heads": num_heads, "context_length": context_length}
    try:
        return LinformerAttention(**sizes, k=k, share_kv=share_kv, one_kv_head=one_kv_head)
    except ImportError:
        warnings.warn(
            "The package linformer is not installed: exact attention is used in its place and k has "
            "no effect. Install it with: pip install linformer, or choose "
            "encoder/text/attention=linformer_fused",
            stacklevel=2,
        )
        return FullAttention(**sizes)


def _folding(*shape: int) -> nn.Parameter:
    """A projection (..., L, k) as it starts."""
    projection = nn.Parameter(torch.empty(shape))
    start_as_folding(projection)
    return projection


@torch.no_grad()
def start_as_folding(projection: Tensor) -> None:
    """Let place i of the sequence enter place i modulo k of a projection (..., L, k): captions of up to k
    tokens start with exact attention, which learns faster than the package's random mixtures of all."""
    places = torch.arange(projection.shape[-2], device=projection.device)
    projection.zero_()
    projection[..., places, places % projection.shape[-1]] = 1


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`(B, L, D) -> (B, heads, L, D / heads)`"""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`(B, heads, L, D / heads) -> (B, L, D)`"""
    return x.transpose(1, 2).flatten(2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: `(B, H, L, D), (B, H, K, D), (B, H, K, D) -> (B, H, L, D)`.

    Args:
        mask: where a query may look, broadcastable to (B, H, L, K); a row that may look nowhere looks
            everywhere.
    """
    if queries.device.type == "cpu" and keys.shape[2] <= FEW_KEYS:
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1).to(values.dtype) @ values
    keys, values = (x.expand(-1, queries.shape[1], -1, -1) for x in (keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def _check_places(k: int, context_length: int) -> None:
    if not 1 <= k <= context_length:
        raise SettingError("k", k, f"must lie between 1 and context_length={context_length}")
