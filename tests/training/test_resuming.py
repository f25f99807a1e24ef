"""Going on with a run: from every instant, with other settings, and with which run."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from miniclip.config.compose import compose
from miniclip.config.restore import restore
from miniclip.errors import SettingError, UserError
from miniclip.runs import RunDirectory
from miniclip.training import TrainingStep, checkpointer, kept_checkpoints, validation
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from miniclip.training.interruption import Interrupted
from miniclip.training.resuming import check_directory, find_checkpoint
from tests.conftest import fit_config

SMALL = (
    "data=folder",
    "seed=7",  # both epochs are the best so far
    "data.val_fraction=0.25",
    "encoder/image=timm",
    "encoder.image.architecture=test_resnet",
    "encoder.text.width=32",
    "encoder.text.num_layers=1",
    "encoder.text.dropout=0.1",
    "tokenizer.vocab_size=300",
    "image_size=32",
    "embed_dim=32",
    "trainer.batch_size=8",
    "trainer.budget.epochs=2",
    "optimizer=sam",
)
"""Thirty training images and ten for validation: three steps per epoch, six in all."""

OF_TIME = ("seconds", "images_per_second", "total_seconds")


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing is saved."""


@pytest.fixture(scope="module")
def small(noise_folder: Path) -> DictConfig:
    return compose(*SMALL, f"data.root={noise_folder}")


@pytest.fixture(scope="module")
def whole(small: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The uninterrupted run."""
    return fit_config(tmp_path_factory.mktemp("whole") / "run", small)


def changed(config: DictConfig, **settings: Any) -> DictConfig:
    """The config with `trainer__resume="auto"` for trainer.resume=auto."""
    config = config.copy()
    for name, value in settings.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return config


def records_of(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key.rpartition("/")[2] not in OF_TIME}
    return {key: without_time(value) if isinstance(value, dict) else value for key, value in kept.items()}


def assert_equal_runs(
    ours: RunDirectory, theirs: RunDirectory, *, names: tuple[str, ...] = ("last.pt", "best.pt")
) -> None:
    """Weights, moments, records, summary and best checkpoint are the same; only times may differ."""
    for name in names:
        own, other = (load_checkpoint(run.checkpoints / name) for run in (ours, theirs))
        assert without_time(own["progress"]) == without_time(other["progress"])
        for key, value in other["model"].items():
            assert torch.equal(own["model"][key], value), (name, key)
        for index, state in other["optimizer"]["state"].items():
            for key, value in state.items():
                assert torch.equal(own["optimizer"]["state"][index][key], value), (name, index, key)
    assert [without_time(r) for r in records_of(ours)] == [without_time(r) for r in records_of(theirs)]
    summaries = (json.loads(run.summary.read_text()) for run in (ours, theirs))
    own_summary, other_summary = map(without_time, summaries)
    assert own_summary == other_summary


def stop_at(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, number: int, *, how: str) -> None:
    """Let the n-th call of a function begin with a signal, or end the run in its place."""
    original = getattr(target, name)
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            if how == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, counting)


INSTANTS = [
    *(("step", number, how) for number in range(1, 7) for how in ("signal", "killed")),
    *(("encode", number, how) for number in (1, 2) for how in ("signal", "killed")),
    *(("save_checkpoint", number, "killed") for number in (1, 2)),
    *(("copy_checkpoint", number, "killed") for number in (1, 2, 3)),
]


@pytest.mark.parametrize(("where", "number", "how"), INSTANTS)
def test_from_every_instant_a_resumed_run_equals_the_uninterrupted_one(
    where: str,
    number: int,
    how: str,
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules: dict[str, Any] = {
        "step": TrainingStep,
        "encode": validation,
        "copy_checkpoint": kept_checkpoints,
    }
    target = modules.get(where, checkpointer)
    stop_at(monkeypatch, target, "__call__" if where == "step" else where, number, how=how)
    config = changed(small, trainer__keep_best=2)  # copies of both validations, whichever is the best
    with pytest.raises(Interrupted if how == "signal" else Killed):
        fit_config(tmp_path / "run", config)
    monkeypatch.undo()
    resumed = fit_config(tmp_path / "run", changed(config, trainer__resume="auto"))
    assert_equal_runs(resumed, whole)


@pytest.mark.parametrize("in_background", [False, True])
def test_saving_inside_an_epoch_changes_nothing(
    in_background: bool, small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    saving = {"trainer__checkpoint_every_steps": 1, "trainer__save_in_background": in_background}
    often = fit_config(tmp_path / "often", changed(small, trainer__keep_last=3, **saving))
    assert_equal_runs(often, whole)

    minutes = {"trainer__checkpoint_every_minutes": 1e-9, "trainer__save_in_background": in_background}
    assert_equal_runs(fit_config(tmp_path / "minutes", changed(small, **minutes)), whole)


def kill_at_step_6(folder: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Killed as the last step begins; step 5 is saved."""
    with monkeypatch.context() as patch:
        stop_at(patch, TrainingStep, "__call__", 6, how="killed")
        with pytest.raises(Killed):
            fit_config(folder, config)
    return RunDirectory(folder)


@pytest.mark.parametrize("in_background", [False, True])
def test_no_more_than_the_steps_between_two_saves_is_lost(
    in_background: bool,
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saving = {"trainer__checkpoint_every_steps": 1, "trainer__save_in_background": in_background}
    run = kill_at_step_6(tmp_path, changed(small, **saving), monkeypatch)
    with caplog.at_level("INFO"):
        resumed = fit_config(run.path, changed(small, trainer__resume="auto", **saving))
    assert "at step 5." in caplog.text or (in_background and "at step 4." in caplog.text)
    assert_equal_runs(resumed, whole)


def test_nothing_is_lost_by_a_kill_before_the_first_save_in_another_directory(
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The best checkpoint, of step 3, lies there already; the last one is that of step 5."""
    often = changed(small, trainer__checkpoint_every_steps=1)
    first = kill_at_step_6(tmp_path / "first", often, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, TrainingStep, "__call__", 1, how="killed")
        fit_config(tmp_path / "second", changed(often, trainer__resume=str(first.path)))

    caplog.clear()
    with caplog.at_level("INFO"):
        resumed = fit_config(tmp_path / "second", changed(often, trainer__resume="auto"))
    assert f"Resumed from {resumed.last_checkpoint} at step 5." in caplog.text
    assert_equal_runs(resumed, whole)


def test_the_first_checkpoint_in_another_directory_is_whole_before_the_run_trains(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = changed(small, trainer__checkpoint_every_steps=1, trainer__save_in_background=True)
    first = kill_at_step_6(tmp_path / "first", often, monkeypatch)
    last = tmp_path / "second" / "checkpoints" / "last.pt"
    step, is_whole = TrainingStep.__call__, []

    def save_slowly(path: Path, content: dict[str, Any]) -> None:
        time.sleep(0.5)
        save_checkpoint(path, content)

    def look(*args: Any, **kwargs: Any) -> Any:
        is_whole.append(last.is_file())
        return step(*args, **kwargs)

    monkeypatch.setattr(checkpointer, "save_checkpoint", save_slowly)
    monkeypatch.setattr(TrainingStep, "__call__", look)
    fit_config(tmp_path / "second", changed(often, trainer__resume=str(first.path)))
    assert is_whole and all(is_whole)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "missing", "a folder"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    damage: str,
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = changed(small, trainer__checkpoint_every_steps=1)
    run = kill_at_step_6(tmp_path, often, monkeypatch)
    assert {path.name for path in run.checkpoints.iterdir()} == {"last.pt", "step_00000004.pt", "best.pt"}

    data = bytearray(run.last_checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    run.last_checkpoint.unlink()
    if damage == "a folder":
        run.last_checkpoint.mkdir()
    elif damage != "missing":
        run.last_checkpoint.write_bytes(data if damage == "a flipped bit" else data[:1000])

    caplog.clear()
    if damage == "a folder":
        with pytest.raises(UserError, match=r"last\.pt is damaged \(something else lies in the place"):
            fit_config(run.path, changed(often, trainer__resume="auto"))
        return

    resumed = fit_config(run.path, changed(often, trainer__resume="auto"))
    assert_equal_runs(resumed, whole)
    warnings = [
        r.message for r in caplog.records if r.levelname == "WARNING" and "do not spread" not in r.message
    ]
    assert len(warnings) == 1
    assert str(run.last_checkpoint) in warnings[0]
    assert f"{run.checkpoint('step_00000004')}, of step 4" in warnings[0]


def test_where_every_checkpoint_is_damaged_nothing_is_overwritten(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kill_at_step_6(tmp_path, small, monkeypatch)
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt is damaged"):
        fit_config(run.path, changed(small, trainer__resume="auto"))
    assert run.last_checkpoint.read_bytes() == b""

    # one that was named is meant
    with pytest.raises(UserError, match=r"best\.pt is damaged"):
        fit_config(run.path, changed(small, trainer__resume=str(run.best_checkpoint)))


def test_a_damaged_best_is_told_and_chosen_anew(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = kill_at_step_6(tmp_path, changed(small, trainer__checkpoint_every_steps=1), monkeypatch)
    run.best_checkpoint.unlink()
    run.best_checkpoint.write_bytes(b"no checkpoint")
    resumed = fit_config(run.path, changed(small, trainer__resume="auto"))
    assert "best.pt is damaged" in caplog.text and "the best are chosen anew" in caplog.text
    assert load_checkpoint(resumed.best_checkpoint)["progress"]["step"] in (5, 6)


def test_a_best_that_is_damaged_with_the_last_is_not_forgotten_in_silence(
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    often = changed(small, trainer__checkpoint_every_steps=1, trainer__keep_last=9)
    run = kill_at_step_6(tmp_path, often, monkeypatch)
    first = min(run.checkpoints.glob("step_*.pt"))
    assert load_checkpoint(first)["progress"]["best"] is None
    for path in set(run.checkpoints.glob("*.pt")) - {first}:
        path.unlink()
    for path in (run.last_checkpoint, run.best_checkpoint):
        path.write_bytes(b"no checkpoint")

    resumed = fit_config(run.path, changed(often, trainer__resume="auto"))
    assert "best.pt is damaged" in caplog.text and "It is lost; the best are chosen anew" in caplog.text
    assert_equal_runs(resumed, whole)


def test_a_finished_run_that_is_resumed_stays_as_it_was(
    small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    again = fit_config(tmp_path / "again", changed(small, trainer__resume=str(whole.path)))
    assert_equal_runs(again, whole)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optimizer.base.lr", 1e-5),
        ("optimizer.base.weight_decay", 0.5),
        ("optimizer.base.betas", [0.8, 0.9]),
        ("optimizer.rho", 0.3),
        ("trainer.grad_clip_norm", 0.01),
        ("loss.label_smoothing", 0.1),
        ("precision.dtype", "float32"),
    ],
)
def test_other_settings_are_trained_with_and_told(
    setting: str,
    value: Any,
    small: DictConfig,
    whole: RunDirectory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change = {setting.replace(".", "__"): value, "trainer__resume": str(whole.path)}
    before = OmegaConf.select(small, setting)
    with caplog.at_level("INFO"):
        run = fit_config(tmp_path / "run", changed(small, trainer__budget__epochs=3, **change))
    told = f"From here on {setting}={value} (the checkpoint has {before})"
    assert [r.message for r in caplog.records if "From here on" in r.message] == [told]
    groups = load_checkpoint(run.last_checkpoint)["optimizer"]["param_groups"]
    key = setting.rpartition(".")[2]
    if key == "lr":
        assert {group["lr"] / group.get("lr_factor", 1.0) for group in groups} == {value}
    elif key in ("weight_decay", "betas"):
        assert list(np.ravel(groups[0][key])) == list(np.ravel(value))
    elif key == "rho":
        assert [r["train/rho"] for r in records_of(run) if "train/rho" in r][-3:] == [value] * 3
    assert OmegaConf.select(OmegaConf.load(run.path / "config.yaml"), setting) == value


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 5}, "seed=5 (the checkpoint has 7)"),
        ({"encoder__text__dropout": 0.3}, "encoder.text.dropout=0.3 (the checkpoint has 0.1)"),
        ({"encoder__text__block_lr_factor": 0.2}, "encoder.text.block_lr_factor=0.2"),
        ({"temperature__momentum": 0.5}, "temperature.momentum=0.5"),
        ({"data__captions": "first"}, "data.captions=first (the checkpoint has random)"),
        ({"data__eval_crop": "center"}, "data.eval_crop=center"),
        ({"optimizer__base___target_": "torch.optim.NAdam"}, "optimizer.base._target_=torch.optim.NAdam"),
        ({"data__split_seed": 1}, "data.split_seed=1 (the checkpoint has 0)"),
        ({"data__caption_noise": 0.2}, "data.caption_noise=0.2 (the checkpoint has 0)"),
    ],
)
def test_what_would_be_another_run_stops(
    settings: dict[str, Any], named: str, small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    if "optimizer__base___target_" in settings:
        small = compose(*SMALL, f"data.root={small.data.root}", "optimizer/base=nadam")
        settings = {}
    with pytest.raises(UserError) as caught:
        fit_config(tmp_path, changed(small, trainer__resume=str(whole.path), **settings))
    assert named in str(caught.value) and str(whole.last_checkpoint) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_of_a_checkpoint_in_the_run_keeps_the_records(
    small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(whole.path, tmp_path / "run")))
    copied = shutil.copy(run.last_checkpoint, run.path / "backup.pt")
    fit_config(run.path, changed(small, trainer__resume=str(copied), trainer__budget__epochs=3))
    steps = [record["step"] for record in records_of(run) if "train/loss" in record]
    before = [record["step"] for record in records_of(whole) if "train/loss" in record]
    assert steps[: len(before)] == before and len(steps) > len(before)


def test_other_captions_are_other_data(small: DictConfig, whole: RunDirectory, tmp_path: Path) -> None:
    moved = shutil.copytree(small.data.root, tmp_path / "moved")
    settings = {"data__root": str(moved), "trainer__resume": str(whole.path)}
    fit_config(tmp_path / "same", changed(small, **settings))
    (moved / "07.txt").write_text("something else\n")
    with pytest.raises(UserError, match=r"was trained on other data"):
        fit_config(tmp_path / "other", changed(small, **settings))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "looksam"])
def test_another_optimizer_is_one_clear_line(
    optimizer: str, small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    cfg = compose(*SMALL, f"data.root={small.data.root}", f"optimizer={optimizer}")
    told = r"^.*last\.pt cannot go on with optimizer\.(descent\.)?_target_=.*$"
    with pytest.raises(UserError, match=told):
        fit_config(tmp_path, changed(cfg, trainer__resume=str(whole.path)))


@pytest.mark.parametrize(
    ("batch_size", "accumulate_steps", "steps"), [(16, 1, 4), (3, 1, 26), (8, 2, 4), (4, 2, 9), (20, 1, 4)]
)
def test_batches_of_another_size_end_and_see_no_image_twice(
    batch_size: int,
    accumulate_steps: int,
    steps: int,
    small: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted after two of three batches of eight, with 14 images of the epoch left."""
    stop_at(monkeypatch, TrainingStep, "__call__", 2, how="signal")
    with pytest.raises(Interrupted):
        fit_config(tmp_path / "a", changed(small, trainer__budget__epochs=3))
    monkeypatch.undo()
    run = fit_config(
        tmp_path / "b",
        changed(
            small,
            trainer__budget__epochs=3,
            trainer__resume=str(tmp_path / "a"),
            trainer__batch_size=batch_size,
            trainer__accumulate_steps=accumulate_steps,
        ),
    )
    progress = load_checkpoint(run.last_checkpoint)["progress"]
    per_step = batch_size * accumulate_steps
    assert progress["step"] == steps == 2 + 14 // per_step + 2 * (30 // per_step)
    assert progress["images"] == 16 + (steps - 2) * per_step
    assert (progress["epoch"], progress["position"]) == (3, 0)
    validations = [r["epoch"] for r in records_of(run) if "val/rsum" in r]
    assert validations == [1, 2, 3]
    passes = [r["train/forward_passes"] for r in records_of(run) if "val/rsum" in r]
    assert passes[-1] == 4 + (steps - 2) * 2 * accumulate_steps


def test_a_smaller_budget_measures_the_weights_it_ends_with(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, TrainingStep, "__call__", 5, how="signal")
    with pytest.raises(Interrupted):
        fit_config(tmp_path / "a", small)
    monkeypatch.undo()
    smaller = changed(small, trainer__resume=str(tmp_path / "a"), trainer__budget__steps=4)
    run = fit_config(tmp_path / "b", smaller)
    assert [r["step"] for r in records_of(run) if "val/rsum" in r] == [3, 5]
    assert json.loads(run.summary.read_text())["steps"] == 5


def test_a_budget_that_the_checkpoint_has_used_up_is_told(
    small: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit_config(tmp_path / "a", small)
    smaller = changed(small, trainer__resume=str(tmp_path / "a"), trainer__budget__steps=4)
    run = fit_config(tmp_path / "b", smaller)
    steps = json.loads(run.summary.read_text())["steps"]
    told = f"Nothing is trained: the {steps} steps of the checkpoint have used up trainer.budget."
    assert caplog.messages.count(told) == 1


def test_best_is_paired_by_content_not_by_name(small: DictConfig, tmp_path: Path) -> None:
    """From a checkpoint of the past, beside the best.pt of a later epoch."""
    longer = changed(small, trainer__budget__epochs=4, trainer__checkpoint_every_epochs=1)
    first = fit_config(tmp_path / "first", longer)
    best = load_checkpoint(first.best_checkpoint)["progress"]["best"]
    past = first.checkpoints / f"epoch_{1 if best['epoch'] > 1 else 2:04}.pt"
    fewer = changed(longer, trainer__budget__epochs=best["epoch"] if best["epoch"] == 1 else 1)
    run = fit_config(tmp_path / "second", changed(fewer, trainer__resume=str(past)))
    summary = json.loads(run.summary.read_text())
    kept = load_checkpoint(run.best_checkpoint)
    assert kept["progress"]["step"] == summary["best"]["step"]
    assert kept["progress"]["best"] == summary["best"]


def test_a_best_that_is_gone_is_told_and_chosen_anew(
    small: DictConfig, whole: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = load_checkpoint(whole.last_checkpoint)
    content["progress"]["best"] = {**content["progress"]["best"], "step": 1, "val/rsum": 599.0}
    alone = tmp_path / "moved.pt"
    save_checkpoint(alone, content)
    run = fit_config(tmp_path / "run", changed(small, trainer__resume=str(alone)))
    assert "The weights of step 1, the best until now (rsum 599.0), are not beside" in caplog.text
    summary = json.loads(run.summary.read_text())
    assert summary["best"]["step"] == 6 and summary["best_rsum"] < 599
    assert load_checkpoint(run.best_checkpoint)["progress"]["step"] == 6


def test_a_checkpoint_of_version_0_1_0_goes_on(
    small: DictConfig, whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, TrainingStep, "__call__", 5, how="signal")
    with pytest.raises(Interrupted):
        fit_config(tmp_path / "run", small)
    monkeypatch.undo()
    run = RunDirectory(tmp_path / "run")
    for path in (run.last_checkpoint, run.best_checkpoint):
        content = load_checkpoint(path)
        progress = content["progress"]
        progress["batch"] = progress.pop("position") // 8
        for new in ("forward_passes", "total_seconds", "validations", "validated_step", "validation_due"):
            del progress[new]
        del content["data"]
        torch.save({**content, "format": 1}, path)
    resumed = fit_config(run.path, changed(small, trainer__resume="auto"))
    assert_equal_runs(resumed, whole, names=("last.pt",))


def test_auto_leaves_runs_of_other_settings_alone(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop_at(monkeypatch, TrainingStep, "__call__", 4, how="signal")
    with pytest.raises(Interrupted):
        fit_config(tmp_path / "a", changed(small, optimizer__rho=0.2))
    monkeypatch.undo()
    RunDirectory(tmp_path / "a").write_status("interrupted")

    def found(name: str, **settings: Any) -> Path | None:
        cfg = changed(small, **settings)
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        return find_checkpoint("auto", RunDirectory(tmp_path / name), config)

    with caplog.at_level("INFO"):
        assert found("b") is None
    assert "(1 of other settings left alone): a fresh start" in caplog.text
    assert found("b", optimizer__rho=0.2, trainer__budget__epochs=9) is None
    checkpoint = tmp_path / "a" / "checkpoints" / "last.pt"
    assert found("b", optimizer__rho=0.2, trainer__num_workers=1) == checkpoint

    # it is b's now, as long as b trains or has trained
    with RunDirectory(tmp_path / "b").lock():
        assert found("c", optimizer__rho=0.2) is None
    assert found("c", optimizer__rho=0.2) == checkpoint
    RunDirectory(tmp_path / "c").last_checkpoint.touch()
    assert found("d", optimizer__rho=0.2) is None

    with pytest.raises(UserError, match=r"holds a run of other settings.*optimizer\.rho=0\.05"):
        fit_config(tmp_path / "a", changed(small, trainer__resume="auto"))


def test_the_newest_of_numbered_runs_is_gone_on_with(
    small: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, TrainingStep, "__call__", 2, how="signal")
    with pytest.raises(Interrupted):
        fit_config(tmp_path / "try_9", small)
    monkeypatch.undo()
    shutil.copytree(tmp_path / "try_9", tmp_path / "try_10")
    (tmp_path / "\u0663").mkdir()  # a digit of another script is text

    config = OmegaConf.to_container(small, resolve=True)
    found = find_checkpoint("auto", RunDirectory(tmp_path / "try_11"), config)  # type: ignore[arg-type]
    assert found is not None and found.parent.parent.name == "try_10"


def test_a_second_run_is_not_written_over_a_first(whole: RunDirectory, tmp_path: Path) -> None:
    for resume in (None, str(tmp_path)):
        with pytest.raises(UserError, match=r"holds a run already.*trainer\.resume=auto"):
            check_directory(resume, whole)
    for resume in ("auto", str(whole.path), str(whole.last_checkpoint)):
        check_directory(resume, whole)
    check_directory(None, RunDirectory(tmp_path / "new"))


def test_a_place_that_does_not_exist_is_told_before_data_are_read(
    whole: RunDirectory, tmp_path: Path
) -> None:
    new = RunDirectory(tmp_path / "new")
    with pytest.raises(SettingError, match=r"trainer\.resume=/nowhere/run: does not exist; give "):
        check_directory("/nowhere/run", new)

    # one that is missing where others are sound is told later
    check_directory(str(whole.checkpoints / "last.pt.lost"), new)


def test_auto_removes_no_finished_run_that_has_lost_its_checkpoints(
    whole: RunDirectory, small: DictConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copy(whole.summary, run.summary)
    with pytest.raises(UserError, match="holds a finished run without its checkpoints"):
        fit_config(run.path, changed(small, trainer__resume="auto"))
    assert run.summary.read_bytes() == whole.summary.read_bytes()


def test_an_empty_resume_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"trainer\.resume=''.*null, auto, or a path"):
        find_checkpoint("", RunDirectory(tmp_path), {})


def test_a_resumed_run_sees_pixels_as_its_checkpoint_saw_them(
    small: DictConfig, whole: RunDirectory, tmp_path: Path
) -> None:
    """As 0.1.0 trained timm's weights, whatever these ask for."""
    content = load_checkpoint(whole.last_checkpoint)
    half = [0.5, 0.5, 0.5]
    content["preprocessing"] |= {"mean": half, "std": half}
    save_checkpoint(tmp_path / "other.pt", content)
    longer = changed(small, trainer__budget__epochs=3, trainer__resume=str(tmp_path / "other.pt"))
    run = fit_config(tmp_path / "run", longer)
    for path in (run.last_checkpoint, run.best_checkpoint):
        seen = load_checkpoint(path)["preprocessing"]
        assert (seen["mean"], seen["std"]) == (half, half)
    restored = restore(run.path).model.image_encoder
    assert restored.preprocessing.mean == tuple(half)


def test_a_run_without_skipped_steps_has_no_file_of_them(whole: RunDirectory) -> None:
    assert not whole.skipped_batches.exists()
