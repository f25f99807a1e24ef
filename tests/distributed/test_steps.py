"""Two processes that share each batch do what one does with the whole of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from miniclip.distributed import World
from miniclip.errors import SettingError
from miniclip.losses import ClipLoss
from miniclip.models import CLIP
from miniclip.models.synced_batch_norm import synced_batch_norms
from miniclip.optim import SAM, parameter_groups
from miniclip.optim.descents import Functional, SurrogateGap
from miniclip.optim.directions import Momentum
from miniclip.optim.unusual_gradient import UnusualGradient
from tests.distributed.children import children
from tests.distributed.steps import BATCH, CASES, OWN_PERTURBATION, batch, main, ten_steps, training_step


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Losses, gradients, running statistics and weights over ten steps, whatever the optimizer."""
    first, second = run_two(tmp_path)
    for name, settings in CASES.items():
        alone = ten_steps(settings, World())
        assert first[name]["losses"][0].item() == pytest.approx(alone["losses"][0].item(), rel=1e-6), name
        assert first[name]["norms"][0].item() == pytest.approx(alone["norms"][0].item(), rel=3e-6), name
        for part in ("weights", "buffers"):
            assert torch.equal(first[name][part], second[name][part]), name
            difference = (first[name][part] - alone[part]).abs()
            # Adam makes part of a step, 5e-3 of an embedding, of the last bits of a gradient near zero
            assert difference.max() < 5e-3 and difference.mean() < 3e-6, name

    statistics = first["own statistics"]["buffers"], second["own statistics"]["buffers"]
    assert torch.equal(*statistics), "each batch norm sees its own rows, and all hold the mean"
    check_own_perturbation(first["own perturbation"], second["own perturbation"])
    for found in (first["bad image"], second["bad image"]):
        assert not found["norm"].isfinite() and found["moved"] == 0


def run_two(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    with children(folder, main, [(folder,)] * 2) as both:
        assert [child.end() for child in both] == [0, 0], [child.said() for child in both]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def check_own_perturbation(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Against two copies of the model, each moved along the gradient of its own rows, in one process."""
    step = training_step(OWN_PERTURBATION, World())
    assert isinstance(step.optimizer, SAM)
    halves = [batch(0, World(rank, 2).rows(BATCH)) for rank in range(2)]
    moved = [perturbed(copy.deepcopy(step.model), half, rho=0.5) for half in halves]

    images = torch.cat([m.encode_image(h.images) for m, h in zip(moved, halves, strict=True)])
    texts = torch.cat(
        [m.encode_text(h.token_ids, h.attention_mask) for m, h in zip(moved, halves, strict=True)]
    )
    output = moved[0].from_features(images, texts)
    ClipLoss()(**output.loss_inputs()).backward()

    grads = [[p.grad for p in m.parameters()] for m in moved]
    pairs = zip(*grads, strict=True)
    sums = [sum(g for g in pair if g is not None) for pair in pairs if any(g is not None for g in pair)]
    gradient = torch.cat([g.flatten() for g in sums if isinstance(g, Tensor)])
    norm = gradient.norm()

    for found in (first, second):
        clipped = gradient / max(1.0, norm.item())
        torch.testing.assert_close(found["gradient"], clipped, rtol=1e-4, atol=1e-6)
        # the losses of its own rows and of all are no sharpness
        assert found["metrics"].tolist() == [False, True]
    assert torch.equal(first["weights"], second["weights"])


def perturbed(model: CLIP, half: Any, *, rho: float) -> CLIP:
    """A model at w + e, e along the gradient of the loss of these rows alone."""
    groups = parameter_groups(model)
    params = [p for group in groups if group.get("perturb", True) for p in group["params"]]
    output = model(half.images, half.token_ids, half.attention_mask)
    gradients = torch.autograd.grad(ClipLoss()(**output.loss_inputs()), params, materialize_grads=True)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for p, g in zip(params, gradients, strict=True):
            p.add_(rho * g / norm)
    return model


@pytest.mark.parametrize(
    "axes",
    [
        {"trigger": UnusualGradient()},
        {"descent": SurrogateGap(alpha=0.1)},
        {"descent": Functional()},
        {"direction": Momentum()},
    ],
)
def test_what_needs_the_mean_gradient_is_refused_without_it(axes: dict[str, Any]) -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(SettingError, match="sync_perturbation=false"):
        SAM(weights, torch.optim.SGD, rho=0.1, sync_perturbation=False, **axes)


def test_a_temperature_cannot_reuse_what_another_process_did_not_see() -> None:
    settings = (*OWN_PERTURBATION, "temperature.sam=reuse")
    training_step(settings, World())
    with pytest.raises(SettingError, match="take recompute"):
        training_step(settings, World(0, 2))


def test_a_batch_norm_that_does_more_is_not_taken_for_a_plain_one() -> None:
    class WithActivation(torch.nn.BatchNorm2d):
        pass

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), WithActivation(3))
    synced = synced_batch_norms(model, World(0, 2), wanted=True)
    with pytest.raises(SettingError, match="is not known for 1, a WithActivation"), synced:
        pass
    assert type(model[0]) is torch.nn.BatchNorm2d
