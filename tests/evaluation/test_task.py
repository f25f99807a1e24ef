"""What all tasks share: features computed once, classes and labels, and what they need."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from miniclip.errors import UserError
from miniclip.evaluation import TaskContext, Unsuited
from miniclip.evaluation.task import need_classes, need_training_images
from tests.evaluation.conftest import Measured


def test_features_are_computed_once_and_belong_to_the_validation_part(
    context: TaskContext, measured: Measured
) -> None:
    features = context.features
    assert features is context.features and features.images is context.image_features
    torch.testing.assert_close(features.images, measured.model.encode_dataset(measured.val))
    assert features.texts.shape == features.images.shape  # a caption per image
    assert torch.equal(features.image_of_caption, torch.arange(30))


def test_classes_are_those_of_both_parts_sorted(context: TaskContext) -> None:
    assert context.classes == ["blue square", "green square", "red square"]
    labels = context.labels(context.val)
    assert [context.classes[label] for label in labels] == list(context.val.split.labels or ())
    train, val = context.labeled
    assert np.array_equal(val.labels, labels) and len(train.features) == len(context.train) == 30


def test_numbered_classes_are_sorted_by_their_numbers(
    context_of: Callable[..., TaskContext], class_folder: Path, tmp_path: Path
) -> None:
    *_, folder = sorted(class_folder.iterdir())
    for number in (1, 2, 10):
        shutil.copytree(folder, tmp_path / str(number))
    context = context_of("data=imagefolder", f"data.root={tmp_path}", "data.val_fraction=0.5")
    assert context.classes == ["1", "2", "10"]


def test_training_images_are_seen_without_random_crops(context: TaskContext, measured: Measured) -> None:
    first, _ = context.labeled
    again, _ = TaskContext(measured.model, measured.train, measured.val, folder=context.folder).labeled
    assert np.array_equal(first.features, again.features)


def test_what_the_data_lack_is_unsuited(context_of: Callable[..., TaskContext], class_folder: Path) -> None:
    with pytest.raises(Unsuited, match="few_shot needs classes"):
        need_classes("few_shot", context_of("data.limit=20"))
    everything = context_of("data=imagefolder", f"data.root={class_folder}", "data.use=all")
    with pytest.raises(Unsuited, match=r"few_shot needs training images, and data\.use=all measures every"):
        need_training_images("few_shot", everything)


def test_broken_weights_are_one_clear_line(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.model, "encode_dataset", lambda images: torch.full((2, 4), torch.nan))
    with pytest.raises(UserError, match="features of a run are not finite"):
        _ = context.image_features
