"""What attentions share: the layout of real tokens, heads, and the scaled dot product."""

import torch
import torch.nn.functional as F
from torch import Tensor

from miniclip.errors import UserError

FEW_KEYS = 256
"""Up to so many keys the plain products beat torch's fused kernel on the CPU, three times at 32 keys."""


class TokenPacking:
    """Positions of the real tokens in a padded batch, so that all but the mixing runs on them alone.

    Half of a batch of captions is padding. On CUDA the padded positions are computed all the same: counting
    the real ones would wait for the device, and shapes would change with every batch.

    Shapes: B captions, L positions per caption, T real tokens of all captions (on CUDA T is B * L), D
    numbers per token.

    Args:
        attention_mask: (B, L) bool, true on real tokens.
    """

    def __init__(self, attention_mask: Tensor):
        self.attention_mask = attention_mask
        self._real: Tensor | None = None
        self._is_full = False

        if self.is_packed:
            real = attention_mask.flatten().nonzero().squeeze(1)  # (T,) positions in B * L
            self._is_full = len(real) == attention_mask.numel()
            self._real = None if self._is_full else real

    @property
    def is_packed(self) -> bool:
        """Whether real tokens are gathered; an exported or compiled graph has one shape for all batches."""
        return self.attention_mask.device.type == "cpu" and not torch.compiler.is_compiling()

    @property
    def length(self) -> int:
        """L, positions per caption."""
        return self.attention_mask.shape[1]

    def unpad(self, padded: Tensor) -> Tensor:
        """Real tokens alone, `(B, L, D) -> (T, D)`."""
        flat = padded.flatten(0, 1)  # (B * L, D)
        return flat if self._real is None else flat.index_select(0, self._real)

    def pad(self, packed: Tensor) -> Tensor:
        """Tokens in their positions, `(T, D) -> (B, L, D)`, zero where there is no token."""
        shape = (*self.attention_mask.shape, packed.shape[1])
        if self._is_full:
            return packed.view(shape)
        if self._real is None:
            return packed.view(shape).masked_fill(~self.attention_mask[..., None], 0)

        empty = packed.new_zeros(shape[0] * shape[1], shape[2])  # (B * L, D)
        return empty.index_copy_(0, self._real, packed).view(shape)


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
    if torch.compiler.is_exporting() or (queries.device.type == "cpu" and keys.shape[2] <= FEW_KEYS):
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)  # (B, H, L, K)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        # in float32 the softmax of few keys takes a CPU a seventh of its time in bfloat16
        return precise(scores).softmax(dim=-1).to(values.dtype) @ values

    # one head of keys and values may serve all heads of queries
    keys, values = (x.expand(-1, queries.shape[1], -1, -1) for x in (keys, values))  # (B, H, K, D)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def in_autocast_dtype(x: Tensor) -> Tensor:
    """What autocast, where it is on, makes of the input of a layer; it leaves float64 alone."""
    kind = x.device.type
    # a device that has no autocast, as meta, may not be asked
    if x.dtype is torch.float64 or not torch.amp.is_autocast_available(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def precise(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def rounded_up(number: int, multiple: int) -> int:
    """The next multiple, or the number itself where it is one."""
    # without a negative number, whose division ONNX rounds towards zero
    return (number + multiple - 1) // multiple * multiple


def missing_package(option: str, package: str) -> UserError:
    """Error of an attention whose package is not installed."""
    return UserError(f'encoder/text/attention={option} needs {package}: pip install -e ".[attention]"')
