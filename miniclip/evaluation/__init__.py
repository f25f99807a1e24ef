"""Measures of a trained model."""

from miniclip.evaluation.attention_costs import Cost, attention_costs
from miniclip.evaluation.features import Features, encode
from miniclip.evaluation.retrieval import protocol_name, retrieval_metrics
from miniclip.evaluation.sharpness import Landscape, LossSurface, landscape, m_sharpness, top_eigenvalue

__all__ = [
    "Cost",
    "Features",
    "Landscape",
    "LossSurface",
    "attention_costs",
    "encode",
    "landscape",
    "m_sharpness",
    "protocol_name",
    "retrieval_metrics",
    "top_eigenvalue",
]
