"""Facts of a step's rows, those of all processes that share it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World


class RowsOfAll(NamedTuple):
    """What is recorded of the rows of a step.

    Attributes:
        image_ids: of each batch the indices of its images in their split, (B,) int64.
        num_false_negatives: right pairs that a loss of one positive takes for wrong.

    With several processes both lie on the device, and nothing waits for it.
    """

    image_ids: list[Tensor]
    num_false_negatives: int | Tensor


def rows_of_all(batches: Sequence[Batch], world: World, *, compares_all: bool) -> RowsOfAll:
    """The facts of the batches, of which each process has its own rows.

    Args:
        compares_all: whether the loss compares the rows of all processes, not those of each alone.
    """
    own = sum(batch.num_false_negatives for batch in batches)
    if world.is_alone:
        return RowsOfAll([batch.image_ids for batch in batches], own)

    pairs = [batch.positives.each(world.gather) for batch in batches if batch.positives is not None]
    if compares_all:
        count = torch.stack([of_batch.count_off_diagonal() for of_batch in pairs]).sum()
    else:
        count = world.mean(torch.tensor(float(own), device=batches[0].images.device)) * world.size
    return RowsOfAll([of_batch.image_ids for of_batch in pairs], count)
