"""Text towers: captions as token ids to vectors."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, above_zero, at_least, in_range
from miniclip.models.attention import TokenPacking

Pooling = Literal["mean", "eos", "cls", "max"]

EMBEDDING_STD = 0.2
"""Standard deviation that embeddings of tokens begin with, those of positions with half of it.

The norm behind the blocks divides by their length. With CLIP's 0.02 the first gradient is six times as long
and lies in the embeddings, and SAM's perturbation of 0.05 undoes them: captions all become alike.
"""


class TextEncoder(nn.Module):
    """A pre-norm transformer over token and position embeddings, its tokens pooled to one vector.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`, with L at most
    `context_length`.

    Args:
        vocab_size: number of token ids.
        attention: makes one attention module from width, num_heads and context_length; see
            `miniclip.models.attention`.
        width: length of a token's vector.
        num_layers: number of blocks.
        num_heads: attention heads per block; must divide `width`.
        context_length: the most tokens a caption may have.
        dropout: fraction of each branch's output set to zero in training.
        pooling: how the real tokens become one vector: their "mean", the last ("eos"), the first ("cls"),
            or the largest value of each element ("max").
        embed_dim: length of the output.
        embedding_lr_factor: the tokens' embeddings' learning rate over that of everything else.
        block_lr_factor: the blocks' learning rate over that of everything else.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        attention: Callable[..., nn.Module],
        width: int,
        num_layers: int,
        num_heads: int,
        context_length: int,
        dropout: float,
        pooling: Pooling,
        embed_dim: int,
        embedding_lr_factor: float = 1.0,
        block_lr_factor: float = 1.0,
    ):
        super().__init__()
        above_zero("embedding_lr_factor", embedding_lr_factor)
        above_zero("block_lr_factor", block_lr_factor)
        at_least("width", width, 1)
        if num_heads < 1 or width % num_heads:
            raise SettingError("num_heads", num_heads, f"must divide width={width}")
        at_least("num_layers", num_layers, 1)
        in_range("dropout", dropout, 0, 1, includes_high=False)

        self.lr_factors = {"token_embedding": embedding_lr_factor, "blocks": block_lr_factor}
        self.pooling = pooling
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                attention(width=width, num_heads=num_heads, context_length=context_length),
                width=width,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, embed_dim)

        nn.init.normal_(self.token_embedding.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.position_embedding, std=EMBEDDING_STD / 2)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        packing = TokenPacking(attention_mask)
        padded = (
            self.token_embedding(token_ids) + self.position_embedding[: token_ids.shape[1]]
        )  # (B, L, D)
        tokens = packing.unpad(padded)  # (T, D), the real tokens of all captions
        for block in self.blocks:
            tokens = block(tokens, packing)

        padded = packing.pad(self.norm(tokens))  # (B, L, D)
        return self.proj(pool(padded, attention_mask, self.pooling))


class BagOfTokens(nn.Module):
    """The mean of the tokens' embeddings, whatever their order: what any text tower has to beat.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`

    Args:
        vocab_size: number of token ids.
        width: length of a token's vector.
        embed_dim: length of the output.
    """

    def __init__(self, *, vocab_size: int, width: int, embed_dim: int):
        super().__init__()
        at_least("width", width, 1)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, embed_dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.proj(self.norm(pool(self.token_embedding(token_ids), attention_mask, "mean")))


def pool(tokens: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per caption: `(B, L, D), (B, L) bool -> (B, D)`. See `TextEncoder`."""
    if pooling == "cls":
        return tokens[:, 0]

    length = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    if pooling == "eos":
        last = (length[..., None] - 1).expand(-1, 1, tokens.shape[2])  # (B, 1, D)
        return tokens.gather(1, last).squeeze(1)
    if pooling == "max":
        largest = tokens.masked_fill(~attention_mask[..., None], -torch.inf).amax(dim=1)
        # zero, as for the mean, where a caption has no token
        return largest.masked_fill(~attention_mask.any(dim=1, keepdim=True), 0)

    return tokens.masked_fill(~attention_mask[..., None], 0).sum(dim=1) / length


class TransformerBlock(nn.Module):
    """Attention and a GELU feed-forward of four times the width, each on a normed residual branch.

    The last linear layer of either branch starts at zero (as the last batch norms of residual blocks do,
    Goyal et al. 2017, arXiv 1706.02677): embeddings are small, and what random blocks add would drown them.
    """

    def __init__(self, attention: nn.Module, *, width: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

        _start_at_zero(self.attention)
        _start_at_zero(self.mlp)

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), packing))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


def _start_at_zero(branch: nn.Module) -> None:
    """Have a branch add nothing: its last linear layer gives zero."""
    layers = [layer for layer in branch.modules() if isinstance(layer, nn.Linear)]
    for layer in layers[-1:]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
