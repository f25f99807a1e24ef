"""A model in ONNX for evaluation, whose tasks compute with torch."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.deploy.onnx_model import OnnxModel
from miniclip.evaluation.models import encode_one_by_one


class EvaluatedOnnxModel:
    """An `OnnxModel` as a `DatasetEncoder`, with its own preprocessing.

    Args:
        model: what was exported.
        name: how tables call it.
    """

    device = torch.device("cpu")

    def __init__(self, model: OnnxModel, *, name: str):
        self.model = model
        self.name = name
        self.precision = PRECISIONS[model.precision]

    @property
    def logit_scale(self) -> float:
        return self.model.logit_scale

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        if isinstance(image, Tensor):
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        return torch.from_numpy(self.model.preprocess(image))

    def encode_image(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.model.encode_image(images.numpy()))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self.model.encode_text(texts))

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        return encode_one_by_one(self, dataset)


PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
"""Of an export, as protocols of evaluation call them."""
