"""A skipped step leaves no state, whichever optimizer and whichever step."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.optim import MSAM, SAM, as_pass_optimizer, forget_skipped_state
from miniclip.training import Precision
from tests.optim.test_sam import ADAMW, CPU
from tests.optim.test_sam_variants import MUON

BASES: dict[str, Any] = {
    "adamw": partial(ADAMW, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd, damped": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, fused=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1, fused=True),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "muon": MUON,
}


def used_memory() -> None:
    """Leave numbers in memory that is free again, which `empty_like` then hands out."""
    blocks = [torch.full((64, 64), 1e30) for _ in range(200)]
    del blocks


@pytest.mark.parametrize(
    ("base", "way"),
    [
        (base, way)
        for base in BASES
        for way in ("alone", "sam", "msam", "GradScaler alone")
        if (base, way) != ("adagrad", "msam")  # which keeps no momentum
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_skipped_first_steps_are_as_if_they_had_not_been(base: str, way: str, dtype: Any) -> None:
    finals = []
    for num_skipped in (0, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        make = {"sam": SAM, "GradScaler alone": SAM, "msam": MSAM}.get(way)
        optimizer: Any = (
            BASES[base](model.parameters())
            if make is None
            else make(model.parameters(), BASES[base], rho=0.1)
        )
        precision = Precision(dtype=dtype, device=CPU)
        if precision.scaler is not None:  # so that both runs have one scale
            precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=1 - 1e-9)
        for number in range(num_skipped + 2):
            used_memory()
            _update(optimizer, model, precision, way, overflows=number < num_skipped)
        finals.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert finals[1].isfinite().all()
    torch.testing.assert_close(finals[1], finals[0], rtol=1e-4, atol=1e-5)


def _update(optimizer: Any, model: nn.Module, precision: Precision, way: str, *, overflows: bool) -> None:
    def closure() -> Tensor:
        loss = model(torch.ones(1, 64) / 8).square().mean()
        precision.backward(loss * torch.inf if overflows else loss)
        return loss.detach()

    optimizer = as_pass_optimizer(optimizer)
    optimizer.backward(closure)
    if way == "GradScaler alone" and precision.scaler is not None:
        precision.scaler.step(optimizer.base_optimizer)
        precision.scaler.update()
    else:
        precision.step(optimizer, max_norm=None)


def test_state_of_steps_that_were_applied_stays() -> None:
    model = nn.Linear(4, 4)
    optimizer = SAM(model.parameters(), BASES["sgd"], rho=0.0)
    precision = Precision(dtype="float32", device=CPU)
    momenta = []
    for overflows in (True, False, True):
        optimizer.backward(lambda overflows=overflows: _backward(model, overflows))
        precision.step(optimizer, max_norm=1.0)
        momenta.append([state["momentum_buffer"].clone() for state in optimizer.state.values()])
    assert momenta[0] == [] and len(momenta[1]) == 2
    assert all(torch.equal(now, then) for now, then in zip(momenta[2], momenta[1], strict=True))


def test_a_copy_of_muon_leaves_no_state_of_skipped_steps_either() -> None:
    original = MUON([nn.Parameter(torch.ones(4, 4))])
    forget_skipped_state(original)
    copied = copy.deepcopy(original)
    forget_skipped_state(copied)
    (p,) = copied.param_groups[0]["params"]
    p.grad = torch.full_like(p, torch.inf)
    copied.found_inf = torch.ones(())
    copied.step()
    assert not copied.state.get(p)


def _backward(model: nn.Module, overflows: bool) -> Tensor:
    loss = model(torch.ones(1, 4)).square().mean()
    (loss * torch.inf if overflows else loss).backward()
    return loss.detach()
