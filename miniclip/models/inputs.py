"""What the model and the loss read of a batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.data.loader import Batch
from miniclip.tokenizers.tokenizer import Tokenizer


class Inputs(NamedTuple):
    """One batch on the model's device.

    Attributes:
        images: (B, 3, H, W) float32.
        token_ids: (B, L) int64.
        attention_mask: (B, L) bool.
        positives: (B, B) bool, which captions are right for which images; None is the diagonal.
    """

    images: Tensor
    token_ids: Tensor
    attention_mask: Tensor
    positives: Tensor | None = None


def inputs_of(batch: Batch, tokenizer: Tokenizer) -> Inputs:
    """Encode a batch's captions; everything goes to the device its images lie on."""
    rest = (*tokenizer.encode(batch.captions), batch.positives())
    return Inputs(batch.images, *(_to(part, batch.images.device) for part in rest))


def _to(part: Tensor, device: torch.device) -> Tensor:
    return part.to(device, non_blocking=True)
