"""A model as a folder of open_clip, held against it on real inputs.

Its tokenizer first cleans a text: typographic quotes, HTML entities and runs of spaces become plain ones.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from miniclip.deploy.export_folder import Exported, compared, export_folder, refused_by
from miniclip.deploy.open_clip_towers import (
    LIBRARY,
    Config,
    State,
    check_image_tower,
    frame_of,
    image_state,
    text_tower,
)
from miniclip.deploy.plain_model import PlainModel, check_expressible, plain_model, seen_by
from miniclip.errors import UserError
from miniclip.files import replacing, write_json, write_text
from miniclip.models import HFTextModel, TextEncoder
from miniclip.pretrained import MiniCLIP

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

TEXT_CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
"""Files that transformers reads for open_clip: of a Hugging Face text tower, and of the tokenizer."""

FILES = (CONFIG, WEIGHTS, TEXT_CONFIG, TOKENIZER, TOKENIZER_CONFIG)

RESIZE_MODES = {"squash": "squash", "center": "shortest"}
"""What open_clip calls the crops of `data.eval_crop`."""


def export_open_clip(
    model: MiniCLIP, folder: Path, *, images: Sequence[Image.Image], texts: Sequence[str]
) -> Exported:
    """Write a folder that `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads.

    Args:
        model: on the CPU.
        folder: made where there is none; the config is written last, so that half an export is none.
        images, texts: real ones, on which open_clip's features are held against ours.

    Raises:
        UserError: when open_clip is missing, cannot express a part, or gives other features.
    """
    check_expressible(model, LIBRARY)
    _need_packages()
    plain = plain_model(model)
    check_image_tower(plain, model)
    text_config, text_state = text_tower(plain, model, folder, texts)
    state = image_state(plain) | text_state | _scale_state(plain, model)

    with export_folder(folder, LIBRARY, FILES):
        _write_weights(state, folder / WEIGHTS)
        write_text(folder / TOKENIZER, model.tokenizer.state()["backend"])
        write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(plain, model))
        if isinstance(plain.text_encoder, HFTextModel):
            write_json(folder / TEXT_CONFIG, plain.text_encoder.config)
            log.warning("Where the folder moves, change hf_model_name in %s: a path to it", folder / CONFIG)
        write_json(folder / CONFIG, _config(plain, model, text_config))
        return _held_against_open_clip(plain, model, folder, images, texts)


def _scale_state(plain: PlainModel, model: MiniCLIP) -> State:
    state = {"logit_scale": torch.tensor(math.log(model.logit_scale))}
    return state if plain.logit_bias is None else state | {"logit_bias": torch.tensor(plain.logit_bias)}


def _tokenizer_config(plain: PlainModel, model: MiniCLIP) -> Config:
    """What lets transformers' AutoTokenizer read the folder."""
    pad_token: str | None = model.tokenizer.pad_token
    if isinstance(plain.text_encoder, TextEncoder):
        _, end_id = frame_of(model)
        pad_token = model.tokenizer.backend.id_to_token(end_id)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.tokenizer.context_length,
        "pad_token": pad_token,
        "split_special_tokens": True,
    }


def _config(plain: PlainModel, model: MiniCLIP, text_config: Config) -> Config:
    """The content of open_clip_config.json."""
    size = model.preprocess.image_size
    model_config = {
        "embed_dim": model.embed_dim,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": plain.image.architecture,
            "timm_pool": "",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "image_size": size,
        },
        "text_cfg": {
            "context_length": model.tokenizer.context_length,
            # any name stands for the folder itself
            "hf_tokenizer_name": model.name,
            **text_config,
        },
    }
    if plain.logit_bias is not None:
        model_config["init_logit_bias"] = plain.logit_bias
    preprocessing = {
        "size": size,
        "mean": list(plain.mean),
        "std": list(plain.std),
        "interpolation": "bicubic",
        "resize_mode": RESIZE_MODES[model.preprocess.crop_name],
    }
    return {"model_cfg": model_config, "preprocess_cfg": preprocessing}


def _write_weights(state: State, path: Path) -> None:
    from safetensors.torch import save

    with replacing(path, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in state.items()}))


def _held_against_open_clip(
    plain: PlainModel, model: MiniCLIP, folder: Path, images: Sequence[Image.Image], texts: Sequence[str]
) -> Exported:
    """Read the folder as its users do, and compare the features of the same inputs."""
    import open_clip

    pixels = torch.stack([model.preprocess(image) for image in images])  # (B, 3, S, S)
    with refused_by(LIBRARY), torch.inference_mode():
        theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        theirs.eval()
        image_features = theirs.encode_image(seen_by(plain, pixels), normalize=True)
        clean_texts = [tokenizer.clean_fn(text) for text in texts]
        text_features = theirs.encode_text(tokenizer(clean_texts), normalize=True)
    return compared(
        LIBRARY,
        folder,
        images=(image_features, model.encode_image(pixels)),
        texts=(text_features, model.encode_text(clean_texts)),
    )


def _need_packages() -> None:
    try:
        import open_clip  # noqa: F401
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError(f'--format open_clip needs {error.name}: pip install -e ".[open_clip]"') from None
