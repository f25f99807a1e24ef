"""The zero-shot task."""

import math
from pathlib import Path

import pytest
import torch

from miniclip.errors import SettingError, UserError
from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import ZeroShot
from miniclip.evaluation.tasks.zero_shot import read_class_names, read_templates
from miniclip.metrics import TEMPLATES, Features
from tests.evaluation.conftest import evaluation_of


def test_images_are_classified_by_the_names_of_their_classes(context: TaskContext) -> None:
    task = ZeroShot(templates="simple", class_names=None)
    task.check(context)
    found = task.run(context)
    assert found.numbers["classes"] == 3 and found.numbers["templates"] == "simple"
    assert found.numbers["chance"] == pytest.approx(100 / 3)
    assert found.numbers["top5"] == 100  # of three classes
    assert (context.folder / "zero_shot.png").is_file()


def test_names_come_from_a_file_of_as_many_that_differ(context: TaskContext, tmp_path: Path) -> None:
    for lines, reason in (
        ("square\nsquare\ncircle\n", "these repeat: square"),
        ("square\n", r"eval\.tasks\.zero_shot\.class_names=.* has 1 line for 3 classes"),
    ):
        (tmp_path / "names.txt").write_text(lines)
        names = f"eval.tasks.zero_shot.class_names={tmp_path / 'names.txt'}"
        asked = evaluation_of("eval=zero_shot", names)
        with pytest.raises(UserError, match=reason):
            asked.check(context)

    (tmp_path / "names.txt").write_text("square\nbox\ncircle\n")
    found = ZeroShot(templates="simple", class_names=str(tmp_path / "names.txt")).run(context)
    assert found.numbers["class_names"] == str(tmp_path / "names.txt")
    assert f"named by {tmp_path / 'names.txt'}, templates simple" in found.lines[0]


def test_unknown_templates_are_refused_at_once() -> None:
    with pytest.raises(SettingError, match=r"templates=nowhere: must be one of none, simple, clip"):
        ZeroShot(templates="nowhere", class_names=None)


def test_it_is_cheap_enough_for_every_validation(context: TaskContext) -> None:
    task = ZeroShot(templates="simple", class_names=None)
    at_validation = task.at_each_validation(context, context.features)
    assert at_validation["val/zero_shot_top1"] == task.run(context).numbers["top1"]

    broken = Features(torch.full((2, 4), torch.nan), torch.ones(2, 4), torch.arange(2))
    assert all(math.isnan(value) for value in task.at_each_validation(context, broken).values())


def test_templates_come_from_a_file_or_by_their_name(tmp_path: Path) -> None:
    assert read_templates("clip") == TEMPLATES["clip"]
    (tmp_path / "t.txt").write_text("one {}\n\ntwo {}s\n")
    assert read_templates(str(tmp_path / "t.txt")) == ("one {}", "two {}s")
    (tmp_path / "n.txt").write_text("hound\nkitten\n")
    assert read_class_names(str(tmp_path / "n.txt")) == ("hound", "kitten")


def test_what_is_wrong_in_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a photo\n")
    with pytest.raises(SettingError, match=r"needs one \{\} for the class in each line, not: a photo"):
        read_templates(str(tmp_path / "t.txt"))
    with pytest.raises(SettingError, match="templates=nowhere: must be one of none, simple, clip"):
        read_templates("nowhere")
    (tmp_path / "n.txt").write_text("\n")
    with pytest.raises(SettingError, match="is an empty file"):
        read_class_names(str(tmp_path / "n.txt"))
    nowhere = "eval.tasks.zero_shot.class_names=nowhere"
    with pytest.raises(UserError, match=f"{nowhere}: must be a text file \\("):
        evaluation_of("eval=zero_shot", nowhere)


def test_a_file_of_names_that_changes_during_training_changes_no_measure(
    context: TaskContext, tmp_path: Path
) -> None:
    file = tmp_path / "names.txt"
    file.write_text("blue square\ngreen square\nred square\n")
    task = ZeroShot(templates="simple", class_names=str(file))
    task.check(context)
    before = task.at_each_validation(context, context.features)
    file.write_text("red square\nblue square\n")
    assert task.at_each_validation(context, context.features) == before
    assert task.run(context).numbers["top1"] == before["val/zero_shot_top1"]
