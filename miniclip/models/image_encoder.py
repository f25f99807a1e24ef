"""Image towers: a network without its classifier, and a linear layer into the joint space."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, above_zero, at_least, first_line, one_of
from miniclip.models.activation_checkpoints import checkpoint_blocks
from miniclip.models.last_stage import last_stage
from miniclip.optim.norm_layers import BATCH_NORM
from miniclip.preprocessing import IMAGENET, MEAN, STD, Preprocessing

Trainable = Literal["all", "last_stage", "none"]

HALF = (0.5, 0.5, 0.5)


class ImageEncoder(nn.Module):
    """A network without its classifier, and a linear layer into the joint space.

    `images (B, 3, H, W) -> (B, embed_dim)`

    Args:
        backbone: `(B, 3, H, W) -> (B, width)`.
        width: length of the backbone's output.
        embed_dim: length of the output.
        trainable: what of the backbone learns: "all" of it, its "last_stage", or "none". The linear layer
            always does. What does not learn runs as in evaluation: without dropout and stochastic depth,
            and with the running statistics of batch norm.
        freeze_batch_norm_stats: hold the running statistics of batch norms still and normalize by them,
            also in training, in the part that learns as well.
        lr_factor: the backbone's learning rate over that of everything else.
        checkpoint_activations: keep less in memory: blocks of the backbone run once more in the backward
            pass of training, which gives the same to the bit.
        preprocessing: of the images that the backbone's weights were trained with; those that come in are
            normalized to it.
    """

    pixel_factor: Tensor | None
    pixel_shift: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        *,
        width: int,
        embed_dim: int,
        trainable: Trainable,
        freeze_batch_norm_stats: bool,
        lr_factor: float,
        checkpoint_activations: bool = False,
        preprocessing: Preprocessing = IMAGENET,
    ):
        super().__init__()
        at_least("embed_dim", embed_dim, 1)
        above_zero("lr_factor", lr_factor, hint="; trainable=none freezes the backbone")
        one_of("trainable", trainable, get_args(Trainable))

        self.backbone = backbone
        self.proj = nn.Linear(width, embed_dim)
        self.freeze_batch_norm_stats = freeze_batch_norm_stats
        # a list, so that the stages are not registered twice
        self._learning = _learning_parts(backbone, trainable)
        if trainable != "all":  # which leaves alone what a network holds still itself
            backbone.requires_grad_(False)
            for part in self._learning:
                part.requires_grad_(True)

        if checkpoint_activations:
            checkpoint_blocks(backbone)

        self.lr_factors = {"backbone": lr_factor}
        self.preprocessing = preprocessing
        self.normalize_to(preprocessing.mean, preprocessing.std)

    def normalize_to(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Let the backbone see images of another mean and standard deviation than `miniclip.data`'s.

        Args:
            mean, std: per channel, of pixels between 0 and 1.
        """
        self.preprocessing = self.preprocessing._replace(mean=tuple(mean), std=tuple(std))

        factor = shift = None
        if (tuple(mean), tuple(std)) != (MEAN, STD):
            tensors = [torch.tensor(values) for values in (MEAN, STD, mean, std)]  # each (3,)
            mean_in, std_in, mean_out, std_out = tensors
            # (x - mean_out) / std_out, where images are (x - mean_in) / std_in; each (3, 1, 1)
            factor = (std_in / std_out)[:, None, None].to(self.proj.weight.device)
            shift = ((mean_in - mean_out) / std_out)[:, None, None].to(self.proj.weight.device)

        # a checkpoint says what its tower saw, so that they need not be in its weights
        self.register_buffer("pixel_factor", factor, persistent=False)
        self.register_buffer("pixel_shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the linear layer reads, `images (B, 3, H, W) -> (B, width)`."""
        if self.pixel_factor is not None and self.pixel_shift is not None:
            images = torch.addcmul(self.pixel_shift, images, self.pixel_factor)
        return self.backbone(images)

    @property
    def frozen(self) -> bool:
        """Whether the linear layer alone learns."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Training mode for what learns; what does not learn stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        for part in self._learning:
            part.train(mode)

        if self.freeze_batch_norm_stats:
            for module in self.backbone.modules():
                if isinstance(module, BATCH_NORM):
                    module.eval()
        return self


def preprocessing_of(image_encoder: nn.Module) -> Preprocessing:
    """What an image tower's weights were trained with; of a tower that does not say, `IMAGENET`."""
    return image_encoder.preprocessing if isinstance(image_encoder, ImageEncoder) else IMAGENET


def adopt_preprocessing(image_encoder: nn.Module, seen: dict[str, Any]) -> None:
    """Normalize images as those were that a checkpoint's weights were trained with."""
    if isinstance(image_encoder, ImageEncoder):
        image_encoder.normalize_to(seen["mean"], seen["std"])


def width_of(backbone: nn.Module, architecture: str, image_size: int) -> int:
    """Length of the vectors that a backbone gives, found by asking it: heads can be wider than features."""
    device = next(backbone.parameters()).device
    training = backbone.training

    try:
        with torch.no_grad(), device:
            vectors = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise SettingError("image_size", image_size, f"does not suit {architecture} ({reason})") from None

    backbone.train(training)
    if vectors.ndim != 2:
        raise SettingError("architecture", architecture, "gives no vector per image; choose another")
    return vectors.shape[1]


def _learning_parts(backbone: nn.Module, trainable: Trainable) -> list[nn.Module]:
    """The parts of a backbone that learn."""
    if trainable == "all":
        return [backbone]
    return last_stage(backbone) if trainable == "last_stage" else []
