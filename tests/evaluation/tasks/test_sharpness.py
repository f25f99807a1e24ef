"""The sharpness task."""

import math

import pytest

from miniclip.errors import SettingError, UserError
from miniclip.evaluation import TaskContext
from miniclip.evaluation.evaluation import flat_numbers
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
    assert "top Hessian eigenvalue" in lines[-2]
    assert 0 < numbers["gradient_eigenvector_cosine"] <= 1 and numbers["eigenvector_residual"] >= 0
    assert "cos(gradient, its eigenvector)" in lines[-1]
    assert "blocks" not in numbers
    assert "perturbation_eigenvector_cosine" not in numbers  # nothing is known of an optimizer


def test_the_perturbation_of_the_runs_own_sam_is_held_against_the_eigenvector(
    context: TaskContext,
) -> None:
    context.optimizer = {"_target_": "miniclip.optim.SAM", "rho": 0.05}
    task = Sharpness(radii=[0.001], num_batches=1, batch_size=8)
    plain = task.run(context).numbers
    assert plain["perturbation_eigenvector_cosine"] == pytest.approx(
        plain["gradient_eigenvector_cosine"], rel=1e-3
    )

    context.optimizer = {**context.optimizer, "norms_only": True}
    norms, lines = task.run(context)
    assert norms["perturbation_eigenvector_cosine"] != pytest.approx(
        plain["gradient_eigenvector_cosine"], rel=0.1
    )
    assert "cos(SAM's perturbation, the same)" in lines[-1]


def test_each_block_has_a_row_that_loggers_leave_out(context: TaskContext) -> None:
    task = Sharpness(radii=[0.001], num_batches=1, batch_size=8, block_radius=0.001)
    result = task.run(context)
    blocks = {row["block"]: row for row in result.numbers["blocks"]}
    assert {"image layer1.0", "text embeddings", "text projection", "projection"} <= blocks.keys()
    assert sum(row["fraction"] for row in blocks.values()) == pytest.approx(1)
    assert sum(row["eigenvector_fraction"] for row in blocks.values()) == pytest.approx(1, rel=1e-4)
    assert all(0 <= row["gradient_cosine"] <= 1 for row in blocks.values())

    table = result.lines[-len(blocks) :]
    assert [line.split("  ")[0].strip() for line in table] == list(blocks)
    assert f"({len(blocks) + 1} forward passes)" in "\n".join(result.lines)
    logged = flat_numbers({"sharpness": result})
    assert "eval/sharpness/gradient_eigenvector_cosine" in logged
    assert not any("layer1" in name or "blocks" in name for name in logged)


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
    [
        ({"radii": [0.0]}, "radii"),
        ({"num_batches": 0}, "num_batches"),
        ({"batch_size": 1}, "batch_size"),
        ({"block_radius": 0.0}, "block_radius"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        Sharpness(**{"radii": [0.1], "num_batches": 1, "batch_size": 2, **change})
