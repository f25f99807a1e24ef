"""Performer: softmax estimated by random features."""

import torch
from torch import Tensor, nn

from miniclip.errors import at_least
from miniclip.models.attention.base import (
    TokenPacking,
    merge_heads,
    missing_package,
    precise,
    split_heads,
)


class PerformerAttention(nn.Module):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): softmax estimated by random features.

    Args:
        num_features: random features per head; null is d ln d for heads of width d. They are drawn once
            and saved with the weights.

    Raises:
        UserError: when the package performer-pytorch is missing.
    """

    def __init__(self, *, width: int, num_heads: int, context_length: int, num_features: int | None):
        super().__init__()
        if num_features is not None:
            at_least("num_features", num_features, 1)
        try:
            from performer_pytorch import SelfAttention
        except ImportError:
            raise missing_package("performer", "performer-pytorch") from None

        with torch.device("cpu"):  # the package cannot be made on a device without memory
            self.attention = SelfAttention(
                width, heads=num_heads, dim_head=width // num_heads, nb_features=num_features
            )
            features = self.attention.fast_attention.projection_matrix  # (features, D / H)
            features.copy_(_orthogonal_features(*features.shape))

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        layer = self.attention
        queries, keys, values = (
            precise(split_heads(packing.pad(linear(tokens)), layer.heads))  # (B, H, L, D / H)
            for linear in (layer.to_q, layer.to_k, layer.to_v)
        )
        with torch.autocast(tokens.device.type, enabled=False):  # exponentials of large numbers
            mixed = self._mixed(queries, keys, values, packing.attention_mask)
        return layer.to_out(packing.unpad(merge_heads(mixed)).to(tokens.dtype))

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The estimate of attention, `3 x (B, H, L, D / H), (B, L) -> (B, H, L, D / H)`.

        What is taken off the exponents are factors that the quotient does not see: of each query, and of
        all keys of a caption.
        """
        looking = self._exponents(queries)  # (B, H, L, features)
        looking = (looking - looking.amax(dim=-1, keepdim=True).detach()).exp()

        is_token = mask[:, None, :, None]  # (B, 1, L, 1)
        seen = self._exponents(keys)
        seen = seen.masked_fill(~is_token, torch.finfo(seen.dtype).min)
        seen = (seen - seen.amax(dim=(-1, -2), keepdim=True).detach()).exp()
        seen = seen.masked_fill(~is_token, 0)  # (B, H, L, features)

        sums = looking @ seen.sum(dim=2)[..., None]  # (B, H, L, 1)
        by_feature = seen.transpose(-1, -2) @ values  # (B, H, features, D / H)
        return looking @ by_feature / sums.clamp(min=1e-30)

    def _exponents(self, x: Tensor) -> Tensor:
        """Logarithms of the positive random features (lemma 1), (B, H, L, features)."""
        x = x * x.shape[-1] ** -0.25
        features = self.attention.fast_attention.projection_matrix
        return x @ features.T.to(x.dtype) - x.square().sum(dim=-1, keepdim=True) / 2


def _orthogonal_features(count: int, width: int) -> Tensor:
    """Gaussian directions (count, width), orthogonal in groups of `width`.

    The package's own prefer a half of the space, since it takes the signs of its QR decomposition as they
    come, and its estimate stops short of exact attention.
    """
    groups = [nn.init.orthogonal_(torch.empty(width, width)) for _ in range(-(-count // width))]
    lengths = torch.randn(count, width).norm(dim=1, keepdim=True)  # (count, 1)
    return torch.cat(groups)[:count] * lengths
