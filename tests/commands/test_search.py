"""From a run to answers: embed a folder, and search it by words, by images and by both."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip import MiniCLIP
from miniclip.deploy.index.plain_arrays import write_arrays
from miniclip.deploy.index.writer import LOCK
from miniclip.files import locked
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from tests.data.conftest import encoded, lying
from tests.deploy.index.conftest import save_photo
from tests.deploy.index.projection import ProjectionModel
from tests.in_process import Answer


def test_a_folder_is_embedded_and_searched(
    class_run: RunDirectory,
    class_folder: Path,
    miniclip: Callable[..., Answer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = miniclip("embed", class_run.path, class_folder, "-o", "index", "--npy")
    assert done.returncode == 0, done.stderr
    assert "index: 60 images (60 new, 0 changed" in done.stdout
    assert "images per second" in done.stdout
    vectors = np.load(tmp_path / "index" / "vectors.npy")
    paths = json.loads((tmp_path / "index" / "paths.json").read_text())
    assert len(vectors) == len(paths) == 60

    photo = class_folder / "red_square" / "0.png"
    mixed = ("--image", photo, "--text", "red square")
    found = miniclip("search", "index", "red square", "very " * 200, *mixed, "-k", 3, "--json")
    assert found.returncode == 0, found.stderr
    assert "1 text of 2 is longer than the" in caplog.text
    answer = json.loads(found.stdout)
    assert [len(query["results"]) for query in answer["queries"]] == [3, 3, 3]
    assert all(Path(result["path"]).is_file() for result in answer["queries"][0]["results"])

    by_image = miniclip("search", "index", "--image", photo, "-k", 1)
    assert str(photo) in by_image.stdout.splitlines()[1]

    assert "60 images (0 new" in miniclip("embed", class_run.path, class_folder, "-o", "index").stdout
    assert "-k=0: must be at least 1" in miniclip("search", "index", "x", "-k", 0).stderr
    assert "--threshold=nan: must lie" in miniclip("search", "index", "x", "--threshold", "nan").stderr
    assert "Search for what?" in miniclip("search", "index").stderr
    assert "holds no index" in miniclip("search", "nowhere", "x").stderr
    assert "is missing" in miniclip("search", "index", "--image", "none.jpg").stderr
    on_gpu = miniclip("embed", class_run.path, class_folder, "-o", "index", "--device", "gpu")
    assert "--device=gpu: must be auto" in on_gpu.stderr and "Change it with --device=" in on_gpu.stderr

    (tmp_path / "index" / "signatures.json").unlink()  # as if another user had made it
    stopped = miniclip("search", "index", "x")
    assert stopped.returncode == 1 and "Name the model that made it: --model MODEL" in stopped.stderr
    sheet = ("search", "index", "x", "--sheet", "x.png", "--model", class_run.path)
    assert f"in {class_folder} are found, but not opened" in miniclip(*sheet).stderr
    closed = (tmp_path / "x.png").read_bytes()
    assert "not opened" not in miniclip(*sheet, "--root", class_folder).stderr
    assert (tmp_path / "x.png").read_bytes() != closed

    moved = shutil.copytree(class_run.path, tmp_path / "run")
    miniclip("embed", moved, class_folder, "-o", "index")
    shutil.rmtree(moved)
    assert "Say where it lies now: --model" in miniclip("search", "index", "x").stderr
    assert miniclip("search", "index", "x", "--model", class_run.path).returncode == 0


def test_a_rotated_photo_is_found_as_the_upright_one(
    class_run: RunDirectory, miniclip: Callable[..., Answer], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "upright.png").write_bytes(encoded(photo, "PNG"))
    (tmp_path / "photos" / "rotated.png").write_bytes(lying(photo))
    miniclip("embed", class_run.path, "photos", "-o", "index")

    for name in ("upright.png", "rotated.png"):
        found = miniclip("search", "index", "--image", f"photos/{name}", "--json")
        (query,) = json.loads(found.stdout)["queries"]
        scores = [result["score"] for result in query["results"]]
        assert scores == pytest.approx([1, 1], abs=1e-3)  # an index holds float16


def test_an_option_may_begin_at_home(
    class_run: RunDirectory,
    class_folder: Path,
    miniclip: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert miniclip("embed", class_run.path, class_folder, "--out=~/of_home").returncode == 0
    assert (tmp_path / "of_home" / "index.sqlite").is_file()
    assert miniclip("search", "~/of_home", "red", "--sheet=~/sheet.png").returncode == 0
    assert (tmp_path / "sheet.png").is_file() and not (tmp_path / "~").exists()


def test_the_image_tower_is_made_at_once_or_not_at_all(
    class_run: RunDirectory,
    class_folder: Path,
    miniclip: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = load_checkpoint(class_run.best_checkpoint)
    del content["model"]["image_encoder.proj.bias"]
    save_checkpoint(tmp_path / "other.pt", content)
    refused = miniclip("embed", "other.pt", class_folder, "-o", "index")
    assert "image_encoder.proj.bias" in refused.stderr
    assert not (tmp_path / "index").exists()

    miniclip("embed", class_run.path, class_folder / "red_square", "-o", "index")
    towers = []
    monkeypatch.setattr(MiniCLIP, "make_image_tower", lambda model: towers.append(model))
    assert miniclip("search", "index", "red square").returncode == 0
    assert not towers
    assert miniclip("search", "index", "--image", class_folder / "red_square" / "0.png").returncode == 0
    assert len(towers) == 1


def test_a_source_leaves_the_index(
    class_run: RunDirectory, class_folder: Path, miniclip: Callable[..., Answer], tmp_path: Path
) -> None:
    red, green = class_folder / "red_square", class_folder / "green_square"
    done = miniclip("embed", class_run.path, red, green, "-o", "index")
    assert done.returncode == 0, done.stderr

    unknown = miniclip("embed", class_run.path, "-o", "index", "--forget", red, "--forget", class_folder)
    assert unknown.returncode == 1 and "the index has no such source; it has:" in unknown.stderr
    done = miniclip("embed", class_run.path, "-o", "index", "--forget", red)
    assert done.returncode == 0, done.stderr
    assert f"{red} is out of the index" in done.stdout

    found = json.loads(miniclip("search", "index", "red square", "-k", 60, "--json").stdout)
    folders = {Path(result["path"]).parent for result in found["queries"][0]["results"]}
    assert folders == {green}
    assert "Embed what?" in miniclip("embed", class_run.path, "-o", "index").stderr


def test_a_device_that_is_not_there_is_told(
    class_run: RunDirectory, class_folder: Path, miniclip: Callable[..., Answer], tmp_path: Path
) -> None:
    done = miniclip("embed", class_run.path, class_folder, "-o", "index", "--device", "cuda:9")
    assert done.returncode == 1 and "cuda:9" in done.stderr
    assert not (tmp_path / "index").exists()


def test_an_index_without_any_image_is_an_error(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    (tmp_path / "photos.csv").write_text("image,caption\ngone.jpg,a dog\naway.jpg,a cat\n")
    done = miniclip("embed", class_run.path, tmp_path / "photos.csv", "-o", tmp_path / "index")
    assert done.returncode == 1
    assert "index holds no image. 2 images left out, like " in done.stderr


@pytest.mark.parametrize("option", ["--image-column", "--root"])
def test_an_option_of_tables_is_told_without_one(
    class_folder: Path, miniclip: Callable[..., Answer], option: str
) -> None:
    done = miniclip("embed", "RUN", class_folder, "-o", "index", option, "x")
    assert done.returncode == 1 and f"{option} x is read with a table only" in done.stderr


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save_photo(tmp_path / "photos" / "a.png", 1)


def test_arrays_are_written_while_no_other_writer_comes(
    class_folder: Path, miniclip: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_free = []

    def write(folder: Path) -> list[Path]:
        with locked(folder / LOCK) as is_free_now:
            is_free.append(is_free_now)
        return write_arrays(folder)

    monkeypatch.setattr("miniclip.commands.embed.load_model", lambda *_, **__: ProjectionModel())
    monkeypatch.setattr("miniclip.deploy.index.plain_arrays.write_arrays", write)
    done = miniclip("embed", "a_model", class_folder, "-o", "index", "--npy")
    assert done.returncode == 0, done.stderr
    assert is_free == [False]
    assert len(np.load(tmp_path / "index" / "vectors.npy")) == 60


def test_an_index_without_images_is_told(
    photo: Path, miniclip: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("embed.load_model", "search.load_model_of_index"):
        monkeypatch.setattr(f"miniclip.commands.{command}", lambda *_, **__: ProjectionModel())
    miniclip("embed", "a_model", photo.parent, "-o", "index")
    miniclip("embed", "a_model", "-o", "index", "--forget", photo.parent)
    assert miniclip("search", "index", "a dog").stdout == "a dog\n  the index holds no images\n"

    miniclip("embed", "a_model", photo.parent, "-o", "index")
    found = miniclip("search", "index", "a dog", "--threshold", 1)
    assert found.stdout == "a dog\n  nothing above the threshold\n"
