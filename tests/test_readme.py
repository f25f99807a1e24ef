"""The README's examples in Python, run as they stand there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from miniclip.runs import RunDirectory
from tests.in_process import Answer

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_examples_of_the_api_run(
    class_run: RunDirectory,
    miniclip: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "miniclip").mkdir(parents=True)
    (tmp_path / "outputs" / "miniclip" / "RUN").symlink_to(class_run.path)
    for name, color in (("dog", "brown"), ("cat", "gray")):
        Image.new("RGB", (60, 40), color).save(f"{name}.jpg")
    exported = miniclip("export", class_run.path, "--format", "onnx", "-o", "my-onnx")
    assert exported.returncode == 0, exported.stderr

    names: dict[str, Any] = {}
    for line in lines_of_examples("## Using a trained model"):
        exec(line, names)
        told = re.search(r"# .*?\((\d), (\d|D)\)$", line)
        if told:
            rows, columns = told.groups()
            features = eval(line.partition("  #")[0].rpartition(" = ")[2], names)
            assert features.shape == (
                int(rows),
                names["model"].embed_dim if columns == "D" else int(columns),
            )


def lines_of_examples(heading: str) -> list[str]:
    """The lines of the examples in Python of a section."""
    section = README.read_text(encoding="utf-8").partition(f"{heading}\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 3
    return "".join(examples).splitlines()
