"""Pure measures: features and labels in, numbers out."""

from miniclip.metrics.attention_cost import Cost, attention_costs
from miniclip.metrics.block_sharpness import (
    BlockSharpness,
    block_indices,
    block_rises,
    block_sharpness,
)
from miniclip.metrics.features import Features, encode, encode_images, encode_texts
from miniclip.metrics.health import Health, cosine_counts, health, some_pairs
from miniclip.metrics.image_draws import Interval, bootstrap
from miniclip.metrics.linear_probe import FewShot, LabeledFeatures, Probe, few_shot, linear_probe
from miniclip.metrics.recall_table import (
    DIRECTIONS,
    RECALL_AT,
    joined_recalls,
    recall_keys,
    recall_line,
    recall_table,
    recall_titles,
)
from miniclip.metrics.retrieval import (
    Ranks,
    chance_metrics,
    fold_metrics,
    metrics_of_ranks,
    protocol_name,
    retrieval_metrics,
    retrieval_ranks,
)
from miniclip.metrics.run_perturbation import run_perturbation
from miniclip.metrics.sharpness import (
    Eigenpair,
    Landscape,
    LossSurface,
    landscape,
    m_sharpness,
    top_eigenpair,
    top_eigenvalue,
)
from miniclip.metrics.vectors import absolute_cosine
from miniclip.metrics.zero_shot import (
    TEMPLATES,
    Classification,
    check_class_names,
    class_embeddings,
    classify,
)

__all__ = [
    "DIRECTIONS",
    "RECALL_AT",
    "TEMPLATES",
    "BlockSharpness",
    "Classification",
    "Cost",
    "Eigenpair",
    "Features",
    "FewShot",
    "Health",
    "Interval",
    "LabeledFeatures",
    "Landscape",
    "LossSurface",
    "Probe",
    "Ranks",
    "absolute_cosine",
    "attention_costs",
    "block_indices",
    "block_rises",
    "block_sharpness",
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
    "joined_recalls",
    "landscape",
    "linear_probe",
    "m_sharpness",
    "metrics_of_ranks",
    "protocol_name",
    "recall_keys",
    "recall_line",
    "recall_table",
    "recall_titles",
    "retrieval_metrics",
    "retrieval_ranks",
    "run_perturbation",
    "some_pairs",
    "top_eigenpair",
    "top_eigenvalue",
]
