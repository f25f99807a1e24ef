"""Linformer: keys and values of a caption projected to fewer positions."""

import warnings

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, in_range
from miniclip.models.attention.base import (
    TokenPacking,
    attend,
    in_autocast_dtype,
    merge_heads,
    split_heads,
)
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
        tokens = in_autocast_dtype(tokens)  # once for all layers
        keys, values = self._keys_and_values(tokens, packing)  # each (B, H or 1, k or L, D / H)
        queries = split_heads(packing.pad(self.to_q(tokens)), self.num_heads)  # (B, H, L, D / H)

        # projected keys are mixtures of all tokens, with nothing in them of the padding
        mask = packing.attention_mask[:, None, None, :] if self.proj_k is None else None
        mixed = attend(queries, keys, values, mask)  # (B, H, L, D / H)
        return self.to_out(packing.unpad(merge_heads(mixed)))

    def _keys_and_values(self, tokens: Tensor, packing: TokenPacking) -> tuple[Tensor, Tensor]:
        """Both at k positions, or at all, each (B, heads, k or L, width of a head)."""
        layers = [(self.to_k, self.proj_k)]
        if not self.share_kv:
            layers.append((self.to_v, self.proj_v))

        if self._reduces_first(packing):
            padded = packing.pad(tokens)  # (B, L, D)
            made = [layer(_reduced(padded, projection)) for layer, projection in layers]
            heads = [split_heads(each, self.kv_heads) for each in made]
        else:
            heads = [self._heads(packing.pad(layer(tokens)), projection) for layer, projection in layers]
        return heads[0], heads[-1]

    def _reduces_first(self, packing: TokenPacking) -> bool:
        """Whether the key and value layers see k positions; an exported graph is one for all lengths."""
        projection = self.proj_k
        if projection is None or projection.ndim == 3 or torch.compiler.is_exporting():
            return False
        return projection.shape[1] < packing.length

    def _heads(self, padded: Tensor, projection: Tensor | None) -> Tensor:
        """Keys or values of each head, `(B, L, width) -> (B, heads, k or L, width of a head)`."""
        if projection is None or projection.ndim == 2:
            return split_heads(_reduced(padded, projection), self.kv_heads)
        reductions = projection[:, : padded.shape[1]].transpose(1, 2)  # (H, k, L)
        return reductions @ split_heads(padded, self.kv_heads)


def _reduced(padded: Tensor, projection: Tensor | None) -> Tensor:
    """`(B, L, D), (context_length, k) -> (B, k, D)`; without a projection as it is."""
    if projection is None:
        return padded
    reduction = projection[: padded.shape[1]].T  # (k, L)
    if not torch.compiler.is_exporting():
        # one for each caption: torch would copy the captions, to make it a single product
        reduction = reduction.expand(len(padded), -1, -1)
    return reduction @ padded


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
