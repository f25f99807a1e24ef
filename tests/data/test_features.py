"""Files of features: computed once, whole or not there, made anew when they do not fit."""

import logging
import os
import threading
from pathlib import Path

import pytest
import torch

from miniclip.data.features import CaptionFeatures, Features, kept_features
from miniclip.data.images import ImageFiles
from tests.reliability.limits import largest_file

ROWS = torch.arange(12, dtype=torch.float32).reshape(4, 3)
PROBLEMS = {2: ("The image x.jpg is missing.", "missing")}


class Tower:
    """Gives the same features whenever it is asked, and counts how often."""

    def __init__(self, features: Features | None = None) -> None:
        self.features = features or Features(ROWS, PROBLEMS)
        self.calls = 0

    def __call__(self) -> Features:
        self.calls += 1
        return self.features


def test_they_are_computed_once(tmp_path: Path) -> None:
    tower = Tower()
    for _ in range(2):
        features = kept_features(tmp_path / "cache" / "x.safetensors", 4, tower)
        assert torch.equal(features.rows, ROWS) and features.problems == PROBLEMS
    assert tower.calls == 1


def test_a_gradient_may_pass_where_they_go(tmp_path: Path) -> None:
    with torch.inference_mode():
        computed = Features(ROWS * 1, {})
    rows = kept_features(tmp_path / "x.safetensors", 4, lambda: computed).rows
    layer = torch.nn.Linear(3, 1)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("damage", ["torn", "changed", "short", "text"])
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, tower = tmp_path / "x.safetensors", Tower()
    kept_features(path, 4, tower)
    content = path.read_bytes()
    if damage == "short":
        path.unlink()
        kept_features(path, 3, lambda: Features(ROWS[:3], {}))
    else:
        changed = {"torn": content[:-5], "changed": content[:-1] + b"\x01", "text": b"no features"}
        path.write_bytes(changed[damage])

    with caplog.at_level(logging.WARNING):
        assert torch.equal(kept_features(path, 4, tower).rows, ROWS)
    assert tower.calls == 2 and "is damaged and is made anew" in caplog.text


def test_a_killed_process_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"

    def killed() -> Features:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_features(path, 4, killed)
    assert not path.exists()

    # half a file of a process that could not even clean up
    (tmp_path / ".x.safetensors.partial").write_bytes(b"half")
    assert torch.equal(kept_features(path, 4, Tower()).rows, ROWS)
    assert {each.name for each in tmp_path.iterdir()} == {"x.safetensors", "x.lock"}


def test_of_two_that_want_them_one_computes(tmp_path: Path) -> None:
    path, tower = tmp_path / "x.safetensors", Tower()
    threads = [threading.Thread(target=kept_features, args=(path, 4, tower)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tower.calls == 1


def test_a_folder_that_cannot_be_made_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with torch.inference_mode():
        computed = Features(ROWS * 1, {})
    rows = kept_features(tmp_path / "file" / "x.safetensors", 4, lambda: computed).rows
    assert torch.equal(rows, ROWS) and not rows.is_inference()
    assert "cannot be written" in caplog.text and "data.cache_dir=FOLDER" in caplog.text


def test_a_full_disk_is_told_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.safetensors"
    with largest_file(20):
        assert torch.equal(kept_features(path, 4, Tower()).rows, ROWS)
    assert "cannot be written (File too large)" in caplog.text and not path.exists()


def test_a_file_that_is_cut_after_it_was_read_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    kept_features(path, 4, Tower())
    features = kept_features(path, 4, Tower())
    os.truncate(path, 0)
    assert torch.equal(features.rows, ROWS)


def test_captions_are_looked_up() -> None:
    lookup = CaptionFeatures(["a", "b", "c", "d"], ROWS, context_length=8)
    features, mask = lookup.encode(["d", "a", "d"])
    assert torch.equal(features, ROWS[[3, 0, 3]]) and mask.shape == (3, 0)


def test_features_without_an_image_that_can_be_read_by_now_are_made_anew(
    tmp_path: Path, picture_folder: Path
) -> None:
    images = ImageFiles(picture_folder, [f"{row}.jpg" for row in range(4)], decode_size=16)
    path = tmp_path / "x.safetensors"
    for reason, num_problems in (("broken", 1), ("unreadable", 0)):
        path.unlink(missing_ok=True)
        incomplete = Features(ROWS, {1: ("The image 1.jpg is refused.", reason)})
        kept_features(path, 4, Tower(incomplete), images=images)
        again = kept_features(path, 4, lambda: Features(ROWS, {}), images=images)
        assert len(again.problems) == num_problems
