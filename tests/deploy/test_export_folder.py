"""Folders of exports: whole or not there, of one format, and held against the library that reads them."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.deploy.export_folder import compared, export_folder, refused_by
from miniclip.errors import UserError

NAMES = ("config.json", "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("config.json", '{"library": "miniclip"}', "safetensors"),
        ("onnx.json", "{}", "onnx"),
        ("open_clip_config.json", "{}", "open_clip"),
        ("config.json", '{"model_type": "vision-text-dual-encoder"}', "transformers"),
        ("config.json", '{"model_type": "clip"}', "transformers (clip)"),
    ],
)
def test_an_export_in_another_format_stays(tmp_path: Path, file: str, content: str, found: str) -> None:
    (tmp_path / file).write_text(content)
    for library in {"safetensors", "onnx", "open_clip", "transformers"} - {found}:
        with (
            pytest.raises(UserError, match=re.escape(f"the format {found}. Give another folder")),
            export_folder(tmp_path, library, NAMES),
        ):
            pytest.fail("it went on")
    assert (tmp_path / file).read_text() == content


def test_a_run_is_no_place_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="is a run"), export_folder(tmp_path, "onnx", NAMES):
        pytest.fail("it went on")


FORMER = '{"model_type": "vision-text-dual-encoder"}'


def files_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_former_export_makes_room(tmp_path: Path) -> None:
    for name in (*NAMES, "notes.txt"):
        (tmp_path / name).write_text(FORMER)
    with export_folder(tmp_path, "transformers", NAMES):
        assert list(files_in(tmp_path)) == ["notes.txt"]
        (tmp_path / NAMES[0]).write_text("new")
    assert files_in(tmp_path) == {"notes.txt": FORMER, NAMES[0]: "new"}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("killed", [False, True])
def test_a_former_export_is_there_again_after_one_that_fails(tmp_path: Path, killed: bool) -> None:
    for name in (*NAMES, "notes.txt"):
        (tmp_path / name).write_text(FORMER)
    before = files_in(tmp_path)
    export = export_folder(tmp_path, "transformers", NAMES)
    export.__enter__()
    (tmp_path / NAMES[0]).write_text("half")
    if killed:
        with pytest.raises(UserError, match="holds a model in the format transformers"):
            export_folder(tmp_path, "onnx", NAMES).__enter__()
    else:
        export.__exit__(KeyboardInterrupt, None, None)
    assert files_in(tmp_path) == before and len(list(tmp_path.iterdir())) == 3


def test_a_new_export_stays_that_is_killed_while_it_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        (tmp_path / name).write_text(FORMER)

    def killed(folder: Path, **settings: Any) -> None:
        raise KeyboardInterrupt

    new = dict.fromkeys(NAMES, '{"model_type": "vision-text-dual-encoder", "is": "new"}')
    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt),
        export_folder(tmp_path, "transformers", NAMES),
    ):
        for name, content in new.items():
            (tmp_path / name).write_text(content)
        patched.setattr(shutil, "rmtree", killed)
    assert files_in(tmp_path) == new

    with pytest.raises(KeyboardInterrupt), export_folder(tmp_path, "transformers", NAMES):
        raise KeyboardInterrupt
    assert files_in(tmp_path) == new and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", ['{"database": "prod"}', "{", "[]"])
def test_files_of_something_else_are_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / NAMES[0]).write_text(content)
    with (
        pytest.raises(UserError, match=r"holds no model, but config\.json, which would be written over"),
        export_folder(tmp_path, "transformers", NAMES),
    ):
        pytest.fail("it went on")
    assert files_in(tmp_path) == {NAMES[0]: content} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_failed_export_leaves_nothing(tmp_path: Path, before: bool) -> None:
    folder = tmp_path / "exported"
    if before:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt), export_folder(folder, "transformers", NAMES):
        (folder / "tokenizer.json").write_text("{}")
        raise KeyboardInterrupt
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == (["exported", "notes.txt"] if before else [])


def test_what_a_library_raises_is_one_line() -> None:
    line = re.escape("open_clip fails on this model (size mismatch). The export was not kept;")
    with pytest.raises(UserError, match=line), refused_by("open_clip"):
        raise RuntimeError("size mismatch\n\tof everything")
    with pytest.raises(UserError, match=r"^ours$"), refused_by("open_clip"):
        raise UserError("ours")


def test_features_are_compared_to_rounding(tmp_path: Path) -> None:
    ours = torch.eye(2)
    near, far, broken = ours + 9e-6, ours + 2e-5, ours * torch.nan
    done = compared("open_clip", tmp_path, images=(near, ours), texts=(ours, ours))
    assert done.image_difference == pytest.approx(9e-6, rel=0.05) and done.text_difference == 0
    for theirs in (far, broken):
        with pytest.raises(UserError, match="differ from ours by"):
            compared("open_clip", tmp_path, images=(ours, ours), texts=(theirs, ours))
