"""Write a trained model for use elsewhere, in one of four formats.

  safetensors   MiniCLIP's own folder, of every model
  onnx          two graphs, which need no torch
  open_clip     a folder for open_clip.create_model_and_transforms("local-dir:FOLDER")
  transformers  a folder for AutoModel.from_pretrained and AutoProcessor.from_pretrained

MODEL is a run directory, a checkpoint or a saved folder. What an export gives is held against torch on
drawings of the embedded data, and the largest difference is printed. A model of which open_clip or
transformers cannot express a part is refused by the setting that asked for it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from miniclip.deploy.onnx_files import Precision
    from miniclip.pretrained import MiniCLIP

EXAMPLES = """\
  miniclip export outputs/miniclip/RUN -o exported
  miniclip export RUN --format onnx -o exported
  miniclip export RUN --format onnx --int8 -o exported
  miniclip export RUN --format open_clip -o exported
"""

NUM_SAMPLES = 64
"""Drawings on which an export is held against torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, a format and a folder."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--format", choices=list(FORMATS), default="safetensors")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument("--fp16", action="store_true", help="ONNX in half precision")
    smaller.add_argument("--int8", action="store_true", help="ONNX with weights in 8 bits")


def run(arguments: argparse.Namespace) -> None:
    """Export, and print what came of it."""
    from miniclip.pretrained import MiniCLIP

    if (arguments.fp16 or arguments.int8) and arguments.format != "onnx":
        raise UserError("--fp16 and --int8 go with --format onnx.")
    model = MiniCLIP.from_pretrained(arguments.model)
    print(FORMATS[arguments.format](model, arguments))


def _safetensors(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    return str(model.save_pretrained(arguments.out))


def _onnx(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    from miniclip.deploy.onnx_export import export_onnx

    precision: Precision = "fp16" if arguments.fp16 else "int8" if arguments.int8 else "fp32"
    images, texts = _samples(model.preprocess.image_size)
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

    images, texts = _samples(model.preprocess.image_size)
    done = export_open_clip(model, arguments.out, images=images, texts=texts)
    return (
        f"open_clip's features differ from ours by at most {done.image_difference:.1e} (images) and "
        f"{done.text_difference:.1e} (texts)\n"
        f'Load it with open_clip.create_model_and_transforms("local-dir:{done.folder}") and '
        f'open_clip.get_tokenizer("local-dir:{done.folder}")'
    )


def _transformers(model: "MiniCLIP", arguments: argparse.Namespace) -> str:
    from miniclip.deploy.transformers_export import export_transformers

    images, texts = _samples(model.preprocess.image_size)
    done = export_transformers(model, arguments.out, images=images, texts=texts)
    return (
        f"transformers' features differ from ours by at most {done.image_difference:.1e} (images) and "
        f"{done.text_difference:.1e} (texts)\n"
        f'Load it with AutoModel.from_pretrained("{done.folder}") and '
        f'AutoProcessor.from_pretrained("{done.folder}")'
    )


FORMATS: "dict[str, Callable[[MiniCLIP, argparse.Namespace], str]]" = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "open_clip": _open_clip,
    "transformers": _transformers,
}
"""What writes each format, and tells what came of it."""


def _samples(image_size: int) -> "tuple[list[Image.Image], list[str]]":
    """Drawings of the embedded data, and a caption of each."""
    from PIL import Image

    from miniclip.config.compose import compose
    from miniclip.config.instantiate import read_data

    _, val = read_data(compose("data=openmoji", f"image_size={image_size}"))
    images = [val.split.images[index] for index in range(NUM_SAMPLES)]  # each (3, H, W)
    captions = [val.split.captions[index][0] for index in range(NUM_SAMPLES)]
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], captions
