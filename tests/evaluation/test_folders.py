"""Folders of results: by checkpoint and data, the same numbers wherever a checkpoint lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from miniclip.config.restore import restore
from miniclip.errors import UserError
from miniclip.evaluation.folders import evaluation_folder, folder_beside
from miniclip.runs import RunDirectory
from tests.conftest import Answer, class_settings, fit, interrupt_at_step


def run_with(folder: Path, **splits: str) -> Path:
    """The checkpoints folder of a run that knows the fingerprints of its splits."""
    folder.mkdir()
    facts = {name.replace("_", " "): {"fingerprint": print_} for name, print_ in splits.items()}
    (folder / "environment.json").write_text(json.dumps({"data": facts}))
    return folder / "checkpoints"


def test_a_folder_says_which_checkpoint_and_which_data(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run_with(run, train="t", val="v", test="e")
    assert evaluation_folder(checkpoints / "best.pt", "v") == run / "evaluation"
    assert evaluation_folder(checkpoints / "best.pt", "e") == run / "evaluation" / "test"
    assert evaluation_folder(checkpoints / "best.pt", "other") == run / "evaluation" / "other"
    assert evaluation_folder(checkpoints / "last.pt", "v") == run / "evaluation" / "last"
    lone = tmp_path / "lone" / "model.pt"
    assert evaluation_folder(lone, "v") == tmp_path / "lone" / "model_evaluation" / "v"


def test_other_settings_of_the_data_have_a_folder_below(tmp_path: Path) -> None:
    best = run_with(tmp_path / "run", train="t", val="v") / "best.pt"
    altered = ("data.eval_crop=center", "data.limit=100")
    folder = evaluation_folder(best, "v", altered=altered)
    assert folder == tmp_path / "run" / "evaluation" / "data.eval_crop=center,data.limit=100"
    assert (
        evaluation_folder(best, "v", altered=("data.words=a b/c",)).parent
        == tmp_path / "run" / "evaluation"
    )
    assert folder_beside(tmp_path / "m", "v", altered=altered[1:]).name == "data.limit=100"


def test_only_what_is_asked_for_otherwise_is_altered(class_run: RunDirectory, class_folder: Path) -> None:
    own = restore(class_run.path).config.data
    as_it_was = (f"data.eval_crop={own.eval_crop}", f"data.root={class_folder}", "data.cache_dir=null")
    assert restore(class_run.path, *as_it_was).altered == ()
    assert restore(class_run.path, *as_it_was[1:], "data.eval_crop=center").altered == (
        "data.eval_crop=center",
    )


def test_results_with_another_crop_leave_the_runs_own_alone(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    for settings in ((), ("data.eval_crop=center",)):
        done = miniclip("evaluate", run, "retrieval", *settings)
        assert done.returncode == 0, done.stderr
    found = sorted(
        path.relative_to(run / "evaluation") for path in run.glob("evaluation/**/retrieval.json")
    )
    assert found == [Path("data.eval_crop=center/retrieval.json"), Path("retrieval.json")]


def test_folders_of_models_have_results_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.v1", "model.v2"):
        (tmp_path / name).mkdir()
        assert folder_beside(tmp_path / name, "v") == tmp_path / f"{name}_evaluation" / "v"
    monkeypatch.chdir(tmp_path / "model.v1")
    assert folder_beside(Path("."), "v") == tmp_path / "model.v1_evaluation" / "v"


def test_a_run_that_was_validated_on_a_test_part_has_no_folder_for_it(tmp_path: Path) -> None:
    checkpoints = run_with(tmp_path / "run", train="t", test="e")
    assert evaluation_folder(checkpoints / "best.pt", "e") == tmp_path / "run" / "evaluation"


def test_a_damaged_environment_is_one_clear_line(tmp_path: Path) -> None:
    checkpoints = run_with(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text("[]")
    with pytest.raises(UserError, match=r"environment\.json is damaged"):
        evaluation_folder(checkpoints / "best.pt", "v")


def test_a_moved_a_lone_and_a_resumed_checkpoint_give_the_same_numbers(
    class_run: RunDirectory,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    miniclip: Callable[..., Answer],
) -> None:
    first = shutil.copytree(class_run.path, tmp_path / "first")
    moved = shutil.copytree(class_run.path, tmp_path / "moved")
    lone = tmp_path / "lone" / "model.pt"
    lone.parent.mkdir()
    shutil.copy(class_run.best_checkpoint, lone)
    settings = class_settings(class_folder)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step=6)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "resumed", *settings)
    resumed = fit(tmp_path / "resumed", *settings, "trainer.resume=auto").path

    done = miniclip("evaluate", first, moved, lone, resumed, "retrieval", "linear_probe")
    assert done.returncode == 0, done.stderr
    for task in ("retrieval", "linear_probe"):
        files = (run / "evaluation" / f"{task}.json" for run in (first, moved, resumed))
        expected, *others = (json.loads(file.read_text()) for file in files)
        for numbers in others:
            assert {**numbers, "checkpoint": ""} == {**expected, "checkpoint": ""}
    rows = [line.split()[1:] for line in done.stdout.splitlines()[-4:]]
    assert rows == [rows[0]] * 4
