"""Models that were not trained, of any config, with what goes with them."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from miniclip.config.compose import compose
from miniclip.config.instantiate import make, make_model
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.models import HFTextModel
from miniclip.models.image_encoder import preprocessing_of
from miniclip.pretrained import ModelBundle
from miniclip.tokenizers import BPETokenizer

SMALL = {
    "encoder/image": ("encoder/image=timm", "encoder.image.architecture=test_resnet"),
    "encoder/text": ("encoder.text.width=32", "encoder.text.num_layers=1"),
}
"""Small towers, where no other is chosen."""

CAPTIONS = ("a small dog runs in the snow", "two red cars", "a woman with an umbrella, in the rain")


def hugging_face_folder(folder: Path, kind: str = "bert") -> Path:
    """A small text model with a tokenizer, as Hugging Face's `save_pretrained` leaves it."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    tokenizer = BPETokenizer(vocab_size=300, lowercase=True, context_length=16)
    tokenizer.fit(CAPTIONS)
    backend = tokenizer.backend
    backend.no_truncation()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>").save_pretrained(
        folder
    )

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(kind, vocab_size=300, pad_token_id=0, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def fill_zeros(model: torch.nn.Module) -> None:
    """Give random values to what starts at zero, so that what stands before it takes part in the output."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)


def bundle_of(*settings: str) -> ModelBundle:
    """The model of a small config and some settings; all of it takes part, as after some training."""
    chosen = {setting.partition("=")[0] for setting in settings}
    small = [word for group, words in SMALL.items() if group not in chosen for word in words]
    cfg = compose(*small, "image_size=32", "embed_dim=32", *settings)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(CAPTIONS)

    torch.manual_seed(0)
    model = make_model(cfg, vocab_size=tokenizer.vocab_size)
    fill_zeros(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    if isinstance(model.text_encoder, HFTextModel):
        config["encoder"]["text"]["config"] = model.text_encoder.config

    seen = preprocessing_of(model.image_encoder)
    preprocessing = EvalPreprocessing(cfg.data.image_size, crop=cfg.data.eval_crop, trained_with=seen)
    return ModelBundle("small", config, model.eval(), tokenizer, preprocessing)
