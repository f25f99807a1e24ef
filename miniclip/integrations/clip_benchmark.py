"""MiniCLIP's runs in CLIP_benchmark (PyPI clip-benchmark): its data sets and metrics on our models.

    python -m miniclip.integrations.clip_benchmark eval --model RUN --pretrained best --dataset cifar10 ...

This is CLIP_benchmark's own command line with one more `--model_type`, miniclip, which is the default here;
`--model` is a run directory, a checkpoint or a saved model.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.models import CLIP
from miniclip.pretrained import MiniCLIP
from miniclip.pretrained.folder import is_model_folder
from miniclip.runs import RunFiles
from miniclip.tokenizers import Tokenizer

PADDING = -1
"""Stands for padding in token ids, which CLIP_benchmark passes on without their mask."""


class Model(nn.Module):
    """A MiniCLIP that reads captions as one tensor."""

    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def encode_image(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W) -> (B, D)`, of length 1."""
        return self.model.encode_image(images)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """`(B, L) with PADDING -> (B, D)`, of length 1."""
        return self.model.encode_text(token_ids.clamp(min=0), token_ids != PADDING)


def load(
    model_name: str, pretrained: str, cache_dir: str, device: str | torch.device
) -> tuple[Model, Callable[[Image.Image], Tensor], Callable[[list[str]], Tensor]]:
    """What CLIP_benchmark asks of a model type: (model, transform, tokenizer).

    Args:
        model_name: a run directory, a checkpoint or a saved model.
        pretrained: which of a run directory's checkpoints: "best", "last", "epoch_0010".
        cache_dir: not needed.

    Raises:
        UserError: when there is no whole checkpoint.
    """
    path = Path(model_name)
    is_run = path.is_dir() and not is_model_folder(path)
    model = MiniCLIP.from_pretrained(RunFiles(path).checkpoint(pretrained) if is_run else path)
    return Model(model.model).to(device), model.preprocess, _one_tensor(model.tokenizer)


def _one_tensor(tokenizer: Tokenizer) -> Callable[[list[str]], Tensor]:
    def encode(captions: list[str]) -> Tensor:
        token_ids, attention_mask = tokenizer.encode(captions)
        return token_ids.masked_fill(~attention_mask, PADDING)

    return encode


def main() -> None:
    """CLIP_benchmark's command line."""
    try:
        import clip_benchmark.models
    except ImportError:
        sys.exit("Error: this needs CLIP_benchmark: pip install clip-benchmark")
    clip_benchmark.models.TYPE2FUNC["miniclip"] = load
    clip_benchmark.models.MODEL_TYPES.append("miniclip")
    from clip_benchmark.cli import main as main_of_clip_benchmark

    if sys.argv[1:2] == ["eval"] and not any(argument.startswith("--model_type") for argument in sys.argv):
        sys.argv += ["--model_type", "miniclip"]
    try:
        main_of_clip_benchmark()
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
