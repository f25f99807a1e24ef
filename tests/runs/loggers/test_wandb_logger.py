"""Weights & Biases as a view: what is on disk afterwards."""

import json
import os
import re
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from miniclip.config.build import check
from miniclip.config.compose import compose
from miniclip.errors import UserError
from miniclip.runs import JsonlLogger, RunDirectory, RunFacts, WandbLogger
from miniclip.runs.loggers import wandb_logger as module
from miniclip.runs.loggers import wandb_server
from miniclip.runs.loggers.background import Background
from tests.conftest import ROOT, TINY
from tests.in_process import train_in_process
from tests.runs.loggers.servers import WandbServer, served


def wandb_logger(mode: str) -> WandbLogger:
    return WandbLogger(project="test", entity=None, mode=mode, job_type="train", log_model=False)


def with_view(view: WandbLogger) -> JsonlLogger:
    """The logger of a run that is shown in Weights & Biases."""
    return JsonlLogger(every_steps=1, wandb=view)


def wandb_records(folder: Path) -> list[tuple[str, Any]]:
    """What an offline run wrote: kinds of records and their content."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for data in framed(settled(folder)):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        records.append((kind, getattr(record, kind)))
    return records


def settled(folder: Path) -> bytes:
    """The content of a run's file, which wandb's own process writes, a little later perhaps."""
    (file,) = folder.glob("*.wandb")
    size = -1
    while size != file.stat().st_size or size < 100:
        size = file.stat().st_size
        time.sleep(0.3)
    return file.read_bytes()


def framed(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, behind W&B's seven bytes of header."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def history(records: list[tuple[str, Any]], key: str) -> list[Any]:
    """The values of a key, in their order."""
    return [
        json.loads(item.value_json)
        for kind, record in records
        if kind == "history"
        for item in record.item
        if key in (item.key, *item.nested_key)
    ]


def test_online_without_a_key_goes_offline_with_a_warning_and_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = with_view(wandb_logger("online"))
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {"optimizer": {"rho": 0.05}}))
    logger.log({"step": 1, "train/loss": 0.5})
    logger.finish(failed=False, summary={"best_rsum": 100.0}, figures={})
    assert "kept offline" in caplog.text and "wandb sync" in caplog.text
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert b"rho" in settled(offline)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


def test_a_failed_run_is_marked_and_its_checkpoint_kept_where_asked(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"weights")
    view = wandb_logger("offline")
    view.log_model = True
    logger = with_view(view)
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 1, "train/loss": 0.5})
    logger.finish(failed=True, summary={}, figures={})
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    records = wandb_records(offline)
    assert [own.exit_code for kind, own in records if kind == "exit"] == [1]
    artifacts = [own for kind, own in records if kind == "request" or kind == "artifact"]
    assert any(b"best.pt" in own.SerializeToString() for own in artifacts)


def test_the_environment_decides_where_online_is_only_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = with_view(wandb_logger("online"))
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 1})
    logger.finish(failed=False, summary={}, figures={})
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_two_jobs_of_a_sweep_are_two_runs_each_with_its_own_settings(tmp_path: Path) -> None:
    settings = [
        "logger=wandb",
        "logger.wandb.mode=offline",
        "trainer.budget.steps=2",
        "optimizer.rho=0.01,0.1",
    ]
    done = train_in_process("-m", *TINY, *settings, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stdout
    rhos, ids = [], set()
    for folder in sorted((tmp_path / "sweep").glob("*/wandb/offline-run-*")):
        records = wandb_records(folder)
        (run,) = (record for kind, record in records if kind == "run")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        rhos.append(config["optimizer"]["rho"])
        ids.add(run.run_id)
        assert run.run_group == "sweep" and run.job_type == "train" and "late_sam" in run.tags
        assert (folder.parent.parent / "wandb_id").read_text() == run.run_id
        assert history(records, "step")[:2] == [1, 2]
        assert run.display_name.startswith("miniclip ") and f"rho={rhos[-1]}" in run.display_name
        assert history(records, "figures/curves") and history(records, "retrieval")
        axes = {own.name: own for kind, own in records if kind == "metric"}
        assert axes["val/rsum"].step_metric == "step" and axes["val/rsum"].summary.max
        assert axes["val/loss"].summary.min
        assert [own.exit_code for kind, own in records if kind == "exit"] == [0]
    assert rhos == [0.01, 0.1] and len(ids) == 2


@pytest.mark.long
@pytest.mark.parametrize("sweep", ["linformer_k", "mlp_width", "rho_sweep", "search"])
def test_a_job_of_a_native_sweep(sweep: str, tmp_path: Path) -> None:
    """The command is put together by W&B's own functions, as its agent does on the server's word."""
    from wandb.sdk.launch.sweeps import utils

    settings = utils.load_sweep_config(str(ROOT / "experiments" / "wandb" / f"{sweep}.yaml"))
    assert settings is not None and settings["program"] == "run.py"
    chosen = {
        key: {"value": own["values"][-1] if "values" in own else own["max"]}
        for key, own in settings["parameters"].items()
    }
    filled = {
        **utils.create_sweep_command_args({"args": chosen}),
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [str(ROOT / "run.py")],
    }
    command = [
        part
        for word in utils.create_sweep_command(settings["command"])
        for part in (filled[word[2:-1]] if re.fullmatch(r"\$\{\w+\}", word) else [word])
    ]
    small = [*TINY[:-1], "trainer.budget.steps=2"]
    environment = {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": "0123wxyz"}
    done = subprocess.run(
        [*command, *small],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    name = "search" if sweep == "search" else sweep
    folder = tmp_path / "outputs" / name / "abcd1234" / "0123wxyz"
    assert (folder / "wandb_id").read_text() == "0123wxyz"
    (offline,) = (folder / "wandb").glob("offline-run-*")
    records = wandb_records(offline)
    (run,) = (record for kind, record in records if kind == "run")
    assert run.run_id == "0123wxyz" and run.sweep_id == "abcd1234"
    config: Any = {item.key: json.loads(item.value_json) for item in run.config.update}
    for key, own in chosen.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert own["value"] in (found, "null", "{rho:0.2,times:1}")
    assert history(records, "val/rsum")


def test_a_run_resumed_offline_is_the_same_run_and_whole(tmp_path: Path) -> None:
    settings = ["logger=wandb", "logger.wandb.mode=offline", f"hydra.run.dir={tmp_path / 'run'}"]
    first = train_in_process(*TINY, *settings, "trainer.budget.epochs=1")
    again = train_in_process(*TINY, *settings, "trainer.resume=auto", "trainer.budget.epochs=2")
    assert first.returncode == again.returncode == 0, again.stderr
    parts = [wandb_records(folder) for folder in sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))]
    assert len(parts) == 2
    ids = {record.run_id for records in parts for kind, record in records if kind == "run"}
    assert len(ids) == 1
    steps = [step for step in history(parts[1], "step") if step is not None]
    assert steps == sorted(steps) and set(steps) == set(range(1, 11))


@pytest.mark.parametrize(
    ("answer", "key", "said"),
    [
        (None, "0" * 40, "does not answer"),
        ((401, b"{}"), "0" * 40, "does not take the API key"),
        ((500, b"oops"), "0" * 40, "answers 500"),
        ((200, b"<html>please log in</html>"), "0" * 40, "cannot be used"),
        ("closed", "abc", "cannot be used"),
    ],
    ids=str,
)
def test_a_bad_server_or_key_costs_seconds_and_the_run_is_kept_offline(
    answer: Any,
    key: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_server, "PROBE_SECONDS", 0.5)
    with served((500, b"") if answer == "closed" else answer) as address:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9" if answer == "closed" else address)
        logger = with_view(wandb_logger("online"))
        started = time.perf_counter()
        logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
        logger.log({"step": 1, "train/loss": 0.5})
        logger.finish(failed=False, summary={"best_rsum": 1.0}, figures={})
        assert time.perf_counter() - started < 12  # five, and the work of a busy machine
    assert said in caplog.text and f"wandb sync {tmp_path / 'wandb'}/offline-run-*" in caplog.text
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert history(wandb_records(offline), "train/loss") == [0.5]


def run_online(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, until_opened: bool = False, **settings: Any
) -> float:
    """A run with two records and a server of the given settings. Returns the seconds that the run lost."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with served(None, WandbServer, **settings) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        view = wandb_logger("online")
        logger = with_view(view)
        started = time.perf_counter()
        logger.start(folder / "metrics.jsonl", RunFacts("run", {}))
        lost = time.perf_counter() - started
        assert not until_opened or view.background.wait(30)

        started = time.perf_counter()
        for step in (1, 2):
            logger.log({"step": step, "train/loss": 0.5})
        logger.finish(failed=False, summary={"best_rsum": 1.0}, figures={})
        return lost + time.perf_counter() - started


@pytest.mark.parametrize("num_answers", [0, 1, 2])
def test_a_server_that_falls_silent_costs_five_seconds_in_all(
    num_answers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second answer comes while W&B opens the run, which would wait for the others."""
    assert run_online(tmp_path, monkeypatch, num_answers=num_answers) < module.PATIENCE_SECONDS + 1.5
    assert caplog.text.count("wandb sync") == 1
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    records = wandb_records(offline)
    assert history(records, "train/loss") == [0.5, 0.5]
    assert [record.exit_code for kind, record in records if kind == "exit"] == [0]


def test_a_slow_server_is_waited_for_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes longer than the run waits at its start."""
    lost = run_online(tmp_path, monkeypatch, until_opened=True, seconds=1.0)
    assert lost < module.PATIENCE_SECONDS + 3  # of a busy machine
    assert not list((tmp_path / "wandb").glob("offline-run-*"))
    (online,) = (tmp_path / "wandb").glob("run-*")
    assert history(wandb_records(online), "train/loss") == [0.5, 0.5]


def test_what_the_start_waited_is_taken_off_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.5)
    logger = wandb_logger("offline")
    logger.background = Background()
    over = threading.Event()
    logger.background.add(over.wait)
    assert not logger._wait(0.2)
    assert 0.1 < logger.patience <= 0.3
    assert not logger._wait(logger.patience)
    assert logger.patience == 0
    over.set()
    assert logger.background.wait(5)


def test_a_process_of_wandb_that_dies_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from wandb.sdk import wandb_setup

    view = wandb_logger("offline")
    logger = with_view(view)
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 1, "train/loss": 0.5})
    logger.log({"step": 1, "val/loss": 0.4})
    assert view.background.wait(5)
    service = wandb_setup.singleton()._connection._proc._process
    os.kill(service.pid, signal.SIGKILL)
    service.wait()
    for step in range(2, 6):
        logger.log({"step": step, "train/loss": 0.5})
        time.sleep(0.1)
    logger.finish(failed=False, summary={"best_rsum": 1.0}, figures={})
    assert caplog.text.count("wandb sync") == 1
    newest = max((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    assert history(wandb_records(newest), "step")[:6] == [1, 1, 2, 3, 4, 5]


def test_the_environment_names_project_entity_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("WANDB_NAME", "first")
    cfg = compose("logger=wandb")
    assert (cfg.logger.wandb.project, cfg.logger.wandb.entity) == ("mine", "us")
    assert compose("logger=wandb", "logger.project=typed").logger.wandb.project == "typed"
    logger = with_view(wandb_logger("offline"))
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.finish(failed=False, summary={}, figures={})
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (run,) = (record for kind, record in wandb_records(offline) if kind == "run")
    assert run.display_name == "first"


def test_tags_of_the_environment_join_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_TAGS", "paper, sam")
    logger = with_view(wandb_logger("offline"))
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}, tags=["sam", "abc"]))
    logger.finish(failed=False, summary={}, figures={})
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (run,) = (record for kind, record in wandb_records(offline) if kind == "run")
    assert list(run.tags) == ["sam", "abc", "paper"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_PROJECT", "team/clip", "WANDB_PROJECT=team/clip: .*cannot contain characters .*found '/'"),
        ("WANDB_PROJECT", "a" * 129, "WANDB_PROJECT=a+: .*exceeded 128 characters"),
        ("WANDB_MODE", "garbage", "WANDB_MODE=garbage: .*'online', 'offline'"),
        ("WANDB_TAGS", "a,,b", "WANDB_TAGS=a,,b: .*empty"),
    ],
)
def test_a_variable_that_wandb_refuses_is_told_before_data_are_read(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        check(compose("logger=wandb"))


def test_what_may_be_secret_of_a_refused_variable_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB__EXTRA_HTTP_HEADERS", "{'Authorization': 's3cr3t'")
    with pytest.raises(UserError, match="WANDB__EXTRA_HTTP_HEADERS: ") as caught:
        check(compose("logger=wandb"))
    assert "s3cr3t" not in str(caught.value)


def test_a_project_that_wandb_refuses_is_told_before_data_are_read() -> None:
    said = r"^logger\.wandb\.project=a/b: .*cannot contain characters .*found '/'"
    with pytest.raises(UserError, match=said):
        check(compose("logger=wandb", "logger.wandb.project=a/b"))


def test_a_run_that_goes_on_elsewhere_is_the_same_run_in_wandb(tmp_path: Path) -> None:
    source = RunDirectory(tmp_path / "source")
    (source.path / "wandb_id").write_text("abcd1234")
    unfinished, branch = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    unfinished.go_on_from(source.path)
    assert (unfinished.path / "wandb_id").read_text() == "abcd1234"
    source.summary.write_text("{}")
    branch.go_on_from(source.path)  # a finished run goes on as another one
    assert not (branch.path / "wandb_id").exists()
