"""The study of attentions counts what it should, as a user runs it."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from miniclip.cli import main
from miniclip.metrics import attention_costs
from miniclip.models import FullAttention
from tests.conftest import miniclip_command


def test_operations_and_parameters_by_hand() -> None:
    (cost,) = attention_costs(
        {"full": FullAttention}, [64], width=32, num_heads=4, device=torch.device("cpu"), rounds=1
    )
    assert cost.parameters == 32 * 96 + 96 + 32 * 32 + 32
    linear, products = 2 * 64 * 32 * (96 + 32), 2 * 2 * 64 * 64 * 32
    assert round(cost.gflops * 1e9) == linear + products
    assert 0 < cost.forward_ms < cost.training_ms
    assert cost.peak_mb > 4 * 64 * 64 * 4 / 1e6  # the scores of four heads at least


@pytest.mark.long
def test_the_command(tmp_path: Path) -> None:
    names = ["full", "linformer", "linformer_fused", "bigbird"]
    done = miniclip_command(
        tmp_path, "text-study", "--lengths", "16", "64", "--rounds", "1", "--attentions", *names
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "outputs/text-study/costs.csv").open()))
    assert {(row["attention"], row["length"]) for row in rows} == {
        (n, k) for n in names for k in ("16", "64")
    }
    assert all(float(row["training_ms"]) > 0 and float(row["peak_mb"]) > 0 for row in rows)
    assert (tmp_path / "outputs/text-study/costs.png").stat().st_size > 20_000
    assert "times as fast as the package linformer" in done.stdout


def test_attentions_whose_package_is_missing_are_left_out_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "reformer_pytorch", None)
    monkeypatch.chdir(tmp_path)
    short = ["miniclip", "text-study", "--lengths", "16", "--rounds", "1", "--width", "64"]
    monkeypatch.setattr(sys, "argv", short)
    main()
    printed = capsys.readouterr().out
    assert printed.startswith("Left out: ") and "reformer-pytorch" in printed.splitlines()[0]
    assert "bigbird" in printed
    monkeypatch.setattr(sys, "argv", [*short, "--attentions", "reformer"])
    with pytest.raises(SystemExit, match="reformer-pytorch"):
        main()


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    done = miniclip_command(tmp_path, "text-study", "--heads", "3", "--lengths", "16")
    assert done.returncode == 1 and "--heads=3 must divide --width=256" in done.stderr
    assert "Traceback" not in done.stderr
