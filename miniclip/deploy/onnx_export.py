"""A model as two graphs in ONNX, image and text tower, held against torch on real inputs."""

import hashlib
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from miniclip.deploy import onnx_files as files
from miniclip.deploy.export_folder import export_folder
from miniclip.deploy.onnx_files import Precision
from miniclip.deploy.onnx_model import GraphError, OnnxModel
from miniclip.deploy.onnx_precision import convert
from miniclip.disk_errors import naming
from miniclip.errors import UserError, first_line
from miniclip.files import replace, write_json, write_text
from miniclip.models import CLIP
from miniclip.models.modes import modes_kept
from miniclip.pretrained import MiniCLIP

log = logging.getLogger(__name__)

OPSET = 18

LARGEST_DIFFERENCE = 1e-4
"""By which an element of an embedding in float32 may differ from torch's."""


class ExportedOnnx(NamedTuple):
    """What came of an export.

    Attributes:
        folder: where it lies.
        image_difference, text_difference: the largest, of an element of an embedding, from torch's.
        image_mb, text_mb: sizes of the two graphs.
        image_rate, text_rate: images and texts per second, tokens and pixels ready.
    """

    folder: Path
    image_difference: float
    text_difference: float
    image_mb: float
    text_mb: float
    image_rate: float
    text_rate: float


def export_onnx(
    model: MiniCLIP,
    folder: Path,
    *,
    images: Sequence[Image.Image],
    texts: Sequence[str],
    precision: Precision = "fp32",
) -> ExportedOnnx:
    """Write a model as `image.onnx` and `text.onnx`, with dynamic batch and caption length.

    Args:
        model: on the CPU.
        folder: made where there is none; the config is written last, so that half an export is none.
        images, texts: real ones, two at least, on which the graphs are held against torch.
        precision: of the weights: "fp32"; "fp16", also of the arithmetic; or "int8", of convolutions, whose
            ranges are read from the images, and of matrix products (dynamic quantization).

    Raises:
        UserError: when a package is missing, a part cannot be exported, or the graphs give other features.
    """
    _need_packages()
    with export_folder(folder, "onnx", (files.CONFIG, files.IMAGE, files.TEXT, files.TOKENIZER)):
        _write(model, folder, images, texts, precision)
        try:
            return _held_against_torch(model, folder, images, texts, precision)
        except Exception as error:  # onnxruntime has classes for each of its own
            if isinstance(error, UserError) and not isinstance(error, GraphError):
                raise
            reason = first_line(error)
            raise UserError(
                f"The graphs in ONNX do not run ({reason[:200]}). They were not kept; --format safetensors "
                "works for every model."
            ) from None


def _write(
    model: MiniCLIP, folder: Path, images: Sequence[Image.Image], texts: Sequence[str], precision: Precision
) -> None:
    """Write the graphs and what goes with them."""
    pixels = torch.stack([model.preprocess(image) for image in images])
    token_ids, attention_mask = model.tokenizer.encode(list(texts))
    of_images = {files.IMAGES: pixels}
    of_texts = {files.TOKEN_IDS: token_ids, files.ATTENTION_MASK: attention_mask}
    with modes_kept(model.model):
        network = model.model.eval()
        _write_graph(_ImageTower(network), of_images, 1, folder / files.IMAGE, precision)
        _write_graph(_TextTower(network), of_texts, 2, folder / files.TEXT, precision)
    write_text(folder / files.TOKENIZER, model.tokenizer.state()["backend"])
    write_json(folder / files.CONFIG, _config(model, folder, precision))


class _ImageTower(nn.Module):
    """`images (B, 3, S, S) -> features (B, D)`"""

    def __init__(self, network: CLIP):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode_image(images)


class _TextTower(nn.Module):
    """`token_ids, attention_mask (B, L) -> features (B, D)`"""

    def __init__(self, network: CLIP):
        super().__init__()
        self.network = network

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.network.encode_text(token_ids, attention_mask)


def _write_graph(
    tower: nn.Module, inputs: dict[str, Tensor], num_dynamic: int, path: Path, precision: Precision
) -> None:
    """Export one tower.

    Args:
        inputs: real ones, by name.
        num_dynamic: leading dimensions of each that may have any size: the batch, and a caption's length.
    """
    any_size = dict.fromkeys(range(num_dynamic), torch.export.Dim.AUTO)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, to its own developers
            program: Any = torch.onnx.export(
                tower,
                kwargs=inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dict.fromkeys(inputs, any_size),
                input_names=list(inputs),
                output_names=[files.FEATURES],
                verbose=False,
            )
    except Exception as error:  # whatever the exporter raises, the tower does not suit it
        reason = first_line(error)
        raise UserError(
            f"The {path.stem} tower cannot be exported to ONNX ({reason[:200]}). "
            "--format safetensors works for every model."
        ) from None

    for value in program.model.graph.inputs:
        if any(isinstance(size, int) for size in list(value.shape)[:num_dynamic]):
            raise UserError(
                f"The {path.stem} tower cannot be exported to ONNX for every batch: its {value.name} would "
                f"have the shape {value.shape}. --format safetensors works for every model."
            )

    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        whole, converted = Path(work) / "fp32.onnx", Path(work) / path.name
        with naming(path, whole, converted):
            program.save(str(whole))
            convert(whole, converted, precision, {name: value.numpy() for name, value in inputs.items()})
            replace(converted, path)


def _config(model: MiniCLIP, folder: Path, precision: Precision) -> files.Config:
    """All that `OnnxModel` has to know beside the graphs."""
    tokenizer = model.tokenizer
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (files.IMAGE, files.TEXT, files.TOKENIZER)
    }
    return {
        "library": files.LIBRARY,
        "format": files.FORMAT,
        "name": model.name,
        "fingerprint": model.fingerprint,
        "precision": precision,
        "embed_dim": model.embed_dim,
        "logit_scale": model.logit_scale,
        "context_length": tokenizer.context_length,
        "pad_id": tokenizer.backend.token_to_id(tokenizer.pad_token),
        "image_size": model.preprocess.image_size,
        "eval_crop": model.preprocess.crop_name,
        "sha256": digests,
    }


def _held_against_torch(
    model: MiniCLIP, folder: Path, images: Sequence[Image.Image], texts: Sequence[str], precision: Precision
) -> ExportedOnnx:
    """Compare the features of the same inputs, in batches of other sizes than the graphs were made with.

    Raises:
        UserError: when they differ by more than rounding, in float32.
    """
    exported = OnnxModel(folder)
    pixels = np.stack([exported.preprocess(image) for image in images])
    theirs = model.encode_image(torch.from_numpy(pixels))
    of_images = _difference(exported.encode_image(pixels), theirs)
    of_texts = float(
        np.max(
            [
                _difference(exported.encode_text(part), model.encode_text(part))
                for part in (list(texts), [texts[0]])
            ]
        )
    )

    _check_difference(float(np.max([of_images, of_texts])), precision)
    return ExportedOnnx(
        folder,
        of_images,
        of_texts,
        (folder / files.IMAGE).stat().st_size / 1e6,
        (folder / files.TEXT).stat().st_size / 1e6,
        len(images) / _seconds(lambda: exported.encode_image(pixels)),
        len(texts) / _seconds(lambda: exported.encode_text(texts)),
    )


def _check_difference(largest: float, precision: Precision) -> None:
    """Stop at features that are no numbers (`largest` is NaN), and in float32 at more than rounding."""
    limit = LARGEST_DIFFERENCE if precision == "fp32" else math.inf
    if not largest <= limit:
        raise UserError(
            f"The model exported in {precision} differs from torch's by {largest:.1e}, more than "
            f"{limit:.0e}. It was not kept; --format safetensors works for every model."
        )


def _difference(ours: np.ndarray, theirs: Tensor) -> float:
    return float(np.abs(ours - theirs.numpy()).max())


def _seconds(work: Callable[[], object]) -> float:
    """The least of three tries."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _need_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'An export to ONNX needs {error.name}: pip install -e ".[onnx]"') from None
