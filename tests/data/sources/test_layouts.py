"""Every public layout, from small files in its exact format."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import data
from miniclip.data import DataSource, ImageTextDataset
from miniclip.errors import SettingError, UserError

COMMON: dict[str, Any] = {
    "image_size": 32,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
}
SEEDED: dict[str, Any] = {"val_fraction": 0.25, "split_seed": 0, **COMMON}


def datasets(source: DataSource) -> tuple[ImageTextDataset, ImageTextDataset]:
    """Both data sets, each with an item read for good measure."""
    both = source.datasets()
    for side in both:
        assert side[0][0].shape == (3, 32, 32)
    return both


def sizes(source: DataSource) -> tuple[str, int, int]:
    train, val = datasets(source)
    return val.split.name, len(train), len(val)


@pytest.fixture
def root(tmp_path: Path, picture_folder: Path) -> Path:
    """A data set's folder, still without images or captions."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def put_images(pictures: Path, folder: Path) -> None:
    shutil.copytree(pictures, folder)


def captions(index: int) -> list[str]:
    return [f"Caption {number} of picture {index} , with a comma ." for number in range(5)]


@pytest.mark.parametrize("folder", ["flickr30k-images", "flickr30k_images/flickr30k_images", "Images", "."])
def test_flickr30k_original(root: Path, picture_folder: Path, folder: str) -> None:
    shutil.copytree(picture_folder, root / folder, dirs_exist_ok=True)
    lines = [f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(captions(i))]
    (root / "results_20130124.token").write_text("".join(lines))
    source = data.Flickr30k(root=str(root), **SEEDED)
    assert sizes(source) == ("seeded val", 9, 3)
    assert [len(own) for own in datasets(source)[0].split.captions] == [5] * 9


def test_flickr30k_results_with_the_malformed_row(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_images(picture_folder, root / "flickr30k_images")
    lines = [f"{i}.jpg| {k}| {text}\n" for i in range(12) for k, text in enumerate(captions(i))]
    lines[9] = "1.jpg| 4   A dog runs across the grass .\n"
    (root / "results.csv").write_text("image_name| comment_number| comment\n" + "".join(lines))
    with caplog.at_level(logging.WARNING):
        train, val = datasets(data.Flickr30k(root=str(root), **SEEDED))
    every = dict(
        zip([*train.split.ids, *val.split.ids], [*train.split.captions, *val.split.captions], strict=True)
    )
    assert every["1.jpg"][4] == "A dog runs across the grass ."
    assert list(every["0.jpg"]) == captions(0)
    assert "missing separator of 1 row" in caplog.text


def test_a_folder_of_hidden_files_is_no_image_folder(root: Path, picture_folder: Path) -> None:
    (root / "Images").mkdir()
    (root / "Images" / "._0.jpg").write_bytes(b"what macOS leaves")
    put_images(picture_folder, root / "images")
    lines = [f"{i}.jpg#0\t{captions(i)[0]}\n" for i in range(12)]
    (root / "results_20130124.token").write_text("".join(lines))
    assert sizes(data.Flickr30k(root=str(root), **SEEDED)) == ("seeded val", 9, 3)


@pytest.mark.parametrize("source_type", [data.Flickr30k, data.Flickr8k])
def test_karpathy(root: Path, picture_folder: Path, source_type: Any) -> None:
    put_images(picture_folder, root / "Images")
    parts = ["train"] * 6 + ["restval"] * 2 + ["val"] * 3 + ["test"]
    images = [
        {"filename": f"{i}.jpg", "split": part, "sentences": [{"raw": text} for text in captions(i)]}
        for i, part in enumerate(parts)
    ]
    (root / source_type.split_file).write_text(json.dumps({"images": images}))
    assert sizes(source_type(root=str(root), **SEEDED)) == ("val", 8, 3)
    assert sizes(source_type(root=str(root), eval_split="test", **SEEDED)) == ("test", 8, 1)


def test_flickr30k_of_hugging_face(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "flickr30k-images")
    parts = ["train"] * 8 + ["val"] * 3 + ["test"]
    rows = [
        '"{}","[{}]",{},{}.jpg,{}\n'.format(json.dumps(captions(i)).replace('"', '""'), i, part, i, i)
        for i, part in enumerate(parts)
    ]
    (root / "flickr_annotations_30k.csv").write_text("raw,sentids,split,filename,img_id\n" + "".join(rows))
    train, val = datasets(data.Flickr30k(root=str(root), **SEEDED))
    assert (val.split.name, len(train), len(val)) == ("val", 8, 3)
    assert list(train.split.captions[3]) == captions(3)


def test_flickr8k_split_lists(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "Flicker8k_Dataset")
    lines = [f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(captions(i))]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    (root / "Flickr_8k.trainImages.txt").write_text("".join(f"{i}.jpg\n" for i in range(7)))
    (root / "Flickr_8k.devImages.txt").write_text("7.jpg\n8.jpg\n")
    assert sizes(data.Flickr8k(root=str(root), **SEEDED)) == ("val", 7, 2)
    with pytest.raises(SettingError, match="eval_split=test: is no part of this data set"):
        data.Flickr8k(root=str(root), eval_split="test", **SEEDED).datasets()
    (root / "Flickr_8k.testImages.txt").write_text("9.jpg\n")
    assert sizes(data.Flickr8k(root=str(root), eval_split="test", **SEEDED)) == ("test", 7, 1)


@pytest.mark.parametrize("with_val", [True, False])
@pytest.mark.parametrize("folder", [".", "annotations"])
def test_coco_captions(root: Path, picture_folder: Path, with_val: bool, folder: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    for part, indices in (("train", range(8)), ("val", range(8, 12))):
        if part == "val" and not with_val:
            continue
        put_images(picture_folder, root / f"{part}2017")
        content = {
            "images": [{"id": 100 + i, "file_name": f"{i}.jpg"} for i in indices],
            "annotations": [
                {"image_id": 100 + i, "caption": text} for i in indices for text in captions(i)
            ],
        }
        (root / folder / f"captions_{part}2017.json").write_text(json.dumps(content))
    expected = ("val", 8, 4) if with_val else ("seeded val", 6, 2)
    assert sizes(data.CocoCaptions(root=str(root), **SEEDED)) == expected


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_images_and_texts(root: Path, picture_folder: Path, split: bool) -> None:
    for i in range(12):
        folder = root / ("val" if i < 3 else "train") if split else root / f"nested {i % 2}"
        folder.mkdir(exist_ok=True)
        shutil.copy(picture_folder / f"{i}.jpg", folder / f"{i}.JPG")
        (folder / f"{i}.txt").write_text("\n".join(captions(i)) + "\n\n")
    name = "val" if split else "seeded val"
    assert sizes(data.Folder(root=str(root), **SEEDED)) == (name, 9, 3)


def test_an_image_without_its_text_is_named(root: Path, picture_folder: Path) -> None:
    shutil.copy(picture_folder / "1.jpg", root / "1.jpg")
    with pytest.raises(SettingError, match=r"1\.jpg has no 1\.txt"):
        data.Folder(root=str(root), **SEEDED).datasets()
    shutil.copy(picture_folder / "1.jpg", root / "2.jpg")
    (root / "2.txt").write_text("a picture")
    with pytest.raises(UserError, match=r"1 of 2 images without captions .*: 1\.jpg\. Write a 1\.txt"):
        data.Folder(root=str(root), **SEEDED).datasets()


def write_parquet(
    path: Path, pictures: Path, indices: range, *, lists: bool = False, plain: bool = False
) -> None:
    import pyarrow
    import pyarrow.parquet

    content = [(pictures / f"{i}.jpg").read_bytes() for i in indices]
    images = content if plain else [{"bytes": each, "path": None} for each in content]
    texts = [captions(i) if lists else captions(i)[0] for i in indices]
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "caption": texts}), path, row_group_size=3)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("val", ["validation", "val", None])
def test_parquet(root: Path, picture_folder: Path, lists: bool, plain: bool, val: str | None) -> None:
    shape = {"lists": lists, "plain": plain}
    folder = root / "data" if plain else root
    write_parquet(folder / "train-00000-of-00002.parquet", picture_folder, range(5), **shape)
    write_parquet(folder / "train-00001-of-00002.parquet", picture_folder, range(5, 8), **shape)
    if val is not None:
        write_parquet(folder / f"{val}-00000-of-00001.parquet", picture_folder, range(8, 12), **shape)
    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    assert sizes(source) == (("val", 8, 4) if val is not None else ("seeded val", 6, 2))
    assert len(datasets(source)[0].split.captions[0]) == (5 if lists else 1)


def test_parquet_rows_without_a_caption_are_left_out_aloud(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow.parquet

    write_parquet(root / "train.parquet", picture_folder, range(8))
    table = pyarrow.parquet.read_table(root / "train.parquet")
    texts = pyarrow.array([None, " ", *table.column("caption").to_pylist()[2:]])
    pyarrow.parquet.write_table(table.set_column(1, "caption", texts), root / "train.parquet")
    source = data.Parquet(
        root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    assert sizes(source) == ("seeded val", 4, 2)
    assert "2 rows without a caption left out" in caplog.text


def test_parquet_without_the_column_names_those_it_has(root: Path, picture_folder: Path) -> None:
    write_parquet(root / "train.parquet", picture_folder, range(8))
    for settings in (
        {"image_column": None, "caption_column": "titel"},
        {"image_column": "x", "caption_column": None},
    ):
        with pytest.raises(UserError, match="it has: image, caption"):
            data.Parquet(root=str(root), class_column=None, **settings, **SEEDED).datasets()
    (root / "train.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        data.Parquet(
            root=str(root), image_column=None, caption_column=None, class_column=None, **SEEDED
        ).datasets()


def test_the_real_products(real_data: Path) -> None:
    source = data.Parquet(
        root=str(real_data / "fashion"), image_column=None, caption_column=None, class_column=None, **SEEDED
    )
    train, val = datasets(source)
    assert (val.split.name, len(train), len(val)) == ("val", 40_072, 2_000)


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_missing_images_are_replaced_and_counted_if_asked(
    tmp_path: Path, picture_folder: Path, cache: Any
) -> None:
    rows = "".join(f"{i}.jpg,number {i}\n" for i in [*range(12), 77])
    (tmp_path / "table.csv").write_text(f"image,caption\n{rows}")
    tables = {f"{side}_csv": str(tmp_path / "table.csv") for side in ("train", "val")}
    roots = {f"{side}_root": str(picture_folder) for side in ("train", "val")}
    columns = {"image_column": None, "caption_column": None, "separator": None}
    settings: dict[str, Any] = {**tables, **roots, **columns, **COMMON}
    with pytest.raises(UserError, match=r"77\.jpg"):
        data.CSVTable(**settings).datasets()
    skip = {"on_broken_image": "skip", "max_broken_fraction": 0.1, "cache_dir": str(tmp_path / "cache")}
    train, val = data.CSVTable(**settings, **skip, cache=cache).datasets()
    item = train.item((0, 12))
    assert item.problem is not None and item.problem.reason == "missing" and item.image == 0
    assert len(train) == 13 and len(val) == 12


HUB = {
    "config": None,
    "train_split": None,
    "val_split": None,
    "image_column": None,
    "caption_column": None,
    "class_column": None,
}


def hub(name: Path | str, **changes: Any) -> data.Hub:
    return data.Hub(hub=str(name), **{**HUB, **SEEDED, **changes})


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("val", ["validation", None])
def test_a_copy_of_a_hub_set(root: Path, picture_folder: Path, lists: bool, val: str | None) -> None:
    hub_sets = pytest.importorskip("datasets")
    content = {"image": [], "caption": [], "kind": []}  # type: ignore[var-annotated]
    for index in range(12):
        content["image"].append({"bytes": (picture_folder / f"{index}.jpg").read_bytes(), "path": None})
        content["caption"].append(captions(index) if lists else captions(index)[0])
        content["kind"].append(index % 2)
    rows = hub_sets.Dataset.from_dict(content).cast_column("image", hub_sets.Image())
    rows = rows.cast_column("kind", hub_sets.ClassLabel(names=["even", "odd"]))
    rows.select(range(8)).to_parquet(root / "train-00000-of-00001.parquet")
    if val is not None:
        rows.select(range(8, 12)).to_parquet(root / f"{val}-00000-of-00001.parquet")
    source = hub(root, class_column="kind")
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
        hub(root, **settings).datasets()
    assert len(hub(root).datasets()[0]) == 3


def test_a_hub_set_of_image_files(root: Path, picture_folder: Path) -> None:
    pytest.importorskip("datasets")
    put_images(picture_folder, root / "train")
    rows = "".join(f"{index}.jpg,{captions(index)[0].replace(',', ';')}\n" for index in range(12))
    (root / "train" / "metadata.csv").write_text(f"file_name,text\n{rows}")
    assert sizes(hub(root)) == ("seeded val", 9, 3)
    train, _ = hub(root).datasets()
    (root / "train" / "0.jpg").unlink()
    with pytest.raises(UserError, match="row 0 is missing"):
        train[0]


def test_the_hub_without_a_network_says_where_files_go() -> None:
    with pytest.raises(UserError, match=r"nobody/nothing cannot be loaded.*data\.root=FOLDER"):
        hub("nobody/nothing").datasets()


@pytest.mark.parametrize("lists", [True, False])
def test_json_lines(tmp_path: Path, picture_folder: Path, lists: bool) -> None:
    rows = [{"file_name": f"{i}.jpg", "text": captions(i) if lists else captions(i)[0]} for i in range(12)]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    tables = {f"{side}_csv": str(table) for side in ("train", "val")}
    roots = {f"{side}_root": str(picture_folder) for side in ("train", "val")}
    columns = {"image_column": None, "caption_column": None, "separator": None}
    source = data.CSVTable(**tables, **roots, **columns, **COMMON)  # type: ignore[arg-type]
    assert sizes(source) == ("val", 12, 12)
    assert len(datasets(source)[0].split.captions[0]) == (5 if lists else 1)


def test_every_caption_is_an_item_with_captions_all(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "Images")
    lines = [f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(captions(i)[: 1 + i % 3])]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    train, val = data.Flickr8k(root=str(root), captions="all", **SEEDED).datasets()
    expected = [text for own in train.split.captions for text in own]
    assert [train[i][1] for i in range(len(train))] == expected
    assert len(val) == 3 and val[0][1] == val.split.captions[0][0]
    first, _ = data.Flickr8k(root=str(root), captions="first", **SEEDED).datasets()
    assert [first[epoch, 0][1] for epoch in range(5)] == [first.split.captions[0][0]] * 5
    random, _ = data.Flickr8k(root=str(root), captions="random", **SEEDED).datasets()
    place = max(range(9), key=lambda i: len(random.split.captions[i]))
    assert len({random[epoch, place][1] for epoch in range(20)}) == 3


def test_broken_images_are_replaced_in_training_and_left_out_of_validation(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_images(picture_folder, root / "Images")
    (root / "Flickr8k.token.txt").write_text("".join(f"{i}.jpg#0\tpicture {i}\n" for i in range(12)))
    settings = {"on_broken_image": "skip", "max_broken_fraction": 0.4, **SEEDED}
    train, val = data.Flickr8k(root=str(root), **settings).datasets()
    for split in (train.split, val.split):
        (root / "Images" / split.ids[1]).write_bytes(b"<html>not found</html>")
    train, val = data.Flickr8k(root=str(root), **settings).datasets()
    item = train.item((0, 1))
    assert item.problem is not None and train.split.ids[1] in str(item.problem)
    assert item.caption == train.split.captions[2][0] and item.image == 2
    assert len(val) == 2 and "Left out of the seeded val split" in caplog.text
    with pytest.raises(UserError, match=r"max_broken_fraction=0\.1"):
        data.Flickr8k(root=str(root), **settings | {"max_broken_fraction": 0.1}).datasets()


def test_thirty_thousand_images_are_listed_in_seconds(root: Path) -> None:
    """The time itself is in experiments/LOG.md; here only that listing does not ask file by file."""
    folder = root / "Images"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(folder / "0.jpg")
    for i in range(1, 3000):
        (folder / f"{i}.jpg").hardlink_to(folder / "0.jpg")
    (root / "Flickr8k.token.txt").write_text("".join(f"{i}.jpg#0\tpicture {i}\n" for i in range(3000)))
    train, val = data.Flickr8k(root=str(root), **SEEDED).datasets()
    assert len(train) + len(val) == 3000
