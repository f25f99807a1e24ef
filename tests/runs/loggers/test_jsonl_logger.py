"""The logger of every run: metrics.jsonl, and views that get what it gets."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from miniclip.config.build import check
from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.errors import SettingError, UserError
from miniclip.runs import JsonlLogger, RunFacts, View


class Shown(View):
    """A view that keeps what it was given, and fails at a step if it is told one."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.records: list[dict[str, Any]] = []
        self.end: tuple[bool, dict[str, Any], dict[str, Path]] | None = None

    def _open(self, run: RunFacts) -> None:
        self.run = run

    def _show(self, record: dict[str, Any]) -> None:
        if record["step"] == self.fails_at:
            raise OSError(28, "No space left on device")
        self.records.append(record)

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        self.end = failed, summary, figures


def written(folder: Path) -> list[dict[str, Any]]:
    """The records in metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_three_steps(folder: Path, logger: JsonlLogger) -> None:
    logger.start(folder / "metrics.jsonl", RunFacts("run", {"seed": 0}))
    for step in (1, 2, 3):
        logger.log({"step": step, "train/loss": 1 / step})
    logger.finish(failed=False, summary={"best_rsum": 1.0}, figures={})


def test_records_are_json_even_where_a_number_is_not_finite(tmp_path: Path) -> None:
    logger = JsonlLogger(every_steps=1)
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 1, "train/loss": math.nan, "train/grad_norm": math.inf})
    logger.log({"step": 2, "train/loss": 0.5})
    first, second = written(tmp_path)
    assert first == {"step": 1, "train/loss": None, "train/grad_norm": None}
    assert second["train/loss"] == 0.5


def test_refuses_a_frequency_of_zero() -> None:
    with pytest.raises(SettingError, match="every_steps"):
        JsonlLogger(every_steps=0)


def test_each_record_is_written_once_and_handed_to_every_view(tmp_path: Path) -> None:
    one, other = Shown(), Shown()
    log_three_steps(tmp_path, JsonlLogger(every_steps=1, one=one, other=other))
    assert [record["step"] for record in written(tmp_path)] == [1, 2, 3]
    assert one.records == other.records == written(tmp_path)
    assert one.run == other.run == RunFacts("run", {"seed": 0})
    assert one.end == other.end == (False, {"best_rsum": 1.0}, {})


def test_a_view_that_fails_is_told_once_and_the_other_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Shown(fails_at=2), Shown()
    log_three_steps(tmp_path, JsonlLogger(every_steps=1, failing=failing, other=other))
    assert caplog.text.count("Shown shows no more of this run (OSError: [Errno 28] No space left") == 1
    assert [record["step"] for record in failing.records] == [1] and failing.end is None
    assert [record["step"] for record in other.records] == [1, 2, 3] and other.end is not None
    assert [record["step"] for record in written(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("chosen", "every_steps", "views"),
    [
        ("jsonl", 1, []),
        ("none", None, []),
        ("wandb", 1, ["WandbLogger"]),
        ("[jsonl,wandb]", 1, ["WandbLogger"]),
        ("[wandb,tensorboard]", 1, ["WandbLogger", "TensorboardLogger"]),
    ],
)
def test_loggers_compose(chosen: str, every_steps: int | None, views: list[str]) -> None:
    if "tensorboard" in chosen:
        pytest.importorskip("tensorboard")
    logger = make(compose(f"logger={chosen}"), "logger")
    assert isinstance(logger, JsonlLogger) and logger.every_steps == every_steps
    assert [type(view).__name__ for view in logger.views.values()] == views


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger.wandb.mode=offline"], "the logger wandb is not chosen; choose it with logger=[wandb]"),
        (["logger.mode=offline"], "the logger wandb is not chosen; choose it with logger=[wandb]"),
        (["++logger.wandb.mode=offline"], "the logger wandb is not chosen; choose it with logger=[wandb]"),
        (["logger=tensorboard", "logger.project=x"], "logger.wandb.project=x: the logger wandb is not"),
        (["logger=wandb", "logger.wandb.mod=offline"], "Did you mean logger.wandb.mode?"),
        (["logger=wandb", "+logger.wandb.mod=offline"], "Did you mean logger.wandb.mode?"),
        (["logger=wandb", "logger.wandb.mode=on"], "logger.wandb.mode='on': must be one of online,"),
        (["logger.projct=x"], "Did you mean logger.wandb.project?"),
        (["+logger.every_step=2"], "Did you mean logger.every_steps?"),
        (["+logger.mine=2"], "logger.mine is no setting of miniclip.runs.JsonlLogger"),
        (["+logger.mine={_target_:miniclip.runs.RunFacts}"], "logger.mine is no setting"),
        (["logger.every_steps=0"], "logger.every_steps=0: must be at least 1"),
        (["logger=[]"], "logger cannot be left out; choose logger=none"),
        (["logger=[none,wandb]"], "none goes alone"),
        (["logger=[wandb,tensorbord]"], "Did you mean logger=tensorboard?"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_a_logger_is_told_with_what_to_type(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check(compose(*words))
    assert said in str(caught.value)


def test_a_view_of_ones_own_goes_beside_the_others() -> None:
    own = f"+logger.mine={{_target_:{__name__}.Shown,fails_at:7}}"
    cfg = compose("logger=wandb", own)
    check(cfg)
    logger = make(cfg, "logger")
    assert list(logger.views) == ["wandb", "mine"] and logger.views["mine"].fails_at == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [("project", "x"), ("entity", "us"), ("mode", "offline"), ("job_type", "probe"), ("log_model", "true")],
)
def test_old_names_of_settings_are_taken_and_told(
    key: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = compose("logger=wandb", f"logger.{key}={value}")
    assert str(cfg.logger.wandb[key]).lower() == value
    assert f"logger.{key}={value} is logger.wandb.{key}={value} now" in caplog.text
