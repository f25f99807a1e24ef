"""Write a trained model for use elsewhere: as safetensors, or in ONNX, which needs no torch.

MODEL is a run directory, a checkpoint or a saved folder. The graphs in ONNX are held against torch on
drawings of the embedded data, and the largest difference is printed.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """\
  miniclip export outputs/miniclip/RUN -o exported
  miniclip export RUN --format onnx -o exported
  miniclip export RUN --format onnx --int8 -o exported
"""

NUM_SAMPLES = 64
"""Drawings on which an export is held against torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, a format and a folder."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--format", choices=["safetensors", "onnx"], default="safetensors")
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
    if arguments.format == "safetensors":
        print(model.save_pretrained(arguments.out))
        return

    from miniclip.deploy.onnx_export import export_onnx
    from miniclip.deploy.onnx_files import Precision

    precision: Precision = "fp16" if arguments.fp16 else "int8" if arguments.int8 else "fp32"
    images, texts = _samples(model.preprocess.image_size)
    done = export_onnx(model, arguments.out, images=images, texts=texts, precision=precision)
    print(
        f"image.onnx {done.image_mb:,.1f} MB, {done.image_rate:,.0f} images/s, "
        f"differs from torch by at most {done.image_difference:.1e}\n"
        f"text.onnx  {done.text_mb:,.1f} MB, {done.text_rate:,.0f} texts/s, "
        f"differs from torch by at most {done.text_difference:.1e}\n"
        f"Everything is in {done.folder}"
    )


def _samples(image_size: int) -> "tuple[list[Image.Image], list[str]]":
    """Drawings of the embedded data, and a caption of each."""
    from PIL import Image

    from miniclip.config.compose import compose
    from miniclip.config.instantiate import read_data

    _, val = read_data(compose("data=openmoji", f"image_size={image_size}"))
    images = [val.split.images[index] for index in range(NUM_SAMPLES)]  # each (3, H, W)
    captions = [val.split.captions[index][0] for index in range(NUM_SAMPLES)]
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], captions
