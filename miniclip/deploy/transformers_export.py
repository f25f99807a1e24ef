"""A model as a folder of transformers, held against it on real inputs.

It becomes a VisionTextDualEncoder, the one model there that takes an image tower of timm.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from miniclip.deploy.export_folder import Exported, compared, export_folder, refused_by
from miniclip.deploy.plain_model import Obstacle, PlainModel, check_expressible, plain_model, seen_by
from miniclip.deploy.transformers_towers import LIBRARY, Tower, image_tower, text_tower
from miniclip.errors import UserError
from miniclip.files import replace
from miniclip.losses import SigLipLoss
from miniclip.pretrained import MiniCLIP

CONFIG = "config.json"

FILES = (
    CONFIG,
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
)
"""What transformers may write; its versions differ."""

SIGLIP = Obstacle("loss=siglip", "its VisionTextDualEncoder has no logit_bias")


def export_transformers(
    model: MiniCLIP, folder: Path, *, images: Sequence[Image.Image], texts: Sequence[str]
) -> Exported:
    """Write a folder that `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained` read.

    Args:
        model: on the CPU.
        folder: made where there is none; the config is written last, so that half an export is none.
        images, texts: real ones, on which transformers' features are held against ours.

    Raises:
        UserError: when timm is missing, transformers cannot express a part, or gives other features.
    """
    siglip = [SIGLIP] if isinstance(model.model.loss, SigLipLoss) else []
    check_expressible(model, LIBRARY, *siglip)
    _need_packages()
    plain = plain_model(model)
    pixels = torch.stack([model.preprocess(image) for image in images])  # (B, 3, S, S)
    text = text_tower(plain, model)
    image = image_tower(plain, model, seen_by(plain, pixels[:2]))

    with export_folder(folder, LIBRARY, FILES), refused_by(LIBRARY), _without_bars():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _dual_encoder(image, text, model).save_pretrained(work)
            _processor(plain, model).save_pretrained(work)
            written = sorted(Path(work).iterdir(), key=lambda path: path.name == CONFIG)  # it comes last
            for path in written:
                replace(path, folder / path.name)
        return _held_against_transformers(plain, model, folder, pixels, texts)


def _dual_encoder(image: Tower, text: Tower, model: MiniCLIP) -> Any:
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image.config, text.config, projection_dim=model.embed_dim
    )
    dual_encoder = VisionTextDualEncoderModel(config)
    dual_encoder.load_state_dict(
        {
            **{f"vision_model.{name}": tensor for name, tensor in image.state.items()},
            **{f"text_model.{name}": tensor for name, tensor in text.state.items()},
            "visual_projection.weight": image.proj,
            "text_projection.weight": text.proj,
            "logit_scale": torch.tensor(math.log(model.logit_scale)),
        }
    )
    return dual_encoder


def _processor(plain: PlainModel, model: MiniCLIP) -> Any:
    """Tokenizer and preprocessing."""
    from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, VisionTextDualEncoderProcessor

    backend = tokenizers.Tokenizer.from_str(model.tokenizer.state()["backend"])
    backend.no_truncation()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=model.tokenizer.pad_token,
        model_max_length=model.tokenizer.context_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )

    side = model.preprocess.image_size
    whole = {"height": side, "width": side}
    is_cropped = model.preprocess.crop_name == "center"
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": side} if is_cropped else whole,
        crop_size=whole,
        do_center_crop=is_cropped,
        resample=Image.Resampling.BICUBIC,
        image_mean=list(plain.mean),
        image_std=list(plain.std),
    )
    return VisionTextDualEncoderProcessor(image_processor, tokenizer)


def _held_against_transformers(
    plain: PlainModel, model: MiniCLIP, folder: Path, pixels: Tensor, texts: Sequence[str]
) -> Exported:
    """Read the folder as its users do, and compare the features of the same inputs."""
    from transformers import AutoModel, AutoTokenizer

    theirs = AutoModel.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(
        list(texts), padding=True, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        image_features = theirs.get_image_features(seen_by(plain, pixels)).pooler_output
        text_features = theirs.get_text_features(**tokens).pooler_output
    return compared(
        LIBRARY,
        folder,
        images=(normalize(image_features), model.encode_image(pixels)),
        texts=(normalize(text_features), model.encode_text(texts)),
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Transformers draws no bars of its own over a moment's work."""
    from transformers.utils import logging

    draws_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if draws_bars:
            logging.enable_progress_bar()


def _need_packages() -> None:
    try:
        import timm  # noqa: F401
    except ImportError:
        raise UserError('--format transformers needs timm: pip install -e ".[timm]"') from None
