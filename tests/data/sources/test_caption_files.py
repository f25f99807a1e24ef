"""The files that captions of Flickr and COCO are published in: encodings, and damage that is named."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.data import (
    Flickr30k,
)
from miniclip.data.sources.caption_files import (
    read_coco,
    read_hugging_face,
    read_karpathy,
    read_results,
    read_token_file,
)
from miniclip.errors import UserError
from tests.data.sources.conftest import SEEDED, datasets, five_captions, put_images, token_file


def test_a_damaged_split_file_is_named(flickr_root: Path) -> None:
    (flickr_root / "dataset_flickr30k.json").write_text('{"pictures": []}')
    with pytest.raises(UserError, match=r"dataset_flickr30k\.json"):
        Flickr30k(root=str(flickr_root), **SEEDED).splits()


def test_a_damaged_token_file_names_the_line(flickr_root: Path) -> None:
    token_file(flickr_root)
    with open(flickr_root / "results_20130124.token", "a") as file:
        file.write("no tab here\n")
    with pytest.raises(UserError, match="line 61"):
        Flickr30k(root=str(flickr_root), **SEEDED).splits()


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "results.csv": (lambda path: list(read_results(path)), "0.jpg| 0| a café\n"),
    "results.token": (lambda path: list(read_token_file(path)), "0.jpg#0\ta café\n"),
    "annotations.csv": (read_hugging_face, 'raw,split,filename\n"[""a café""]",train,0.jpg\n'),
    "karpathy.json": (
        read_karpathy,
        '{"images": [{"split": "train", "filename": "0.jpg", "sentences": [{"raw": "a café"}]}]}',
    ),
    "coco.json": (
        read_coco,
        '{"images": [{"id": 1, "file_name": "0.jpg"}],'
        ' "annotations": [{"image_id": 1, "caption": "a café"}]}',
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_the_encoding_of_every_captions_file(tmp_path: Path, name: str) -> None:
    read, content = READERS[name]
    path = tmp_path / name
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(content.encode(encoding))
        assert "a café" in str(read(path)) and "\ufeff" not in str(read(path))
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name}, line \d: byte \d+ \(0xe9\) is no UTF-8.*iconv"):
        read(path)


@pytest.mark.parametrize("name", ["annotations.csv", "karpathy.json", "coco.json"])
def test_captions_that_are_no_text_are_named(tmp_path: Path, name: str) -> None:
    read, content = READERS[name]
    path = tmp_path / name
    quote = '""' if name.endswith("csv") else '"'
    path.write_text(content.replace(f"{quote}a café{quote}", "7"))
    assert "'7'" in str(read(path))
    path.write_text(content.replace(f"{quote}a café{quote}", "0.5"))
    with pytest.raises(UserError, match=rf"{name}, image 0.jpg: a caption is a float"):
        read(path)


def test_flickr30k_results_with_the_malformed_row(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_images(picture_folder, root / "flickr30k_images")
    lines = [f"{i}.jpg| {k}| {text}\n" for i in range(12) for k, text in enumerate(five_captions(i))]
    lines[9] = "1.jpg| 4   A dog runs across the grass .\n"
    (root / "results.csv").write_text("image_name| comment_number| comment\n" + "".join(lines))
    with caplog.at_level(logging.WARNING):
        train, val = datasets(data.Flickr30k(root=str(root), **SEEDED))
    every = dict(
        zip([*train.split.ids, *val.split.ids], [*train.split.captions, *val.split.captions], strict=True)
    )
    assert every["1.jpg"][4] == "A dog runs across the grass ."
    assert list(every["0.jpg"]) == five_captions(0)
    assert "missing separator of 1 row" in caplog.text
