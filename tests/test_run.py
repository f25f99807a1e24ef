"""run.py as a user types it: the issue's own commands, good and bad."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, run_miniclip
from tests.in_process import train_in_process

STEPS = ("trainer.budget.steps=2",)


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def test_it_learns(tmp_path: Path) -> None:
    done = run_miniclip(
        "image_size=32",
        "encoder/image=timm",
        "encoder.image.architecture=test_resnet",
        "encoder.text.width=64",
        "encoder.text.num_layers=1",
        "data.limit=256",
        "trainer.batch_size=32",
        "trainer.budget.epochs=6",
        "optimizer.rho=0.02",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = only(tmp_path, "outputs/miniclip/*")
    losses = [r["train/loss"] for r in map(json.loads, (run / "metrics.jsonl").open()) if "train/loss" in r]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    assert json.loads((run / "status.json").read_text())["status"] == "completed"
    for figure in ("curves.png", "retrieval.png"):
        assert (run / "figures" / figure).stat().st_size > 10_000
    assert "image to text" in done.stdout and "text to image" in done.stdout
    assert (run / "train.log").read_text().strip()
    assert "img/s]" not in done.stderr  # no bars where there is no terminal


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sam", "optimizer.rho=0.05"],
        ["optimizer=adamw", "trainer.accumulate_steps=2"],
        ["optimizer=asam", "optimizer.rho_schedule=warmup"],
        ["optimizer=gsam", "precision=fp16"],
        ["optimizer=sam_norm_only", "trainer.accumulate_steps=2"],
        ["optimizer=looksam", "temperature.sam=reuse"],
        ["optimizer=msam", "optimizer/base=nadam"],
        ["optimizer=interval", "optimizer/base=sgd", "data.cache=memory"],
        ["optimizer=sam", "optimizer/base=muon", "data.captions=all", "loss.multi_positive=true"],
        ["optimizer/base=sgd", "optimizer.per_layer=true"],
        ["encoder/text=transformer", "temperature=learned", "projection=separate"],
        ["precision=fp16", "schedule=constant", "temperature=fixed", "projection=linear"],
        ["loss=siglip", "loss.multi_positive=true", "data.captions=all", "precision=fp16"],
        [
            "encoder.text.attention.k=4",
            "projection.expansion=2",
            "logger=wandb",
            "logger.wandb.mode=offline",
        ],
    ],
    ids=" ".join,
)
def test_overrides_run_two_steps(tmp_path: Path, overrides: list[str]) -> None:
    done = train_in_process(*TINY, *STEPS, *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only(tmp_path, "outputs/miniclip/*")
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_own_images_from_tables(tmp_path: Path, picture_folder: Path) -> None:
    for side, held in (("train", range(9)), ("val", range(9, 12))):
        rows = "".join(f"{index}.jpg,number {index}\n" for index in held)
        (tmp_path / f"{side}.csv").write_text("image,caption\n" + rows)
    tables = [
        f"data.{side}_{key}={value}"
        for side in ("train", "val")
        for key, value in (("csv", tmp_path / f"{side}.csv"), ("root", picture_folder))
    ]
    done = train_in_process("data=csv", *tables, *TINY, *STEPS, "trainer.num_workers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "val: 3 images, 3 captions" in done.stdout


@pytest.mark.parametrize("data", ["flickr8k", "flickr30k"])
def test_photographs(tmp_path: Path, real_data: Path, data: str) -> None:
    root = f"data.root={real_data / 'flickr8k_1k'}"
    names = ["data=flickr8k"] if data == "flickr8k" else ["experiments=flickr30k", "device=cpu"]
    small = [f"encoder.image.weights={'null'}", "trainer.num_workers=0"]
    done = train_in_process(*names, root, *TINY, *STEPS, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seeded val: " in done.stdout


def test_a_sweep_leaves_a_directory_a_job(tmp_path: Path) -> None:
    done = train_in_process("-m", *TINY, *STEPS, "optimizer.rho=0,0.05", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = only(tmp_path, "outputs/miniclip/sweep_*")
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    swept = ["0_rho=0,seed=0", "1_rho=0,seed=1", "2_rho=0.05,seed=0", "3_rho=0.05,seed=1"]
    assert [",".join(job.split(",")[:2]) for job in jobs] == swept
    for job in jobs:
        assert (sweep / job / "summary.json").is_file()


def test_printing_the_config_is_quick(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = run_miniclip("--cfg", "job", "--resolve", cwd=tmp_path)
    assert done.returncode == 0 and "rho: 0.05" in done.stdout
    assert time.perf_counter() - started < 5  # 2 s on an idle machine
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.roh=0.1"], "Did you mean optimizer.rho?"),
        (["optimzer=sam"], "Did you mean optimizer=sam?"),
        (["optimizer=smas"], "Did you mean optimizer=sam?"),
        (["encoder/text/attention=linfomer"], "Did you mean encoder/text/attention=linformer?"),
        (["data=csv"], "data.train_csv is needed"),
        (["device=cuda:9"], "device=cuda:9"),
        (["optimizer.rho=[1"], "optimizer.rho"),
    ],
    ids=str,
)
def test_bad_input_ends_in_one_clear_error(tmp_path: Path, overrides: list[str], named: str) -> None:
    done = train_in_process(*overrides, cwd=tmp_path)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) < 25


@pytest.mark.parametrize(
    "word", ["data.hub=https://me:secret@host/set", "trainer.resume=s3://me:secret@host/x"]
)
def test_a_password_is_written_nowhere(word: str, tmp_path: Path) -> None:
    data = ["data=hub", "data.hub=set"] if not word.startswith("data.hub") else ["data=hub"]
    done = train_in_process(*TINY, *data, word, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 1 and "***@host" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_a_failed_run_says_so_in_its_status(tmp_path: Path) -> None:
    done = train_in_process(*TINY, "trainer.batch_size=64", cwd=tmp_path)
    assert done.returncode == 1 and "trainer.batch_size=64" in done.stderr
    status = json.loads((only(tmp_path, "outputs/miniclip/*") / "status.json").read_text())
    assert status["status"] == "failed" and "batch_size" in status["reason"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_saves_and_says_how(tmp_path: Path, signum: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *TINY, "trainer.budget.epochs=500"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/miniclip/*/checkpoints/last.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    run = only(tmp_path, "outputs/miniclip/*")
    assert process.returncode == code
    assert f"trainer.resume={run}" in output and "Traceback" not in output
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"


def test_waiting_threads_sleep_before_torch_is_there() -> None:
    program = (
        "import os, sys; from miniclip.cli import main; sys.argv[1:] = ['completion', 'fish']; main();"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    for env, expected in (({}, "3000 False"), ({"GOMP_SPINCOUNT": "7"}, "7 False")):
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == expected, done.stderr
