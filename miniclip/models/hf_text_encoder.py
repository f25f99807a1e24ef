"""Text towers out of the package transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError, first_line
from miniclip.files import located
from miniclip.models.text_encoder import Pooling, pool


class HFTextModel(nn.Module):
    """A text model of Hugging Face as a tower, its tokens pooled to one vector.

    `token_ids (B, L) int64, attention_mask (B, L) bool -> (B, embed_dim)`

    Args:
        vocab_size: number of token ids that the tokenizer gives.
        name: a name on the hub, a local folder with the model's files, or `package:NAME/FOLDER`, a folder
            inside an installed package.
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
        return self.proj(self.features(token_ids, attention_mask))

    def features(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the linear layer reads: the pooled tokens, `token_ids, attention_mask (B, L) -> (B, D)`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            # numbers, since XLNet subtracts them
            outputs = self.model(input_ids=token_ids, attention_mask=attention_mask.long())
        tokens = outputs.last_hidden_state  # (B, L, D)
        return pool(tokens, attention_mask, self.pooling)

    def train(self, mode: bool = True) -> "HFTextModel":
        """Training mode; a frozen model stays without dropout."""
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

    for path, module in model.named_modules():
        # RoBERTa and its kin keep the first rows for padding
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
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
            outputs = model.eval()(input_ids=token_ids, attention_mask=torch.ones_like(token_ids))
        width: int = outputs.last_hidden_state.shape[2]
    except Exception as error:  # whatever its code raises, it does not suit
        reason = first_line(error)
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

    source = located(name)
    try:
        if torch.get_default_device().type == "meta":  # only whether it fits is asked
            made = AutoConfig.from_pretrained(source, trust_remote_code=False)
            return AutoModel.from_config(made, trust_remote_code=False)
        with _without_bar(source):
            return AutoModel.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise UserError(
            f"encoder.text.name={name} cannot be loaded ({reason}). Without network, save the model's "
            "files (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) into a folder "
            "and give its path: encoder/text=hf encoder.text.name=FOLDER"
        ) from None


@contextmanager
def _without_bar(source: str) -> Iterator[None]:
    """Leave out transformers' bar for a folder, which loads at once; downloads keep theirs."""
    from transformers.utils import logging

    if not Path(source).is_dir() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
