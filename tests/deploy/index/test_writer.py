"""One writer at a time, killed at any moment; other models, other folders and damage are told."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from miniclip.deploy.index import Index, open_writer
from miniclip.deploy.index.database import writing
from miniclip.deploy.onnx_model import fingerprint_in
from miniclip.errors import UserError
from tests.conftest import ROOT
from tests.deploy.index.conftest import assert_holds, expected_vectors, save_photo, vectors_by_name
from tests.deploy.index.projection import ProjectionModel, embed


def test_an_index_survives_being_killed(tmp_path: Path) -> None:
    """It is whole after each kill, and complete when it is let run."""
    photos, folder = tmp_path / "photos", tmp_path / "index"
    for number in range(400):
        save_photo(photos / f"{number}.png", number)
    draw = random.Random(0)
    num_held = 0

    for turn in range(7):
        before = expected_vectors(photos)
        for change in range(25):
            path = photos / f"{draw.randrange(400)}.png"
            path.unlink(missing_ok=True)
            if change % 3:
                save_photo(path, 10_000 + 100 * turn + change)
        kill_an_embedding(folder, photos, num_writes=draw.randint(1, 40), after=draw.uniform(0, 0.005))

        # every vector is that of its image, before or after the last changes
        after = expected_vectors(photos)
        for name, vector in held_after_a_kill(folder).items():
            differences = [abs(vector - state[name]).max() for state in (before, after) if name in state]
            assert min(differences, default=0) < 1e-3, name
            num_held += 1

    assert num_held > 400
    embed(folder, photos)
    assert_holds(folder, expected_vectors(photos))


def kill_an_embedding(folder: Path, photos: Path, *, num_writes: int, after: float) -> None:
    """Start an embedding, wait for so many writes, and `after` seconds more, and kill it."""
    command = [sys.executable, "-m", "tests.deploy.index.projection", str(folder), str(photos)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    for _ in range(num_writes):
        modified = last_change(folder)
        while last_change(folder) == modified and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()


def last_change(folder: Path) -> int:
    """When SQLite's log was written the last time."""
    try:
        return (folder / "index.sqlite-wal").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def held_after_a_kill(folder: Path) -> dict[str, np.ndarray]:
    """What the index holds; nothing where it was killed before it was made."""
    try:
        return vectors_by_name(folder)
    except UserError as error:
        assert "empty" in str(error) or "holds no index" in str(error)
        return {}


def test_a_second_writer_is_turned_away(photos: Path, tmp_path: Path) -> None:
    with (
        open_writer(tmp_path / "index", ProjectionModel(), model_path=Path("m")),
        pytest.raises(UserError, match="is being written by another process"),
    ):
        embed(tmp_path / "index", photos)
    embed(tmp_path / "index", photos)


def test_another_model_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    with pytest.raises(UserError, match=r"made by the model projection 0 .*, not by projection 1 "):
        embed(tmp_path / "index", photos, model=ProjectionModel(seed=1))
    assert_holds(tmp_path / "index", expected_vectors(photos))


def in_precision(precision: str) -> ProjectionModel:
    """The same model, exported in another precision."""
    model = ProjectionModel()
    model.fingerprint = fingerprint_in(model.fingerprint, precision)
    return model


@pytest.mark.parametrize(("first", "second"), [("fp32", "int8"), ("int8", "fp32"), ("int8", "fp16")])
def test_another_precision_is_refused_by_name(
    first: str, second: str, photos: Path, tmp_path: Path
) -> None:
    embed(tmp_path / "index", photos, model=in_precision(first))
    with pytest.raises(UserError, match=rf"by projection 0 in {first}, .* those of {second}\. Take"):
        embed(tmp_path / "index", photos, model=in_precision(second))
    embed(tmp_path / "index", photos, model=in_precision(first))


def test_an_index_that_knows_no_precision_takes_the_next(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    with writing(tmp_path / "index") as connection:
        connection.execute("UPDATE facts SET fingerprint = ?", [ProjectionModel().fingerprint])

    embed(tmp_path / "index", photos, model=in_precision("int8"))
    with pytest.raises(UserError, match="in int8, whose vectors do not mix"):
        embed(tmp_path / "index", photos)


def test_a_folder_of_other_files_is_no_place_for_an_index(photos: Path) -> None:
    with pytest.raises(UserError, match=r"holds other files .* and no index"):
        embed(photos, photos)
    assert not (photos / "index.sqlite").exists()


def test_a_diverged_model_is_told(photos: Path, tmp_path: Path) -> None:
    model = ProjectionModel()
    model.weights[:] = np.nan
    with pytest.raises(UserError, match="gives no finite vector for"):
        embed(tmp_path / "index", photos, model=model)


def test_a_folder_without_an_index_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no index. Make one with: miniclip embed"):
        Index(tmp_path)
    assert os.listdir(tmp_path) == []


def cut_vectors(folder: Path) -> None:
    file = next(folder.glob("vectors-*.f16"))
    file.write_bytes(file.read_bytes()[:-1])


def remove_vectors(folder: Path) -> None:
    (next(folder.glob("vectors-*.f16"))).unlink()


def cut_table(folder: Path) -> None:
    file = folder / "index.sqlite"
    file.write_bytes(file.read_bytes()[:9000])


def write_over_table(folder: Path) -> None:
    (folder / "index.sqlite").write_bytes(b"this is no table at all" * 1000)


def write_over_pages(folder: Path) -> None:
    file = folder / "index.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    file.write_bytes(content)


def drop_table(folder: Path) -> None:
    with sqlite3.connect(folder / "index.sqlite") as connection:
        connection.execute("DROP TABLE entries")
    connection.close()


@pytest.mark.parametrize(
    "damage", [cut_vectors, remove_vectors, cut_table, write_over_table, write_over_pages, drop_table]
)
def test_damage_is_told_in_one_line(damage, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    damage(folder)
    for use in (Index, lambda folder: embed(folder, photos)):
        with pytest.raises(UserError, match=r"is damaged: .* Remove the folder and embed") as caught:
            use(folder)
        assert "\n" not in str(caught.value)


def test_an_index_of_a_newer_version_is_told(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    with sqlite3.connect(tmp_path / "index" / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (Index, lambda folder: embed(folder, photos)):
        with pytest.raises(UserError, match="made by a newer MiniCLIP"):
            use(tmp_path / "index")


def test_an_emptied_table_is_told(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    (tmp_path / "index" / "index.sqlite").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        Index(tmp_path / "index")
