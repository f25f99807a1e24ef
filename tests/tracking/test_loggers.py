"""Loggers: what is on disk afterwards."""

import json
import math
from pathlib import Path

import pytest

from miniclip.errors import SettingError
from miniclip.tracking import JsonlLogger, WandbLogger


def test_records_are_json_even_where_a_number_is_not_finite(tmp_path: Path) -> None:
    logger = JsonlLogger(every_steps=1)
    logger.start(tmp_path / "metrics.jsonl", name="run", config={})
    logger.log({"step": 1, "train/loss": math.nan, "train/grad_norm": math.inf})
    logger.log({"step": 2, "train/loss": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "train/loss": None, "train/grad_norm": None}
    assert json.loads(lines[1])["train/loss"] == 0.5


def test_online_without_a_key_goes_offline_with_a_warning_and_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = WandbLogger(project="test", entity=None, mode="online", every_steps=1)
    logger.start(tmp_path / "metrics.jsonl", name="run", config={"optimizer": {"rho": 0.05}})
    logger.log({"step": 1, "train/loss": 0.5})
    logger.finish(failed=False, summary={"best_rsum": 100.0}, figures={})
    assert "kept offline" in caplog.text and "wandb sync" in caplog.text
    offline = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(offline) == 1
    assert b"rho" in offline[0].read_bytes()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_refuses_a_frequency_of_zero() -> None:
    with pytest.raises(SettingError, match="every_steps"):
        JsonlLogger(every_steps=0)
