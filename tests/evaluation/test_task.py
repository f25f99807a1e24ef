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


def test_training_images_that_cannot_be_read_are_left_out_where_training_goes_on_without_them(
    context_of: Callable[..., TaskContext], class_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(class_folder, tmp_path / "classes")
    settings = ["data=imagefolder", f"data.root={folder}", "data.val_fraction=0.5", "data.flip=false"]
    whole = context_of(*settings)
    broken = whole.train.split.ids[12]
    next(path for path in folder.rglob("*.png") if broken in str(path)).write_bytes(b"<html>")

    (train, val), (whole_train, whole_val) = (
        context_of(*settings, "data.on_broken_image=skip", "data.max_broken_fraction=0.1").labeled,
        context_of("data=imagefolder", f"data.root={class_folder}", *settings[2:]).labeled,
    )
    assert np.array_equal(train.labels, np.delete(whole_train.labels, 12))
    np.testing.assert_allclose(train.features, np.delete(whole_train.features, 12, axis=0), atol=1e-6)
    assert np.array_equal(val.features, whole_val.features)
    with pytest.raises(UserError, match=r"of 30 images of the train split cannot be read.*=0\.01"):
        _ = context_of(*settings, "data.on_broken_image=skip", "data.max_broken_fraction=0.01").labeled
    with pytest.raises(UserError, match="is no image"):
        _ = context_of(*settings).labeled


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
