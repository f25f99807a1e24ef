"""The built parts of one run: what a trainer trains, and with what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniclip.data.dataset import ImageTextDataset
from miniclip.losses import Loss
from miniclip.metrics import Features
from miniclip.models import CLIP
from miniclip.optim import PassOptimizer, Schedule
from miniclip.tokenizers import Tokenizer
from miniclip.training.precision import Precision


@dataclass(frozen=True)
class TrainingSetup:
    """The built parts of one run.

    Attributes:
        config: the resolved config as plain data, kept in every checkpoint.
        preprocessing: what an image needs before the model sees it, as plain data.
        measures: what else each validation records, from the validation split's features.
        test_set: what the best checkpoint is measured on, once; training never looks at it.
        feature_folder: where features of the frozen towers are kept, on which the rest is trained; None
            trains with the towers.
        signature: of the config's data, by the user's key, kept in every checkpoint; None without a key.
    """

    config: dict[str, Any]
    model: CLIP
    tokenizer: Tokenizer
    train_set: ImageTextDataset
    val_set: ImageTextDataset
    loss: Loss
    optimizer: PassOptimizer
    schedule: Schedule
    precision: Precision
    preprocessing: dict[str, Any]
    measures: Sequence[Callable[[Features], dict[str, float]]] = ()
    test_set: ImageTextDataset | None = None
    feature_folder: Path | None = None
    signature: str | None = None
