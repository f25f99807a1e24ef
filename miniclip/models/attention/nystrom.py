"""Nystroemformer: attention by way of landmarks."""

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, at_least
from miniclip.models.attention.base import (
    TokenPacking,
    merge_heads,
    missing_package,
    precise,
    split_heads,
)


class NystromAttention(nn.Module):
    """Nystroemformer (Xiong et al. 2021, arXiv 2102.03902, eq. 15): attention by way of landmarks.

    Landmarks are means of equal parts of the caption itself, so captions of up to `num_landmarks` tokens
    have exact attention, as far as the iterated inverse goes.

    Args:
        num_landmarks: the most landmarks of a caption, m in the shapes below.
        conv_kernel: tokens that a depth-wise convolution over the values reaches, odd; null for none.

    Raises:
        UserError: when the package nystrom-attention is missing.
    """

    ITERATIONS = 6

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        context_length: int,
        num_landmarks: int,
        conv_kernel: int | None,
    ):
        super().__init__()
        at_least("num_landmarks", num_landmarks, 1)
        if conv_kernel is not None and (conv_kernel < 1 or conv_kernel % 2 == 0):
            raise SettingError("conv_kernel", conv_kernel, "must be odd, or null")
        try:
            from nystrom_attention import NystromAttention as PackagesAttention
        except ImportError:
            raise missing_package("nystrom", "nystrom-attention") from None

        self.num_landmarks = num_landmarks
        self.attention = PackagesAttention(
            width,
            heads=num_heads,
            dim_head=width // num_heads,
            num_landmarks=num_landmarks,
            residual=conv_kernel is not None,
            residual_conv_kernel=conv_kernel or 1,
        )

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        layer = self.attention
        qkv = packing.pad(layer.to_qkv(tokens))  # (B, L, 3 * D)
        queries, keys, values = split_heads(qkv, 3 * layer.heads).chunk(3, dim=1)  # (B, H, L, D / H)

        with torch.autocast(tokens.device.type, enabled=False):  # the inverse needs all digits
            mixed = self._mixed(precise(queries), precise(keys), precise(values), packing.attention_mask)
        if layer.residual:
            mixed = mixed + layer.res_conv(values)
        return layer.to_out(packing.unpad(merge_heads(mixed)).to(tokens.dtype))

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The approximation of attention, `3 x (B, H, L, D / H), (B, L) -> (B, H, L, D / H)`."""
        queries = queries * self.attention.scale
        means, is_landmark = self._landmarks(mask)  # (B, 1, m, L), (B, m)
        means = means.to(queries.dtype)
        few_queries, few_keys = means @ queries, means @ keys  # (B, H, m, D / H)

        has_landmark, is_token = is_landmark[:, None, None, :], mask[:, None, None, :]
        to_landmarks = _softmax(queries @ few_keys.transpose(-1, -2), has_landmark)  # (B, H, L, m)
        to_tokens = _softmax(few_queries @ keys.transpose(-1, -2), is_token)  # (B, H, m, L)
        between = _softmax(few_queries @ few_keys.transpose(-1, -2), has_landmark)  # (B, H, m, m)

        # landmarks that a short caption has not are only their own neighbours
        identity = torch.eye(self.num_landmarks, device=mask.device, dtype=between.dtype)
        between = torch.where(is_landmark[:, None, :, None], between, identity)
        return to_landmarks @ self._inverse(between) @ (to_tokens @ values)

    def _landmarks(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, 1, m, L) of the tokens in each landmark, and which landmarks there are, (B, m)."""
        length = mask.sum(dim=1, keepdim=True)  # (B, 1)
        count = length.clamp(min=1, max=self.num_landmarks)
        positions = torch.arange(mask.shape[1], device=mask.device)  # (L,)
        part = positions * count // length.clamp(min=1)  # (B, L)

        number = torch.arange(self.num_landmarks, device=mask.device)  # (m,)
        belongs = (part[:, None, :] == number[:, None]) & mask[:, None, :]  # (B, m, L)
        means = belongs / belongs.sum(dim=2, keepdim=True).clamp(min=1)
        return means[:, None], number < count

    def _inverse(self, matrices: Tensor) -> Tensor:
        """Moore-Penrose inverse of (B, H, m, m) by iteration (section 3.3), each matrix for itself."""
        largest_row = matrices.sum(dim=-1).amax(dim=-1)  # (B, H)
        largest_column = matrices.sum(dim=-2).amax(dim=-1)
        z = matrices.transpose(-1, -2) / (largest_row * largest_column)[..., None, None]

        one = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
        for _ in range(self.ITERATIONS):
            product = matrices @ z
            z = z @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
        return z


def _softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
