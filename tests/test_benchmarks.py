"""Benchmarks, run for real and short: ours always, the rival's where the extra `bench` is installed."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import figures, loss, time_to_recall
from benchmarks.__main__ import BENCHMARKS
from benchmarks.sam_scorecard import (
    OURS,
    PITFALLS,
    RIVALS,
    Rival,
    ours_of,
    presets,
    reason_to_leave_out,
    scorecard,
)
from miniclip.metrics import retrieval_metrics


def test_the_table_has_what_was_told_and_nothing_that_stands_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "figures.jsonl"
    monkeypatch.setenv(figures.KEPT_IN, str(kept))
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/step_cost.py"])
    for name, value in (("adamw", 1.0), ("sam", 1.957)):
        figures.tell(figures.Figure(name, "adamw", "times the seconds", value, value, 2.1, 3))

    *_, row = figures.as_markdown("CPU", figures.read(kept)).splitlines()
    assert row == "| step_cost | sam | 1.96 | 1.96 to 2.1 | 3 | times the seconds of adamw |"
    assert "| adamw |" not in figures.as_markdown("CPU", figures.read(kept))


@pytest.mark.parametrize("name", [benchmark.module for benchmark in BENCHMARKS])
def test_help_tells_what_a_benchmark_measures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit, match=r"^0$"):
        module.main()
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m benchmarks.{name} ")
    assert (module.__doc__ or "").splitlines()[0] in told


@pytest.mark.parametrize("text", PITFALLS)
def test_no_pitfall_of_the_scorecard_fails_for_us(text: str) -> None:
    verdict = PITFALLS[text](OURS)
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("preset", presets())
def test_no_pitfall_fails_for_any_preset(preset: str) -> None:
    asked = [check for check in PITFALLS.values() if reason_to_leave_out(preset, check) is None]
    assert len(asked) >= 5
    for check in asked:
        verdict = check(ours_of(preset))
        assert verdict.passed, f"{check.__name__}: {verdict.detail}"


@pytest.mark.parametrize("rival", [rival for rival in RIVALS.values() if rival is not OURS])
def test_the_scorecard_tells_each_rival_from_us(rival: Rival, monkeypatch: pytest.MonkeyPatch) -> None:
    if not rival.is_installed:
        pytest.skip(f"needs {rival.name}")
    monkeypatch.setattr("benchmarks.sam_scorecard.RIVALS", {each.name: each for each in (OURS, rival)})
    verdicts = scorecard()
    assert len(verdicts) == 11
    assert all(ours.passed for ours, _ in verdicts.values())
    assert not all(theirs.passed for _, theirs in verdicts.values())


def test_the_evaluator_agrees_with_open_clips_where_each_image_has_one_caption() -> None:
    train = pytest.importorskip("open_clip_train.train", reason="needs the extra bench")
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(300, 16, generator=generator)
    images = texts + 1.5 * torch.randn(300, 16, generator=generator)
    images, texts = (torch.nn.functional.normalize(x, dim=1) for x in (images, texts))
    theirs = train.get_clip_metrics(images, texts, logit_scale=1.0)
    ours = retrieval_metrics(images, texts, torch.arange(300))
    for k in (1, 5, 10):
        assert 0 < ours[f"i2t_r{k}"] < 100
        assert ours[f"i2t_r{k}"] == pytest.approx(100 * theirs[f"image_to_text_R@{k}"])
        assert ours[f"t2i_r{k}"] == pytest.approx(100 * theirs[f"text_to_image_R@{k}"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from Linux")
def test_the_loss_in_tiles_takes_a_part_of_the_memory_and_has_the_same_gradients() -> None:
    names, threads = (loss.AT_ONCE, loss.TILED), torch.get_num_threads()
    at_once, tiled = (loss.extra_memory(name, 2048, threads) for name in names)
    assert 0 < tiled < at_once / 3
    pytest.importorskip("open_clip.loss", reason="needs the extra bench")
    assert loss.error(loss.TILED, loss.Batch.of(1024)) < 1e-5


def test_time_to_recall_trains_and_measures_both_sides(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open_clip_train", reason="needs the extra bench")
    pytest.importorskip("webdataset", reason="needs the extra bench")
    monkeypatch.setattr(sys, "argv", ["", str(real_data / "fashion"), "--samples", "2560"])
    time_to_recall.main()
    printed = capsys.readouterr().out
    assert "2,560 training images, 2,000 validation titles" in printed
    ours = ("MiniCLIP, same samples, AdamW, seed 0", "MiniCLIP, same minutes, seed 0")
    for side in ("open_clip, resnet10t", *ours):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{side} "))
        assert float(line.split("/")[2].split()[0]) > 0  # R@10, image to text
    assert "times open_clip's in" in printed
