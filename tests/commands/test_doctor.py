"""The doctor's command: what it prints and writes, and how it ends."""

import json
from pathlib import Path

import pytest

from tests.conftest import miniclip_command
from tests.folder_set import examined, save_set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save_set(tmp_path / "set")


def test_a_healthy_set(root: Path) -> None:
    code, found, text = examined(root)
    assert code == 0 and "Healthy." in text
    assert found["splits"]["train"]["images"] == 12 and found["splits"]["val"]["captions"] == 12
    assert found["leaks"] == found["exact_duplicates"] == found["near_duplicates"] == []
    assert sum(found["token_lengths"].values()) == 36 and found["num_truncated"] == 0
    assert len(found["splits"]["val"]["fingerprint"]) == 16


def test_its_folder_is_named_as_those_of_runs(tmp_path: Path, root: Path) -> None:
    done = miniclip_command(tmp_path, "doctor", "data=folder", f"data.root={root}", 'name="a:b"')
    assert done.returncode == 0 and "outputs/a-b/doctor" in done.stdout, done.stderr
    assert [folder.name for folder in (tmp_path / "outputs").iterdir()] == ["a-b"]


def test_what_it_cannot_read_is_one_line(tmp_path: Path) -> None:
    done = miniclip_command(tmp_path, "doctor", "data=folder", "data.root=nowhere")
    assert done.returncode == 1 and "data.root=nowhere" in done.stderr and "Traceback" not in done.stderr
    done = miniclip_command(tmp_path, "doctor", "data=foldr", "data.root=nowhere")
    assert done.returncode == 1 and "Did you mean data=folder?" in done.stderr


def test_all_missing_images_are_counted(tmp_path: Path, root: Path) -> None:
    rows = "".join(f"{name}.jpg,picture {name}\n" for name in [*range(12), "lost", "gone"])
    (tmp_path / "table.csv").write_text(f"image,caption\n{rows}")
    tables = [f"data.{side}_csv={tmp_path / 'table.csv'}" for side in ("train", "val")]
    roots = [f"data.{side}_root={root / 'train'}" for side in ("train", "val")]
    done = miniclip_command(tmp_path, "doctor", "data=csv", *tables, *roots)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    found = json.loads((tmp_path / "outputs/miniclip/doctor/doctor.json").read_text())
    assert sorted(found["broken"]) == [
        f"{side}: {name}.jpg" for side in ("train", "val") for name in ("gone", "lost")
    ]
    assert all("is missing" in reason for reason in found["broken"].values())


def test_empty_captions_are_counted(tmp_path: Path, root: Path) -> None:
    rows = "".join(f"{name}.jpg,picture {name}\n{name}.jpg,\n" for name in range(12))
    (tmp_path / "table.csv").write_text(f"image,caption\n{rows}")
    tables = [f"data.{side}_csv={tmp_path / 'table.csv'}" for side in ("train", "val")]
    roots = [f"data.{side}_root={root / 'train'}" for side in ("train", "val")]
    done = miniclip_command(tmp_path, "doctor", "data=csv", *tables, *roots)
    found = json.loads((tmp_path / "outputs/miniclip/doctor/doctor.json").read_text())
    assert len(found["remarks"]) == 2 and "12 rows without a caption" in found["remarks"][0]
    assert "remarks on the tables: 2" in done.stdout and "12 rows without a caption" in done.stdout
