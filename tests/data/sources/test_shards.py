"""Shards: which are read as which part, their captions, and what they lack."""

import re
from pathlib import Path

import pytest

from miniclip.errors import SettingError, UserError
from tests.data.shards.tars import as_json, jpeg, samples, shards, write_shards, write_tar
from tests.data.sources.conftest import part_ids, sizes, sizes_by_name


def test_a_folder_of_shards_is_one_set(tmp_path: Path) -> None:
    source = shards(write_shards(tmp_path / "set"))
    assert sizes(source) == ("seeded val", 9, 3)

    train, val = source.splits()
    assert sorted([*train.ids, *val.ids])[:2] == ["train-0000/0000", "train-0000/0001"]
    by_id = dict(zip([*train.ids, *val.ids], [*train.captions, *val.captions], strict=True))
    assert list(by_id["train-0002/0011"]) == ["picture 11"]


def test_an_image_is_the_one_of_its_caption(tmp_path: Path) -> None:
    train, val = shards(write_shards(tmp_path / "set")).splits()
    for split in (train, val):
        for image, captions in zip(split.images, split.captions, strict=True):
            number = int(captions[0].split()[-1])
            assert abs(int(image[0, 0, 0]) - 20 * number % 256) < 5


def test_shards_are_parts_by_their_names(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", num_shards=2)
    write_shards(tmp_path / "set", num_shards=1, word="validation")
    write_shards(tmp_path / "set", num_shards=1, num_images=3, word="test")
    source = shards(tmp_path / "set", eval_split="val")
    assert sizes_by_name(source) == {"train": 8, "val": 4, "test": 3}

    named = shards(tmp_path / "set" / "*.tar", val_urls=str(tmp_path / "set" / "train-0001.tar"))
    assert part_ids(named)["val"] == [f"train-0001/{key:04}" for key in range(4, 8)]
    assert len(part_ids(named)["train"]) == 8  # the shard called validation trains, as another is named


def test_shards_whose_folders_alone_tell_of_parts_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        write_tar(tmp_path / part / "0000.tar", samples(range(4)))
    every = str(tmp_path / "*" / "*.tar")
    assert len(part_ids(shards(every, val_urls=str(tmp_path / "val")))["train"]) == 4
    assert not caplog.text
    assert sizes(shards(every)) == ("seeded val", 6, 2)
    assert "Shards in folders called val train as the others do" in caplog.text


@pytest.mark.parametrize(
    "urls",
    ["{0}/train-{{0000..0002}}.tar", "{0}/train-{{0000,0001,0002}}.tar", "{0}/*.tar", "{0}/**/*.tar"],
)
def test_patterns(tmp_path: Path, urls: str) -> None:
    write_shards(tmp_path)
    assert sizes(shards(urls.format(tmp_path))) == ("seeded val", 9, 3)


def test_lists_and_folders_of_shards_keep_their_order_and_ids_unique(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_shards(tmp_path / name, num_shards=1)
    source = shards([str(tmp_path / "b"), str(tmp_path / "a" / "train-0000.tar")], val_fraction=0.5)
    train, val = source.splits()
    ids = {*train.ids, *val.ids}
    assert len(ids) == 8 and {"b/train-0000/0000", "a/train-0000/0003"} <= ids


def test_shards_that_differ_in_their_endings_alone_keep_ids_unique(tmp_path: Path) -> None:
    for ending in "01":
        write_tar(tmp_path / f"part.{ending}", samples(range(4)))
    train, val = shards(str(tmp_path / "part.*[01]")).splits()
    assert len({*train.ids, *val.ids}) == 8 and "part.1/0000" in {*train.ids, *val.ids}


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        ("nowhere.tar", "does not exist"),
        ("nowhere-{0..3}.tar", r"nowhere-0\.tar: does not exist"),
        ("nowhere/*.tar", "no shard fits this pattern"),
        ("train-{3..1}.tar", "stands for no shard"),
        ([], "names no shard"),
        ("ftp://host/a.tar", "must begin with one of http, https, s3"),
        ("simplecache::http://host/a.tar", "does not exist"),
        ("https://user:word@host/a.tar", "holds a password or a key"),
    ],
)
def test_urls_that_name_no_shard(urls: str | list[str], problem: str) -> None:
    with pytest.raises(SettingError, match=problem) as caught:
        shards(urls)
    assert caught.value.setting == "urls" and "word" not in str(caught.value.value)


def test_an_empty_folder_a_shard_twice_and_a_part_that_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"holds no shards \(\*\.tar\); miniclip shard writes some"):
        shards(tmp_path)
    write_shards(tmp_path, word="val")
    with pytest.raises(SettingError, match="names this shard 2 times"):
        shards([str(tmp_path / "val-0000.tar")] * 2)
    with pytest.raises(SettingError, match=r"no shard to train on, only val-0000\.tar, val-0001\.tar"):
        shards(tmp_path).splits()


SETS = {
    "the whole text": ({"txt": b" two dogs\nrun "}, {}, ["two dogs\nrun"]),
    "its lines": ({"txt": b"two dogs\n\n run "}, {"captions_per_line": True}, ["two dogs", "run"]),
    "a byte order mark": ({"txt": b"\xef\xbb\xbfa dog"}, {}, ["a dog"]),
    "captions of the .json": (
        {"txt": b"a dog", "json": as_json(captions=["a dog", " a cat "])},
        {},
        ["a dog", "a cat"],
    ),
    "the .txt beside another .json": ({"txt": b"a dog", "json": as_json(caption="x")}, {}, ["a dog"]),
    "a usual field": ({"json": as_json(url="x", caption="a dog")}, {}, ["a dog"]),
    "a named field": (
        {"txt": b"x", "json": as_json(alt=["a", "b"])},
        {"caption_column": "alt"},
        ["a", "b"],
    ),
    "a field in objects": (
        {"json": as_json(sentences=[{"raw": "a"}, {"raw": "b"}])},
        {"caption_column": "sentences.raw"},
        ["a", "b"],
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_captions(tmp_path: Path, name: str) -> None:
    members, settings, captions = SETS[name]
    texts = {f"a.{ending}": content for ending, content in members.items()}
    write_tar(tmp_path / "a.tar", {"a.jpg": jpeg(0), **texts})
    write_tar(tmp_path / "b.tar", samples([1]))
    source = shards(
        tmp_path / "a.tar", val_urls=str(tmp_path / "b.tar"), on_broken_image="skip", **settings
    )
    if "caption_column" in settings:
        write_tar(tmp_path / "b.tar", {"b.jpg": jpeg(1), "b.json": texts["a.json"]})
    assert list(source.splits()[0].captions[0]) == captions


def test_members_in_any_order_folder_and_case(tmp_path: Path) -> None:
    names = [
        "x/0.JPG",
        "x/1.jpeg",
        "./y/0.png",
        "x/1.txt",
        "y/0.txt",
        "x/0.txt",
        "x/0.seg.png",
        "x/._1.jpg",
    ]
    members = [(name, b"text of " + name.encode() if name.endswith("txt") else jpeg(1)) for name in names]
    source = shards(write_tar(tmp_path / "a.tar", members), val_fraction=0.4)
    train, val = source.splits()
    assert sorted([*train.ids, *val.ids]) == ["a/x/0", "a/x/1", "a/y/0"]
    assert {captions[0] for captions in [*train.captions, *val.captions]} == {
        "text of x/0.txt",
        "text of x/1.txt",
        "text of y/0.txt",
    }


BROKEN = [
    ({"a.jpg": b"x"}, r"1 without a caption \(broken/a\)"),
    ({"a.jpg": b"x", "a.txt": b" \n"}, r"1 without a caption \(broken/a\)"),
    ({"a.txt": b"x"}, r"1 without an image \(broken/a\)"),
    (
        {"a.jpg": b"x", "a.txt": b"\xff"},
        r"1 whose caption cannot be read \(broken/a: its \.txt is no UTF-8 at",
    ),
    ({"a.jpg": b"x", "a.json": b"{"}, r"broken/a: its \.json cannot be read"),
    ({"a.jpg": b"x", "a.json": b"[]"}, r"broken/a: its \.json is no object"),
    ({"a.jpg": b"x", "a.json": as_json(alt="y")}, r"has no usual field for a caption; it has alt"),
    ({"a.jpg": b"x", "a.json": as_json(caption=1.5)}, "a caption is a float"),
    ({"../a.jpg": b"x"}, r"1 with a name that leads out of the shard \(broken/\.\./a\.jpg\)"),
    ({"/etc/a.jpg": b"x"}, r"1 with a name that leads out of the shard \(broken//etc/a\.jpg\)"),
    ({"a.v0.jpg": b"x", "a.v0.txt": b"y"}, r"1 with a dot in its name.* \(broken/a\.v0\.jpg\)"),
]


@pytest.mark.parametrize(("members", "told"), BROKEN)
def test_samples_that_are_not_whole(
    tmp_path: Path, members: dict[str, bytes], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(tmp_path / "broken.tar", {**samples(range(4)), **members})
    with pytest.raises(UserError, match=f"1 of 5 samples in shards left out: .*{told}"):
        shards(tmp_path).splits()
    with pytest.raises(UserError, match=r"more than data\.max_broken_fraction=0\.01"):
        shards(tmp_path, on_broken_image="skip").splits()

    source = shards(tmp_path, on_broken_image="skip", max_broken_fraction=0.5)
    assert sizes(source) == ("seeded val", 3, 1)
    assert re.search(f"train: 1 of 5 samples in shards left out: .*{told}", caplog.text)


@pytest.mark.parametrize(
    "again",
    [
        {"./a.jpg": jpeg(7), "./a.txt": b"of another image"},
        {"a.json": as_json(captions=["of another image"]), "a.png": jpeg(7)},
        {"./a.txt": b"of another image"},
    ],
)
def test_a_key_of_two_samples_makes_no_pair(
    tmp_path: Path, again: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = {"a.jpg": jpeg(6), "a.txt": b"its own", "0000.mask.png": b"one more file"}
    write_tar(tmp_path / "a.tar", {**samples(range(4)), **first, **again})
    source = shards(tmp_path, on_broken_image="skip", max_broken_fraction=0.5)
    assert sizes(source) == ("seeded val", 3, 1)
    assert "2 of 6 samples in shards left out: 2 with a key that another one has, too (a/a)" in caplog.text


def test_an_unreadable_image_is_named_with_its_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {**samples(range(4)), "x.jpg": b"no image", "x.txt": b"x"})
    train, val = shards(tmp_path, on_broken_image="skip", max_broken_fraction=0.5).datasets()
    problems = [item.problem for item in map(train.item, range(len(train))) if item.problem is not None]
    left_out = 5 - len(train) - len(val)
    assert len(problems) + left_out == 1
    assert not problems or "The file a/x is no image" in str(problems[0])


def test_shards_without_a_whole_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.jpg": b"x"})
    with pytest.raises(UserError, match=r"hold no image with a caption: 1 without a caption \(a/a\)"):
        shards(tmp_path, on_broken_image="skip", max_broken_fraction=1.0).splits()
    write_tar(tmp_path / "a.tar", {})
    with pytest.raises(UserError, match=r"hold no image with a caption\. A sample is KEY\.jpg"):
        shards(tmp_path).splits()
