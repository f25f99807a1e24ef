"""Encoders, attention, projection, temperature and the model they make."""

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
from miniclip.models.projection import LinearProjection, NoProjection, ProjectionMLP, SeparateProjection
from miniclip.models.temperature import (
    DynamicTemperature,
    FixedTemperature,
    LearnedTemperature,
    Temperature,
)
from miniclip.models.text_encoder import BagOfTokens, HFTextModel, TextEncoder

__all__ = [
    "BagOfTokens",
    "BigBirdAttention",
    "CLIPOutput",
    "DynamicTemperature",
    "FixedTemperature",
    "FullAttention",
    "FusedLinformerAttention",
    "HFTextModel",
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
    "Temperature",
    "TextEncoder",
    "TimmEncoder",
    "TorchvisionEncoder",
    "linformer_attention",
]
