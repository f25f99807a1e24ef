"""Classes that a set holds as numbers are read by their names, whoever reads the set."""

from pathlib import Path
from typing import Any

import pytest

from miniclip.data.sources.class_names import class_of_cell, features_in_schema, with_class_names
from miniclip.errors import UserError
from tests.data.sources.conftest import BOTH, SourceOf, hub, parquet, titles, write

KINDS = {"_type": "ClassLabel", "names": ["cat", "dog", "cow"]}


@pytest.fixture
def animals(root: Path, images: Any) -> Path:
    """A copy of a set whose every row has a class, and two in a list."""
    sets = pytest.importorskip("datasets")
    kinds = sets.ClassLabel(names=KINDS["names"])
    columns = {
        "image": images,
        "kind": [row % 3 for row in range(12)],
        "kinds": [[row % 3, 2] for row in range(12)],
    }
    features = sets.Features({"image": sets.Image(), "kind": kinds, "kinds": sets.Sequence(kinds)})
    sets.Dataset.from_dict(columns, features).to_parquet(str(root / "train.parquet"))
    return root


STREAMED = {"streaming": True, "val_images": 2, "images_per_epoch": 8}


@pytest.mark.parametrize(("source_of", "changes"), [(parquet, {}), (hub, {}), (hub, STREAMED)])
def test_captions_and_classes_are_names(animals: Path, source_of: Any, changes: dict[str, Any]) -> None:
    def train_of(column: str) -> Any:
        source = source_of(animals, caption_column=column, class_column="kind", **changes)
        return source.training_sets().train.split

    assert {captions[0] for captions in train_of("kind").captions} == {"cat", "dog", "cow"}
    several = train_of("kinds")
    assert {tuple(captions) for captions in several.captions} == {
        ("cat", "cow"),
        ("dog", "cow"),
        ("cow", "cow"),
    }
    if not changes:  # a stream has no classes
        assert list(several.labels) == [captions[0] for captions in several.captions]


def test_each_file_has_names_of_its_own_for_its_numbers(root: Path, images: Any) -> None:
    sets = pytest.importorskip("datasets")
    for number, names in enumerate([["cat", "dog"], ["dog", "cat"]]):
        own = images[6 * number : 6 * (number + 1)]
        features = sets.Features({"image": sets.Image(), "kind": sets.ClassLabel(names=names)})
        rows = sets.Dataset.from_dict({"image": own, "kind": [0] * 6}, features)
        rows.to_parquet(str(root / f"train-0000{number}-of-00002.parquet"))

    source = parquet(root, caption_column="kind", class_column="kind", val_fraction=0.5)
    for split in source.splits():
        for image_id, label, captions in zip(split.ids, split.labels, split.captions, strict=True):
            row = int(image_id.split()[-1])
            assert label == captions[0] == ("cat" if row < 6 else "dog")


def test_only_numbers_of_classes_become_names() -> None:
    assert with_class_names(1, KINDS, "here") == "dog"
    assert with_class_names(-1, KINDS, "here") is None and with_class_names(None, KINDS, "here") is None
    assert with_class_names(1, {"_type": "Value", "dtype": "int64"}, "here") == 1
    assert with_class_names({"a": [2], "b": 2}, {"a": [KINDS]}, "here") == {"a": ["cow"], "b": 2}
    objects = {"feature": {"a": KINDS}, "length": -1, "_type": "Sequence"}  # of datasets before version 4
    assert with_class_names({"a": [0, 2]}, objects, "here") == {"a": ["cat", "cow"]}
    assert with_class_names([{"a": 2}], objects, "here") == [{"a": "cow"}]
    named = {"feature": KINDS, "_type": {"_type": "Value"}}  # an object whose fields are called so
    assert with_class_names({"feature": 1, "_type": 1}, named, "here") == {"feature": "dog", "_type": 1}
    with pytest.raises(UserError, match="here: the class 3 has no name among"):
        with_class_names(3, KINDS, "here")


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"info": {"features": 3}}'])
def test_a_file_that_says_nothing_of_features_has_none(text: bytes) -> None:
    assert features_in_schema({b"huggingface": text}) == features_in_schema(None) == {}


@BOTH
def test_a_class_is_a_text_or_a_number(
    root: Path, images: Any, source_of: SourceOf, caplog: pytest.LogCaptureFixture
) -> None:
    kinds: list[Any] = [1.5, float("nan"), *[2.5] * 10]
    write(root / "train.parquet", image=images, caption=titles(), kind=kinds, kinds=[["a"]] * 12)
    splits = source_of(root, class_column="kind").splits()
    assert all(split.labels is None for split in splits)
    assert "11 of 12 images have a class" in caplog.text  # and none is called nan
    with pytest.raises(
        UserError, match=r"the column kinds, row 0: a class is a list, \['a'\]; .*class_column="
    ):
        source_of(root, class_column="kinds").splits()
    assert class_of_cell(" cat ", "here") == "cat" and class_of_cell(3, "here") == "3"
