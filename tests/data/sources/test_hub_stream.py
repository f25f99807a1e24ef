"""Sets of the hub as streams: what trains, what validates, and where a stream goes on."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip import data
from miniclip.data.loader import Loader
from miniclip.data.streamed import Position, StreamedDataset
from miniclip.distributed import World
from miniclip.errors import SettingError, UserError
from miniclip.runs import RunDirectory
from tests.conftest import TINY, fit, interrupt_at_step
from tests.data.shards.tars import jpeg
from tests.data.sources.conftest import hub

sets = pytest.importorskip("datasets")

NUM_FILES = 4
NUM_ROWS = 6
"""Of each file."""

STREAMED: dict[str, Any] = {
    "streaming": True,
    "images_per_epoch": 12,
    "shuffle_buffer": 4,
    "val_images": 4,
    "vocabulary_rows": 10,
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` gives the threads of Arrow five seconds to end, each time a stream is closed."""
    monkeypatch.setattr(sets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def write_rows(file: Path, numbers: range, **columns: list[Any]) -> None:
    """A table of images with a caption each, numbered."""
    content: dict[str, list[Any]] = {
        "image": [{"bytes": jpeg(number), "path": None} for number in numbers],
        "text": [f"picture {number}" for number in numbers],
        **columns,
    }
    sets.Dataset.from_dict(content).cast_column("image", sets.Image(decode=False)).to_parquet(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of four files, of 24 images."""
    folder = tmp_path_factory.mktemp("set")
    for number in range(NUM_FILES):
        rows = range(number * NUM_ROWS, (number + 1) * NUM_ROWS)
        write_rows(folder / f"train-{number:05}-of-00004.parquet", rows)
    return folder


def streamed(folder: Path, **changes: Any) -> data.Hub:
    return hub(folder, **{**STREAMED, **changes})


def training_set(source: data.Hub) -> StreamedDataset:
    train = source.training_sets().train
    assert isinstance(train, StreamedDataset)
    return train


def captions(
    train: StreamedDataset, num_batches: int, *, world: World | None = None, num_workers: int = 0
) -> list[str]:
    """The captions of some batches of four images, which are trained on."""
    batches = train.batches(batch_size=4, seed=0, accumulate_steps=1, world=world or World())
    loader = Loader(train, batches, device=torch.device("cpu"), num_workers=num_workers)
    read = list(islice(loader, num_batches))
    loader.close()
    for batch in read:
        assert len(set(batch.image_ids.tolist())) == len(batch.captions) and batch.images.shape[1] == 3
    return [caption for batch in read for caption in batch.captions]


def trained_on(train: StreamedDataset, num_batches: int) -> list[str]:
    """The same, of which the run takes note."""
    batches = train.batches(batch_size=4, seed=0, accumulate_steps=1, world=World())
    read = list(islice(batches, num_batches))
    batches.trained_on(num_batches)
    return [train.item(key).caption for keys in read for key in keys]


def numbers(*texts: int) -> set[str]:
    return {f"picture {number}" for number in texts}


def test_the_first_rows_validate_and_all_others_train(folder: Path) -> None:
    train, val, test = streamed(folder).training_sets()
    assert val.split.name == "first rows (streamed, order not exact after a resume)" and test is None
    assert [list(texts) for texts in val.split.captions] == [[f"picture {n}"] for n in range(4)]
    assert list(train.split.captions.flat()) == [f"picture {n}" for n in range(4, 14)]
    assert len(train) == 12 and val[0][0].shape == (3, 32, 32)

    passes = [captions(training_set(streamed(folder)), 10)[start : start + 20] for start in (0, 20)]
    for one in passes:
        assert len(one) == 20 and set(one) == numbers(*range(4, 24))
    assert passes[0] != passes[1] and passes[0] != sorted(passes[0])


def test_workers_change_nothing(folder: Path) -> None:
    alone = captions(training_set(streamed(folder)), 7)
    assert captions(training_set(streamed(folder)), 7, num_workers=2) == alone
    assert captions(training_set(streamed(folder, seed=1)), 7) != alone


@pytest.mark.parametrize("size", [2, 4])
def test_processes_divide_the_stream(folder: Path, size: int) -> None:
    """Four batches are a pass but for the four images that validate; each has one part for a process."""
    parts = [
        captions(training_set(streamed(folder)), size, world=World(rank, size)) for rank in range(size)
    ]
    assert len({len(part) for part in parts}) == 1
    seen = [set(part) for part in parts]
    assert not any(one & other for rank, one in enumerate(seen) for other in seen[rank + 1 :])


def test_a_stream_goes_on_where_a_checkpoint_left_it(folder: Path) -> None:
    train = training_set(streamed(folder, shuffle_buffer=2))
    before = trained_on(train, 3)
    state = torch.load(saved(train.state_dict(), folder), weights_only=True)

    other = training_set(streamed(folder, shuffle_buffer=2))
    other.load_state_dict(state)
    after = trained_on(other, 1)
    assert not set(before) & set(after)
    assert trained_on(training_set(streamed(folder, shuffle_buffer=2)), 1)[0] in before


def saved(state: dict[str, Any], folder: Path) -> Path:
    """A state in a file as checkpoints are."""
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


def test_on_another_number_of_processes_a_new_pass_begins(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = training_set(streamed(folder))
    trained_on(train, 2)
    with caplog.at_level("INFO"):
        assert train.position(World(1, 2)) == (1, None)
    assert "was divided among 1, and is now among 2: a new pass over it begins" in caplog.text


def test_published_parts_are_measured_and_their_images_not_trained_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "train-0.parquet", range(8))
    write_rows(tmp_path / "validation-0.parquet", range(6, 12))
    write_rows(tmp_path / "test-0.parquet", range(20, 26))
    train, val, test = streamed(tmp_path, val_images=4, images_per_epoch=4).training_sets()
    assert test is not None
    assert [len(val), len(test)] == [4, 4]
    assert test.split.name == "test (streamed, order not exact after a resume)"
    assert isinstance(train, StreamedDataset)
    assert set(captions(train, 6)) == numbers(*range(6))
    measured = streamed(tmp_path, eval_split="test").datasets()[1]
    assert measured.split.name == test.split.name


def test_a_set_of_files(tmp_path: Path) -> None:
    """Named in a table, as `datasets` streams it: the paths, and the files read when their turn comes."""
    rows = [{"file_name": f"{number}.jpg", "text": f"picture {number}"} for number in range(12)]
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "3.jpg").unlink()
    assert set(captions(training_set(streamed(tmp_path)), 4)) == numbers(*range(4, 12)) - numbers(4)


def test_a_table_of_json_names_files_of_its_folder_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"image": f"{number}.jpg", "text": f"picture {number}"} for number in range(12)]
    for number in range(11):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert set(captions(training_set(streamed(tmp_path)), 4)) == numbers(*range(4, 11))
    assert "rows without an image or a caption are passed over: train row 11" in caplog.text

    rows[0]["image"] = str(tmp_path.parent / "private.jpg")
    (tmp_path.parent / "private.jpg").write_bytes(jpeg(0))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"row 0: the image '.*private\.jpg' lies outside the set"):
        streamed(tmp_path).training_sets()


def test_a_broken_image_has_a_stand_in(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(number) if number != 9 else b"no image", "path": None} for number in range(12)]
    write_rows(tmp_path / "train-0.parquet", range(12), image=images)
    with pytest.raises(UserError, match=r"The file streamed with the caption 'picture 9' is no image"):
        captions(training_set(streamed(tmp_path)), 2)

    train = training_set(streamed(tmp_path, on_broken_image="skip", max_broken_fraction=0.5))
    batches = train.batches(batch_size=4, seed=0, accumulate_steps=1, world=World())
    loaded = list(islice(Loader(train, batches, device=torch.device("cpu"), num_workers=0), 2))
    assert len([problem for batch in loaded for problem in batch.problems]) == 1
    (batch,) = (batch for batch in loaded if batch.problems)
    # the one that stands in is known to be the same image twice
    assert len(set(batch.image_ids.tolist())) == 3 and batch.num_false_negatives == 2


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"captions": "all"}, "captions"),
        ({"caption_noise": 0.5}, "caption_noise"),
        ({"cache": "memory"}, "cache"),
        ({"limit": 5}, "limit"),
        ({"seeded_test_fraction": 0.1}, "seeded_test_fraction"),
        ({"use": "all"}, "use"),
        ({"shuffle_buffer": 1}, "shuffle_buffer"),
        ({"val_images": 0}, "val_images"),
        ({"val_images": 24}, "val_images"),
        ({"images_per_epoch": 0}, "images_per_epoch"),
        ({"images_per_epoch": None}, "images_per_epoch"),
        ({"train_split": "training"}, "train_split"),
        ({"eval_split": "test"}, "eval_split"),
        ({"split_column": "text"}, "split_column"),
    ],
)
def test_settings_that_do_not_go_with_a_stream(folder: Path, changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingError) as why:
        streamed(folder, **changes).datasets()
    assert why.value.setting == setting


def test_what_needs_all_images_says_so(folder: Path) -> None:
    with pytest.raises(SettingError, match=r"streaming=true: keeps no images; .* so give false"):
        streamed(folder).read_parts()
    with pytest.raises(UserError, match=r"cannot be read again\. Fetch them: data\.streaming=false"):
        training_set(streamed(folder)).split.images[0]


def test_a_process_without_rows_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "train-0.parquet", range(6))
    with pytest.raises(UserError, match=r"process 7 of 8 gets no row of the part train"):
        next(training_set(streamed(tmp_path)).stream.rows(World(7, 8), Position()))


def test_a_stream_that_breaks_off_is_one_line(tmp_path: Path) -> None:
    for number in range(2):
        write_rows(tmp_path / f"train-{number}.parquet", range(6 * number, 6 * number + 6))
    train = training_set(streamed(tmp_path, vocabulary_rows=1))
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1 no parquet any more")
    with pytest.raises(UserError, match=r"cannot be streamed on: .*trainer\.resume=auto") as why:
        captions(train, 4)
    assert "\n" not in str(why.value)


def settings(folder: Path) -> list[str]:
    """A tiny run of six steps, three an epoch."""
    of_stream = [f"data.{name}={value}".lower() for name, value in STREAMED.items()]
    return [
        *TINY,
        "data=hub",
        f"data.hub={folder}",
        *of_stream,
        "data.limit=null",
        "data.images_per_epoch=12",
        "trainer.batch_size=4",
        "trainer.num_workers=0",
        "optimizer=adamw",
        "trainer.checkpoint_every_steps=1",
    ]


def losses(run: RunDirectory) -> list[float]:
    return [row["train/loss"] for row in run.read_metrics() if "train/loss" in row]


def test_a_run_on_a_stream_goes_on_and_says_what_its_order_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(tmp_path / "whole", *settings(folder))
    assert len(losses(whole)) == 6
    summary = whole.read_summary()
    assert summary["best"]["protocol"] == (
        "first rows (streamed, order not exact after a resume): 4 images, 4 captions"
    )
    assert summary["train_images"] == 12

    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step=4)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", *settings(folder))
    resumed = fit(tmp_path / "cut", *settings(folder), f"trainer.resume={tmp_path / 'cut'}")
    assert "The order of a stream is not exact after a resume" in caplog.text
    assert losses(resumed)[:3] == losses(whole)[:3] and len(losses(resumed)) == 6

    with pytest.raises(UserError, match=r"data\.images_per_epoch=8 \(the checkpoint has 12\)"):
        fit(
            tmp_path / "other",
            *settings(folder),
            "data.images_per_epoch=8",
            f"trainer.resume={tmp_path / 'cut'}",
        )
