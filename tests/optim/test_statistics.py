"""The second pass leaves no trace in any module's buffers, and computes what the first one would."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from miniclip.optim import SAM, frozen_statistics
from miniclip.optim.statistics import BufferCopies
from tests.optim.test_sam import SGD, batches, regression, small_net


class MovingAverage(nn.Module):
    """A user's own: replaces its buffer by a new tensor, in evaluation as well."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=tuple(range(x.ndim - 1)))[:8]
        return x + self.mean.sum()


NORMS = {
    "batch": lambda: nn.BatchNorm1d(8),
    "batch, cumulative": lambda: nn.BatchNorm1d(8, momentum=None),
    "batch, lazy": nn.LazyBatchNorm1d,
    "instance": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True, affine=True), nn.Flatten()
    ),
    "instance, lazy": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.LazyInstanceNorm1d(track_running_stats=True, affine=True), nn.Flatten()
    ),
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "a user's own": MovingAverage,
}


def net(name: str, *, training: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), NORMS[name](), nn.GELU(), nn.Linear(8, 3))
    for inputs in batches(2):  # so that lazy modules are made, and statistics are not those of the batch
        model(inputs)
    model[1].train(training)
    return model


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_buffers_move_as_in_one_pass_and_the_second_computes_the_same(name: str, training: bool) -> None:
    model = net(name, training=training)
    plain = copy.deepcopy(model)
    inputs = batches(3)[-1]
    plain(inputs)
    optimizer = SAM(model.parameters(), SGD, rho=1e-12, model=model)
    optimizer.step(regression(model, inputs))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    if name not in ("spectral", "a user's own"):  # which compute from their statistics before the pass
        assert optimizer.metrics["sharpness"].abs() < 1e-6


@pytest.mark.parametrize("name", NORMS)
def test_copies_that_are_fetched_and_handed_back_stand_in_for_the_buffers(name: str) -> None:
    model = net(name)
    plain, buffers = copy.deepcopy(model), list(model.buffers())
    copies = BufferCopies(model)
    for inputs in batches(5)[2:]:
        plain(inputs)
        copies.fetch()
        with copies.in_use():
            model(inputs)
            copies.absorb()
        copies.hand_back()
    for now, then, theirs in zip(model.buffers(), buffers, plain.buffers(), strict=True):
        assert now is then and torch.equal(now, theirs)


def test_the_tensors_of_the_buffers_stay_the_same_objects_also_when_shared() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[1]._buffers["running_mean"] = model[0]._buffers["running_mean"]
    before = list(model.buffers())
    with frozen_statistics(model):
        assert model[0].running_mean is model[1].running_mean is not before[0]
        model(batches(1)[0])
    assert all(now is then for now, then in zip(model.buffers(), before, strict=True))
    assert model[0].num_batches_tracked == 0


def test_a_backward_pass_may_follow_the_frozen_forward_pass() -> None:
    model, inputs = small_net(), batches(1)[0]
    with frozen_statistics(model):
        loss = model(inputs).square().mean()
    model(inputs)
    loss.backward()
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("name", ["batch", "instance", "a user's own"])
def test_without_the_model_the_first_step_warns_of_statistics_that_move_twice(name: str) -> None:
    model = net(name)
    optimizer = SAM(model.parameters(), SGD, rho=0.1)
    with pytest.warns(UserWarning, match=r"was not given the model.*(Norm1d|MovingAverage).*model=model"):
        optimizer.step(regression(model, batches(1)[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(regression(model, batches(1)[0]))
    assert not torch.nn.modules.module._global_forward_hooks


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False), nn.BatchNorm1d(8).eval()]
)
def test_without_the_model_nothing_is_said_where_nothing_moves(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 8), norm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAM(model.parameters(), SGD, rho=0.1).step(regression(model, batches(1)[0]))


@pytest.mark.parametrize("name", ["around the step", "in the closure"])
def test_autocast_may_stand_around_the_step(name: str) -> None:
    """Autocast keeps its low-precision copies of the weights, which the passes move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    optimizer = SAM(model.parameters(), SGD, rho=0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "around the step"):
        losses = []
        for inputs in batches(1) * 3:

            def closure(inputs: Tensor = inputs) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(inputs).float().square().mean()
                loss.backward()
                return loss.detach()

            losses.append(optimizer.step(closure))
            assert optimizer.metrics["sharpness"] > 0.02
    assert losses[0] > losses[1] > losses[2]  # type: ignore[operator]
