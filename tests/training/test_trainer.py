"""The loop: learning, resuming, interruption, what lies in the run directory."""

import json
import math
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.config.restore import restore
from miniclip.distributed import World
from miniclip.errors import UserError
from miniclip.runs import JsonlLogger, RunDirectory, RunFacts
from miniclip.tokenizers import BPETokenizer, Tokenizer
from miniclip.training.checkpoint import load_checkpoint
from miniclip.training.gradient_cache import check_rows_of_statistics
from miniclip.training.interruption import Interrupted
from tests.conftest import TINY, fit, interrupt_at_step, signal_at_step

DROPOUT = "encoder.text.dropout=0.1"  # so that the random state matters


def model_of(run: RunDirectory) -> dict[str, Any]:
    return load_checkpoint(run.last_checkpoint)["model"]


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two epochs without interruption."""
    return fit(tmp_path_factory.mktemp("whole"), *TINY, DROPOUT)


def test_the_run_directory_is_complete(whole: RunDirectory) -> None:
    names = {path.relative_to(whole.path).as_posix() for path in whole.path.rglob("*")}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "tokenizer/tokenizer.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    } <= names
    summary = json.loads(whole.summary.read_text())
    assert summary["best"]["protocol"].startswith("val: 40 images, ")
    assert summary["best_rsum"] == summary["best"]["val/rsum"]
    assert summary["steps"] == 10
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    assert [r["step"] for r in records if "train/loss" in r] == list(range(1, 11))
    assert [r["epoch"] for r in records if "val/rsum" in r] == [1, 2]
    assert summary["best_rsum"] == max(r["val/rsum"] for r in records if "val/rsum" in r)


def test_a_checkpoint_describes_itself(whole: RunDirectory) -> None:
    checkpoint = load_checkpoint(whole.best_checkpoint)
    assert {
        "model",
        "optimizer",
        "scaler",
        "progress",
        "tokenizer",
        "preprocessing",
        "config",
        "random_state",
    } <= checkpoint.keys()
    assert checkpoint["config"]["optimizer"]["rho"] == 0.05
    assert Tokenizer.from_state(checkpoint["tokenizer"]).encode(["a dog"])[0].shape[0] == 1


def test_sam_begins_where_the_default_recipe_lets_it(whole: RunDirectory) -> None:
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    assert [r["train/rho"] for r in records if "train/rho" in r] == [0.0] * 8 + [0.05] * 2
    assert load_checkpoint(whole.last_checkpoint)["progress"]["forward_passes"] == 12


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole: RunDirectory, tmp_path: Path) -> None:
    assert_same(model_of(fit(tmp_path / "again", *TINY, DROPOUT)), model_of(whole))
    other = model_of(fit(tmp_path / "other", *TINY, DROPOUT, "seed=1"))
    assert not torch.equal(other["image_encoder.proj.weight"], model_of(whole)["image_encoder.proj.weight"])


def test_resumed_after_an_epoch_equals_the_uninterrupted_run(
    whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at_step(monkeypatch, step=6)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run" / "a", *TINY, DROPOUT)
    monkeypatch.undo()
    assert_resumes_exactly(whole, tmp_path)


def test_resumed_in_the_middle_of_an_epoch_equals_the_uninterrupted_run(
    whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_step(monkeypatch, step=7)
    with pytest.raises(Interrupted) as caught:
        fit(tmp_path / "run" / "a", *TINY, DROPOUT)
    assert caught.value.signum == signal.SIGINT
    monkeypatch.undo()
    last = load_checkpoint(tmp_path / "run" / "a" / "checkpoints" / "last.pt")
    assert last["progress"]["step"] == 7
    assert_resumes_exactly(whole, tmp_path)


@pytest.mark.parametrize(
    ("optimizer", "micro_batch_size"),
    [("looksam", "null"), ("interval", "3"), ("msam", "null")],
)
def test_resumed_in_the_middle_of_a_cycle_of_several_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, micro_batch_size: str
) -> None:
    settings = (
        f"optimizer={optimizer}",
        "optimizer.interval=3",
        "trainer.accumulate_steps=2",
        f"trainer.micro_batch_size={micro_batch_size}",
    )
    uninterrupted = fit(tmp_path / "whole", *TINY, DROPOUT, *settings)
    assert json.loads(uninterrupted.summary.read_text())["steps"] == 4  # five batches an epoch
    signal_at_step(monkeypatch, step=3)
    with pytest.raises(Interrupted):
        fit(tmp_path / "run" / "a", *TINY, DROPOUT, *settings)
    monkeypatch.undo()
    assert_resumes_exactly(uninterrupted, tmp_path, *settings)


def assert_resumes_exactly(whole: RunDirectory, tmp_path: Path, *settings: str) -> None:
    resumed = fit(tmp_path / "run" / "b", *TINY, DROPOUT, "trainer.resume=auto", *settings)
    assert_same(model_of(resumed), model_of(whole))
    ours, theirs = (load_checkpoint(run.last_checkpoint) for run in (resumed, whole))
    for index, state in ours["optimizer"]["state"].items():
        assert_same(state, theirs["optimizer"]["state"][index])
    losses = [
        [(r["step"], r["train/loss"]) for r in map(json.loads, run.metrics.open()) if "train/loss" in r]
        for run in (resumed, whole)
    ]
    assert losses[0] == losses[1]


def test_micro_batches_that_hold_a_batch_change_nothing(whole: RunDirectory, tmp_path: Path) -> None:
    assert_same(model_of(fit(tmp_path, *TINY, DROPOUT, "trainer.micro_batch_size=8")), model_of(whole))


def test_resume_takes_a_run_directory_or_a_checkpoint(whole: RunDirectory, tmp_path: Path) -> None:
    longer = [*TINY, DROPOUT, "trainer.budget.epochs=3"]
    runs = [
        fit(tmp_path / str(number), *longer, f"trainer.resume={path}")
        for number, path in enumerate((whole.path, whole.last_checkpoint))
    ]
    assert_same(model_of(runs[0]), model_of(runs[1]))
    assert json.loads(runs[0].summary.read_text())["epochs"] == 3


@pytest.mark.parametrize("max_epochs", [2, 3])
def test_a_checkpoint_on_its_own_can_be_resumed(
    whole: RunDirectory, tmp_path: Path, max_epochs: int
) -> None:
    """Whether or not there is something left to train, and whether or not it improves."""
    alone = tmp_path / "moved.pt"
    alone.write_bytes(whole.last_checkpoint.read_bytes())
    settings = [f"trainer.budget.epochs={max_epochs}", f"trainer.resume={alone}"]
    run = fit(tmp_path / "run", *TINY, DROPOUT, *settings)
    assert json.loads(run.summary.read_text())["epochs"] == max_epochs
    assert run.best_checkpoint.is_file()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("projection=separate", "projection._target_=miniclip.models.ProjectionMLP (here "),
        ("encoder.image.architecture=test_vit", "architecture=test_resnet (here test_vit)"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    whole: RunDirectory, tmp_path: Path, override: str, named: str
) -> None:
    with pytest.raises(UserError) as caught:
        fit(tmp_path, *TINY, DROPOUT, override, f"trainer.resume={whole.path}")
    assert "of another architecture" in str(caught.value) and named in str(caught.value)


def test_a_batch_larger_than_the_training_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.batch_size=64.*training set of 40 images"):
        fit(tmp_path, *TINY, "trainer.batch_size=64")
    with pytest.raises(UserError, match=r"trainer\.accumulate_steps=6.*asks for 48 images per step"):
        fit(tmp_path, *TINY, "trainer.accumulate_steps=6")


@pytest.mark.parametrize(
    ("num_processes", "synced", "is_refused"), [(4, False, True), (4, True, False), (2, False, False)]
)
def test_one_image_a_process_is_too_few_for_batch_norm(
    num_processes: int, synced: bool, is_refused: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    world = World(size=num_processes)
    message = r"trainer\.batch_size=4.*each of 4 processes a batch of one image.*at least 8"
    with pytest.raises(UserError, match=message) if is_refused else nullcontext():
        check_rows_of_statistics(model, batch_size=4, micro_batch_size=None, world=world, synced=synced)


def test_micro_batches_that_are_too_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.micro_batch_size=0: must be at least 1"):
        fit(tmp_path, *TINY, "trainer.micro_batch_size=0")
    for size in (1, 2):
        with pytest.raises(UserError, match=rf"trainer\.micro_batch_size={size}.*batch of 7.*at least 3"):
            fit(tmp_path, *TINY, "trainer.batch_size=7", f"trainer.micro_batch_size={size}")


def test_a_budget_of_steps_ends_in_the_middle_of_an_epoch_with_a_validation(tmp_path: Path) -> None:
    run = fit(tmp_path, *TINY, "trainer.budget.steps=3")
    summary = json.loads(run.summary.read_text())
    assert summary["steps"] == 3
    assert (summary["best"]["epoch"], summary["best"]["epochs_begun"]) == (0, 1)


def test_forward_passes_compare_optimizers_at_equal_cost(tmp_path: Path) -> None:
    budget = ("trainer.budget.forward_passes=12", "schedule.decay_fraction=0.5")
    steps = {}
    for optimizer in ("adamw", "sam", "interval", "msam"):
        run = fit(tmp_path / optimizer, *TINY, f"optimizer={optimizer}", *budget)
        *records, last, validation = map(json.loads, run.metrics.open())
        steps[optimizer] = validation["step"]
        assert 11 <= validation["train/forward_passes"] <= 12
        assert last["train/lr"] < records[0]["train/lr"]  # the schedule ends with the budget
    # every fifth step of interval takes two passes: the 1st, the 6th
    assert steps == {"adamw": 12, "sam": 6, "interval": 10, "msam": 12}


def test_minutes_end_training_and_its_schedule(tmp_path: Path) -> None:
    run = fit(tmp_path, *TINY, "optimizer=adamw", "trainer.budget.minutes=0.05", "data.limit=400")
    records = [json.loads(line) for line in run.metrics.open()]
    seconds = records[-1]["train/seconds"]
    assert 3 <= seconds < 6  # the last step ends what it began
    rates = [record["train/lr"] for record in records if "train/lr" in record]
    assert max(rates) > 4e-4 and rates[-1] < 0.2 * max(rates)


def test_a_run_whose_time_is_not_over_goes_on(tmp_path: Path) -> None:
    first = fit(tmp_path / "first", *TINY, "trainer.budget.minutes=0.01")
    longer = fit(tmp_path / "longer", *TINY, "trainer.budget.minutes=0.03", f"trainer.resume={first.path}")
    seconds = [
        json.loads(run.metrics.read_text().splitlines()[-1])["train/seconds"] for run in (first, longer)
    ]
    assert 0.6 <= seconds[0] < 1.8 <= seconds[1] < seconds[0] + 3


def test_kept_checkpoints_and_sparse_validation(tmp_path: Path) -> None:
    run = fit(
        tmp_path,
        *TINY,
        "trainer.budget.epochs=4",
        "trainer.checkpoint_every_epochs=2",
        "trainer.validate_every_epochs=3",
        "logger=none",
    )
    assert {p.name for p in run.checkpoints.iterdir()} == {
        "last.pt",
        "best.pt",
        "best.safetensors",
        "epoch_0002.pt",
        "epoch_0004.pt",
    }
    records = [json.loads(line) for line in run.metrics.open()]
    assert [r["epoch"] for r in records] == [3, 4]


def test_a_step_that_is_not_finite_is_counted_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose(*TINY, "trainer.budget.steps=2")
    run = RunDirectory(tmp_path)
    trainer, experiment, _ = build(cfg, run)
    before = {name: p.detach().clone() for name, p in experiment.model.named_parameters()}
    monkeypatch.setattr(
        type(experiment.loss),
        "__call__",
        lambda self, **given: (
            given["image_features"].sum() * (math.nan if torch.is_grad_enabled() else 1.0)
        ),
    )
    logger = JsonlLogger(every_steps=1)
    logger.start(run.metrics, RunFacts("test", {}))
    summary, _ = trainer.fit(experiment, run, logger)
    assert summary["skipped_steps"] == 2
    for name, parameter in experiment.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    exploding = ("optimizer.base.lr=1e30", "trainer.budget.epochs=6", "trainer.max_skipped_steps=4")
    with pytest.raises(UserError, match=r"trainer\.max_skipped_steps=4.*gradient was not finite"):
        fit(tmp_path, *TINY, *exploding)
    progress = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["progress"]
    assert progress["skipped_in_a_row"] > 4
    assert progress["step"] < 30


def test_false_negatives_are_counted(tmp_path: Path) -> None:
    for name, settings in (("plain", ()), ("several", ("loss.multi_positive=true",))):
        run = fit(tmp_path / name, *TINY, "data.captions=all", *settings)
        counts = [
            r.get("train/false_negatives") for r in map(json.loads, run.metrics.open()) if "train/loss" in r
        ]
        # 40 emoji have more captions than one: some batch holds two of one image
        assert max(counts) > 0 and all(count % 2 == 0 for count in counts)


def test_a_run_with_a_hugging_face_tower_needs_its_folder_no_more(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path / "bert"
    tokenizer = BPETokenizer(vocab_size=300, lowercase=True, context_length=32)
    tokenizer.fit(["a dog", "a cat"])
    tokenizer.backend.no_truncation()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)
    tiny = [each for each in TINY if not each.startswith("encoder.text.")]
    tower = ("encoder/text=hf", f"encoder.text.name={folder}", "trainer.budget.steps=2")
    run = fit(tmp_path / "run", *tiny, *tower)
    shutil.rmtree(folder)
    restored = restore(run.path)
    token_ids, mask = restored.tokenizer.encode(["a dog"])
    assert restored.model.encode_text(token_ids, mask).shape == (1, 32)


def test_too_many_broken_images_stop_the_run(tmp_path: Path, picture_folder: Path) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for index in range(12, 24):
        pixels = np.full((40, 50, 3), [128, 10 * index, 255 - 10 * index], dtype=np.uint8)
        Image.fromarray(pixels).save(held_out / f"{index}.jpg")
    tables = []
    for side, root in (("train", picture_folder), ("val", held_out)):
        table = tmp_path / f"{side}.csv"
        rows = (f"{path.name},number {path.stem}\n" for path in sorted(root.iterdir()))
        table.write_text("image,caption\n" + "".join(rows))
        tables += [f"data.{side}_csv={table}", f"data.{side}_root={root}"]
    settings = (*TINY, "data=csv", *tables, "trainer.batch_size=4", "data.on_broken_image=skip")
    (picture_folder / "3.jpg").write_bytes(b"")
    half = fit(tmp_path / "half", *settings, "data.max_broken_fraction=0.1", "trainer.budget.steps=3")
    assert half.read_summary()["broken_images"] == {"broken": 1}
    (picture_folder / "3.jpg").write_bytes(good := (picture_folder / "2.jpg").read_bytes())
    resumed = fit(
        tmp_path / "rest", *settings, "data.max_broken_fraction=0.1", f"trainer.resume={half.path}"
    )
    summary = resumed.read_summary()
    assert summary["steps"] == 6 and summary["broken_images"] == {"broken": 1}
    for name, content in (("3", b""), ("4", b"<html>"), ("5", good)):
        (picture_folder / f"{name}.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"2 of the 12 .* cannot be read \(2 broken\).*max_broken_fraction"):
        fit(tmp_path / "two", *settings, "data.max_broken_fraction=0.1")
    # its checkpoint goes on from there, so that what lies before it must have been recorded
    two = RunDirectory(tmp_path / "two")
    stopped_at = load_checkpoint(two.last_checkpoint)["progress"]["step"]
    records = [record for record in two.read_metrics() if "train/loss" in record]
    assert stopped_at > 0 and [record["step"] for record in records] == list(range(1, stopped_at + 1))
    # and with whole files it is not stopped again
    for name in ("3", "4"):
        (picture_folder / f"{name}.jpg").write_bytes(good)
    fixed = fit(tmp_path / "two", *settings, "data.max_broken_fraction=0.1", "trainer.resume=auto")
    assert fixed.read_summary()["steps"] == 6 and fixed.read_summary()["broken_images"] == {}
