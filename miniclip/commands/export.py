"""Write a trained model for use elsewhere, in one of four formats.

  safetensors   MiniCLIP's own folder, of every model
  onnx          two graphs, which need no torch
  open_clip     a folder for open_clip.create_model_and_transforms("local-dir:FOLDER")
  transformers  a folder for AutoModel.from_pretrained and AutoProcessor.from_pretrained

MODEL is a run directory, a checkpoint or a saved folder. What an export gives is held against torch on
images of --images, else of the run's own data, else on drawings of the embedded data, and the largest
difference is printed; --int8 also reads from them which numbers occur. A model of which open_clip or
transformers cannot express a part is refused by the setting that asked for it.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import UserError
from miniclip.files import typed_path

if TYPE_CHECKING:
    from PIL import Image

    from miniclip.data.split import Split
    from miniclip.deploy.export_folder import Exported
    from miniclip.deploy.onnx_files import Precision
    from miniclip.pretrained import MiniCLIP

EXAMPLES = """\
  miniclip export outputs/miniclip/RUN -o exported
  miniclip export RUN --format onnx -o exported
  miniclip export RUN --format onnx --int8 --images photos -o exported
  miniclip export RUN --format open_clip -o exported
"""

NUM_SAMPLES = 64
"""Images on which an export is held against torch."""

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, a format and a folder."""
    parser.add_argument("model", type=typed_path, metavar="MODEL")
    parser.add_argument("--format", choices=list(FORMATS), default="safetensors")
    parser.add_argument("-o", "--out", type=typed_path, required=True, help="folder to write into")
    parser.add_argument("--images", type=typed_path, metavar="FOLDER", help="images like those it will see")
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument("--fp16", action="store_true", help="ONNX in half precision")
    smaller.add_argument("--int8", action="store_true", help="ONNX with weights in 8 bits")


def run(arguments: argparse.Namespace) -> None:
    """Export, and print what came of it."""
    from miniclip.pretrained import MiniCLIP

    if (arguments.fp16 or arguments.int8) and arguments.format != "onnx":
        raise UserError("--fp16 and --int8 go with --format onnx.")
    if arguments.images is not None and arguments.format == "safetensors":
        raise UserError("--images goes with the formats that are held against torch, not with safetensors.")
    model = MiniCLIP.from_pretrained(arguments.model)
    print(FORMATS[arguments.format](model, arguments))


def _safetensors(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    return str(model.save_pretrained(arguments.out))


def _onnx(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    from miniclip.deploy.onnx_export import export_onnx

    precision: Precision = "fp16" if arguments.fp16 else "int8" if arguments.int8 else "fp32"
    images, texts = _samples(model, arguments)
    done = export_onnx(model, arguments.out, images=images, texts=texts, precision=precision)
    return (
        f"image.onnx {done.image_mb:,.1f} MB, {done.image_rate:,.0f} images/s, "
        f"differs from torch by at most {done.image_difference:.1e}\n"
        f"text.onnx  {done.text_mb:,.1f} MB, {done.text_rate:,.0f} texts/s, "
        f"differs from torch by at most {done.text_difference:.1e}\n"
        f"Everything is in {done.folder}"
    )


def _open_clip(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    from miniclip.deploy.open_clip_export import export_open_clip

    calls = "open_clip.create_model_and_transforms", "open_clip.get_tokenizer"
    return _read_back(export_open_clip, "open_clip", calls, "local-dir:", model, arguments)


def _transformers(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    from miniclip.deploy.transformers_export import export_transformers

    calls = "AutoModel.from_pretrained", "AutoProcessor.from_pretrained"
    return _read_back(export_transformers, "transformers", calls, "", model, arguments)


def _read_back(
    export: "Callable[..., Exported]",
    library: str,
    calls: tuple[str, str],
    prefix: str,
    model: "MiniCLIP",
    arguments: argparse.Namespace,
) -> str:
    """Export for a library that reads the folder back; tell how near it comes and how it is loaded.

    Args:
        calls: of the library, which take the folder.
        prefix: of the folder's name in them.
    """
    images, texts = _samples(model, arguments)
    done = export(model, arguments.out, images=images, texts=texts)
    load = " and ".join(f'{call}("{prefix}{done.folder}")' for call in calls)
    return (
        f"The features of {library} differ from ours by at most {done.image_difference:.1e} (images) and "
        f"{done.text_difference:.1e} (texts)\n"
        f"Load it with {load}"
    )


FORMATS: "dict[str, Callable[[MiniCLIP, argparse.Namespace], str]]" = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "open_clip": _open_clip,
    "transformers": _transformers,
}
"""What writes each format, and tells what came of it."""


def _samples(model: "MiniCLIP", arguments: argparse.Namespace) -> "tuple[list[Image.Image], list[str]]":
    """Images as the model will see them, and as many captions."""
    from PIL import Image

    split = _own_split(arguments.model)
    if split is None:
        if arguments.images is None and arguments.int8:
            log.warning("int8 is calibrated on drawings. Name images like yours: --images FOLDER")
        split = _drawings(model.preprocess.image_size)
    count = min(NUM_SAMPLES, len(split))
    captions = [split.captions[index][0] for index in range(count)]
    cut = set(model.too_long(captions))  # of which each comparison would tell
    whole = [caption for caption in captions if caption not in cut]
    captions = whole if len(whole) > 1 else captions

    if arguments.images is not None:
        return _images_of(arguments.images, model.preprocess.image_size), captions
    images = [split.images[index] for index in range(count)]  # each (3, H, W)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], captions


def _own_split(path: Path) -> "Split | None":
    """Some of what a run was trained on; None where there is no run, or its data cannot be read."""
    from miniclip.config.restore import restore
    from miniclip.pretrained.folder import is_model_folder

    if is_model_folder(path):
        return None
    try:
        train, _ = restore(path).datasets(limit=NUM_SAMPLES, cache="none")
    except UserError as error:
        log.warning("The run's own data cannot be read, so drawings are taken: %s", error)
        return None
    return train.split


def _drawings(image_size: int) -> "Split":
    """Drawings of the embedded data."""
    from miniclip.config.compose import compose
    from miniclip.config.instantiate import read_data

    train, _ = read_data(compose("data=openmoji", f"image_size={image_size}"))
    return train.split


def _images_of(folder: Path, image_size: int) -> "list[Image.Image]":
    """Images from the whole breadth of a folder, decoded for a model that sees `image_size` pixels.

    Raises:
        UserError: when there are not two.
    """
    from miniclip.data.image_content import decode_without_torch, evaluated_size, read_content
    from miniclip.data.sources.walk import find_images

    names = find_images(folder) if folder.is_dir() else []
    if len(names) < 2:
        raise UserError(f"--images {folder} is no folder with two images or more.")
    count = min(NUM_SAMPLES, len(names))
    paths = [folder / names[number * len(names) // count] for number in range(count)]
    size = evaluated_size(image_size)
    return [decode_without_torch(read_content(path), str(path), decode_size=size) for path in paths]
