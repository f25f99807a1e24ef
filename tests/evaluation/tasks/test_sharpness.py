"""The sharpness task."""

import math

import pytest

from miniclip.errors import SettingError, UserError
from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import Sharpness
from tests.evaluation.conftest import Measured


def test_a_run_is_measured_on_its_training_batches(context: TaskContext) -> None:
    task = Sharpness(radii=[0.001, 0.002], num_batches=2, batch_size=8)
    task.check(context)
    numbers, lines = task.run(context)
    # how much is not asked: residual blocks that start at zero lie on the kink of their ReLU
    assert all(rise > 0 for rise in numbers["m_sharpness"].values())
    assert list(numbers["m_sharpness"]) == ["0.001", "0.002"]
    assert math.isfinite(numbers["top_eigenvalue"])
    assert numbers["protocol"].startswith("train: 2 x 8 images")
    assert set(numbers["landscape"]) == {"distances", "gradient", "shares", "random"}
    assert (context.folder / "sharpness.png").stat().st_size > 10_000
    assert "top Hessian eigenvalue" in lines[-1]


def test_more_batches_than_images_are_refused_before_training(context: TaskContext) -> None:
    reason = r"num_batches=9 of eval\.tasks\.sharpness\.batch_size=64 must fit into the 30 training images"
    with pytest.raises(UserError, match=reason):
        Sharpness(radii=[0.1], num_batches=9, batch_size=64).check(context)


def test_a_model_without_its_training_loss_is_refused(measured: Measured, context: TaskContext) -> None:
    foreign = TaskContext(measured.model, measured.train, measured.val, folder=context.folder, loss=None)
    with pytest.raises(UserError, match="sharpness is measured on MiniCLIP's runs, not on a run"):
        Sharpness(radii=[0.1], num_batches=1, batch_size=8).check(foreign)


@pytest.mark.parametrize(
    ("change", "setting"),
    [({"radii": [0.0]}, "radii"), ({"num_batches": 0}, "num_batches"), ({"batch_size": 1}, "batch_size")],
)
def test_numbers_out_of_range_are_refused(change: dict, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        Sharpness(**{"radii": [0.1], "num_batches": 1, "batch_size": 2, **change})
