"""Encoders, attention, projection, temperature and the model they make."""

from miniclip.models.attention import (
    BigBirdAttention,
    FullAttention,
    FusedLinformerAttention,
    LinformerAttention,
    NystromAttention,
    PerformerAttention,
    ReformerAttention,
    linformer_attention,
)
from miniclip.models.clip import CLIP, CLIPOutput
from miniclip.models.hf_text_encoder import HFTextModel
from miniclip.models.projection import LinearProjection, NoProjection, ProjectionMLP, SeparateProjection
from miniclip.models.temperature import (
    DynamicTemperature,
    FixedTemperature,
    LearnedTemperature,
    Temperature,
)
from miniclip.models.text_encoder import BagOfTokens, TextEncoder
from miniclip.models.timm_encoder import TimmEncoder
from miniclip.models.torchvision_encoder import TorchvisionEncoder

__all__ = [
    "CLIP",
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
