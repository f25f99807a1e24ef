"""Text towers: captions as token ids to vectors."""

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models.attention import TokenPacking

Pooling = Literal["mean", "eos", "cls", "max"]


class TextEncoder(nn.Module):
    """A pre-norm transformer over token and position embeddings, its tokens pooled to one vector.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`, with L at most
    `context_length`.

    Args:
        vocab_size: number of token ids.
        attention: makes one attention module from width, num_heads and context_length; see
            `miniclip.models.attention`.
        width: length of a token's vector.
        num_layers: number of blocks.
        num_heads: attention heads a block; must divide `width`.
        context_length: the most tokens a caption may have.
        dropout: share of each branch's output set to zero in training.
        pooling: how the real tokens become one vector: their "mean", the last ("eos"), the first ("cls"),
            or the largest value of each element ("max").
        embed_dim: length of the output.
        embedding_lr_factor: the tokens' embeddings' learning rate over that of everything else.
        block_lr_factor: the blocks' learning rate over that of everything else.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        attention: Callable[..., nn.Module],
        width: int,
        num_layers: int,
        num_heads: int,
        context_length: int,
        dropout: float,
        pooling: Pooling,
        embed_dim: int,
        embedding_lr_factor: float = 1.0,
        block_lr_factor: float = 1.0,
    ):
        super().__init__()
        self.lr_factors = {"token_embedding": embedding_lr_factor, "blocks": block_lr_factor}
        for name, factor in zip(
            ("embedding_lr_factor", "block_lr_factor"), self.lr_factors.values(), strict=True
        ):
            if not factor > 0:
                raise SettingError(name, factor, "must be above 0")
        if width < 1:
            raise SettingError("width", width, "must be at least 1")
        if num_heads < 1 or width % num_heads:
            raise SettingError("num_heads", num_heads, f"must divide width={width}")
        if num_layers < 1:
            raise SettingError("num_layers", num_layers, "must be at least 1")
        if not 0 <= dropout < 1:
            raise SettingError("dropout", dropout, "must lie in 0 <= dropout < 1")
        self.pooling = pooling
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                attention(width=width, num_heads=num_heads, context_length=context_length),
                width=width,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, embed_dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = TokenPacking(attention_mask)
        padded = self.token_embedding(token_ids) + self.position_embedding[: token_ids.shape[1]]
        tokens = places.pack(padded)
        for block in self.blocks:
            tokens = block(tokens, places)
        return self.proj(pool(places.pad(self.norm(tokens)), attention_mask, self.pooling))


class BagOfTokens(nn.Module):
    """The mean of the tokens' embeddings, whatever their order: what any text tower has to beat.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`

    Args:
        vocab_size: number of token ids.
        width: length of a token's vector.
        embed_dim: length of the output.
    """

    def __init__(self, *, vocab_size: int, width: int, embed_dim: int):
        super().__init__()
        if width < 1:
            raise SettingError("width", width, "must be at least 1")
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, embed_dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.proj(self.norm(pool(self.token_embedding(token_ids), attention_mask, "mean")))


def pool(tokens: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a caption: `(B, L, D), (B, L) bool -> (B, D)`. See `TextEncoder`."""
    if pooling == "cls":
        return tokens[:, 0]
    length = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
    if pooling == "eos":
        return tokens.take_along_dim(length[..., None] - 1, dim=1).squeeze(1)
    if pooling == "max":
        largest = tokens.masked_fill(~attention_mask[..., None], -torch.inf).amax(dim=1)
        # zero, as for the mean, where a caption has no token
        return largest.masked_fill(~attention_mask.any(dim=1, keepdim=True), 0)
    return tokens.masked_fill(~attention_mask[..., None], 0).sum(dim=1) / length


class TransformerBlock(nn.Module):
    """Attention and a GELU feed-forward of four times the width, each on a normed residual branch."""

    def __init__(self, attention: nn.Module, *, width: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, places: TokenPacking) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), places))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class HFTextModel(nn.Module):
    """A text model of Hugging Face as a tower, its tokens pooled to one vector.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`

    Args:
        vocab_size: number of token ids that the tokenizer gives.
        name: a name on the hub, or a local folder with the model's files.
        config: the model's configuration; given, nothing is read, and the weights are random until those of
            a checkpoint come. A run writes it into its checkpoints.
        frozen: train the linear layer after it only.
        pooling: see `TextEncoder`.
        embed_dim: length of the output.
        context_length: the most tokens a caption may have; None does not compare it with the model's.

    Raises:
        UserError: when the model can neither be read nor downloaded; says where a local folder goes.
        SettingError: when it is no text model, has fewer token ids than the tokenizer, or fewer positions
            than a caption may have tokens.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        name: str,
        config: dict[str, Any] | None,
        frozen: bool,
        pooling: Pooling,
        embed_dim: int,
        context_length: int | None = None,
    ):
        super().__init__()
        whole = _hugging_face_model(name, config)
        self.config: dict[str, Any] = whole.config.to_dict()
        self.model = _text_part(whole)
        _check_sizes(self.model, name, vocab_size=vocab_size, context_length=context_length)
        self.frozen = frozen
        self.pooling = pooling
        self.proj = nn.Linear(_token_width(self.model, name), embed_dim)
        self.model.requires_grad_(not frozen)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # ours takes its place

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state
        return self.proj(pool(tokens, attention_mask, self.pooling))

    def train(self, mode: bool = True) -> "HFTextModel":
        """A frozen model stays without dropout."""
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self


def _text_part(whole: Any) -> Any:
    """The part of a model that reads text: a pair's text tower, an encoder-decoder's encoder."""
    text_model = getattr(whole, "text_model", whole)
    # the config of an encoder that was saved alone does not speak of a decoder, but the class makes one
    stacks = [getattr(text_model, name, None) for name in ("encoder", "decoder")]
    return text_model if None in stacks else stacks[0]


def _check_sizes(model: Any, name: str, *, vocab_size: int, context_length: int | None) -> None:
    """Hold the model's tables of tokens and positions against what captions need."""
    known = getattr(model.config, "vocab_size", None)
    if known is None:
        raise SettingError("name", name, f"is no text model but {type(model).__name__}")
    if vocab_size > known:
        raise SettingError("name", name, f"knows {known:,} token ids, the tokenizer has {vocab_size:,}")

    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or positions < 1 or context_length is None:  # T5 and XLNet have relative ones
        return
    for place, module in model.named_modules():
        # RoBERTa and its kin keep the first rows for padding
        if place.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.num_embeddings - module.padding_idx - 1
    if context_length > positions:
        raise SettingError(
            "context_length",
            context_length,
            f"is more than the {positions:,} positions of encoder.text.name={name}",
        )


def _token_width(model: Any, name: str) -> int:
    """Length of a token's vector, found by asking the model."""
    device = next(model.parameters()).device
    if device.type == "meta":  # without values nothing can be asked
        return model.config.hidden_size
    token_ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
    training = model.training
    try:
        with torch.no_grad(), device:
            outputs = model.eval()(input_ids=token_ids, attention_mask=torch.ones_like(token_ids).bool())
        width: int = outputs.last_hidden_state.shape[2]
    except Exception as error:  # whatever its code raises, it does not suit
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise SettingError(
            "name", name, f"cannot encode a caption: {type(model).__name__}, {reason}"
        ) from None
    model.train(training)
    return width


def _hugging_face_model(name: str, config: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig, AutoModel

    if config is not None:
        settings = dict(config)
        made = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return AutoModel.from_config(made, trust_remote_code=False)
    place = os.path.expanduser(name)
    try:
        if torch.get_default_device().type == "meta":  # only whether it fits is asked
            made = AutoConfig.from_pretrained(place, trust_remote_code=False)
            return AutoModel.from_config(made, trust_remote_code=False)
        return AutoModel.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"encoder.text.name={name} cannot be loaded ({reason}). Without network, save the model's "
            "files (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) into a folder "
            "and give its path: encoder/text=hf encoder.text.name=FOLDER"
        ) from None
