"""A canary in each of the places where people keep passwords and keys: nothing that a run writes has it."""

import gzip
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from miniclip.commands.console import console
from miniclip.config.refusals import refuse_misspelled
from miniclip.errors import SettingError, holds_secret, without_secrets
from tests.in_process import miniclip_in_process, train_in_process, undone
from tests.reliability.trials import TINY, Trial, before_call

CANARY = "canary7f3a9c51"
"""No word of it stands anywhere else."""

TOKEN = f"hf_{CANARY}abcdef"

SERVER = f"http://me:{CANARY}@127.0.0.1:9"
"""A user, a password, and a port at which nobody listens."""

ENVIRONMENT = {
    "WANDB_API_KEY": CANARY.ljust(40, "0"),
    "WANDB_BASE_URL": SERVER,
    "HF_TOKEN": TOKEN,
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/of/aws",
    "SERVICE_PASSWORD": f"{CANARY}-service",
    "SERVICE_KEY": f"{CANARY}-key-of-service",
    "HTTP_PROXY": SERVER,
    "HTTPS_PROXY": SERVER,
}

BESIDE = (".netrc", "remote of git")
"""Two places that are no variables."""

SHORT = (*TINY, "trainer.budget.epochs=1", "data.limit=32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who works in a git repository and has logged in to Weights & Biases."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".netrc").write_text(f"machine 127.0.0.1:9 login user password {CANARY.ljust(40, '1')}\n")
    (folder / ".netrc").chmod(0o600)
    remote = f"https://me:{CANARY}@example.org/repository.git"
    for words in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def trial(home: Path, folder: Path, *settings: str, failing: bool = False) -> Trial:
    """A run of the user, and perhaps one whose training fails with an address in its words."""
    before = before_call("miniclip.training.trainer:Trainer.fit", 1, fail) if failing else None
    return Trial(
        *SHORT,
        *settings,
        output=folder / "output.txt",
        before=partial(begin, home, before),
        **ENVIRONMENT,
        HOME=str(home),
        NETRC=str(home / ".netrc"),
        WANDB_MODE="online",
    )


def begin(home: Path, then: Callable[[], object] | None) -> None:
    os.chdir(home)
    if then is not None:
        then()


def fail() -> None:
    raise ConnectionError(f"GET {SERVER}/set?token={TOKEN} was refused by {ENVIRONMENT['WANDB_API_KEY']}")


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files below a folder with their bytes, those of archives unpacked."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue

        content = path.read_bytes()
        yield str(path), path.name.encode() + content
        if content[:2] == b"\x1f\x8b":
            yield f"{path} unpacked", gzip.decompress(content)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield f"{path} unpacked", b"".join(map(archive.read, archive.namelist()))


def test_no_run_writes_a_secret(home: Path, tmp_path: Path) -> None:
    run, sweep = tmp_path / "run", tmp_path / "sweep"
    run.mkdir()
    sweep.mkdir()
    trained = trial(home, run, "logger=[wandb,tensorboard]", f"hydra.run.dir={run}")
    failed = trial(home, sweep, "-m", "seed=0", f"hydra.sweep.dir={sweep}", failing=True)
    assert trained.wait() == 0 and "is kept offline" in trained.printed
    assert failed.wait() == 1 and "ConnectionError" in failed.printed and "Traceback" in failed.printed
    miniclip_in_process("report", run, "--out", tmp_path / "report", **ENVIRONMENT)

    files = dict(contents(tmp_path))
    found = [name for name, content in files.items() if CANARY.encode() in content]
    kinds = {"status.json", "overrides.yaml", "job.json", "train.log", "environment.json", "report.html"}
    kinds |= {"config.yaml", "hydra.yaml", "summary.csv", "last.pt", "debug.log"}
    assert kinds <= {Path(name).name for name in files}
    assert any(name.endswith(".wandb") for name in files) and any("tfevents" in name for name in files)
    assert any("ConnectionError" in log.read_text("utf-8") for log in sweep.glob("*/train.log"))

    num_places = len(ENVIRONMENT) + len(BESIDE)
    print(f"\na secret in {num_places} places, found in {len(found)} of {len(files)} files")
    assert not found


TYPED = [
    f"data.hub=https://me:{CANARY}@host/user/set",
    f"data.hub=me:{CANARY}@host/user/set",
    f"trainer.resume=s3://me:{CANARY}@host/x",
    f"logger.wandb.entity={TOKEN}",
    f"name={CANARY}-service",
    f"name={CANARY}-key-of-service",
    f"+logger.wandb.api_key={CANARY}",
    f"+hydra.job.env_set.WANDB_API_KEY={CANARY}",
    f"data.root=[a,https://me:{CANARY}@host/x]",
    "logger.wandb.entity=${oc.env:WANDB_API_KEY}",
    "name=a${oc.env:SERVICE_PASSWORD,none}",
    "name=${oc.env:SERVICE_KEY}",
]


@pytest.mark.parametrize("word", TYPED)
def test_what_is_typed_holds_no_secret(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="holds a password") as caught:
        refuse_misspelled([word])
    assert word.partition("=")[0].lstrip("+") in str(caught.value)
    assert CANARY not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize(
    "line", [f"name: {TOKEN}", "name: ${oc.env:PLACE}", "seed: ${oc.env:SERVICE_PASSWORD}"]
)
def test_what_a_file_of_settings_says_holds_no_secret(line: str, sweep: bool, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiments"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\n{line}\n")
    words = [f"--config-dir={folder.parent}", "experiments=mine", *(["-m", "seed=1,2"] if sweep else [])]
    places = [f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/run"]
    answer = train_in_process(*words, *places, PLACE=SERVER, **ENVIRONMENT)
    assert answer.returncode == 1 and "holds a password" in answer.stderr
    assert CANARY not in answer.stdout + answer.stderr and not (tmp_path / "run").exists()


def test_a_traceback_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", ENVIRONMENT["WANDB_API_KEY"])
    with undone(), console():
        try:
            fail()
        except ConnectionError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    told = capsys.readouterr().err
    assert "Traceback" in told and "ConnectionError: GET http://***@127.0.0.1:9" in told
    assert CANARY not in told


HARMLESS = [
    "C:\\photos\\a@2x.png",
    "R@1/5/10 image to text: 0.0",
    "hf_text is no option of encoder/text",
    "data.root=a/b@c",
    "9e107d9d372bb6826bd81d3542a419d6",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", "postgres")  # a word of any text
    assert not holds_secret(text)
    if not text.startswith("hf_"):
        assert without_secrets(text) == text
