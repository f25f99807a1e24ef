"""Measures of a trained model."""

from miniclip.evaluation.attention_costs import Cost, attention_costs
from miniclip.evaluation.features import Features, encode, encode_images, encode_texts
from miniclip.evaluation.health import Health, cosine_counts, health, some_pairs
from miniclip.evaluation.linear_probe import FewShot, Labelled, Probe, few_shot, linear_probe
from miniclip.evaluation.retrieval import (
    Interval,
    Ranks,
    bootstrap,
    chance_metrics,
    fold_metrics,
    metrics_of_ranks,
    protocol_name,
    retrieval_metrics,
    retrieval_ranks,
)
from miniclip.evaluation.sharpness import Landscape, LossSurface, landscape, m_sharpness, top_eigenvalue
from miniclip.evaluation.subjects import OpenClipModel, Subject, TrainedModel
from miniclip.evaluation.zero_shot import (
    Classification,
    check_class_names,
    class_embeddings,
    classify,
    read_class_names,
    read_templates,
)

__all__ = [
    "Classification",
    "Cost",
    "Features",
    "FewShot",
    "Health",
    "Interval",
    "Labelled",
    "Landscape",
    "LossSurface",
    "OpenClipModel",
    "Probe",
    "Ranks",
    "Subject",
    "TrainedModel",
    "attention_costs",
    "bootstrap",
    "chance_metrics",
    "check_class_names",
    "class_embeddings",
    "classify",
    "cosine_counts",
    "encode",
    "encode_images",
    "encode_texts",
    "few_shot",
    "fold_metrics",
    "health",
    "landscape",
    "linear_probe",
    "m_sharpness",
    "metrics_of_ranks",
    "protocol_name",
    "read_class_names",
    "read_templates",
    "retrieval_metrics",
    "retrieval_ranks",
    "some_pairs",
    "top_eigenvalue",
]
