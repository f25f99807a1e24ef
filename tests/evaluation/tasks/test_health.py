"""The health task."""

import pytest
import torch

from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import EmbeddingHealth
from miniclip.metrics import Features, health


def test_every_measure_has_its_line(context: TaskContext) -> None:
    numbers, lines = EmbeddingHealth().run(context)
    measures = health(context.features)._asdict()
    assert {key: numbers[key] for key in measures} == measures
    assert sum(numbers["cosines"]["positive"]) == 30
    assert [line.split()[0] for line in lines[: len(measures)]] == [key.split("_")[0] for key in measures]
    assert (context.folder / "health.png").is_file()


def test_a_collapse_is_told(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    images = context.image_features[:1].expand(30, -1)
    monkeypatch.setitem(context.__dict__, "features", Features(images, images, context.features[2]))
    numbers, lines = EmbeddingHealth().run(context)
    assert len(lines) == 9 and numbers["collapsed"] and "COLLAPSED" in lines[-1]


def test_two_images_cannot_tell_of_a_collapse(
    context: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = context.image_features[:1].expand(2, -1)
    monkeypatch.setitem(context.__dict__, "features", Features(images, images, torch.arange(2)))
    numbers, lines = EmbeddingHealth().run(context)
    assert not numbers["collapsed"] and lines[-1].startswith("Fewer than 8 images cannot tell")
