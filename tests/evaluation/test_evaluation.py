"""Evaluations: a mapping of tasks, what suits the data, files of numbers, and the command on real runs."""

import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.evaluation import Result, TaskContext, flat_numbers
from miniclip.evaluation.evaluation import LOCK
from miniclip.files import locked
from tests.conftest import TINY
from tests.evaluation.conftest import evaluation_of
from tests.in_process import train_in_process


def numbers_of(folder: Path, task: str) -> dict:
    return json.loads((folder / "evaluation" / f"{task}.json").read_text())


def test_a_task_is_left_out_or_chosen_by_its_name() -> None:
    assert "few_shot" not in evaluation_of("eval=all", "~eval.tasks.few_shot").tasks
    chosen = evaluation_of("eval/tasks=[retrieval,few_shot]", "eval.tasks.few_shot.shots=[1]")
    assert list(chosen.tasks) == ["retrieval", "few_shot"]
    with pytest.raises(UserError, match=r"eval/tasks=retreival: there is no such option\. Did you mean"):
        evaluation_of("eval/tasks=[retreival]")


@pytest.mark.parametrize("value", ["null", "5"])
def test_a_value_in_the_place_of_a_task_is_refused(value: str) -> None:
    told = rf"eval\.tasks\.retrieval={value}: is no task; one is left out with '~eval\.tasks\.retrieval'"
    with pytest.raises(UserError, match=told):
        evaluation_of("eval=standard", f"eval.tasks.retrieval={value}")


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("eval.tasks=[retrieval,few_shot]", "eval/tasks=[retrieval,few_shot]"),
        ("eval.tasks=null", "eval=standard"),
        ("eval.shots=[1]", "eval.tasks.few_shot.shots=[1]"),
        ("eval.num_seeds=2", "eval.tasks.few_shot.num_seeds=2"),
        ("eval.radii=[0.1]", "eval.tasks.sharpness.radii=[0.1]"),
        ("eval.batches=3", "eval.tasks.sharpness.num_batches=3"),
        ("eval.batch_size=8", "eval.tasks.sharpness.batch_size=8"),
        ("eval.templates=clip", "eval.tasks.zero_shot.templates=clip"),
        ("eval.class_names=names.txt", "eval.tasks.zero_shot.class_names=names.txt"),
    ],
)
def test_former_settings_name_the_new_ones(
    former: str,
    now: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("square\n")
    base = [] if "tasks" in former else ["eval=all"]
    old = evaluation_of(*base, former)
    assert f"{former} is {now} now; the old name goes with the next version." in caplog.text
    new = evaluation_of(*base, now)
    assert {name: vars(task) for name, task in old.tasks.items()} == {
        name: vars(task) for name, task in new.tasks.items()
    }
    assert old.skip_unsuited == new.skip_unsuited


def test_what_does_not_suit_is_left_out_of_standard_and_refused_by_name(
    context_of: Callable[..., TaskContext],
) -> None:
    without_classes = context_of("data.limit=20")
    suited = evaluation_of("eval=standard").check(without_classes)
    assert list(suited) == ["retrieval", "health", "pictures"]
    with pytest.raises(UserError, match="zero_shot needs classes, the data set has none"):
        evaluation_of("eval=zero_shot").check(without_classes)


def test_two_evaluations_of_one_model_wait_for_each_other(
    context: TaskContext, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with locked(context.folder / LOCK):
            second = pool.submit(evaluation_of("eval/tasks=health").run, context, checkpoint="")
            wait([second], timeout=2)
            assert not second.done() and not (context.folder / "health.json").exists()
        assert set(second.result()) == {"health"} and (context.folder / "health.json").exists()
    assert f"Another evaluation writes into {context.folder}" in caplog.text


def test_one_class_to_learn_from_is_told_before_anything_is_measured(
    context_of: Callable[..., TaskContext],
    class_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = sorted(class_folder.iterdir())[:2]
    for part, folder in (("train", first), ("val", first), ("val", second)):
        shutil.copytree(folder, tmp_path / "set" / part / folder.name)
    context = context_of("data=imagefolder", f"data.root={tmp_path / 'set'}")
    with caplog.at_level(logging.WARNING):
        suited = evaluation_of("eval=standard").check(context)
    assert list(suited) == ["retrieval", "zero_shot", "health", "pictures"]
    assert "few_shot needs two classes; all training images are of 'blue square'" in caplog.text
    with pytest.raises(UserError, match=r"linear_probe needs two classes.*data\.root"):
        evaluation_of("eval=linear_probe").check(context)


def test_a_probe_without_scikit_learn_is_refused_before_anything_is_measured(
    context: TaskContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("miniclip.evaluation.task.can_probe", lambda: False)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[evaluation\]\""):
        evaluation_of("eval=all").check(context)
    with caplog.at_level(logging.WARNING):
        suited = evaluation_of("eval=standard").check(context)
    assert list(suited) == ["retrieval", "zero_shot", "health", "pictures"]
    assert "few_shot is left out" in caplog.text and "need scikit-learn" in caplog.text


def test_loggers_are_given_every_number_and_what_names_it() -> None:
    numbers = {"protocol": "val", "shots": {"4": {"mean": 12.5, "accuracies": [12.0, 13.0]}}}
    found = flat_numbers({"few_shot": Result({**numbers, "metrics": {"top1": 3.0}}, [])})
    assert found == {
        "eval/few_shot/protocol": "val",
        "eval/few_shot/shots/4/mean": 12.5,
        "eval/few_shot/top1": 3.0,
    }


def test_training_ends_with_the_tasks_it_was_given(class_folder: Path, tmp_path: Path) -> None:
    settings = ["data=imagefolder", f"data.root={class_folder}", "trainer.budget.steps=2", "eval=zero_shot"]
    done = train_in_process(*TINY, *settings, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    numbers = numbers_of(tmp_path / "run", "zero_shot")
    assert f"zero_shot ({numbers['protocol']}; {numbers['checkpoint']})" in done.stdout + done.stderr
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/zero_shot/top1"] == numbers["top1"]
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").open())
    validations = [record for record in records if "val/rsum" in record]
    assert all(r["health/image_rank"] > 0 and 0 <= r["val/zero_shot_top1"] <= 100 for r in validations)
