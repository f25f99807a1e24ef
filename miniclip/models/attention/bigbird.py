"""BigBird: block-sparse attention."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import at_least
from miniclip.models.attention.base import TokenPacking, attend, merge_heads, rounded_up, split_heads


class BigBirdAttention(nn.Module):
    """Block-sparse attention (Zaheer et al. 2020, arXiv 2007.14062).

    Each block of tokens looks at its neighbors, at the first block and at some random ones; the first
    block looks everywhere.

    Args:
        block_size: tokens per block, S in the shapes below; there are N blocks.
        num_random: random blocks that each one looks at, drawn once and saved with the weights.
    """

    def __init__(
        self, *, width: int, num_heads: int, context_length: int, block_size: int, num_random: int
    ):
        super().__init__()
        at_least("block_size", block_size, 1)
        at_least("num_random", num_random, 0)
        self.num_heads = num_heads
        self.block_size = block_size
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        num_blocks = rounded_up(context_length, block_size) // block_size
        # (N, seen blocks), under the name that checkpoints hold
        self.register_buffer("neighbours", _neighbors(num_blocks, num_random))

    def forward(self, tokens: Tensor, packing: TokenPacking) -> Tensor:
        # whole blocks, of length L from here on
        missing = rounded_up(packing.length, self.block_size) - packing.length
        qkv = F.pad(packing.pad(self.qkv(tokens)), (0, 0, 0, missing))  # (B, L, 3 * D)
        mask = F.pad(packing.attention_mask, (0, missing))  # (B, L)
        queries, keys, values = split_heads(qkv, 3 * self.num_heads).chunk(3, dim=1)  # (B, H, L, D / H)

        mixed = self._in_blocks(queries, keys, values, mask)
        first = queries[:, :, : self.block_size]  # (B, H, S, D / H)
        everywhere = attend(first, keys, values, mask[:, None, None, :])
        mixed = torch.cat([everywhere, mixed[:, :, self.block_size :]], dim=2)
        return self.out(packing.unpad(merge_heads(mixed[:, :, : packing.length])))

    def _in_blocks(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Each block's look at its neighbors, `3 x (B, H, L, D / H), (B, L) -> (B, H, L, D / H)`."""
        blocks = (mask.shape[1] // self.block_size, self.block_size)  # N, S
        neighbors: Tensor = self.neighbours[: blocks[0]]  # type: ignore[index]
        exists = (neighbors >= 0) & (neighbors < blocks[0])  # (N, seen blocks)
        neighbors = neighbors.where(exists, 0)

        near = queries.unflatten(2, blocks)  # (B, H, N, S, D / H)
        seen_keys = keys.unflatten(2, blocks)[:, :, neighbors].flatten(3, 4)  # (B, H, N, seen * S, D / H)
        seen_values = values.unflatten(2, blocks)[:, :, neighbors].flatten(3, 4)
        may_look = mask.unflatten(1, blocks)[:, neighbors] & exists[..., None]  # (B, N, seen, S)
        may_look = may_look.flatten(2).flatten(0, 1)[:, None, None, :]  # (B * N, 1, 1, seen * S)

        # blocks go into the batch, (B * N, H, ...)
        near, seen_keys, seen_values = (
            x.transpose(1, 2).flatten(0, 1) for x in (near, seen_keys, seen_values)
        )
        mixed = attend(near, seen_keys, seen_values, may_look)
        return mixed.unflatten(0, (-1, blocks[0])).transpose(1, 2).flatten(2, 3)


def _neighbors(num_blocks: int, num_random: int) -> Tensor:
    """For each block the blocks it looks at, filled up with -1: the first, three around it, random ones."""
    rows = []
    draw = random.Random(torch.initial_seed())
    for block in range(num_blocks):
        around = range(max(0, block - 1), min(num_blocks, block + 2))
        near = {0, *around}
        others = [other for other in range(num_blocks) if other not in near]
        far = draw.sample(others, min(num_random, len(others)))

        seen = [*sorted(near), *far]
        rows.append(seen + [-1] * (4 + num_random - len(seen)))
    return torch.tensor(rows)
