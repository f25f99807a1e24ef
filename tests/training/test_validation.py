"""A validation against the same numbers computed apart, and which record is the best."""

import json
import math
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.losses import Loss
from miniclip.metrics import encode, recall_line, retrieval_metrics
from miniclip.metrics.health import Health
from miniclip.runs import JsonlLogger, RunDirectory, RunFacts
from miniclip.stop_signals import Interrupted, stop_signals
from miniclip.training.guards import Diverged
from miniclip.training.progress import SCALER_STEPS, Progress
from miniclip.training.setup import TrainingSetup
from miniclip.training.validation import EARLY_STEPS, SplitEncoder, Validation, selection_key
from tests.conftest import TINY, fit, health_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> TrainingSetup:
    _, setup, _ = build(compose(*TINY, "precision=fp32"), RunDirectory(tmp_path_factory.mktemp("run")))
    return setup


def encoder(setup: TrainingSetup, **settings: Any) -> SplitEncoder:
    return SplitEncoder(setup, setup.val_set, device=CPU, batch_size=16, num_workers=0, **settings)


def validation(setup: TrainingSetup, folder: Path) -> Validation:
    logger = JsonlLogger(every_steps=None)
    logger.start(folder / "metrics.jsonl", RunFacts("test", {}))
    return Validation(setup, encoder(setup), logger, Progress(step=3, position=8))


def test_no_more_is_encoded_at_once_than_trains_at_once(
    setup: TrainingSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, list[int]] = {"encode_image": [], "encode_text": []}
    for name, own in sizes.items():
        plain = getattr(setup.model, name)
        spy = lambda rows, *rest, plain=plain, own=own: own.append(len(rows)) or plain(rows, *rest)  # noqa: E731
        monkeypatch.setattr(setup.model, name, spy)
    whole, parts = encoder(setup)("test"), encoder(setup, micro_batch_size=4)("test")
    assert {max(own) for own in sizes.values()} == {16}
    torch.testing.assert_close(whole.images, parts.images, rtol=0, atol=1e-5)
    for own in sizes.values():
        assert max(own[len(own) // 2 :]) == 4


def test_a_split_is_encoded_in_order(setup: TrainingSetup) -> None:
    found = encoder(setup)("test")
    images = torch.stack([setup.val_set[index][0] for index in range(len(setup.val_set))])
    expected = encode(
        setup.model,
        iter([images]),
        setup.val_set.split.captions,
        setup.tokenizer,
        device=CPU,
        autocast=nullcontext,
        batch_size=64,
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_signal_stops_between_two_batches(setup: TrainingSetup) -> None:
    with stop_signals.caught(), pytest.raises(Interrupted), stop_signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            encoder(setup)("validation")


def test_a_record_holds_the_numbers_of_the_weights(
    setup: TrainingSetup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured = replace(setup, measures=[lambda features: {"val/images": float(len(features.images))}])
    validate = validation(measured, tmp_path)
    with caplog.at_level("INFO"):
        assert validate(epoch="1/1")
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    features = validate.encode()

    losses = []
    for start in (0, 16):  # the eight images that remain are no whole batch
        rows = slice(start, start + 16)
        pairs = features.images[rows], features.first_captions[rows]
        with torch.inference_mode():
            losses.append(setup.loss(**setup.model.from_features(*pairs).loss_inputs()).item())
    assert record["val/loss"] == pytest.approx(sum(losses) / 2)
    assert record["val/loss_over_chance"] == pytest.approx(record["val/loss"] / math.log(16))
    assert record["val/rsum"] == retrieval_metrics(*features)["rsum"]
    assert (record["step"], record["epoch"], record["epochs_begun"]) == (3, 0, 1)
    assert record["val/images"] == 40
    assert "epoch 1/1  step 3  val loss" in caplog.text
    line = recall_line(record, prefix="val/")
    assert f"  R@1/5/10 {line}  " in caplog.text and line.startswith("image to text ")


def test_equal_weights_are_best_once(setup: TrainingSetup, tmp_path: Path) -> None:
    validate = validation(setup, tmp_path)
    assert [validate(epoch="1/1") for _ in range(2)] == [True, False]
    progress = validate.progress
    assert (progress.validations, progress.validated_step, progress.validation_due) == (2, 3, False)
    assert progress.best is not None and progress.best["protocol"].startswith("val: 40 images")


def test_a_loss_that_is_not_finite_is_no_candidate(setup: TrainingSetup, tmp_path: Path) -> None:
    class Spoiled(Loss):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor(math.nan)

    spoiled = replace(setup, loss=Spoiled())
    validate = validation(spoiled, tmp_path)
    assert not validate(epoch="1/1") and validate.progress.best is None


def test_of_equal_recalls_the_lower_loss_is_better() -> None:
    records = [
        {"val/rsum": rsum, "val/loss": loss} for rsum, loss in ((10.0, 3.0), (10.0, 2.0), (11.0, 9.0))
    ]
    assert sorted(records, key=selection_key) == records


def chosen(validate: Validation, *validations: tuple[int, float, float]) -> list[bool]:
    """Whether each validation, of a step with an rsum and a rank of features, gave the best weights."""
    features = validate.encode()
    return [
        validate._choose(
            {"step": step, "val/rsum": rsum, "val/loss": 1.0, **health_of(rank=rank)}, features
        )
        for step, rsum, rank in validations
    ]


def test_untrained_weights_are_the_best_only_until_others_are(setup: TrainingSetup, tmp_path: Path) -> None:
    validate = validation(setup, tmp_path)
    assert chosen(validate, (1, 90.0, 1.0), (2, 20.0, 5.0), (3, 99.0, 1.0), (4, 21.0, 5.0)) == [
        *(True, True, False, True)
    ]
    assert validate.progress.best is not None and validate.progress.best["step"] == 4


def test_collapsed_weights_are_never_the_best(setup: TrainingSetup, tmp_path: Path) -> None:
    validate = validation(setup, tmp_path)
    assert chosen(validate, (EARLY_STEPS, 90.0, 1.0)) == [False] and validate.progress.best is None
    assert chosen(validate, (200, 20.0, 5.0), (300, 90.0, 1.0)) == [True, False]


def test_a_run_that_has_collapsed_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("miniclip.training.validation.EARLY_STEPS", 1)
    monkeypatch.setattr(Health, "has_collapsed", True)
    with pytest.raises(Diverged, match="features that have not collapsed, so there is no best"):
        fit(tmp_path, *TINY, "trainer.budget.steps=2")
    names = {path.name for path in RunDirectory(tmp_path).checkpoints.iterdir()}
    assert names == {"last.pt"}
    assert "collapsed" in caplog.text and "no candidate" in caplog.text


def test_a_run_of_skipped_steps_alone_has_diverged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its weights are those that it began with, however high their recall."""
    settings = ("optimizer=sam", "optimizer.rho=1e30", "trainer.keep_best=2")
    with pytest.raises(Diverged, match=r"Every step was skipped, 10 in all, because"):
        fit(tmp_path, *TINY, *settings)
    run = RunDirectory(tmp_path)
    assert not list(run.checkpoints.glob("best*")) and not run.summary.exists()
    assert "Every step so far was skipped, 5 in all" in caplog.text


def test_weights_that_no_step_has_trained_are_never_the_best(setup: TrainingSetup, tmp_path: Path) -> None:
    validate = validation(setup, tmp_path)
    validate.progress.step = validate.progress.skipped_steps = SCALER_STEPS
    assert chosen(validate, (3, 90.0, 5.0)) == [False]
    validate.progress.step += 1
    assert chosen(validate, (4, 20.0, 5.0)) == [True]

    # a scaler of float16 is still looking for its scale
    validate = validation(setup, tmp_path)
    validate.progress.step = validate.progress.skipped_steps = SCALER_STEPS - 1
    assert chosen(validate, (3, 90.0, 5.0)) == [True]


def test_a_record_that_knows_nothing_of_health_counts_as_sound() -> None:
    old = {"val/rsum": 10.0, "val/loss": 1.0}
    collapsed = {"val/rsum": 20.0, "val/loss": 1.0, **health_of(rank=1.0)}
    assert selection_key(old) > selection_key(collapsed)
