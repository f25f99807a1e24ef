"""Measures of a trained model."""

from miniclip.evaluation.features import Features, encode
from miniclip.evaluation.retrieval import protocol_name, retrieval_metrics

__all__ = ["Features", "encode", "protocol_name", "retrieval_metrics"]
