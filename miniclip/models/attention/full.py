"""Exact attention."""

from torch import Tensor, nn

from miniclip.models.attention.base import TokenPacking, attend, merge_heads, split_heads


class FullAttention(nn.Module):
    """Exact multi-head self-attention (Vaswani et al. 2017), on torch's fused kernel where that pays."""

    def __init__(self, *, width: int, num_heads: int, context_length: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        qkv = packing.pad(self.qkv(tokens))  # (B, L, 3 * D)
        queries, keys, values = split_heads(qkv, 3 * self.num_heads).chunk(3, dim=1)  # (B, H, L, D / H)
        mixed = attend(queries, keys, values, packing.attention_mask[:, None, None, :])
        return self.out(packing.unpad(merge_heads(mixed)))
