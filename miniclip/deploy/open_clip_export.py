"""A model as a folder of open_clip, held against it on real inputs.

Where open_clip's own text transformer reads a caption both ways, it masks the padding only if it appends a
token, whose output it then takes. It masks what follows the first token of padding, so captions are filled
up with their end token. The appended token gets the embedding and the position of the start token. No other
token sees it, so its output is the start token's: `encoder.text.pooling=cls`.
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from miniclip.deploy.plain_model import (
    Exported,
    PlainModel,
    compared,
    export_folder,
    inexpressible,
    moved_into_norm,
    plain_model,
    refused_by,
    renamed,
    seen_by,
    text_name,
)
from miniclip.errors import UserError
from miniclip.files import replacing, write_json, write_text
from miniclip.models import HFTextModel, TextEncoder
from miniclip.models.text_encoder import pool
from miniclip.pretrained import MiniCLIP

log = logging.getLogger(__name__)

LIBRARY = "open_clip"

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

TEXT_CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
"""Files that transformers reads for open_clip: of a Hugging Face text tower, and of the tokenizer."""

FILES = (CONFIG, WEIGHTS, TEXT_CONFIG, TOKENIZER, TOKENIZER_CONFIG)

RESIZE_MODES = {"squash": "squash", "center": "shortest"}
"""What open_clip calls the crops of `data.eval_crop`."""

HF_MODELS = ("bert", "roberta", "xlm-roberta")
"""Text models of Hugging Face that open_clip makes without a pooler of their own."""

HF_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}
"""What open_clip calls the ways to pool the tokens of a Hugging Face model."""

BLOCK_NAMES = {
    "attention_norm.": "ln_1.",
    "mlp_norm.": "ln_2.",
    "attention.qkv.": "attn.in_proj_",
    "attention.out.": "attn.out_proj.",
    "mlp.0.": "mlp.c_fc.",
    "mlp.2.": "mlp.c_proj.",
}
"""Parts of a block of the text tower, and what open_clip calls them."""

State = dict[str, Tensor]
"""Weights by their names in open_clip."""

Config = dict[str, Any]
"""Plain data for a file in JSON."""


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
    plain = plain_model(model, LIBRARY)
    _need_packages()
    _check_image_tower(plain, model.preprocess.image_size)
    text_config, text_state = _text_tower(plain, model, folder, texts)
    state = _image_state(plain) | text_state | _scale_state(plain, model)

    with export_folder(folder, LIBRARY, FILES):
        _write_weights(state, folder / WEIGHTS)
        write_text(folder / TOKENIZER, model.tokenizer.state()["backend"])
        write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(plain, model))
        if isinstance(plain.text_encoder, HFTextModel):
            write_json(folder / TEXT_CONFIG, plain.text_encoder.config)
            log.warning("Where the folder moves, change hf_model_name in %s: a path to it", folder / CONFIG)
        write_json(folder / CONFIG, _config(plain, model, text_config))
        return _held_against_open_clip(plain, model, folder, images, texts)


def _check_image_tower(plain: PlainModel, image_size: int) -> None:
    """Hold the image tower against the one that open_clip makes by its name.

    Raises:
        UserError: when that one has other weights, or another width.
    """
    import timm

    with torch.device("meta"):
        theirs: Any = timm.create_model(plain.architecture, num_classes=0)
    shapes = {name: tensor.shape for name, tensor in plain.backbone.state_dict().items()}
    part = f"encoder.image.architecture={plain.architecture}"

    if {name: tensor.shape for name, tensor in theirs.state_dict().items()} != shapes:
        made_for = theirs.default_cfg["input_size"][-1]
        raise inexpressible(
            LIBRARY, part, f"it makes it for image_size={made_for} only, and the model's is {image_size}"
        )
    width = plain.image_proj.weight.shape[1]
    if theirs.num_features != width:
        raise inexpressible(
            LIBRARY, part, f"it takes {theirs.num_features} numbers of the {width} it gives"
        )


def _image_state(plain: PlainModel) -> State:
    trunk = {f"visual.trunk.{name}": tensor for name, tensor in plain.backbone.state_dict().items()}
    return trunk | {
        "visual.head.proj.weight": plain.image_proj.weight,
        "visual.head.proj.bias": plain.image_proj.bias,
    }


def _scale_state(plain: PlainModel, model: MiniCLIP) -> State:
    state = {"logit_scale": torch.tensor(math.log(model.logit_scale))}
    return state if plain.logit_bias is None else state | {"logit_bias": torch.tensor(plain.logit_bias)}


def _text_tower(
    plain: PlainModel, model: MiniCLIP, folder: Path, texts: Sequence[str]
) -> tuple[Config, State]:
    """Settings and weights of the text tower."""
    encoder = plain.text_encoder
    if isinstance(encoder, HFTextModel):
        _check_hf(encoder, model)
        _move_bias_of_hf(plain, encoder, model, texts)
        return _hf_config(encoder, folder), _hf_state(plain, encoder)

    start_id, end_id = _frame(model)
    return _transformer_config(encoder, end_id), _transformer_state(plain, encoder, start_id)


def _frame(model: MiniCLIP) -> tuple[int, int]:
    """Token ids that every caption starts and ends with.

    Raises:
        UserError: when the tokenizer adds no such two.
    """
    ids = model.tokenizer.backend.encode("").ids
    if len(ids) != 2 or ids[0] == ids[1]:
        raise inexpressible(
            LIBRARY,
            "encoder.text.pooling=cls",
            "it does so only where the tokenizer puts one token before a caption and another behind it",
        )
    return ids[0], ids[1]


def _transformer_config(encoder: TextEncoder, end_id: int) -> Config:
    return {
        "vocab_size": encoder.token_embedding.num_embeddings,
        "width": encoder.proj.in_features,
        "heads": encoder.blocks[0].attention.num_heads,
        "layers": len(encoder.blocks),
        "no_causal_mask": True,
        "embed_cls": True,
        "pad_id": end_id,
        "proj_bias": True,
    }


def _transformer_state(plain: PlainModel, encoder: TextEncoder, start_id: int) -> State:
    """Weights of the text tower; see the top of this module for the appended token."""
    tokens, positions = encoder.token_embedding.weight, encoder.position_embedding
    state = {
        "text.token_embedding.weight": tokens,
        "text.positional_embedding": torch.cat([positions, positions[:1]]),  # (L + 1, width)
        "text.cls_emb": tokens[start_id].clone(),
        "text.ln_final.weight": encoder.norm.weight,
        "text.ln_final.bias": encoder.norm.bias,
        "text.text_projection.weight": plain.text_proj.weight,
        "text.text_projection.bias": plain.text_proj.bias,
    }
    blocks = renamed(encoder.blocks.state_dict(), BLOCK_NAMES)
    return state | {f"text.transformer.resblocks.{name}": tensor for name, tensor in blocks.items()}


def _check_hf(encoder: HFTextModel, model: MiniCLIP) -> None:
    """Raise a UserError where open_clip makes no such Hugging Face model, or pools it otherwise."""
    kind = encoder.config["model_type"]
    if kind not in HF_MODELS:
        raise inexpressible(
            LIBRARY, text_name(model), f"its kind is {kind}, and it makes {', '.join(HF_MODELS)} only"
        )
    if encoder.pooling not in HF_POOLERS:
        raise inexpressible(
            LIBRARY, f"encoder.text.pooling={encoder.pooling}", f"it has {' and '.join(HF_POOLERS)}"
        )


def _move_bias_of_hf(
    plain: PlainModel, encoder: HFTextModel, model: MiniCLIP, texts: Sequence[str]
) -> None:
    """Let the text model's last LayerNorm carry the bias that open_clip's linear layer does not have."""
    token_ids, attention_mask = model.tokenizer.encode(list(texts[:2]))

    def features() -> Tensor:
        tokens = encoder.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state
        return pool(tokens, attention_mask, encoder.pooling)

    if not moved_into_norm(plain.text_proj, encoder.model, features):
        raise inexpressible(
            LIBRARY,
            f"embed_dim={model.embed_dim} with {text_name(model)}",
            "its linear layer has no bias, and the model's last LayerNorm cannot carry it "
            f"(that takes embed_dim of at most {encoder.proj.in_features})",
        )


def _hf_config(encoder: HFTextModel, folder: Path) -> Config:
    return {
        # where its config lies; open_clip knows no other way to name it
        "hf_model_name": os.path.abspath(folder),
        "hf_proj_type": "linear",
        "hf_pooler_type": HF_POOLERS[encoder.pooling],
    }


def _hf_state(plain: PlainModel, encoder: HFTextModel) -> State:
    state = {f"text.transformer.{name}": tensor for name, tensor in encoder.model.state_dict().items()}
    return state | {"text.proj.weight": plain.text_proj.weight}


def _tokenizer_config(plain: PlainModel, model: MiniCLIP) -> Config:
    """What lets transformers' AutoTokenizer read the folder."""
    pad_token: str | None = model.tokenizer.pad_token
    if isinstance(plain.text_encoder, TextEncoder):
        _, end_id = _frame(model)
        pad_token = model.tokenizer.backend.id_to_token(end_id)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.tokenizer.context_length,
        "pad_token": pad_token,
    }


def _config(plain: PlainModel, model: MiniCLIP, text_config: Config) -> Config:
    """The content of open_clip_config.json."""
    size = model.preprocess.image_size
    model_config = {
        "embed_dim": model.embed_dim,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": plain.architecture,
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
        token_ids = open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts))
        theirs.eval()
        image_features = theirs.encode_image(seen_by(plain, pixels), normalize=True)
        text_features = theirs.encode_text(token_ids, normalize=True)
    return compared(
        LIBRARY,
        folder,
        images=(image_features, model.encode_image(pixels)),
        texts=(text_features, model.encode_text(texts)),
    )


def _need_packages() -> None:
    try:
        import open_clip  # noqa: F401
        import timm  # noqa: F401
    except ImportError as error:
        raise UserError(f'--format open_clip needs {error.name}: pip install -e ".[open_clip]"') from None
