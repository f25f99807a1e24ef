"""Reformer: a token looks at those that hash alike."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import at_least
from miniclip.models.attention.base import (
    TokenPacking,
    merge_heads,
    missing_package,
    precise,
    rounded_up,
    split_heads,
)


class ReformerAttention(nn.Module):
    """LSH attention (Kitaev et al. 2020, arXiv 2001.04451): a token looks at those that hash alike.

    The package's attention always runs on captions of the full context length, padding zero and masked, and
    with rotations that are drawn once: sorting then depends on nothing but the caption.

    Args:
        bucket_size: tokens per bucket.
        num_hashes: rounds of hashing.

    Raises:
        UserError: when the package reformer-pytorch is missing.
    """

    def __init__(
        self, *, width: int, num_heads: int, context_length: int, bucket_size: int, num_hashes: int
    ):
        super().__init__()
        at_least("bucket_size", bucket_size, 1)
        at_least("num_hashes", num_hashes, 1)
        try:
            from reformer_pytorch import LSHAttention
        except ImportError:
            raise missing_package("reformer", "reformer-pytorch") from None

        self.num_heads = num_heads
        self.to_qk = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

        # the package hashes by half as many rotations as there are buckets, and by their opposites
        self.full_length = rounded_up(context_length, 2 * bucket_size)
        half = self.full_length // bucket_size // 2
        self.register_buffer("rotations", torch.randn(width // num_heads, num_hashes, half))
        self.lsh = LSHAttention(bucket_size=bucket_size, n_hashes=num_hashes)
        self.lsh.hash_vectors = self._hash

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        vectors = self._in_full_length(packing.pad(self.to_qk(tokens)))  # (B * H, full L, D / H)
        values = self._in_full_length(packing.pad(self.to_v(tokens)))
        mask = F.pad(packing.attention_mask, (0, self.full_length - packing.length))  # (B, full L)
        mask = mask.repeat_interleave(self.num_heads, dim=0)  # (B * H, full L)

        # a token's own logit is -5e4, and padding is normalized with an epsilon that float16 has not
        with torch.autocast(tokens.device.type, enabled=False):
            mixed, _, _ = self.lsh(precise(vectors), precise(values), input_mask=mask)

        mixed = mixed.unflatten(0, (-1, self.num_heads))[:, :, : packing.length]  # (B, H, L, D / H)
        return self.to_out(packing.unpad(merge_heads(mixed)).to(tokens.dtype))

    def _in_full_length(self, padded: Tensor) -> Tensor:
        """Heads of captions filled up with zeros, `(B, L, D) -> (B * H, full L, D / H)`."""
        heads = split_heads(padded, self.num_heads)  # (B, H, L, D / H)
        return F.pad(heads, (0, 0, 0, self.full_length - padded.shape[1])).flatten(0, 1)

    def _hash(self, n_buckets: int, vectors: Tensor, **caching: Any) -> Tensor:
        """Bucket of each vector in each round, rounds one behind the other, (B * H, rounds * L)."""
        rotations: Tensor = self.rotations  # type: ignore[assignment]
        rotated = torch.einsum("btf,fhi->bhti", vectors, rotations.to(vectors.dtype))
        buckets = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)  # (B * H, rounds, L)

        # each round has buckets of its own
        offsets = n_buckets * torch.arange(buckets.shape[1], device=buckets.device)
        return (buckets + offsets[:, None]).flatten(1)
