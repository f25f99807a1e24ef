"""The test part: measured once, with the checkpoint that validation chose."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from miniclip.data import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.metrics import Features, Ranks, encode, metrics_of_ranks, protocol_name, retrieval_ranks
from miniclip.training.interruption import ignore_in_worker
from miniclip.training.train import Trainer, TrainingSetup


class HeldOutResult(NamedTuple):
    """What the chosen checkpoint does on the test part.

    Attributes:
        record: the numbers as "test/...", the checkpoint's step and epoch, and what was measured on.
        ranks: where each image and caption stood.
        features: of the test part, for figures.
    """

    record: dict[str, Any]
    ranks: Ranks
    features: Features


def measure_test(
    experiment: TrainingSetup,
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
    order = sequential_batches(len(test_set), trainer.batch_size)
    loader = Loader(
        test_set,
        order,
        device=trainer.device,
        num_workers=trainer.num_workers,
        worker_init=ignore_in_worker,
    )
    split = test_set.split
    features = encode(
        experiment.model,
        (batch.images for batch in loader),
        split.captions,
        experiment.tokenizer,
        device=trainer.device,
        autocast=experiment.precision.autocast,
        batch_size=trainer.batch_size,
    )

    ranks = retrieval_ranks(*features)
    found = metrics_of_ranks(ranks)
    for measure in measures:
        found |= {key.removeprefix("val/"): value for key, value in measure(features).items()}
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
