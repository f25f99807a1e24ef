"""A trained model as people use it: from a run to vectors in three lines."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.errors import UserError, at_least, counted, one_of
from miniclip.metrics.features import encode_images, encode_texts
from miniclip.models import CLIP
from miniclip.models.modes import modes_kept
from miniclip.pretrained.bundle import ModelBundle
from miniclip.pretrained.folder import is_model_folder, load_folder, save_folder
from miniclip.pretrained.hub import download, is_repo_name, upload
from miniclip.pretrained.image_input import ImageInput, batches_of
from miniclip.pretrained.loading import load_run
from miniclip.pretrained.target import ONNX_CONFIG
from miniclip.tokenizers import Tokenizer

log = logging.getLogger(__name__)

BATCH_SIZE = 256

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""In which a model computes."""


class MiniCLIP:
    """A trained model that carries images and texts into one space.

        model = MiniCLIP.from_pretrained("outputs/miniclip/2026-01-01_12-00-00")
        photos = model.encode_image(["dog.jpg", "cat.jpg"])  # (2, D)
        words = model.encode_text("a dog in the snow")  # (1, D)
        model.similarity(photos, words)  # (2, 1)

    Args:
        bundle: the model with its tokenizer, preprocessing and config.
        device: where it computes; the model is moved there.

    Attributes:
        name: how tables call it.
        device: where it computes.
        tokenizer: texts to token ids.
        preprocess: an image to what the network sees.
    """

    def __init__(self, bundle: ModelBundle, *, device: str | torch.device = "cpu"):
        self.bundle = bundle
        self.name = bundle.name
        self.tokenizer: Tokenizer = bundle.tokenizer
        self.preprocess: EvalPreprocessing = bundle.preprocessing
        self.dtype = torch.float32
        self.to(device)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device = "cpu", token: str | None = None
    ) -> "MiniCLIP":
        """Load a model that was trained or saved; nothing in its files is executed.

        Args:
            source: a run directory (its best checkpoint), a checkpoint, a folder of `save_pretrained`, or
                the name OWNER/MODEL of one on the Hugging Face Hub.
            device: where it is to compute.
            token: for a private model of the hub, where nobody is logged in.

        Raises:
            UserError: when there is no model, or it is damaged or no one of MiniCLIP's.
        """
        path = Path(source).expanduser()
        if not path.exists() and is_repo_name(str(source)):
            path = download(str(source), token=token)
        if (path / ONNX_CONFIG).is_file():
            raise UserError(f"{path} holds a model in ONNX, which miniclip.deploy.OnnxModel loads.")
        bundle = load_folder(path) if is_model_folder(path) else load_run(path)
        return cls(bundle, device=device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `model.safetensors`, `config.json` and the tokenizer's files into a folder.

        Returns:
            the folder.
        """
        return save_folder(self.bundle, Path(folder).expanduser(), fingerprint=self.fingerprint)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Save the model on the Hugging Face Hub, as OWNER/MODEL.

        Returns:
            the address.

        Raises:
            UserError: when nobody is logged in or the hub refuses.
        """
        return upload(self.save_pretrained, repo_id, private=private, token=token)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "MiniCLIP":
        """Compute elsewhere, or in another precision.

        Args:
            dtype: of the arithmetic, such as torch.bfloat16 (autocast: weights and features stay float32,
                in which `miniclip evaluate` measures); None leaves it.

        Raises:
            SettingError: when autocast does not compute in a dtype.
        """
        if dtype is not None:
            one_of("dtype", str(dtype), [str(known) for known in DTYPES])
        self.bundle.text_model.to(device)
        # after what may fail, so that a model never says that it is where it is not
        self.device = torch.device(device)
        self.dtype = dtype or self.dtype
        return self

    @property
    def model(self) -> CLIP:
        """The network; it stays in the mode, training or evaluation, that it is in.

        Loading leaves its image tower for later, see `make_image_tower`.
        """
        return self.bundle.model

    def make_image_tower(self) -> None:
        """Make the image tower of a loaded model now, not when `encode_image` or `model` first needs it.

        Texts need none, and the library that it is made of takes as long to import as torch.

        Raises:
            UserError: when the weights are not those of the image tower in the config.
        """
        self.bundle.make_image_tower()

    @property
    def precision(self) -> str:
        """Of the arithmetic, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def embed_dim(self) -> int:
        """D, the length of an embedding."""
        return int(self.bundle.config["embed_dim"])

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to become logits."""
        temperature = self.bundle.text_model.temperature
        # in evaluation no temperature reads a batch's variance
        with torch.no_grad(), modes_kept(temperature):
            return float(temperature.eval()(None))

    @property
    def fingerprint(self) -> str:
        """A digest of all that an embedding depends on now: weights, tokenizer and preprocessing."""
        return self.bundle.fingerprint()

    def encode_image(
        self, images: ImageInput | Sequence[ImageInput] | Tensor, *, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Images to vectors, `N images -> (N, D)` float32, of length 1, on the model's device.

        Args:
            images: one or several files, images of Pillow or tensors (3, H, W) uint8; or a batch
                (N, 3, S, S) float32 of what `preprocess` gives.
            batch_size: images in memory at a time.

        Raises:
            UserError: when an image cannot be read, or a tensor has another shape.
        """
        seen = batches_of(images, self.preprocess, batch_size=batch_size)
        model = self.model
        with self._autocast():
            features = [encode_images(model, [batch.to(self.device)]) for batch in seen]
        return torch.cat([torch.zeros(0, self.embed_dim, device=self.device), *features])

    def encode_text(self, texts: str | Sequence[str], *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Texts to vectors, `M texts -> (M, D)` float32, of length 1, on the model's device.

        A text with more than `tokenizer.context_length` tokens loses its tail, which is logged.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        at_least("batch_size", batch_size, 1)
        if not texts:
            return torch.zeros(0, self.embed_dim, device=self.device)
        self._tell_too_long(texts)
        with self._autocast():
            return encode_texts(
                self.bundle.text_model, texts, self.tokenizer, device=self.device, batch_size=batch_size
            )

    def similarity(
        self,
        images: ImageInput | Sequence[ImageInput] | Tensor,
        texts: str | Sequence[str] | Tensor,
    ) -> Tensor:
        """Cosines of images and texts, `N images, M texts -> (N, M)`, from -1 to 1.

        Args:
            images: what `encode_image` takes, or gave: (N, D).
            texts: what `encode_text` takes, or gave: (M, D).
        """
        is_encoded = isinstance(images, Tensor) and images.ndim == 2
        image_features = images if is_encoded else self.encode_image(images)
        text_features = texts if isinstance(texts, Tensor) else self.encode_text(texts)
        return image_features.to(self.device) @ text_features.to(self.device).T  # type: ignore[union-attr]

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        """All images of a data set, each preprocessed: `N images -> (N, D)` float32, of length 1."""
        # as `preprocess` does, but a whole batch at a time, and on the GPU if there is one
        order = sequential_batches(len(dataset), BATCH_SIZE)
        loader = Loader(dataset, order, device=self.device, num_workers=0)
        with self._autocast():
            return encode_images(self.model, (batch.images for batch in loader))

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which the model does not read the end."""
        return self.tokenizer.too_long(texts)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _tell_too_long(self, texts: Sequence[str]) -> None:
        cut = self.too_long(texts)
        if cut:
            log.warning(
                "%s longer than the %d tokens that the model reads; the rest is not seen: %.60r",
                f"{counted(len(cut), 'text')} of {len(texts):,} {'is' if len(cut) == 1 else 'are'}",
                self.tokenizer.context_length,
                cut[0],
            )
