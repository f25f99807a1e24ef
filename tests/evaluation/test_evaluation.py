"""`miniclip evaluate` on real runs: tasks, other data sets, baselines, and what cannot be measured."""

import hashlib
import json
import math
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.config.restore import restore
from miniclip.data import ImageClasses, ImageTextDataset
from miniclip.errors import SettingError, UserError
from miniclip.evaluation import MiniCLIPModel
from miniclip.evaluation.evaluation import Result, comparison, flat_numbers
from miniclip.integrations.clip_benchmark import load
from miniclip.metrics import Features
from miniclip.runs import RunDirectory
from tests.conftest import (
    ROOT,
    TINY,
    fit,
    interrupt_before_validation,
    miniclip_command,
    run_miniclip,
)

CLASSES = ("blue_square", "red_square", "green_square")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of twenty squares of one colour each."""
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for index in range(20):
            pixels = generator.integers(0, 120, (40, 50, 3), dtype=np.uint8)
            pixels[..., (number + 2) % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, class_folder: Path) -> RunDirectory:
    """Trained on the squares, whose captions are the names of their classes."""
    return fit(tmp_path_factory.mktemp("run"), *squares(class_folder))


def squares(class_folder: Path) -> list[str]:
    """What trains on them."""
    data = ["data=imagefolder", f"data.root={class_folder}", "data.val_fraction=0.5", "data.flip=false"]
    return [*TINY, *data, "optimizer=adamw"]


def result(run: RunDirectory, task: str) -> dict:
    return json.loads((run.path / "evaluation" / f"{task}.json").read_text())


def test_a_run_is_measured_in_every_way_that_suits_it(run: RunDirectory, tmp_path: Path) -> None:
    done = miniclip_command(tmp_path, "evaluate", run.path, "eval.shots=[1,2]", "eval.num_seeds=2")
    assert done.returncode == 0, done.stderr
    found = {path.stem for path in (run.path / "evaluation").glob("*.json")}
    assert found == {"retrieval", "zero_shot", "linear_probe", "few_shot", "health", "pictures"}
    for task in found:
        numbers = result(run, task)
        assert numbers["protocol"].startswith("seeded val: 30 images, 30 captions")
        assert numbers["checkpoint"].endswith("best.pt") and len(numbers["data_fingerprint"]) == 16
        assert f"{task} ({numbers['protocol']}; {numbers['checkpoint']})" in done.stdout
    assert result(run, "zero_shot")["classes"] == 3
    assert result(run, "zero_shot")["chance"] == pytest.approx(100 / 3)
    assert result(run, "linear_probe")["accuracy"] > 90  # colours are not hard
    assert set(result(run, "few_shot")["shots"]) == {"1", "2"}
    low, high = result(run, "retrieval")["intervals_95"]["rsum"]
    assert low <= result(run, "retrieval")["metrics"]["rsum"] <= high
    for name in ("retrieval", "similarity", "space", "zero_shot", "health"):
        with Image.open(run.path / "evaluation" / f"{name}.png") as picture:
            assert picture.width <= 1300 and picture.height <= 1050


def test_a_moved_a_lone_and_a_resumed_checkpoint_give_the_same_numbers(
    run: RunDirectory, class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(run.path, tmp_path / "moved")
    lone = tmp_path / "lone" / "model.pt"
    lone.parent.mkdir()
    shutil.copy(run.best_checkpoint, lone)
    settings = squares(class_folder)
    interrupt_before_validation(monkeypatch, epoch=2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "resumed", *settings)
    monkeypatch.undo()
    resumed = fit(tmp_path / "resumed", *settings, "trainer.resume=auto")
    models = (run.path, moved, lone, resumed.path)
    done = miniclip_command(tmp_path, "evaluate", *models, "retrieval", "linear_probe")
    assert done.returncode == 0, done.stderr
    for task in ("retrieval", "linear_probe"):
        expected, *others = (
            json.loads(file.read_text())
            for file in (path / "evaluation" / f"{task}.json" for path in (run.path, moved, resumed.path))
        )
        for numbers in others:
            assert {**numbers, "checkpoint": ""} == {**expected, "checkpoint": ""}
    rows = [line.split()[1:] for line in done.stdout.splitlines()[-4:]]
    assert rows == [rows[0]] * 4


def test_another_data_set_and_a_table_of_several_models(
    run: RunDirectory, class_folder: Path, tmp_path: Path
) -> None:
    settings = [setting for setting in TINY if "num_layers" not in setting]
    bag = fit(tmp_path / "bag", *settings, "encoder/text=bag", "trainer.budget.steps=1")
    other = ["data=imagefolder", f"data.root={class_folder}", "data.val_fraction=0.2"]
    checkpoint = run.path / "checkpoints" / "last.pt"
    done = miniclip_command(tmp_path, "evaluate", bag.path, checkpoint, "retrieval", *other)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()[-4:]
    assert [line.split()[0] for line in table] == ["image", "chance", str(bag.path), str(checkpoint)]
    (file,) = (bag.path / "evaluation").glob("*/retrieval.json")  # on data that is not its own
    assert json.loads(file.read_text())["protocol"].startswith("seeded val: 12 images")
    assert len(list((run.path / "evaluation" / "last").glob("*/retrieval.json"))) == 1


def test_open_clip_is_measured_by_the_same_protocol(run: RunDirectory, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra bench")
    model = open_clip.create_model("RN50")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    word = f"open_clip:RN50:{tmp_path / 'weights.pt'}"
    done = miniclip_command(tmp_path, "evaluate", run.path, word, "retrieval", "zero_shot")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("open_clip RN50")
    folder = tmp_path / "outputs" / "open_clip" / "RN50" / "weights" / "evaluation"
    theirs = json.loads((folder / "retrieval.json").read_text())
    assert theirs["protocol"] == result(run, "retrieval")["protocol"]


def test_a_job_of_a_sweep_is_a_run_like_any_other(run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "0_rho=0.05,seed=1")
    done = miniclip_command(tmp_path, "evaluate", "0_rho=0.05,seed=1", "retrieval")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0_rho=0.05,seed=1" / "evaluation" / "retrieval.json").is_file()


def test_models_measured_on_different_data_make_no_table() -> None:
    own = {"data_fingerprint": "a", "protocol": "val: 2 images, 2 captions", "chance": {}, "metrics": {}}
    (line,) = comparison([("x", own), ("y", {**own, "data_fingerprint": "b"})])
    assert "different data, val: 2 images, 2 captions (a); val: 2 images, 2 captions (b)" in line


def test_loggers_are_given_every_number_and_what_names_it() -> None:
    numbers = {"protocol": "val", "shots": {"4": {"mean": 12.5, "accuracies": [12.0, 13.0]}}}
    found = flat_numbers({"few_shot": Result({**numbers, "metrics": {"top1": 3.0}}, [])})
    assert found == {
        "eval/few_shot/protocol": "val",
        "eval/few_shot/shots/4/mean": 12.5,
        "eval/few_shot/top1": 3.0,
    }


def test_what_cannot_be_measured_is_said_before_training(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("square\n")
    (tmp_path / "twins.txt").write_text("square\nsquare\ncircle\n")
    splits = restore_data("data=imagefolder", f"data.root={class_folder}")
    for settings, reason in (
        (["eval=zero_shot", f"eval.class_names={tmp_path / 'twins.txt'}"], "these repeat: square"),
        (["eval=sharpness", "eval.batches=9"], r"eval\.batches=9 of eval\.batch_size=64 must fit into the"),
        (["eval=zero_shot", f"eval.class_names={tmp_path / 'names.txt'}"], "has 1 lines for 3 classes"),
    ):
        with pytest.raises(UserError, match=reason):
            make(compose(*settings), "eval").check(*splits)


def restore_data(*settings: str) -> tuple[ImageTextDataset, ImageTextDataset]:
    return make(compose(*settings), "data").datasets()


def test_another_data_set_is_seen_as_the_run_saw_its_own(run: RunDirectory, tmp_path: Path) -> None:
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["config"]["data"]["eval_crop"] = "center"
    torch.save(checkpoint, tmp_path / "centre.pt")
    assert restore(tmp_path / "centre.pt", "data=openmoji").config.data.eval_crop == "center"
    asked = restore(tmp_path / "centre.pt", "data=openmoji", "data.eval_crop=squash")
    assert asked.config.data.eval_crop == "squash"


def test_numbers_that_are_none_are_null_and_stop_nothing(run: RunDirectory, tmp_path: Path) -> None:
    restored = restore(run.path)
    subject = MiniCLIPModel("a run", restored.model, restored.tokenizer, torch.device("cpu"))
    settings = ["eval=few_shot", "eval.shots=[1]", "eval.num_seeds=1"]
    make(compose(*settings), "eval").run(subject, restored.datasets(), tmp_path, checkpoint="")
    content = (tmp_path / "few_shot.json").read_text()
    found = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["shots"]["1"]["deviation"] is None

    evaluation = make(compose("eval=zero_shot"), "eval")
    (measure,) = evaluation.at_each_validation(subject, *restored.datasets())
    broken = Features(torch.full((2, 4), torch.nan), torch.ones(2, 4), torch.arange(2))
    assert all(math.isnan(value) for value in measure(broken).values())


def test_held_out_folders_have_several_names(class_folder: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        shutil.copytree(class_folder, tmp_path / part)
    train, val = restore_data("data=imagefolder", f"data.root={tmp_path}")
    assert (len(train), len(val), val.split.name) == (60, 60, "valid")
    assert set(val.split.labels or ()) == {name.replace("_", " ") for name in CLASSES}


def test_folds_are_told_where_there_are_enough_images(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.evaluation.evaluation.FOLD_SIZES", (10, 15, 20))
    restored = restore(run.path)
    subject = MiniCLIPModel("a run", restored.model, restored.tokenizer, torch.device("cpu"))
    evaluation = make(compose("eval=standard", "eval.tasks=[retrieval]"), "eval")
    found = evaluation.run(subject, restored.datasets(), tmp_path, checkpoint="")["retrieval"]
    folds = [(fold["images"], fold["count"]) for fold in found.numbers["folds"]]
    assert folds == [(10, 3), (15, 2)]  # of 30 images
    assert sum("folds of" in line for line in found.lines) == 2


def test_training_ends_with_the_tasks_it_was_given(class_folder: Path, tmp_path: Path) -> None:
    settings = ["data=imagefolder", f"data.root={class_folder}", "trainer.budget.steps=2", "eval=zero_shot"]
    done = run_miniclip(*TINY, *settings, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    numbers = result(RunDirectory(tmp_path / "run"), "zero_shot")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/zero_shot/top1"] == numbers["top1"]
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").open())
    validations = [record for record in records if "val/rsum" in record]
    assert all(r["health/image_rank"] > 0 and 0 <= r["val/zero_shot_top1"] <= 100 for r in validations)


def test_clip_benchmark_sees_the_features_that_we_see(run: RunDirectory) -> None:
    model, transform, tokenizer = load(str(run.path), "best", "", "cpu")
    restored = restore(run.path)
    _, val_set = restored.datasets()
    subject = MiniCLIPModel("run", restored.model, restored.tokenizer, torch.device("cpu"))
    captions = ["a blue square", "red", "green square and more than that"]  # of several lengths
    torch.testing.assert_close(model.encode_text(tokenizer(captions)), subject.encode_texts(captions))
    pictures = [
        Image.fromarray(p.permute(1, 2, 0).numpy()) for p in map(val_set.split.images.__getitem__, range(5))
    ]
    theirs = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
    torch.testing.assert_close(theirs, subject.encode_images(val_set)[:5])


def test_a_probe_without_scikit_learn_is_refused_before_anything_is_measured(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = restore(run.path).datasets()
    monkeypatch.setattr("miniclip.evaluation.evaluation.can_probe", lambda: False)
    asked = make(compose("eval=all"), "eval")
    with pytest.raises(UserError, match=r"pip install -e \"\.\[evaluation\]\""):
        asked.check(*datasets)
    suiting = make(compose("eval=standard"), "eval").check(*datasets)
    assert list(suiting) == ["retrieval", "zero_shot", "health", "pictures"]


def test_clip_benchmarks_own_command_runs_on_a_run(
    run: RunDirectory, real_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("clip_benchmark", reason="needs the extra bench")
    root = real_data / "flickr8k_1k"
    lines = (root / "captions.txt").read_text().splitlines()[: 1 + 5 * 30]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    command = [
        *(sys.executable, "-m", "miniclip.integrations.clip_benchmark", "eval", "--model", str(run.path)),
        *("--pretrained", "best", "--dataset", "flickr8k", "--dataset_root", str(root / "Images")),
        *("--annotation_file", str(tmp_path / "captions.txt"), "--task", "zeroshot_retrieval"),
        *("--recall_k", "10", "--no_amp", "--num_workers", "0", "--output", str(tmp_path / "out.json")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "out.json").read_text())["metrics"]
    for side in ("train", "val"):
        (tmp_path / f"{side}.csv").write_text("\n".join(lines) + "\n")
    own = [f"data.{side}_{what}" for side in ("train", "val") for what in ("csv", "root")]
    places = [tmp_path / "train.csv", root / "Images", tmp_path / "val.csv", root / "Images"]
    settings = [f"{key}={value}" for key, value in zip(own, places, strict=True)]
    ours = miniclip_command(tmp_path, "evaluate", run.path, "retrieval", "data=csv", *settings)
    assert ours.returncode == 0, ours.stderr
    (file,) = (
        path
        for path in (run.path / "evaluation").glob("*/retrieval.json")
        if "30 images, 150 captions" in path.read_text()
    )
    recalls = json.loads(file.read_text())["metrics"]
    # photographs are decoded at full size there, and at the size they need here
    assert 100 * theirs["text_retrieval_recall@10"] == pytest.approx(recalls["i2t_r10"], abs=10)
    assert 100 * theirs["image_retrieval_recall@10"] == pytest.approx(recalls["t2i_r10"], abs=10)


def test_a_picture_is_preprocessed_for_clip_benchmark_as_for_us(run: RunDirectory) -> None:
    _, transform, _ = load(str(run.path), "best", "", "cpu")
    _, val_set = restore(run.path).datasets()
    picture = Image.fromarray(val_set.split.images[3].permute(1, 2, 0).numpy())
    assert torch.equal(transform(picture), val_set[3][0])


def test_torchvisions_cifar_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = {"label_names": ["plane", "big_car"]}
    parts = {"data_batch_1": 6, "test_batch": 4, "batches.meta": 0}
    sums = {}
    for name, count in parts.items():
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
        content = names if not count else {"data": pixels, "labels": [i % 2 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    settings = {"image_size": 32, "crop_scale": [0.9, 1.0], "flip": True, "limit": None, "seed": 0}
    settings |= {"root": str(tmp_path), "val_fraction": 0.1, "split_seed": 0}
    train, val = ImageClasses(dataset="CIFAR10", **settings).splits()
    assert (len(train), len(val)) == (6, 4)
    assert val.images[1].shape == (3, 32, 32) and list(val.captions[1]) == ["big car"]
    assert list(val.labels or ()) == ["plane", "big car"] * 2
    with pytest.raises(SettingError, match="does not hold Food101"):
        ImageClasses(dataset="Food101", **settings).splits()


def test_torchvisions_cifar100_food101_and_pets_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the layouts that torchvision unpacks, two classes and two images of each a part."""
    import torchvision.datasets as sets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    rows = {"data": pixels, "fine_labels": [0, 1, 0, 1]}
    contents = {"train": rows, "test": rows, "meta": {"fine_label_names": ["apple", "aquarium_fish"]}}
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(sets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(sets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(sets.CIFAR100, "meta", {**sets.CIFAR100.meta, "md5": sums["meta"]})

    food = tmp_path / "food-101"
    pets = tmp_path / "oxford-iiit-pet"
    for path in (food / "meta", pets / "annotations", pets / "images"):
        path.mkdir(parents=True)
    for part, pet_part, numbers in (("train", "trainval", (1, 2)), ("test", "test", (3, 4))):
        dishes = {dish: [f"{dish}/{number}" for number in numbers] for dish in ("apple_pie", "sushi")}
        (food / "meta" / f"{part}.json").write_text(json.dumps(dishes))
        for name in (name for own in dishes.values() for name in own):
            (food / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(food / "images" / f"{name}.jpg")
        rows_of_pets = [
            f"{breed}_{number} {label} 1 1"
            for label, breed in enumerate(("Abyssinian", "pug"), start=1)
            for number in numbers
        ]
        (pets / "annotations" / f"{pet_part}.txt").write_text("\n".join(rows_of_pets) + "\n")
        for row in rows_of_pets:
            Image.new("RGB", (40, 30)).save(pets / "images" / f"{row.split()[0]}.jpg")

    for option, names in (
        ("cifar100", {"apple", "aquarium fish"}),
        ("food101", {"apple pie", "sushi"}),
        ("oxford_pets", {"Abyssinian", "Pug"}),
    ):
        own = f"data={option}", f"data.root={tmp_path}", "data.val_fraction=0.5"
        train, test = restore_data(*own, "data.eval_split=test")
        assert (len(train), len(test), test.split.name) == (2, 4, "test")
        assert restore_data(*own)[1].split.name == "seeded val"
        assert set(test.split.labels or ()) == names
        assert {text for own in test.split.captions for text in own} == names
        assert test[3][0].shape[0] == 3


def test_what_cannot_be_measured_is_one_clear_line(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "templates.txt").write_text("a photo of it\n")
    (tmp_path / "names.txt").write_text("square\nsquare\ncircle\n")
    one_class = tmp_path / "one" / "dog"
    one_class.mkdir(parents=True)
    for index in range(10):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(one_class / f"{index}.png")
    broken = torch.load(run.best_checkpoint, weights_only=True)
    broken["model"]["projection.norm.weight"].fill_(torch.nan)
    torch.save(broken, tmp_path / "broken.pt")
    for words, reason in (
        ([tmp_path / "unfinished"], "best.pt does not exist"),
        ([run.path, "zero_shott"], "zero_shott is no run, no checkpoint and none of the tasks retrieval,"),
        (["zero_shot"], "Which model?"),
        (
            [run.path, "zero_shot", f"eval.templates={tmp_path / 'templates.txt'}"],
            "needs one {} for the class",
        ),
        ([run.path, "zero_shot", f"eval.class_names={tmp_path / 'names.txt'}"], "these repeat: square"),
        (
            [run.path, "zero_shot", "data=imagefolder", f"data.root={one_class.parent}"],
            "needs two classes; all images are of 'dog'",
        ),
        (
            [run.path, "zero_shot", "data=openmoji", "data.limit=20"],
            "zero_shot needs classes, the data set has none",
        ),
        ([tmp_path / "broken.pt", "retrieval"], "not finite"),
        ([run.path, "open_clip:NoSuchModel:x", "retrieval"], "open_clip"),
    ):
        done = miniclip_command(tmp_path, "evaluate", *words)
        assert done.returncode == 1 and reason in done.stderr, (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
