"""The one place where a command gets a model to embed with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import SettingError, UserError

if TYPE_CHECKING:
    from miniclip.deploy.index import Index
    from miniclip.embedding_model import FingerprintedModel

SHOWN_OF_PATH = 300
"""Letters that are told of a path which a stranger has written."""

MODEL_HELP = "the index's model, where that has moved or the index is a stranger's"

ROOT_HELP = "folder whose images may be opened though another user embedded them; may be repeated"


def load_model(
    path: Path, *, device: str = "cpu", reads_images: bool = True, num_threads: int | None = None
) -> "FingerprintedModel":
    """The model of a run directory, a checkpoint or a saved or exported folder.

    Args:
        device: where it is to compute, as the option --device names it.
        reads_images: make the image tower at once, so that what is wrong with it is told now. For texts
            alone, False saves a second or two.
        num_threads: of a model in ONNX; None is one per processor. Of torch, OMP_NUM_THREADS says it.

    Raises:
        UserError: when there is none, or it cannot compute there.
    """
    from miniclip.deploy.onnx_model import OnnxModel, is_onnx_folder

    if is_onnx_folder(path):
        if device not in ("auto", "cpu"):
            raise SettingError("--device", device, "a model in ONNX takes auto or cpu; its run takes all")
        return OnnxModel(path, num_threads=num_threads)  # without torch

    from miniclip.pretrained import MiniCLIP
    from miniclip.training.device import find_device

    if not path.exists():
        raise UserError(
            f"There is no model {path}. Name a run directory, a checkpoint, a saved or an exported model."
        )
    model = MiniCLIP.from_pretrained(path, device=find_device(device, setting="--device"))
    if reads_images:
        model.make_image_tower()
    return model


def tell_of_closed_places(index: "Index") -> None:
    """Say in one line which images of an index are not opened, as another user embedded them."""
    from miniclip.data.sources.walk import examples

    names = [str(place) for place in index.closed_places()]
    if names:
        print(
            f"The index {index.folder} is not of your making: its images in {examples(names)} are "
            "found, but not opened. Open those in a folder: --root FOLDER; or embed them yourself.",
            file=sys.stderr,
        )


def load_model_of_index(
    index: "Index", given: Path | None, *, reads_images: bool = True, num_threads: int | None = None
) -> "FingerprintedModel":
    """The model that made an index.

    Args:
        given: where it lies, as the option --model names it; None where the index knows.
        reads_images, num_threads: see `load_model`.

    Raises:
        UserError: when there is none, or the index is a stranger's and names one elsewhere.
    """
    path = given or Path(index.facts.model_path)
    if given is None and not index.places.may_load_model(
        path
    ):  # nor looked at: it may be another machine's
        named = repr(str(path))[:SHOWN_OF_PATH]
        raise UserError(
            f"The index {index.folder} is not of your making, and the model that it names, {named}, is not "
            "loaded unasked. Name the model that made it: --model MODEL"
        )
    if given is None and not path.exists():
        raise UserError(f"The index was made by {path}, which is gone. Say where it lies now: --model ...")
    return load_model(path, reads_images=reads_images, num_threads=num_threads)
