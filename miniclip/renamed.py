"""Names that have changed since version 0.1.0, which are read for one version more."""

import re
from collections.abc import Sequence
from typing import Any

TOKENIZERS = ("BPETokenizer", "CLIPTokenizer", "HFTokenizer", "UnigramTokenizer", "WordPieceTokenizer")
LOGGERS = ("JsonlLogger", "TensorboardLogger", "WandbLogger")

TARGETS = {
    "miniclip.build.SweepKeeper": "miniclip.config.sweep_guard.SweepGuard",
    "miniclip.evaluate.Evaluation": "miniclip.evaluation.Evaluation",
    **{f"miniclip.models.{name}": f"miniclip.tokenizers.{name}" for name in TOKENIZERS},
    **{f"miniclip.tracking.{name}": f"miniclip.runs.{name}" for name in LOGGERS},
}
"""Old and new `_target_`s."""

KEYS = {
    "arm": "_arm",
    "encoder.image.frozen_statistics": "encoder.image.freeze_batch_norm_stats",
    "epochs": "_epochs",
    "forward_passes": "_forward_passes",
    "optimizer.every": "optimizer.interval",
}
"""Old and new settings, with their paths."""

MOVED_KEYS = {
    "eval.batch_size": "eval.tasks.sharpness.batch_size",
    "eval.batches": "eval.tasks.sharpness.num_batches",
    "eval.class_names": "eval.tasks.zero_shot.class_names",
    "eval.num_seeds": "eval.tasks.few_shot.num_seeds",
    "eval.radii": "eval.tasks.sharpness.radii",
    "eval.shots": "eval.tasks.few_shot.shots",
    "eval.templates": "eval.tasks.zero_shot.templates",
    "logger.entity": "logger.wandb.entity",
    "logger.job_type": "logger.wandb.job_type",
    "logger.log_model": "logger.wandb.log_model",
    "logger.mode": "logger.wandb.mode",
    "logger.project": "logger.wandb.project",
    "optimizer.alpha": "optimizer.descent.alpha",
}
"""Old settings of parts which are those of a task, a view or an axis of SAM now, as they are typed. In
older files only SAM's are read."""

SAM = "miniclip.optim.SAM"

SAM_AXES: dict[str, dict[str, Any]] = {
    SAM: {},
    "miniclip.optim.GSAM": {"descent": "miniclip.optim.SurrogateGap"},
    "miniclip.optim.LookSAM": {"descent": "miniclip.optim.ReusedAscent"},
    "miniclip.optim.MSAM": {"direction": "miniclip.optim.Momentum"},
}
"""Old classes of SAM's family, and what they chose on its axes."""

SAM_DEFAULTS = {
    "direction": "miniclip.optim.Gradient",
    "descent": "miniclip.optim.Descent",
    "loss_budget": None,
    "perturb": None,
    "start_fraction": 0.0,
    "probability": 1.0,
    "sync_perturbation": True,
}
"""What older files do not say of SAM: parts by their `_target_`s."""

VALUES = {
    "data.eval_crop": {"whole": "squash", "centre": "center"},
}
"""Old and new values of a setting."""


DATA_DEFAULTS = {"caption_noise": 0}
"""What older files do not say of data."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "miniclip.data.CSVTable": {"split_column": None},
    "miniclip.data.Folder": {"part_words": "exact"},
    "miniclip.data.ImageClasses": {"part_words": "exact"},
    "miniclip.losses.ClipLoss": {"gather": "global"},
    "miniclip.losses.SigLipLoss": {"gather": "global"},
    "miniclip.training.Trainer": {
        "micro_batch_size": None,
        "sync_batch_norm": False,
        "compile": False,
        "cuda_graphs": False,
        "images_on_gpu": True,
        "profile": False,
    },
}
"""What older files do not say of other parts, by their `_target_`s."""


def renamed_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config out of an older file, with today's names."""
    new = _renamed(config, "")
    data = new.get("data")
    if isinstance(data, dict) and "_target_" in data:
        new["data"] = {**DATA_DEFAULTS, **data}
    for name in ("data", "loss", "trainer"):
        part = new.get(name)
        if isinstance(part, dict):
            new[name] = {**DEFAULTS.get(str(part.get("_target_")), {}), **part}
    optimizer = new.get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("_target_") in SAM_AXES:
        new["optimizer"] = _with_axes(optimizer)
    return new


def _with_axes(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer of SAM's family as `SAM` with its axes."""
    chosen = SAM_AXES[optimizer["_target_"]]
    new = {**SAM_DEFAULTS, **chosen, **optimizer, "_target_": SAM}
    for axis in ("direction", "descent"):
        if isinstance(new[axis], str):
            new[axis] = {"_target_": new[axis]}
    if "alpha" in new:
        new["descent"]["alpha"] = new.pop("alpha")
    return new


def _renamed(node: dict[str, Any], prefix: str) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        key = KEYS.get(path, path).rpartition(".")[2]

        if isinstance(value, dict):
            new[key] = _renamed(value, f"{path}.")
        elif isinstance(value, str):
            values = TARGETS if key == "_target_" else VALUES.get(path, {})
            new[key] = values.get(value, value)
        else:
            new[key] = value
    return new


def renamed_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was typed, with today's names, and a line for each old one.

    Args:
        words: overrides such as "optimizer.every=5" or "data.eval_crop=whole,centre"; others stay as they
            are.
    """
    new_words = [_renamed_word(word) for word in words]
    lines = [
        f"{word} is {new} now; the old name goes with the next version."
        for word, new in zip(words, new_words, strict=True)
        if word != new
    ]
    return new_words, lines


def _renamed_word(word: str) -> str:
    match = re.fullmatch(r"([+~]*)([\w./]+)(.*)", word, re.DOTALL)
    if match is None:
        return word

    sign, key, rest = match.groups()
    for old, new in VALUES.get(key, {}).items():
        rest = re.sub(rf"(?<![\w.]){old}(?![\w.])", new, rest)
    if key == "eval.tasks" and rest == "=null":
        return "eval=standard"
    if key == "eval.tasks" and rest.startswith("=") and not rest.startswith("={"):
        return f"eval/tasks{rest}"
    return f"{sign}{KEYS.get(key) or MOVED_KEYS.get(key, key)}{rest}"
