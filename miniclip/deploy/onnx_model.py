"""A model in ONNX as a `FingerprintedModel`: onnxruntime, tokenizers, Pillow and NumPy, no torch."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from miniclip.data.image_content import (
    as_its_file,
    decode_without_torch,
    evaluated_size,
    read_content,
)
from miniclip.deploy import onnx_files as files
from miniclip.errors import UserError, first_line
from miniclip.files import within
from miniclip.preprocessing import MEAN, STD
from miniclip.tokenizer_file import encoded, set_up, tokenizer_of

log = logging.getLogger(__name__)

BATCH_SIZE = 64
"""Images or texts that are encoded at a time, by all threads together."""

SMALLEST_BATCH = 8
"""Of one thread, where there is so much to do: smaller ones are slower."""

KINDS: dict[str, type] = {
    "name": str,
    "fingerprint": str,
    "embed_dim": int,
    "logit_scale": float,
    "context_length": int,
    "image_size": int,
    "eval_crop": str,
    "precision": str,
    "pad_id": int,
    "sha256": dict,
}
"""What `onnx.json` says of a model."""

CHOICES = {"eval_crop": ("squash", "center"), "precision": get_args(files.Precision)}
"""What some of these may be."""

LARGEST = 2**31
"""Above any of its numbers."""

LARGEST_SIDE = 10_000
"""Pixels of the largest images that a model may see."""

ImageInput = str | Path | Image.Image


def is_onnx_folder(path: Path) -> bool:
    """Whether a folder holds a model in ONNX."""
    return (path / files.CONFIG).is_file()


def fingerprint_in(fingerprint: str, precision: str) -> str:
    """The fingerprint of a model's export: torch's own in float32, else one with the precision behind it.

    In float32 the vectors are torch's up to rounding; in another precision they are others.
    """
    return fingerprint if precision == "fp32" else f"{fingerprint}-{precision}"


class GraphError(UserError):
    """A graph in ONNX does not run."""


class OnnxModel:
    """What `miniclip export --format onnx` wrote, ready to embed.

        model = OnnxModel("exported")
        model.similarity(["dog.jpg", "cat.jpg"], ["a dog", "a cat"])  # (2, 2)

    Args:
        folder: the exported folder, which may be a stranger's.
        num_threads: that encode, each a batch of its own; None is one per processor.

    Raises:
        UserError: when a package or a file is missing, or a file is not the one that was exported.
    """

    def __init__(self, folder: str | Path, *, num_threads: int | None = None):
        folder = Path(folder).expanduser()
        config = _read_config(folder)
        self.name: str = config["name"]
        self.embed_dim: int = config["embed_dim"]
        self.logit_scale = float(config["logit_scale"])
        self.context_length: int = config["context_length"]
        self.image_size: int = config["image_size"]
        self.eval_crop: str = config["eval_crop"]
        self.precision: str = config["precision"]
        self.fingerprint = fingerprint_in(config["fingerprint"], self.precision)

        self._num_threads = num_threads or os.cpu_count() or 1
        self._image = _session(within(folder, files.IMAGE))
        self._text = _session(within(folder, files.TEXT))
        self._tokenizer = _tokenizer(within(folder, files.TOKENIZER), self.context_length)
        self._pad_id: int = config["pad_id"]

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """What the model sees of an image, (3, S, S) float32.

        A JPEG that Pillow has opened and not loaded is decoded as its file is; see `as_its_file`.
        """
        image = as_its_file(image, decode_size=evaluated_size(self.image_size))
        if self.eval_crop == "center":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        size = (self.image_size, self.image_size)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)

        pixels = np.asarray(image, np.float32) / np.float32(255)  # (S, S, 3)
        normalized = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1))

    def encode_image(self, images: ImageInput | Sequence[ImageInput] | np.ndarray) -> np.ndarray:
        """Images to vectors, `N images -> (N, D)` float32, of length 1.

        Args:
            images: one or several files or images of Pillow; or a batch (N, 3, S, S) of floats, or one
                (3, S, S), of what `preprocess` gives.

        Raises:
            UserError: when an image cannot be read, or what is given is none.
        """
        if isinstance(images, np.ndarray):
            return self._in_batches(self._encode_pixels, self._checked(images))

        several = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        for image in several:
            _check_kind(image)
        return self._in_batches(
            lambda batch: self._encode_pixels(np.stack([self._seen(image) for image in batch])), several
        )

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts to vectors, `M texts -> (M, D)` float32, of length 1.

        A text with more than `context_length` tokens loses its tail, which is logged.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        encodings = encoded(self._tokenizer, texts)
        cut = [text for text, own in zip(texts, encodings, strict=True) if own.overflowing]
        if cut:
            log.warning(
                "%d of %d texts longer than the %d tokens that the model reads are cut: %.60r",
                *(len(cut), len(texts), self.context_length, cut[0]),
            )
        return self._in_batches(lambda batch: self._run(self._text, self._tokens(batch)), encodings)

    def similarity(
        self, images: ImageInput | Sequence[ImageInput] | np.ndarray, texts: str | Sequence[str]
    ) -> np.ndarray:
        """Cosines of images and texts, `N images, M texts -> (N, M)`, from -1 to 1."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which the model does not read the end."""
        encodings = encoded(self._tokenizer, list(texts))
        return [text for text, own in zip(texts, encodings, strict=True) if own.overflowing]

    def _checked(self, images: np.ndarray) -> np.ndarray:
        """A batch of preprocessed images, or one as a batch, (N, 3, S, S) float32."""
        size = self.image_size
        batch = images[None] if images.ndim == 3 else images
        if batch.shape[1:] != (3, size, size) or not np.issubdtype(batch.dtype, np.floating):
            shape = ", ".join(map(str, images.shape))
            raise UserError(
                f"encode_image takes preprocessed images (N, 3, {size}, {size}) of floats, not ({shape}) "
                f"of {images.dtype}. Use model.preprocess(image), or give files or images of Pillow; an "
                "array (H, W, 3) uint8 becomes one by PIL.Image.fromarray(array)."
            )
        return batch.astype(np.float32, copy=False)

    def _seen(self, image: ImageInput) -> np.ndarray:
        """What the model sees of one image, (3, S, S)."""
        if isinstance(image, Image.Image):
            return self.preprocess(image)
        path = Path(image).expanduser()
        decode_size = evaluated_size(self.image_size)
        return self.preprocess(decode_without_torch(read_content(path), str(path), decode_size=decode_size))

    def _tokens(self, encodings: Sequence[Any]) -> dict[str, np.ndarray]:
        """Token ids (B, L) int64 and attention mask (B, L) bool, L the longest of the batch."""
        length = max(1, *(len(own.ids) for own in encodings))
        token_ids = np.full((len(encodings), length), self._pad_id, np.int64)
        attention_mask = np.zeros((len(encodings), length), np.bool_)
        for row, own in enumerate(encodings):
            token_ids[row, : len(own.ids)] = own.ids
            attention_mask[row, : len(own.ids)] = True
        return {files.TOKEN_IDS: token_ids, files.ATTENTION_MASK: attention_mask}

    def _in_batches(
        self, encode: Callable[[Any], np.ndarray], inputs: Sequence[Any] | np.ndarray
    ) -> np.ndarray:
        """Vectors of inputs, `N inputs -> (N, D)`, of which each thread encodes a batch at a time.

        Threads that share one batch would wait for each other at every layer, and all of them for the next
        batch to be decoded.
        """
        of_each = max(SMALLEST_BATCH, BATCH_SIZE // self._num_threads)
        size = max(1, min(of_each, -(-len(inputs) // self._num_threads)))
        batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        with ThreadPoolExecutor(self._num_threads) as threads:
            vectors = list(threads.map(encode, batches))
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *vectors])

    def _encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return self._run(self._image, {files.IMAGES: pixels})

    def _run(self, session: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            features: np.ndarray = session.run([files.FEATURES], inputs)[0]
        except Exception as error:  # onnxruntime has many kinds, and a graph may do anything
            raise GraphError(f"The model {self.name} cannot be run ({first_line(error)[:300]}).") from None

        (some_input, *_) = inputs.values()
        if features.shape != (len(some_input), self.embed_dim):
            raise UserError(f"The model {self.name} gives {features.shape}, and no vectors of its length.")
        return features


def _check_kind(image: object) -> None:
    """Stop at what is neither a file nor an image."""
    if not isinstance(image, str | Path | Image.Image):
        raise UserError(
            "encode_image takes files, images of Pillow or an array (N, 3, S, S) of what model.preprocess "
            f"gives, not {type(image).__name__}. Make of an array (H, W, 3) uint8 an image: "
            "PIL.Image.fromarray(array)"
        )


def _read_config(folder: Path) -> files.Config:
    """The config of an exported model, whose other files are those that were exported.

    Raises:
        UserError: when there is none, or a file is missing or another one.
    """
    path = within(folder, files.CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no model in ONNX. Make one: miniclip export RUN --format onnx -o FOLDER"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Export the model again.") from None

    if not isinstance(config, dict) or config.get("library") != files.LIBRARY:
        raise UserError(f"{path} is of no model in ONNX.")
    if config.get("format") != files.FORMAT:
        raise UserError(f"{path} has another format than {files.FORMAT}. Export the model again.")
    _check_config(config, path)
    for name in (files.IMAGE, files.TEXT, files.TOKENIZER):
        _check_digest(within(folder, name), config["sha256"].get(name))
    return config


def _check_config(config: files.Config, path: Path) -> None:
    """Hold the values of an exported model's config against their kinds.

    Raises:
        UserError: names the first one that is missing or another.
    """
    for name, kind in KINDS.items():
        value: Any = config.get(name)
        is_number = kind in (int, float)
        fits = isinstance(value, int | float) if kind is float else type(value) is kind
        is_allowed = value in CHOICES.get(name, (value,))
        if not fits or not is_allowed or (is_number and not 0 <= value < LARGEST):
            raise UserError(f"{path} has {name}={ascii(value)[:60]}. Export the model again.")
    if config["image_size"] > LARGEST_SIDE:
        raise UserError(f"{path} has image_size={config['image_size']}. Export the model again.")


def _check_digest(path: Path, digest: object) -> None:
    """Raise a UserError where a file is not the one that was exported."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Export the model again.") from None
    if found != digest:
        raise UserError(f"{path} is damaged: it is not the file that was exported. Export the model again.")


def _session(path: Path) -> Any:
    """A graph, ready to run on the CPU, in the thread that asks for it."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError('A model in ONNX needs onnxruntime: pip install "miniclip[onnx]"') from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many kinds
        reason = first_line(error)[:300]
        raise UserError(f"{path} cannot be used ({reason}). Export the model again.") from None


def _tokenizer(path: Path, context_length: int) -> Any:
    try:
        tokenizer = tokenizer_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = first_line(error)[:300]
        raise UserError(f"{path} cannot be used ({reason}). Export the model again.") from None
    set_up(tokenizer, context_length=context_length)
    return tokenizer
