"""Linformer: keys and values of a caption projected to fewer positions."""

import warnings

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, in_range
from miniclip.models.attention.base import TokenPacking, attend, merge_heads, split_heads
from miniclip.models.attention.full import FullAttention


class LinformerAttention(nn.Module):
    """Linformer self-attention (Wang et al. 2020, arXiv 2006.04768, eq. 7): the package linformer's module.

    Keys and values are projected along the sequence from L to k positions. The package knows no mask.
    Padded tokens are given to it as zeros, which add nothing: neither its key and value layers nor its
    projection have a bias.

    Args:
        k: number of positions the sequence is projected to.
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
        _check_k(k, context_length)
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

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        return packing.unpad(self.attention(packing.pad(tokens)))


class FusedLinformerAttention(nn.Module):
    """The same in fewer operations; takes the weights of the package's module.

    Where k is less than the caption's length the sequence is reduced before the key and value layers, which
    then see k positions instead of L: W (E^T x) = E^T (x W).

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
            _check_k(k, context_length)
        if per_head and one_kv_head:
            raise SettingError("per_head", per_head, "needs one_kv_head=false")

        self.num_heads = num_heads
        self.kv_heads = 1 if one_kv_head else num_heads
        kv_width = width // num_heads * self.kv_heads
        heads = (num_heads,) if per_head else ()

        # in the order and under the names of the package's module
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, kv_width, bias=False)
        self.proj_k = None if k is None else _folding(*heads, context_length, k)
        self.share_kv = share_kv
        if not share_kv:
            self.to_v = nn.Linear(width, kv_width, bias=False)
            self.proj_v = None if k is None else _folding(*heads, context_length, k)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        keys = self._reduced(tokens, packing, self.to_k, self.proj_k)  # (B, H or 1, k or L, D / H)
        values = keys if self.share_kv else self._reduced(tokens, packing, self.to_v, self.proj_v)
        queries = split_heads(packing.pad(self.to_q(tokens)), self.num_heads)  # (B, H, L, D / H)

        # projected keys are mixtures of all tokens, with nothing in them of the padding
        mask = packing.attention_mask[:, None, None, :] if self.proj_k is None else None
        mixed = attend(queries, keys, values, mask)  # (B, H, L, D / H)
        return self.to_out(packing.unpad(merge_heads(mixed)))

    def _reduced(
        self, tokens: Tensor, packing: TokenPacking, layer: nn.Linear, projection: Tensor | None
    ) -> Tensor:
        """Keys or values at k positions, or at all, (B, heads, k or L, width of a head)."""
        if projection is None:
            return split_heads(packing.pad(layer(tokens)), self.kv_heads)

        reduction = projection[..., : packing.length, :].transpose(-1, -2)  # (k, L) or (H, k, L)
        if projection.ndim == 3:
            return reduction @ split_heads(packing.pad(layer(tokens)), self.kv_heads)

        # the layer runs where there are fewer positions; an exported graph is one for all lengths
        if not torch.compiler.is_exporting() and projection.shape[1] < packing.length:
            return split_heads(layer(reduction @ packing.pad(tokens)), self.kv_heads)
        return split_heads(reduction @ packing.pad(layer(tokens)), self.kv_heads)


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
    """Let position i of the sequence enter position i modulo k of a projection (..., L, k).

    Captions of up to k tokens then start with exact attention, which learns faster than the package's
    random mixtures of all.
    """
    if projection.is_meta:  # it has no values, and torch would import its compiler to know theirs
        return
    positions = torch.arange(projection.shape[-2], device=projection.device)  # (L,)
    projection.zero_()
    projection[..., positions, positions % projection.shape[-1]] = 1


def _check_k(k: int, context_length: int) -> None:
    in_range("k", k, 1, context_length, high_is="context_length")
