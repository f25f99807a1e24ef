"""The doctor finds what was planted, and nothing in healthy data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import miniclip_command


def photograph(seed: int) -> Image.Image:
    """Smooth noise, each seed its own picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder data set of 12 and 6 images with two captions each."""
    for side, seeds in (("train", range(12)), ("val", range(12, 18))):
        folder = tmp_path / "set" / side
        folder.mkdir(parents=True)
        for seed in seeds:
            photograph(seed).save(folder / f"{seed}.jpg", quality=95)
            (folder / f"{seed}.txt").write_text(f"picture number {seed}\nanother caption of {seed}\n")
    return tmp_path / "set"


def examined(root: Path, *overrides: str) -> tuple[int, dict, str]:
    done = miniclip_command(root.parent, "doctor", "data=folder", f"data.root={root}", *overrides)
    assert "Traceback" not in done.stderr, done.stderr
    report = root.parent / "outputs" / "miniclip" / "doctor"
    assert (report / "doctor.png").stat().st_size > 10_000
    return done.returncode, json.loads((report / "doctor.json").read_text()), done.stdout


def test_a_healthy_set(root: Path) -> None:
    code, found, text = examined(root)
    assert code == 0 and "Healthy." in text
    assert found["splits"]["train"]["images"] == 12 and found["splits"]["val"]["captions"] == 12
    assert found["leaks"] == found["exact_duplicates"] == found["near_duplicates"] == []
    assert sum(found["token_lengths"].values()) == 36 and found["num_truncated"] == 0
    assert len(found["splits"]["val"]["fingerprint"]) == 16


def test_duplicates_within_a_split_are_told_and_no_leak(root: Path) -> None:
    (root / "train" / "0.jpg").replace(root / "train" / "1.jpg")
    photograph(1).save(root / "train" / "0.jpg", quality=95)
    (root / "train" / "2.jpg").write_bytes((root / "train" / "3.jpg").read_bytes())
    code, found, _ = examined(root)
    assert code == 0
    assert found["exact_duplicates"] == [["train: 2.jpg", "train: 3.jpg"]]


def test_a_planted_leak_is_found(root: Path) -> None:
    (root / "val" / "14.jpg").write_bytes((root / "train" / "5.jpg").read_bytes())
    code, found, text = examined(root)
    assert code == 1 and "NOT healthy" in text
    assert found["leaks"] == [["train: 5.jpg", "val: 14.jpg"]]


def test_broken_files_leak_as_well(root: Path) -> None:
    for name in ("train/0.jpg", "val/14.jpg"):
        (root / name).write_bytes(b"the same, and no image")
    (root / "val" / "15.jpg").write_bytes(b"not the same, no image")
    _, found, _ = examined(root)
    assert found["leaks"] == [["train: 0.jpg", "val: 14.jpg"]] and len(found["broken"]) == 3


def test_a_leak_in_another_size_and_compression_is_found(root: Path) -> None:
    photograph(5).resize((120, 90)).save(root / "val" / "14.jpg", quality=60)
    code, found, _ = examined(root)
    assert code == 1
    assert found["near_duplicates"] == found["leaks"] == [["train: 5.jpg", "val: 14.jpg"]]


def test_another_colour_is_another_picture(root: Path) -> None:
    red, green, blue = photograph(5).split()
    Image.merge("RGB", (blue, green, red)).save(root / "val" / "14.jpg", quality=95)
    assert examined(root)[0] == 0


def test_broken_images_and_long_captions(root: Path) -> None:
    (root / "train" / "7.jpg").write_bytes(b"<html>")
    (root / "train" / "8.txt").write_text("word " * 50)
    code, found, text = examined(root)
    assert code == 1 and list(found["broken"]) == ["train: 7.jpg"]
    assert found["num_truncated"] == 1 and "1 of 35" in text


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
