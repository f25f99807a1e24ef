"""Encoders, attention, projection, temperature, tokenizers and the model they make."""

from miniclip.models.attention import (
    FullAttention,
    FusedLinformerAttention,
    LinformerAttention,
    linformer_attention,
)
from miniclip.models.clip import CLIPOutput, MiniCLIP
from miniclip.models.efficient_attention import (
    BigBirdAttention,
    NystromAttention,
    PerformerAttention,
    ReformerAttention,
)
from miniclip.models.image_encoder import TimmEncoder, TorchvisionEncoder
from miniclip.models.inputs import Inputs, inputs_of
from miniclip.models.projection_mlp import LinearProjection, NoProjection, ProjectionMLP, SeparateProjection
from miniclip.models.temperature import DynamicTemperature, FixedTemperature, LearnedTemperature
from miniclip.models.text_encoder import BagOfTokens, HFTextEncoder, HFTextModel, TextEncoder
from miniclip.models.tokenizer import (
    BPETokenizer,
    CLIPTokenizer,
    HFTokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)

__all__ = [
    "BPETokenizer",
    "BagOfTokens",
    "BigBirdAttention",
    "CLIPOutput",
    "CLIPTokenizer",
    "DynamicTemperature",
    "FixedTemperature",
    "FullAttention",
    "FusedLinformerAttention",
    "HFTextEncoder",
    "HFTextModel",
    "HFTokenizer",
    "Inputs",
    "LearnedTemperature",
    "LinearProjection",
    "LinformerAttention",
    "MiniCLIP",
    "NoProjection",
    "NystromAttention",
    "PerformerAttention",
    "ProjectionMLP",
    "ReformerAttention",
    "SeparateProjection",
    "TextEncoder",
    "TimmEncoder",
    "Tokenizer",
    "TorchvisionEncoder",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "inputs_of",
    "linformer_attention",
]
