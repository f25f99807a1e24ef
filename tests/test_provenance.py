"""The user's key and the signatures made with it."""

import logging
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from miniclip import provenance
from miniclip.provenance import is_ours, sign

DATA = {"_target_": "miniclip.data.Folder", "root": "/pictures", "crop_scale": [0.5, 1.0], "limit": None}
ROUNDS = 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a key, which is not there yet."""
    return of_user(tmp_path / "home", monkeypatch)


def of_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a user with another home. Returns where the key is going to be."""
    monkeypatch.setattr(provenance.platformdirs, "user_state_path", lambda name: home / "state" / name)
    return home / "state" / "miniclip" / "signing"


def test_a_signature_is_of_all_settings_whatever_their_order() -> None:
    signature = sign(DATA)
    assert signature is not None and len(signature) == 64
    assert is_ours(dict(reversed(DATA.items())), signature)
    assert not is_ours({**DATA, "root": "/private"}, signature)
    assert not is_ours({**DATA, "more": 1}, signature)
    assert not is_ours(DATA, None)
    assert not is_ours(DATA, "\N{DIGIT ZERO}" * 64) and not is_ours(DATA, "\u00e9" * 64)


def test_the_key_is_made_once_for_the_user_alone(folder: Path) -> None:
    sign(DATA)
    key = (folder / "key").read_bytes()
    assert len(key) == 32
    if os.name == "posix":
        assert (folder / "key").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
    sign({**DATA, "root": "/other"})
    assert (folder / "key").read_bytes() == key
    assert [path.name for path in folder.parent.iterdir()] == ["signing"]


def test_another_user_has_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign(DATA)
    other = of_user(tmp_path / "other", monkeypatch)
    assert not is_ours(DATA, signature)
    assert not other.parent.exists()  # looking makes no key
    assert sign(DATA) != signature and not is_ours(DATA, signature)


def test_a_process_that_was_faster_gives_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        theirs.append(sign(DATA))
        rename(source, target)

    theirs: list[str | None] = []
    monkeypatch.setattr(os, "rename", late)
    ours = sign(DATA)
    assert ours is not None and theirs == [ours]
    assert [path.name for path in folder.parent.iterdir()] == ["signing"]


def sign_at_once(home: Path, start: Barrier, found: "multiprocessing.Queue[list[str | None]]") -> None:
    signatures = []
    for number in range(ROUNDS):
        with pytest.MonkeyPatch.context() as patch:
            of_user(home / str(number), patch)
            start.wait()
            signatures.append(sign(DATA))
    found.put(signatures)


def test_processes_that_begin_at_once_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(2), context.Queue()
    processes = [context.Process(target=sign_at_once, args=(tmp_path, start, found)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = (found.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert first == second and None not in first
    assert len(set(first)) == ROUNDS


def test_a_folder_that_cannot_be_written_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("no folder")
    with caplog.at_level(logging.INFO):
        assert sign(DATA) is None
        assert not is_ours(DATA, "0" * 64)
    [told] = caplog.messages
    assert "not signed" in told and "miniclip evaluate will ask for the place" in told


def test_a_damaged_key_is_told_and_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    signature = sign(DATA)
    (folder / "key").write_bytes(b"short")
    assert sign(DATA) is None and not is_ours(DATA, signature)
    assert f"{folder / 'key'} is damaged; remove it" in caplog.text
    (folder / "key").unlink()
    assert is_ours(DATA, sign(DATA))


def test_without_a_home_nothing_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    of_user(Path("~"), monkeypatch)
    assert sign(DATA) is None and "no home folder" in caplog.text
    assert list(tmp_path.iterdir()) == []
