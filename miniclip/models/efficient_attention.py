"""Attentions that cost less than the square of a caption's length, each with a mask that is right.

The packages' own forward passes let padding in: Performer's into the sums over keys, Nystroemformer's into
where its landmarks lie and, by a maximum over the batch, from one caption into another, Reformer's into the
sorting. Here weights and building blocks are the packages', masks and layout are ours.
"""

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models.attention import TokenPacking, attend, merge_heads, split_heads


class PerformerAttention(nn.Module):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): softmax estimated by random features.

    Args:
        num_features: random features a head; null is d ln d for heads of width d. They are drawn once and
            saved with the weights.

    Raises:
        UserError: when the package performer-pytorch is missing.
    """

    def __init__(self, *, width: int, num_heads: int, context_length: int, num_features: int | None):
        super().__init__()
        _at_least_one("num_features", num_features)
        try:
            from performer_pytorch import SelfAttention
        except ImportError:
            raise _missing("performer", "performer-pytorch") from None
        with torch.device("cpu"):  # the package cannot be made on a device without memory
            self.attention = SelfAttention(
                width, heads=num_heads, dim_head=width // num_heads, nb_features=num_features
            )
            features = self.attention.fast_attention.projection_matrix
            features.copy_(_orthogonal_features(*features.shape))

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        layer = self.attention
        queries, keys, values = (
            _precise(split_heads(places.pad(linear(tokens)), layer.heads))
            for linear in (layer.to_q, layer.to_k, layer.to_v)
        )
        with torch.autocast(tokens.device.type, enabled=False):  # exponentials of large numbers
            looking, seen = self._exponents(queries), self._exponents(keys)
            # factors that the quotient does not see: of each query, and of all keys of a caption
            looking = (looking - looking.amax(dim=-1, keepdim=True).detach()).exp()
            is_token = places.attention_mask[:, None, :, None]
            seen = seen.masked_fill(~is_token, torch.finfo(seen.dtype).min)
            seen = (seen - seen.amax(dim=(-1, -2), keepdim=True).detach()).exp().masked_fill(~is_token, 0)
            sums = looking @ seen.sum(dim=2)[..., None]
            mixed = looking @ (seen.transpose(-1, -2) @ values) / sums.clamp(min=1e-30)
        return layer.to_out(places.pack(merge_heads(mixed)).to(tokens.dtype))

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
    return torch.cat(groups)[:count] * torch.randn(count, width).norm(dim=1, keepdim=True)


class NystromAttention(nn.Module):
    """Nystroemformer (Xiong et al. 2021, arXiv 2102.03902, eq. 15): attention by way of landmarks.

    Landmarks are means of equal parts of the caption itself, so captions of up to `num_landmarks` tokens
    have exact attention, as far as the iterated inverse goes.

    Args:
        num_landmarks: the most landmarks of a caption.
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
        _at_least_one("num_landmarks", num_landmarks)
        if conv_kernel is not None and (conv_kernel < 1 or conv_kernel % 2 == 0):
            raise SettingError("conv_kernel", conv_kernel, "must be odd, or null")
        try:
            from nystrom_attention import NystromAttention as PackagesAttention
        except ImportError:
            raise _missing("nystrom", "nystrom-attention") from None
        self.num_landmarks = num_landmarks
        self.attention = PackagesAttention(
            width,
            heads=num_heads,
            dim_head=width // num_heads,
            num_landmarks=num_landmarks,
            residual=conv_kernel is not None,
            residual_conv_kernel=conv_kernel or 1,
        )

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        layer = self.attention
        queries, keys, values = split_heads(places.pad(layer.to_qkv(tokens)), 3 * layer.heads).chunk(
            3, dim=1
        )
        with torch.autocast(tokens.device.type, enabled=False):  # the inverse needs all digits
            mixed = self._mixed(_precise(queries), _precise(keys), _precise(values), places.attention_mask)
        if layer.residual:
            mixed = mixed + layer.res_conv(values)
        return layer.to_out(places.pack(merge_heads(mixed)).to(tokens.dtype))

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        queries = queries * self.attention.scale
        means, is_landmark = self._landmarks(mask)
        means = means.to(queries.dtype)
        few_queries, few_keys = means @ queries, means @ keys
        has_landmark, is_token = is_landmark[:, None, None, :], mask[:, None, None, :]
        to_landmarks = _softmax(queries @ few_keys.transpose(-1, -2), has_landmark)
        to_tokens = _softmax(few_queries @ keys.transpose(-1, -2), is_token)
        between = _softmax(few_queries @ few_keys.transpose(-1, -2), has_landmark)
        # landmarks that a short caption has not are only their own neighbours
        own = torch.eye(self.num_landmarks, device=mask.device, dtype=between.dtype)
        between = torch.where(is_landmark[:, None, :, None], between, own)
        return to_landmarks @ self._inverse(between) @ (to_tokens @ values)

    def _landmarks(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, 1, m, L) of the tokens in each landmark, and which landmarks there are, (B, m)."""
        length = mask.sum(dim=1, keepdim=True)
        count = length.clamp(min=1, max=self.num_landmarks)
        part = torch.arange(mask.shape[1], device=mask.device) * count // length.clamp(min=1)
        number = torch.arange(self.num_landmarks, device=mask.device)
        belongs = (part[:, None, :] == number[:, None]) & mask[:, None, :]
        means = belongs / belongs.sum(dim=2, keepdim=True).clamp(min=1)
        return means[:, None], number < count

    def _inverse(self, matrices: Tensor) -> Tensor:
        """Moore-Penrose inverse by iteration (section 3.3), each matrix for itself."""
        z = matrices.transpose(-1, -2) / (
            matrices.sum(dim=-1).amax(dim=-1) * matrices.sum(dim=-2).amax(dim=-1)
        ).unsqueeze(-1).unsqueeze(-1)
        one = torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)
        for _ in range(self.ITERATIONS):
            product = matrices @ z
            z = z @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
        return z


class ReformerAttention(nn.Module):
    """LSH attention (Kitaev et al. 2020, arXiv 2001.04451): a token looks at those that hash alike.

    The package's attention always runs on captions of the full context length, padding zero and masked, and
    with rotations that are drawn once: sorting then depends on nothing but the caption.

    Args:
        bucket_size: tokens in a bucket.
        num_hashes: rounds of hashing.

    Raises:
        UserError: when the package reformer-pytorch is missing.
    """

    def __init__(
        self, *, width: int, num_heads: int, context_length: int, bucket_size: int, num_hashes: int
    ):
        super().__init__()
        _at_least_one("bucket_size", bucket_size)
        _at_least_one("num_hashes", num_hashes)
        try:
            from reformer_pytorch import LSHAttention
        except ImportError:
            raise _missing("reformer", "reformer-pytorch") from None
        self.num_heads = num_heads
        self.to_qk = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.full_length = _rounded_up(context_length, 2 * bucket_size)
        half = self.full_length // bucket_size // 2
        self.register_buffer("rotations", torch.randn(width // num_heads, num_hashes, half))
        self.lsh = LSHAttention(bucket_size=bucket_size, n_hashes=num_hashes)
        self.lsh.hash_vectors = self._hash

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        missing = self.full_length - places.length
        vectors, values = (
            F.pad(split_heads(places.pad(linear(tokens)), self.num_heads), (0, 0, 0, missing)).flatten(0, 1)
            for linear in (self.to_qk, self.to_v)
        )
        mask = F.pad(places.attention_mask, (0, missing)).repeat_interleave(self.num_heads, dim=0)
        # a token's own logit is -5e4, and padding is normalized with an epsilon that float16 has not
        with torch.autocast(tokens.device.type, enabled=False):
            mixed, _, _ = self.lsh(_precise(vectors), _precise(values), input_mask=mask)
        mixed = mixed.unflatten(0, (-1, self.num_heads))[:, :, : places.length]
        return self.to_out(places.pack(merge_heads(mixed)).to(tokens.dtype))

    def _hash(self, n_buckets: int, vectors: Tensor, **caching: Any) -> Tensor:
        """Bucket of each vector in each round, rounds one behind the other, (B, rounds * L)."""
        rotations: Tensor = self.rotations  # type: ignore[assignment]
        rotated = torch.einsum("btf,fhi->bhti", vectors, rotations.to(vectors.dtype))
        buckets = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)
        offsets = n_buckets * torch.arange(buckets.shape[1], device=buckets.device)
        return (buckets + offsets[:, None]).flatten(1)


class BigBirdAttention(nn.Module):
    """Block-sparse attention (Zaheer et al. 2020, arXiv 2007.14062): each block of tokens looks at its
    neighbours, at the first block and at some random ones; the first block looks everywhere.

    Args:
        block_size: tokens in a block.
        num_random: random blocks that each one looks at, drawn once and saved with the weights.
    """

    def __init__(
        self, *, width: int, num_heads: int, context_length: int, block_size: int, num_random: int
    ):
        super().__init__()
        _at_least_one("block_size", block_size)
        if num_random < 0:
            raise SettingError("num_random", num_random, "must be at least 0")
        self.num_heads = num_heads
        self.block_size = block_size
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        num_blocks = _rounded_up(context_length, block_size) // block_size
        self.register_buffer("neighbours", _neighbours(num_blocks, num_random))

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        size = self.block_size
        length = _rounded_up(places.length, size)
        qkv = F.pad(places.pad(self.qkv(tokens)), (0, 0, 0, length - places.length))
        mask = F.pad(places.attention_mask, (0, length - places.length))
        queries, keys, values = split_heads(qkv, 3 * self.num_heads).chunk(3, dim=1)
        num_blocks = length // size
        neighbours: Tensor = self.neighbours[:num_blocks]  # type: ignore[index]
        exists = (neighbours >= 0) & (neighbours < num_blocks)
        neighbours = neighbours.where(exists, 0)

        def gathered(x: Tensor) -> Tensor:
            """(B, H, L, D) to each block's neighbours, (B, H, blocks, neighbours * size, D)."""
            return x.unflatten(2, (num_blocks, size))[:, :, neighbours].flatten(3, 4)

        seen = (mask.unflatten(1, (num_blocks, size))[:, neighbours] & exists[..., None]).flatten(2)
        # blocks go into the batch
        own, near, content = (
            x.transpose(1, 2).flatten(0, 1)
            for x in (queries.unflatten(2, (num_blocks, size)), gathered(keys), gathered(values))
        )
        mixed = attend(own, near, content, seen.flatten(0, 1)[:, None, None, :])
        mixed = mixed.unflatten(0, (-1, num_blocks)).transpose(1, 2).flatten(2, 3)
        everywhere = attend(queries[:, :, :size], keys, values, mask[:, None, None, :])
        mixed = torch.cat([everywhere, mixed[:, :, size:]], dim=2)[:, :, : places.length]
        return self.out(places.pack(merge_heads(mixed)))


def _neighbours(num_blocks: int, num_random: int) -> Tensor:
    """For each block the blocks it looks at, filled up with -1: the first, three around it, random ones."""
    rows = []
    draw = random.Random(torch.initial_seed())
    for block in range(num_blocks):
        near = {0, *(b for b in (block - 1, block, block + 1) if 0 <= b < num_blocks)}
        others = [b for b in range(num_blocks) if b not in near]
        far = draw.sample(others, min(num_random, len(others)))
        own = [*sorted(near), *far]
        rows.append(own + [-1] * (4 + num_random - len(own)))
    return torch.tensor(rows)


def _precise(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _at_least_one(setting: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise SettingError(setting, value, "must be at least 1")


def _missing(option: str, package: str) -> UserError:
    return UserError(f'encoder/text/attention={option} needs {package}: pip install -e ".[attention]"')
