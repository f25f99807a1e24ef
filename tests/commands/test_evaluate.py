"""`miniclip evaluate` on real runs: tasks, data and models in any order, and what cannot be measured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from miniclip import MiniCLIP
from miniclip.commands.evaluate import _in_order
from miniclip.config.restore import restore
from miniclip.data import ImageTextDataset
from miniclip.runs import RunDirectory
from tests.conftest import TINY, Answer, fit, parts_of
from tests.evaluation.conftest import evaluation_of
from tests.in_process import train_in_process


def numbers_of(folder: Path, task: str) -> dict:
    return json.loads((folder / "evaluation" / f"{task}.json").read_text())


def test_a_run_is_measured_in_every_way_that_suits_it(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    settings = ["eval.tasks.few_shot.shots=[1,2]", "eval.tasks.few_shot.num_seeds=2"]
    done = miniclip("evaluate", run, *settings)
    assert done.returncode == 0, done.stderr
    found = {path.stem for path in (run / "evaluation").glob("*.json")}
    assert found == set(evaluation_of("eval=standard").tasks)  # all of them suit images with classes
    for task in found:
        numbers = numbers_of(run, task)
        assert numbers["protocol"].startswith("seeded val: 30 images, 30 captions")
        assert numbers["checkpoint"].endswith("best.pt") and len(numbers["data_fingerprint"]) == 16
        assert f"{task} ({numbers['protocol']}; {numbers['checkpoint']})" in done.stdout
    assert set(numbers_of(run, "few_shot")["shots"]) == {"1", "2"}
    for name in ("retrieval", "similarity", "space", "zero_shot", "health"):
        with Image.open(run / "evaluation" / f"{name}.png") as figure:
            assert figure.width <= 1300 and figure.height <= 1050


def test_sharpness_knows_the_runs_own_sam_in_training_and_after_it(
    tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    task = [
        f"eval.tasks.sharpness.{name}" for name in ("num_batches=1", "batch_size=8", "block_radius=null")
    ]
    settings = [*TINY, "trainer.budget.steps=1", "optimizer=asam", "eval=sharpness", *task]
    trained = train_in_process(*settings, f"hydra.run.dir={tmp_path}")
    assert trained.returncode == 0, trained.stderr
    in_training = numbers_of(tmp_path, "sharpness")
    shutil.rmtree(tmp_path / "evaluation")

    assert miniclip("evaluate", tmp_path, "sharpness", *task).returncode == 0
    after_it = numbers_of(tmp_path, "sharpness")
    cosines = ("gradient_eigenvector_cosine", "perturbation_eigenvector_cosine")
    assert [in_training[name] for name in cosines] == pytest.approx([after_it[name] for name in cosines])
    assert after_it[cosines[0]] != pytest.approx(after_it[cosines[1]], rel=0.01)


def test_tasks_on_the_command_line_are_those_that_are_done(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    done = miniclip("evaluate", run, "few_shot", "eval.tasks.few_shot.shots=[1]")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (run / "evaluation").glob("*.json")] == ["few_shot.json"]
    assert set(numbers_of(run, "few_shot")["shots"]) == {"1"}

    refused = miniclip("evaluate", run, "retrieval", "eval.tasks.few_shot.shots=[1]")
    assert refused.returncode == 1 and "the task few_shot is not chosen" in refused.stderr


def test_what_cannot_be_measured_is_one_clear_line(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "templates.txt").write_text("a photo of it\n")
    (tmp_path / "names.txt").write_text("square\nsquare\ncircle\n")
    one_class = tmp_path / "one" / "dog"
    one_class.mkdir(parents=True)
    for index in range(10):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(one_class / f"{index}.png")
    broken = parts_of(class_run.best_checkpoint)
    broken["model"]["projection.norm.weight"].fill_(torch.nan)
    torch.save(broken, tmp_path / "broken.pt")

    zero_shot = [class_run.path, "zero_shot"]
    templates = f"eval.tasks.zero_shot.templates={tmp_path / 'templates.txt'}"
    names = f"eval.tasks.zero_shot.class_names={tmp_path / 'names.txt'}"
    for words, reason in (
        ([tmp_path / "unfinished"], "best.pt does not exist"),
        (
            [class_run.path, "zero_shott"],
            "zero_shott is no run, no checkpoint and none of the tasks few_",
        ),
        (["zero_shot"], "Which model?"),
        ([*zero_shot, templates], "needs one {} for the class"),
        ([*zero_shot, names], "these repeat: square"),
        (
            [*zero_shot, "data=imagefolder", f"data.root={one_class.parent}"],
            "needs two classes; all images are of 'dog'",
        ),
        ([*zero_shot, "data=openmoji", "data.limit=20"], "zero_shot needs classes, the data set has none"),
        ([class_run.path, "sharpness"], "must fit into the 30 training images"),
        ([tmp_path / "nowhere", "sharpness"], "is no run, no checkpoint"),
        ([class_run.path, "retrieval", "data.rot=x"], "has no setting data.rot"),
        ([class_run.path, "precision=bf16"], "precision=bf16: evaluate takes settings of the data"),
        ([class_run.path, "+trainer.batch_size=7"], "+trainer.batch_size=7: evaluate takes"),
        ([class_run.path, "retrieval", "--device", "cuda:9"], "cuda"),
        ([tmp_path / "broken.pt", "retrieval"], "not finite"),
        ([class_run.path, "open_clip:NoSuchModel:x", "retrieval"], "open_clip"),
    ):
        done = miniclip("evaluate", *words)
        assert done.returncode == 1 and reason in done.stderr, (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1


def test_another_data_set_and_a_table_of_several_models(
    class_run: RunDirectory, class_folder: Path, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    settings = [setting for setting in TINY if "num_layers" not in setting]
    bag = fit(tmp_path / "bag", *settings, "encoder/text=bag", "trainer.budget.steps=1")
    run = shutil.copytree(class_run.path, tmp_path / "run")
    checkpoint = run / "checkpoints" / "last.pt"
    squares = tmp_path / "squares"
    for path in class_folder.glob("*/*.png"):
        (squares / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, squares / path.parent.name / f"other_{path.name}")
    other = ["data=imagefolder", f"data.root={squares}", "data.val_fraction=0.2"]
    done = miniclip("evaluate", bag.path, checkpoint, "retrieval", *other)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()[-4:]
    assert [line.split()[0] for line in table] == ["image", "chance", str(bag.path), str(checkpoint)]
    # on data that is not its own, and of them on a fraction that is not their default
    (file,) = (bag.path / "evaluation").glob("*/data.val_fraction=0.2/retrieval.json")
    assert json.loads(file.read_text())["protocol"].startswith("seeded val: 12 images")
    assert len(list((run / "evaluation" / "last").glob("*/*/retrieval.json"))) == 1


def test_images_that_have_trained_the_run_are_not_measured(
    class_run: RunDirectory,
    class_folder: Path,
    tmp_path: Path,
    miniclip: Callable[..., Answer],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    copy = shutil.copytree(class_folder, tmp_path / "copy")
    by_name = ["data=imagefolder", f"data.root={copy}", "data.flip=false"]
    for words in (
        ["data.split_seed=1"],
        ["data.val_fraction=0.8"],
        ["data.seeded_test_fraction=0.5", "data.eval_split=test"],
        [*by_name, "data.val_fraction=0.8"],
        ["data=imagefolder", "data.root=run/../copy", "data.val_fraction=0.8"],
    ):
        done = miniclip("evaluate", run, "retrieval", *words)
        assert done.returncode == 1 and "images of this seeded" in done.stderr, (words, done.stderr)
        assert "have trained the run. Take the run's own settings" in done.stderr
    assert not (run / "evaluation").exists()

    # the same part, some of it, and every image by its name
    for words in ([f"data.root={copy}"], ["data.limit=10"], ["data.caption_noise=0.5"], ["data.use=all"]):
        done = miniclip("evaluate", run, "retrieval", *words)
        assert done.returncode == 0, (words, done.stderr)
    assert "may be among the measured ones" not in caplog.text

    # files of another make are another data set
    restored = restore(run, f"data.root={copy}", "data.split_seed=1")
    assert restored.own_data is not None
    elsewhere = restored._replace(own_data={**restored.own_data, "root": str(tmp_path / "nowhere")})
    elsewhere.refuse_seen(*restored.datasets())
    assert caplog.text.count("may be among the measured ones") == 1
    elsewhere._replace(is_elsewhere=True).refuse_seen(*restored.datasets())
    assert caplog.text.count("may be among the measured ones") == 1
    caplog.clear()

    # the same place, however it is written
    around = f"data.root={class_folder.parent}/./{class_folder.name}"
    assert not restore(run, "data=imagefolder", around).is_elsewhere
    assert restore(run, *by_name).is_elsewhere

    # a stream holds the names of its first rows alone
    assert restored._part_trained_on() is not None
    with monkeypatch.context() as patch:
        patch.setattr(ImageTextDataset, "is_streamed", True)
        assert restored._part_trained_on() is None

    # one image more divides them all anew
    first = min((copy / "blue_square").iterdir())
    shutil.copy(first, first.with_name("00_new.png"))
    assert miniclip("evaluate", run, "retrieval", f"data.root={copy}").returncode == 0
    assert "images that it was trained on may be among the measured ones" in caplog.text


def test_what_is_wrong_with_a_later_model_is_told_before_one_is_measured(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"none")
    done = miniclip("evaluate", class_run.path, tmp_path / "weights.pt", "retrieval")
    assert done.returncode == 1 and done.stdout == ""


def test_a_job_of_a_sweep_is_a_run_like_any_other(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    job = shutil.copytree(class_run.path, tmp_path / "0_rho=0.05,seed=1")
    done = miniclip("evaluate", job.name, "retrieval")
    assert done.returncode == 0, done.stderr
    assert (job / "evaluation" / "retrieval.json").is_file()


def test_a_folder_that_is_called_like_a_task_is_no_model(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    (tmp_path / "retrieval").mkdir()
    done = miniclip("evaluate", run, "retrieval")
    assert done.returncode == 0, done.stderr
    assert (run / "evaluation" / "retrieval.json").is_file()


def test_a_model_without_data_says_on_what_it_is_measured(
    class_run: RunDirectory,
    tmp_path: Path,
    miniclip: Callable[..., Answer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    saved = MiniCLIP.from_pretrained(class_run.path).save_pretrained(tmp_path / "saved")
    few = "data.limit=40"
    assert miniclip("evaluate", saved, "retrieval", few).returncode == 0
    assert "measured on the drawings of data=openmoji" in caplog.text

    caplog.clear()
    assert miniclip("evaluate", saved, "retrieval", "data=openmoji", few).returncode == 0
    assert "measured on the drawings" not in caplog.text


def test_a_preprocessing_that_a_model_does_not_take_is_refused_or_told(
    class_run: RunDirectory,
    tmp_path: Path,
    miniclip: Callable[..., Answer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    saved = MiniCLIP.from_pretrained(run).save_pretrained(tmp_path / "saved")
    for setting in ("data.eval_crop=center", "data.image_size=48"):
        done = miniclip("evaluate", saved, "retrieval", "data=openmoji", "data.limit=40", setting)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
        assert f"{setting}: {saved} brings its own preprocessing" in done.stderr
    assert not list(tmp_path.glob("saved_evaluation"))

    # beside a run it is for that, and the other's results are those without it
    done = miniclip("evaluate", run, saved, "retrieval", "data.eval_crop=center")
    assert done.returncode == 0, done.stderr
    assert f"data.eval_crop=center is for the run alone: {saved} is measured with its own" in caplog.text
    assert (run / "evaluation" / "data.eval_crop=center" / "retrieval.json").is_file()
    (with_setting,) = (tmp_path / "saved_evaluation").rglob("retrieval.json")
    assert len(with_setting.relative_to(tmp_path).parts) == 3
    before = with_setting.read_text()
    assert miniclip("evaluate", run, saved, "retrieval").returncode == 0
    assert with_setting.read_text() == before


def test_a_model_without_data_takes_those_of_the_run_before_it(tmp_path: Path) -> None:
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    onnx = tmp_path / "exported"
    onnx.mkdir()
    (onnx / "onnx.json").write_text("{}")
    typed = [runs[0], str(onnx), runs[1]]
    assert _in_order(typed) == typed
    assert _in_order([str(onnx), *runs]) == [*runs, str(onnx)]
