"""The two towers of a model as open_clip has them.

Where open_clip's own text transformer reads a caption both ways, it masks the padding only if it appends a
token, whose output it then takes. It masks what follows the first token of padding, so captions are filled
up with their end token. The appended token gets the embedding and the position of the start token. No other
token sees it, so its output is the start token's: `encoder.text.pooling=cls`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miniclip.deploy.plain_model import (
    Obstacle,
    PlainModel,
    image_name,
    inexpressible,
    moved_into_norm,
    num_heads,
    text_name,
)
from miniclip.deploy.timm_tower import renamed
from miniclip.models import HFTextModel, TextEncoder
from miniclip.models.text_encoder import pool
from miniclip.pretrained import MiniCLIP

LIBRARY = "open_clip"

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


def check_image_tower(plain: PlainModel, model: MiniCLIP) -> None:
    """Hold the image tower against the one that open_clip makes by its name.

    Raises:
        UserError: when that one has other weights, or another width.
    """
    import timm

    with torch.device("meta"):
        theirs: Any = timm.create_model(plain.image.architecture, num_classes=0)
    shapes = {name: tensor.shape for name, tensor in plain.image.backbone.state_dict().items()}

    if {name: tensor.shape for name, tensor in theirs.state_dict().items()} != shapes:
        made_for = theirs.default_cfg["input_size"][-1]
        raise inexpressible(
            LIBRARY,
            Obstacle(
                image_name(model),
                f"it makes it for image_size={made_for} only, not {model.preprocess.image_size}",
            ),
        )
    width = plain.image_proj.weight.shape[1]
    if theirs.num_features != width:
        raise inexpressible(
            LIBRARY,
            Obstacle(image_name(model), f"it takes {theirs.num_features} numbers of the {width} it gives"),
        )


def image_state(plain: PlainModel) -> State:
    trunk = {f"visual.trunk.{name}": tensor for name, tensor in plain.image.backbone.state_dict().items()}
    return trunk | {
        "visual.head.proj.weight": plain.image_proj.weight,
        "visual.head.proj.bias": plain.image_proj.bias,
    }


def text_tower(
    plain: PlainModel, model: MiniCLIP, folder: Path, texts: Sequence[str]
) -> tuple[Config, State]:
    """Settings and weights of the text tower."""
    encoder = plain.text_encoder
    if isinstance(encoder, HFTextModel):
        _check_hf(encoder, model)
        _move_bias_of_hf(plain, encoder, model, texts)
        return _hf_config(encoder, folder), _hf_state(plain, encoder)

    start_id, end_id = frame_of(model)
    return _transformer_config(encoder, end_id), _transformer_state(plain, encoder, start_id)


def frame_of(model: MiniCLIP) -> tuple[int, int]:
    """Token ids that every caption starts and ends with.

    Raises:
        UserError: when the tokenizer adds no such two.
    """
    ids = model.tokenizer.backend.encode("").ids
    if len(ids) != 2 or ids[0] == ids[1]:
        raise inexpressible(
            LIBRARY,
            Obstacle(
                "encoder.text.pooling=cls",
                "it does so only where the tokenizer puts one token before a caption and another behind it",
            ),
        )
    return ids[0], ids[1]


def _transformer_config(encoder: TextEncoder, end_id: int) -> Config:
    return {
        "vocab_size": encoder.token_embedding.num_embeddings,
        "width": encoder.proj.in_features,
        "heads": num_heads(encoder),
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
            LIBRARY,
            Obstacle(text_name(model), f"its kind is {kind}, and it makes {', '.join(HF_MODELS)} only"),
        )
    if encoder.pooling not in HF_POOLERS:
        raise inexpressible(
            LIBRARY,
            Obstacle(f"encoder.text.pooling={encoder.pooling}", f"it has {' and '.join(HF_POOLERS)}"),
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
            Obstacle(
                f"embed_dim={model.embed_dim} with {text_name(model)}",
                "its linear layer has no bias, and the model's last LayerNorm cannot carry it "
                f"(that takes embed_dim of at most {encoder.proj.in_features})",
            ),
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
