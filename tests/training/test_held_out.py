"""The best checkpoint is chosen on validation; the test part is measured once, with that checkpoint."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from miniclip.config.restore import restore
from miniclip.data import ImageTextDataset
from miniclip.metrics import encode, retrieval_metrics
from miniclip.report.runs import read_collection
from tests.conftest import TINY
from tests.in_process import train_in_process

RUN = (
    *TINY,
    "seed=0",
    "data.limit=24",
    "data.seeded_test_fraction=0.2",
    "data.eval_split=test",
    "trainer.budget.epochs=4",
    "trainer.checkpoint_every_epochs=1",
    "trainer.num_workers=0",
    "precision=fp32",
    "optimizer=adamw",
    "schedule=warmup_cosine",
)


def rsum(checkpoint: Path, measured: ImageTextDataset) -> float:
    """Of one checkpoint on one part, measured apart from the run."""
    restored = restore(checkpoint)
    images = torch.stack([measured[i][0] for i in range(len(measured))])
    features = encode(
        restored.model,
        iter([images]),
        measured.split.captions,
        restored.tokenizer,
        device=torch.device("cpu"),
        autocast=nullcontext,
        batch_size=64,
    )
    return retrieval_metrics(*features)["rsum"]


def test_a_toy_where_the_best_of_validation_is_not_the_best_of_test(tmp_path: Path) -> None:
    done = train_in_process(*RUN, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    checkpoints = [run / "checkpoints" / f"epoch_000{epoch}.pt" for epoch in (1, 2, 3, 4)]
    parts = [restore(checkpoints[0], f"data.eval_split={part}").datasets()[1] for part in ("val", "test")]
    val, test = ([rsum(path, part) for path in checkpoints] for part in parts)
    chosen = val.index(max(val))
    assert test[chosen] < max(test), "the toy needs two parts that disagree"

    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["epoch"] == summary["test"]["epoch"] == chosen + 1
    assert summary["best_rsum"] == pytest.approx(val[chosen])
    assert summary["test"]["test/rsum"] == pytest.approx(test[chosen])
    assert rsum(run / "checkpoints" / "best.pt", parts[1]) == pytest.approx(test[chosen])
    assert summary["test"]["protocol"].startswith("seeded test: 24 images, ")

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["test/rsum"] for r in records if "test/rsum" in r] == [summary["test"]["test/rsum"]]
    assert "the best checkpoint is chosen on the val part all the same" in done.stdout
    assert f"Best of 4 validations ({summary['best']['protocol']})" in done.stdout
    assert f"Test, measured once with that checkpoint ({summary['test']['protocol']})" in done.stdout
    fingerprints = json.loads((run / "environment.json").read_text())["data"]
    assert fingerprints["seeded test"]["fingerprint"] == summary["test"]["fingerprint"]

    (read,) = read_collection([run]).runs
    assert (read.rsum, read.protocol) == (summary["test"]["test/rsum"], summary["test"]["protocol"])
    assert read.ranks is not None and len(read.ranks[0].image_to_text) == 24
