"""`miniclip shard`: what it writes holds all that the source held, and it goes on after a kill."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip.data.images import ImageArray
from miniclip.data.shards.writing import Part, ShardWriter, begin, plan
from miniclip.data.split import Split
from miniclip.errors import UserError
from tests.conftest import miniclip_command
from tests.data.shards.tars import shards, write_shards
from tests.data.sources.conftest import folder_source, part_ids
from tests.in_process import Answer

NUM_IMAGES = 12


@pytest.fixture
def photos(tmp_path: Path, picture_folder: Path) -> Path:
    """Twelve images with one or two captions beside each; one of them is a PNG that is called .jpg."""
    for index in range(NUM_IMAGES):
        second = f"Bild {index}\n" if index % 2 else ""
        (picture_folder / f"{index}.txt").write_text(f"picture {index}\n{second}", encoding="utf-8")
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(picture_folder / "3.jpg", "PNG")
    return picture_folder


Command = Callable[..., Answer]


def written(photos: Path, *words: object, out: str = "out", num_processes: int = 1) -> Answer:
    """`miniclip shard` of the photos into the folder `out` beside them."""
    words = *words, "-o", out
    return miniclip_command(
        photos.parent, "shard", "data=folder", f"data.root={photos}", *words, "--processes", num_processes
    )


def contents(split: Split) -> list[tuple[bytes | None, list[str]]]:
    """Encoded image and captions of each image."""
    return [(split.images.content(row), list(captions)) for row, captions in enumerate(split.captions)]


def test_shards_hold_the_bytes_and_captions_of_the_folder(photos: Path) -> None:
    answer = written(photos, "--size", "8KB")
    assert answer.returncode == 0, answer.stderr
    out = photos.parent / "out"
    tars = sorted(out.glob("*.tar"))
    assert answer.stdout == f"12 images in {len(tars)} shards: data=shards data.urls=out\n"
    assert len(tars) == 6 and all(path.stat().st_size < 20_000 for path in tars)
    assert sorted(out.glob("*.index")) == [path.with_name(f"{path.name}.index") for path in tars]

    # the same settings draw the same validation part
    before, after = folder_source(photos), shards(out)
    for one, other in zip(before.splits(), after.splits(), strict=True):
        assert (one.name, contents(one)) == (other.name, contents(other))
    with tarfile.open(tars[0]) as tar:
        names = tar.getnames()
    assert names[:3] == ["000000000.jpg", "000000000.txt", "000000001.jpg"]


def test_other_readers_find_one_caption_and_the_ending_of_the_kind(photos: Path) -> None:
    written(photos)
    with tarfile.open(photos.parent / "out" / "train-00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    row = list(folder_source(photos, val_fraction=0.01).splits()[0].ids).index("3.jpg")
    assert members[f"{row:09}.png"] == (photos / "3.jpg").read_bytes()
    assert members[f"{row:09}.txt"] == b"picture 3"
    assert json.loads(members[f"{row:09}.json"]) == {"captions": ["picture 3", "Bild 3"]}


def test_published_parts_stay_apart(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for index in range(3):
            number = index + 3 * ["train", "val", "test"].index(part)
            for ending in ("jpg", "txt"):
                (photos / f"{number}.{ending}").rename(tmp_path / "set" / part / f"{number}.{ending}")
    answer = miniclip_command(
        tmp_path, "shard", "data=folder", f"data.root={tmp_path / 'set'}", "-o", tmp_path / "out"
    )
    assert answer.returncode == 0, answer.stderr
    parts = part_ids(shards(tmp_path / "out", eval_split="val"))
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 3, "val": 3, "test": 3}


def test_several_processes_write_what_one_does_and_a_killed_command_goes_on(photos: Path) -> None:
    written(photos, "--size", "8KB")
    out = photos.parent / "out"
    whole = {path.name: path.read_bytes() for path in out.glob("*.tar")}

    # as a kill leaves it: some shards, half of another one, one without its index
    gone, kept, *_ = sorted(out.glob("*.tar"))
    gone.rename(out / f".{gone.name}.partial")
    (out / f"{kept.name}.index").unlink()
    os.utime(kept, ns=(1, 1))
    answer = written(photos, "--size", "8KB", num_processes=2)
    assert answer.returncode == 0 and answer.stdout.startswith("12 images in 6 shards"), answer
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == whole
    assert kept.stat().st_mtime_ns == 1  # not written again
    assert len(list(out.glob("*.index"))) == 6 and not list(out.glob(".*"))


def test_shards_of_another_set_are_not_mixed_with(photos: Path) -> None:
    written(photos, "--size", "8KB")
    for change in (("--size", "1MB"), ("data.limit=3", "--size", "8KB")):
        answer = written(photos, *change)
        assert answer.returncode == 1 and "out holds shards of another set" in answer.stderr
    write_shards(photos.parent / "others")
    answer = written(photos, out="others")
    assert answer.returncode == 1 and "others holds shards of another set" in answer.stderr


def test_images_or_classes_that_changed_are_not_mixed_with_those_written_before(tmp_path: Path) -> None:
    """Whose names and captions are the same."""

    def begun(level: int, labels: list[str] | None = None) -> None:
        images = ImageArray(np.full((2, 20, 20, 3), level, dtype=np.uint8))
        part = Part("train", Split("train", ["a", "b"], images, [["one"], ["two"]], labels))
        begin(tmp_path, [part], plan([part], max_bytes=10**6))

    begun(0, ["x", "y"])
    begun(0, ["x", "y"])
    for changed in ((1, ["x", "y"]), (0, ["x", "x"]), (0, None)):
        with pytest.raises(UserError, match="holds shards of another set, of other images or classes"):
            begun(*changed)


def test_images_that_cannot_be_read_stop_it_or_are_left_out(photos: Path) -> None:
    (photos / "5.jpg").write_bytes(b"no image")
    answer = written(photos)
    assert answer.returncode == 1 and "The file 5.jpg is no image" in answer.stderr
    answer = written(photos, "data.on_broken_image=skip", "--size", "8KB", out="skipped", num_processes=2)
    assert answer.returncode == 0, answer.stderr
    assert "left out: The file 5.jpg is no image" in answer.stdout
    assert "11 images in 5 shards" in answer.stdout


def test_pixels_without_a_file_become_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    split = Split("train", "abcd", ImageArray(pixels), [[name] for name in "abcd"])
    parts = [Part("train", split)]
    jobs = plan(parts, max_bytes=8000)
    assert [(job.start, job.end) for job in jobs] == [(0, 2), (2, 4)]

    writer = ShardWriter(parts, tmp_path, skips_broken=False)
    assert [writer.write(job).num_images for job in jobs] == [2, 2]
    train, _ = shards(tmp_path, val_fraction=0.01).splits()
    assert all((train.images[row].permute(1, 2, 0).numpy() == pixels[row]).all() for row in range(4))


def test_index_makes_what_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", num_shards=3)
    paths = sorted((tmp_path / "set").glob("*.tar"))
    answer = miniclip_command(tmp_path, "shard", "--index", *paths, "--processes", 2)
    assert answer.returncode == 0 and answer.stdout.startswith("12 images in 3 shards indexed, 0 MB in ")
    assert len(list((tmp_path / "set").glob("*.index"))) == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["data=folder", "data.root=."], "Write where? Name a folder with -o."),
        (
            ["data=folder", "data.root=.", "-o", "x", "--size", "much"],
            "--size=much: must be a number with KB",
        ),
        (["data=folder", "data.root=.", "-o", "x", "--size", "0MB"], "--size=0: must be above 0"),
        (["--index"], r"--index=[]: names no shard"),
        (["--index", "nowhere.tar"], "--index=nowhere.tar: does not exist"),
        (["--index", "s3://bucket/a.tar"], "must be a file of this machine"),
        (["--index", "damaged.tar"], "The shard damaged.tar is no tar file"),
        (["--index", "damaged.tar", "--processes", "0"], "--processes=0: must be at least 1"),
    ],
)
def test_wrong_words_are_one_line(tmp_path: Path, words: list[str], problem: str) -> None:
    (tmp_path / "damaged.tar").write_bytes(b"<html>" * 200)
    answer = miniclip_command(tmp_path, "shard", *words)
    assert answer.returncode == 1 and problem in answer.stderr and "Traceback" not in answer.stderr
