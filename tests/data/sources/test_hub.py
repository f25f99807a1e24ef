"""Sets of the hub: copies of them, and what cannot be had without a network."""

from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip import data
from miniclip.errors import SettingError, UserError, without_secrets
from tests.data.sources.conftest import SEEDED, datasets, five_captions, hub, put_images, sizes


def test_a_loader_script_is_refused_in_one_line(root: Path) -> None:
    (root / "root.py").write_text("import datasets\n\nclass Root(datasets.GeneratorBasedBuilder): ...\n")
    with pytest.raises(UserError, match=r"is a loader script.*data\.hub=FOLDER") as why:
        hub(root).splits()
    assert "\n" not in str(why.value)


@pytest.mark.parametrize("name", ["https://me:pa@ss/word@host/user/set", "me:pass/word@host/set"])
def test_a_password_in_the_name_of_a_set_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingError, match="holds a password or token") as why:
        hub(name)
    assert "pa" not in str(why.value).replace("password", "").replace("part", "")


def test_passwords_and_tokens_are_not_printed() -> None:
    text = "GET https://u:secret1@host/a?token=secret2&x=1 hf_secret3 via u:secret4@proxy"
    assert "secret" not in without_secrets(text)
    harmless = "user/set@main could not be reached at https://host/user/set"
    assert without_secrets(harmless) == harmless


def test_a_copy_that_cannot_be_read_is_refused_in_one_line(root: Path) -> None:
    (root / "train.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match=r"cannot be loaded: .*data\.hub=FOLDER") as why:
        hub(root).splits()
    assert "\n" not in str(why.value)


HUB = {
    "config": None,
    "train_split": None,
    "val_split": None,
    "image_column": None,
    "caption_column": None,
    "class_column": None,
}


def plain_hub(name: Path | str, **changes: Any) -> data.Hub:
    return data.Hub(hub=str(name), **{**HUB, **SEEDED, **changes})


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("val", ["validation", None])
def test_a_copy_of_a_hub_set(root: Path, picture_folder: Path, lists: bool, val: str | None) -> None:
    hub_sets = pytest.importorskip("datasets")
    content = {"image": [], "caption": [], "kind": []}  # type: ignore[var-annotated]
    for index in range(12):
        content["image"].append({"bytes": (picture_folder / f"{index}.jpg").read_bytes(), "path": None})
        content["caption"].append(five_captions(index) if lists else five_captions(index)[0])
        content["kind"].append(index % 2)
    rows = hub_sets.Dataset.from_dict(content).cast_column("image", hub_sets.Image())
    rows = rows.cast_column("kind", hub_sets.ClassLabel(names=["even", "odd"]))
    rows.select(range(8)).to_parquet(root / "train-00000-of-00001.parquet")
    if val is not None:
        rows.select(range(8, 12)).to_parquet(root / f"{val}-00000-of-00001.parquet")
    source = plain_hub(root, class_column="kind")
    assert sizes(source) == (("val", 8, 4) if val is not None else ("seeded val", 6, 2))
    train, held_out = datasets(source)
    assert len(train.split.captions[0]) == (5 if lists else 1)
    if val is not None:
        assert list(held_out.split.labels or []) == ["even", "odd"] * 2
        same = data.Parquet(
            root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
        ).datasets()
        assert torch.equal(train[3][0], same[0][3][0])
        assert list(train.split.captions[3]) == list(same[0].split.captions[3])


@pytest.mark.parametrize("in_parts", [True, False])
def test_a_copy_that_datasets_saved_holds_no_rows_but_its_own(
    root: Path, images: list[dict[str, Any]], in_parts: bool
) -> None:
    """Beside its files lie those in which `map` keeps what it made."""
    hub_sets = pytest.importorskip("datasets")
    columns = {"image": images, "caption": [f"picture {row}" for row in range(12)]}
    rows = hub_sets.Dataset.from_dict(columns).cast_column("image", hub_sets.Image())
    parts = {"train": rows.select(range(8)), "validation": rows.select(range(8, 12))}
    saved = hub_sets.DatasetDict(parts) if in_parts else rows
    saved.save_to_disk(root)
    again = hub_sets.load_from_disk(str(root))
    again.map(lambda row: {"caption": row["caption"].upper()})
    assert list(root.rglob("cache-*.arrow"))

    source = plain_hub(root, merge_equal_images=False)
    assert sizes(source) == (("val", 8, 4) if in_parts else ("seeded val", 9, 3))
    captions = {text for split in source.splits() for text in split.captions.flat()}
    assert captions == set(columns["caption"])


def test_a_file_in_the_place_of_a_copy_is_told(root: Path) -> None:
    pytest.importorskip("datasets")
    (root / "train.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be loaded") as why:
        plain_hub(root / "train.parquet").splits()
    assert "dataset_dict.json" not in str(why.value)


def test_a_saved_copy_may_lie_in_a_folder_of_any_name(root: Path, images: list[dict[str, Any]]) -> None:
    """`datasets` takes [1] and * for patterns."""
    hub_sets = pytest.importorskip("datasets")
    columns = {"image": images, "caption": [f"picture {row}" for row in range(12)]}
    rows = hub_sets.Dataset.from_dict(columns).cast_column("image", hub_sets.Image())
    rows.save_to_disk(root / "set [1]")
    assert sizes(plain_hub(root / "set [1]")) == ("seeded val", 9, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset_dict.json", "[1]"),
        ("dataset_dict.json", '{"splits": [3]}'),
        ("state.json", '{"_data_files": ["a"]}'),
    ],
)
def test_a_damaged_list_of_a_saved_copys_files_is_told(root: Path, name: str, text: str) -> None:
    pytest.importorskip("datasets")
    (root / name).write_text(text)
    with pytest.raises(UserError, match=r"is damaged\. Write the copy again"):
        plain_hub(root).splits()


def test_classes_of_a_hub_set_are_captions_by_their_names(root: Path, picture_folder: Path) -> None:
    hub_sets = pytest.importorskip("datasets")
    images = [{"bytes": (picture_folder / f"{row}.jpg").read_bytes(), "path": None} for row in range(8)]
    rows = hub_sets.Dataset.from_dict({"image": images, "kind": [0, 1, -1, None, 0, 1, 0, 1]})
    rows = rows.cast_column("image", hub_sets.Image())
    rows = rows.cast_column("kind", hub_sets.ClassLabel(names=["even", "odd"]))
    rows.to_parquet(root / "train-00000-of-00001.parquet")
    splits = plain_hub(root, caption_column="kind", class_column="kind").splits()
    captions = [caption for split in splits for own in split.captions for caption in own]
    assert sorted(captions) == ["even"] * 3 + ["odd"] * 3
    assert splits[0].labels is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"val_split": "dev"}, "val_split"),
        ({"caption_column": "titel"}, "it has: image, text"),
        ({"image_column": "text"}, "holds no images"),
    ],
)
def test_a_hub_set_that_is_asked_for_what_it_lacks(
    root: Path, picture_folder: Path, settings: dict[str, str], says: str
) -> None:
    hub_sets = pytest.importorskip("datasets")
    put_images(picture_folder, root / "pictures")
    images = [str(root / "pictures" / f"{index}.jpg") for index in range(4)]
    rows = hub_sets.Dataset.from_dict({"image": images, "text": ["one", "two", "three", "four"]})
    rows.cast_column("image", hub_sets.Image()).to_parquet(root / "train-0.parquet")
    with pytest.raises(UserError, match=says):
        plain_hub(root, **settings).datasets()
    assert len(plain_hub(root).datasets()[0]) == 3


def test_a_hub_set_of_image_files(root: Path, picture_folder: Path) -> None:
    pytest.importorskip("datasets")
    put_images(picture_folder, root / "train")
    rows = "".join(f"{index}.jpg,{five_captions(index)[0].replace(',', ';')}\n" for index in range(12))
    (root / "train" / "metadata.csv").write_text(f"file_name,text\n{rows}")
    assert sizes(plain_hub(root)) == ("seeded val", 9, 3)
    train, _ = plain_hub(root).datasets()
    (root / "train" / "0.jpg").unlink()
    with pytest.raises(UserError, match="row 0 is missing"):
        train[0]


def test_the_hub_without_a_network_says_where_files_go() -> None:
    with pytest.raises(UserError, match=r"nobody/nothing cannot be loaded.*data\.root=FOLDER"):
        plain_hub("nobody/nothing").datasets()
