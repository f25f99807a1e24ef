"""The two towers: images and captions to vectors of the same length."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models.attention import TokenPlaces
from miniclip.models.convolution import SmallMapConv2d
from miniclip.models.tokenizer import Tokenizer

Pooling = Literal["mean", "eos", "cls", "max"]


class ResNetEncoder(nn.Module):
    """A torchvision ResNet whose classifier gives way to a linear layer into the joint space.

    `images (B, 3, H, W) -> (B, embed_dim)`

    Args:
        architecture: name of the torchvision model.
        weights: null, a name of torchvision's weights such as "IMAGENET1K_V1", or the path of a state
            dict of the torchvision model. With null the last batch norm of each residual block starts
            at zero (Goyal et al. 2017, section 5.1), which doubles what is learnt in the first minutes.
        embed_dim: length of the output.

    Raises:
        SettingError: when `weights` is neither a known name nor a fitting file.
        UserError: when the named weights cannot be downloaded; says where to put the file.
    """

    def __init__(
        self,
        *,
        architecture: Literal["resnet18", "resnet34", "resnet50"],
        weights: str | None,
        embed_dim: int,
    ):
        super().__init__()
        if embed_dim < 1:
            raise SettingError("embed_dim", embed_dim, "must be at least 1")
        build = getattr(torchvision.models, architecture)
        self.backbone = build(zero_init_residual=weights is None)
        if weights is not None:
            self.backbone.load_state_dict(_backbone_state(self.backbone, architecture, weights))
        self.proj = nn.Linear(self.backbone.fc.in_features, embed_dim)
        self.backbone.fc = nn.Identity()
        SmallMapConv2d.replace_in(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.backbone(images))


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
    ):
        super().__init__()
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
        places = TokenPlaces(attention_mask)
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
        return tokens.masked_fill(~attention_mask[..., None], -torch.inf).amax(dim=1)
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

    def forward(self, tokens: Tensor, places: TokenPlaces) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), places))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class HFTextEncoder(nn.Module):
    """A tokenizer and a text encoder as one module: raw strings in, features out.

    `list of B strings -> (B, embed_dim)`. The tokenizer may be any of `miniclip.models.tokenizer`, the
    Hugging Face ones included; the ids go to the device the encoder lies on.
    """

    def __init__(self, tokenizer: Tokenizer, text_encoder: nn.Module):
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder

    def forward(self, captions: list[str]) -> Tensor:
        device = next(self.text_encoder.parameters()).device
        token_ids, attention_mask = self.tokenizer.encode(captions)
        return self.text_encoder(token_ids.to(device), attention_mask.to(device))


def _backbone_state(backbone: nn.Module, architecture: str, weights: str) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(architecture)
    if weights in known.__members__:
        return _downloaded(known[weights], weights)
    path = Path(weights).expanduser()
    names = ", ".join(known.__members__)
    if not path.is_file():
        raise SettingError("weights", weights, f"is no file and none of null, {names}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    expected = backbone.state_dict()
    # a headless backbone is as good: the classifier is replaced in any case
    state.setdefault("fc.weight", expected["fc.weight"])
    state.setdefault("fc.bias", expected["fc.bias"])
    wrong = [
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    ]
    if wrong:
        raise SettingError(
            "weights", weights, f"is not a state dict of {architecture}; it differs in {min(wrong)}"
        )
    return state


def _downloaded(weights: torchvision.models.WeightsEnum, name: str) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"encoder.image.weights={name}: {weights.url} cannot be downloaded ({error}). Put the "
            f"file into {folder}, or give its path: encoder.image.weights=PATH"
        ) from None
