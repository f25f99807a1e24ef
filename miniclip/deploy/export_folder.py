"""A folder that another library reads: whole or not there, and held against that library."""

import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.errors import UserError, first_line
from miniclip.files import replace
from miniclip.pretrained.target import check_target

ASIDE, FORMER, DONE = ".aside", ".former", ".done"
"""Where a former export is moved to, what that is called once all of it is there, and once it can go."""

LARGEST_DIFFERENCE = 1e-5
"""By which an element of an embedding may differ from ours."""


class Exported(NamedTuple):
    """What came of an export.

    Attributes:
        folder: where it lies.
        image_difference, text_difference: the largest, of an element of an embedding, from ours.
    """

    folder: Path
    image_difference: float
    text_difference: float


@contextmanager
def export_folder(folder: Path, library: str, names: Iterable[str]) -> Iterator[None]:
    """A folder to export into, made where there is none; a former export is there until this one stands.

    Args:
        names: of the files of such an export.

    Raises:
        UserError: see `check_target`.
    """
    paths = [folder / name for name in names]
    _recover(folder, paths)  # an export may have been killed here
    check_target(folder, library, paths)

    is_new = not folder.exists()
    aside = folder / ASIDE
    aside.mkdir(parents=True)
    try:
        for path in paths:
            if path.exists():
                replace(path, aside / path.name)
        aside.rename(folder / FORMER)
        yield
    except BaseException:
        _recover(folder, paths)
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
    (folder / FORMER).rename(folder / DONE)
    shutil.rmtree(folder / DONE)


def _recover(folder: Path, paths: Iterable[Path]) -> None:
    """Remove what an export that did not come to its end has written, and bring back the one before it."""
    shutil.rmtree(folder / DONE, ignore_errors=True)
    if (folder / FORMER).is_dir():  # from then on a new one is written
        for path in paths:
            path.unlink(missing_ok=True)

    for place in (folder / ASIDE, folder / FORMER):
        if place.is_dir():
            for kept in list(place.iterdir()):
                replace(kept, folder / kept.name)
            place.rmdir()


@contextmanager
def refused_by(library: str) -> Iterator[None]:
    """Whatever another library raises over a model is one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library, to its own developers
            yield
    except UserError:
        raise
    except Exception as error:  # whatever its code raises, the model does not suit it
        reason = first_line(error)
        raise UserError(
            f"{library} fails on this model ({reason[:200]}). The export was not kept; --format "
            "safetensors works for every model."
        ) from None


def compared(
    library: str, folder: Path, *, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]
) -> Exported:
    """Hold another library's features against ours.

    Args:
        images, texts: their features and ours, each (B, embed_dim), of length 1.

    Raises:
        UserError: when they differ by more than rounding.
    """
    differences = torch.stack([(theirs - ours).abs().max() for theirs, ours in (images, texts)])  # (2,)
    largest = float(differences.max())  # NaN where either is
    if not largest <= LARGEST_DIFFERENCE:
        raise UserError(
            f"The features that {library} gives differ from ours by {largest:.1e}, more than "
            f"{LARGEST_DIFFERENCE:.0e}. The export was not kept; --format safetensors works for every "
            "model."
        )
    return Exported(folder, *differences.tolist())
