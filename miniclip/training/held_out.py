"""The test part: measured once, with the checkpoint that validation chose."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from miniclip.data import ImageTextDataset
from miniclip.metrics import Features, Ranks, metrics_of_ranks, protocol_name, retrieval_ranks
from miniclip.training.setup import TrainingSetup
from miniclip.training.trainer import Trainer
from miniclip.training.validation import SplitEncoder


class HeldOutResult(NamedTuple):
    """Result of the chosen checkpoint on the test part.

    Attributes:
        record: the numbers as "test/...", the checkpoint's step and epoch, and what was measured on.
        ranks: rank of each image and caption.
        features: of the test part, for figures.
    """

    record: dict[str, Any]
    ranks: Ranks
    features: Features


def measure_test(
    setup: TrainingSetup,
    test_set: ImageTextDataset,
    trainer: Trainer,
    *,
    best: dict[str, Any],
    measures: Sequence[Callable[[Features], dict[str, float]]] = (),
) -> HeldOutResult:
    """Measure the model, which holds its best checkpoint after `Trainer.fit`, on the test part.

    Args:
        best: the validation record of that checkpoint.
        measures: what else is recorded, as of a validation: {"val/zero_shot_top1": 12.5}.
    """
    encode = SplitEncoder(
        setup,
        test_set,
        device=trainer.device,
        batch_size=trainer.batch_size,
        num_workers=trainer.num_workers,
        micro_batch_size=trainer.micro_batch_size,
    )
    with closing(encode):
        features = encode("test")

    ranks = retrieval_ranks(*features)
    found = metrics_of_ranks(ranks)
    for measure in measures:
        found |= {key.removeprefix("val/"): value for key, value in measure(features).items()}

    split = test_set.split
    record = {
        "step": best["step"],
        "epoch": best["epoch"],
        **{f"test/{key}": value for key, value in found.items()},
        "protocol": protocol_name(split.name, len(split), len(features.texts)),
        "images": len(split),
        "captions": len(features.texts),
        "fingerprint": split.fingerprint(),
    }
    return HeldOutResult(record, ranks, features)
