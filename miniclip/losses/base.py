"""What every loss is."""

import math
import typing

from torch import Tensor, nn

from miniclip.errors import UserError, at_least, counted

Gather = typing.Literal["global", "local"]


class Loss(nn.Module):
    """What every loss is: called by name with `CLIPOutput.loss_inputs` and `positives` -> ().

    Its parameters and buffers, if it has any, are part of the model: they are trained with it, without
    decay and without SAM's perturbation, and saved and restored with its weights.

    Attributes:
        gather: of several processes that train together, "global" compares the rows of all with each
            other, as one process with the whole batch would; "local" those of each process alone.
        takes_rows: whether it can be called with `rows` besides, a slice of the batch: it is then the loss
            of these rows against all rows, and the mean over equal parts of the batch is the whole loss.
    """

    gather: Gather = "global"
    takes_rows = False

    def chance(self, batch_size: int) -> float:
        """Value for a model that knows nothing, which `val/loss_over_chance` divides by; NaN: not known."""
        return math.nan


def check_pairs(image_features: Tensor, text_features: Tensor) -> None:
    """Raises UserError: when images and captions are not as many."""
    images, captions = len(image_features), len(text_features)
    if images != captions:
        raise UserError(
            "A loss compares as many captions as images, row i with row i, not "
            f"{counted(images, 'image')} with {counted(captions, 'caption')}."
        )


def check_chunk_size(chunk_size: int | None) -> None:
    """Raises SettingError: when a tile has no rows."""
    if chunk_size is not None:
        at_least("chunk_size", chunk_size, 1, hint="; null is all at once")


def row_numbers(rows: slice | None, size: int) -> range:
    """The numbers of some rows, which follow each other, of so many."""
    numbers = range(size) if rows is None else range(size)[rows]
    assert numbers.step == 1
    return numbers
