"""Classes of images in shards: in a .cls or a .json, by names or by numbers."""

import logging
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.errors import SettingError, UserError
from miniclip.evaluation import TaskContext
from miniclip.evaluation.task import need_classes
from tests.conftest import miniclip_command
from tests.data.shards.tars import as_json, jpeg, shards, write_tar


def of_classes(path: Path, labels: list[str | None], **texts: str) -> Path:
    """A shard of images with a class each, and no captions but `texts`."""
    members: dict[str, bytes] = {}
    for number, label in enumerate(labels):
        members[f"{number:04}.jpg"] = jpeg(number)
        if label is not None:
            members[f"{number:04}.cls"] = f"{label}\n".encode()
    members |= {name.removeprefix("at_") + ".txt": text.encode() for name, text in texts.items()}
    return write_tar(path, members)


def classes_of(source: data.Shards) -> dict[str, tuple[str, list[str]]]:
    """By its name the class and the captions of each image."""
    return {
        image_id: (label, list(captions))
        for split in source.splits()
        for image_id, label, captions in zip(
            split.ids, list(split.labels or [""] * len(split)), split.captions, strict=True
        )
    }


def test_a_class_stands_for_missing_captions(tmp_path: Path) -> None:
    shard = of_classes(tmp_path / "a.tar", ["hot_dog", "cat", "cat", "cat"], at_0001="A cat sleeps.")
    found = classes_of(shards(shard))
    assert found["a/0000"] == ("hot_dog", ["hot dog"])
    assert found["a/0001"] == ("cat", ["A cat sleeps."])
    assert found["a/0002"] == ("cat", ["cat"])


def test_numbers_of_classes_have_names_in_a_file(tmp_path: Path) -> None:
    shard = of_classes(tmp_path / "a.tar", ["1", "0", "1", "0"], at_0001="0 is not meant here")
    (tmp_path / "names.txt").write_text("cat\nhot dog\n")
    found = classes_of(shards(shard, class_names=str(tmp_path / "names.txt")))
    assert found["a/0000"] == ("hot dog", ["hot dog"])
    assert found["a/0001"] == ("cat", ["0 is not meant here"])

    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"a file of 1 line has no name for the class '1'"):
        shards(shard, class_names=str(tmp_path / "names.txt")).splits()
    with pytest.raises(SettingError, match=r"class_names=.* does not exist"):
        shards(shard, class_names=str(tmp_path / "no.txt"))


def test_a_class_that_is_missing_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"a.jpg": jpeg(0), "a.json": as_json(kind=None), "a.txt": b"a dog"}
    for number in range(3):
        members |= {f"{number}.jpg": jpeg(number + 1), f"{number}.json": as_json(kind=number)}
    names = tmp_path / "names.txt"
    names.write_text("cat\nhot dog\nbird\n", encoding="utf-8-sig")
    shard = write_tar(tmp_path / "a.tar", members)
    found = classes_of(shards(shard, class_column="kind", class_names=str(names)))
    captions = {name: own for name, (_, own) in found.items()}
    assert captions == {"a/a": ["a dog"], "a/0": ["cat"], "a/1": ["hot dog"], "a/2": ["bird"]}
    assert "none is taken to have one" in caplog.text


def test_a_field_of_the_json_is_the_class(tmp_path: Path) -> None:
    members = {}
    for number in range(4):
        members[f"{number}.jpg"] = jpeg(number)
        members[f"{number}.json"] = as_json(caption=f"picture {number}", kind={"name": f"k{number % 2}"})
    shard = write_tar(tmp_path / "a.tar", members)
    assert classes_of(shards(shard))["a/1"] == ("", ["picture 1"])
    assert classes_of(shards(shard, class_column="kind.name"))["a/1"] == ("k1", ["picture 1"])
    with pytest.raises(UserError, match=r"its \.json has no field sort; it has caption, kind"):
        shards(shard, class_column="sort").splits()


def test_no_part_has_classes_for_some_of_its_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = of_classes(tmp_path / "a.tar", ["cat", "dog", None, "cat"], at_0002="a dog")
    with caplog.at_level(logging.WARNING):
        assert {label for label, _ in classes_of(shards(shard)).values()} == {""}
    assert "train: 3 of 4 images have a class, so that none is taken to have one" in caplog.text


def test_shards_that_we_write_keep_classes_for_the_tasks(tmp_path: Path) -> None:
    shard = of_classes(tmp_path / "a.tar", ["cat", "dog", "dog", "cat"] * 2)
    answer = miniclip_command(tmp_path, "shard", "-o", "out", "data=shards", f"data.urls={shard}")
    assert answer.returncode == 0, answer.stderr
    written = shards(tmp_path / "out")
    assert sorted(classes_of(written).values()) == sorted(classes_of(shards(shard)).values())

    model: Any = None
    context = TaskContext(model, *written.datasets(), folder=tmp_path)
    need_classes("zero_shot", context)
    assert context.classes == ["cat", "dog"]
    assert sorted({*context.labels(context.train), *context.labels(context.val)}) == [0, 1]
