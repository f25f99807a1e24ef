"""Each preset of conf/optimizer, as it is composed, against its paper's equation on L(w) = w'Aw / 2."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.config.compose import HOME, compose
from miniclip.config.instantiate import make_optimizer
from miniclip.optim import Functional, MuonAdamW

PLAIN_SGD = ("optimizer/base=sgd", "optimizer.base.weight_decay=0")
DECAY_OF_SGD = 0.9

ALONE = {"adamw", "muon", "muon_short"}
OF_SEVERAL_STEPS = {"interval", "late_sam", "late_sam_on_muon", "stochastic_sam", "aesam", "random_sam"}


class Tower(nn.Module):
    """A matrix and a norm's gain."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(2, 3, generator=generator))
        self.norm = nn.LayerNorm(4, bias=False)


class Model(nn.Module):
    """Weights under the names of the towers, and the quadratic loss that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = Tower(0)
        self.text_encoder = Tower(1)
        self.curvature = torch.linspace(1, 9, len(self.weights()))

    def weights(self) -> Tensor:
        """All weights, (20,)."""
        return torch.cat([p.detach().flatten() for p in self.parameters()])

    def gradients(self) -> Tensor:
        """What the optimizer is left with for them, (20,)."""
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters())
        return torch.cat([gradient.flatten() for gradient in gradients])

    def of(self, name: str) -> Tensor:
        """Which of the weights a name stands for, (20,) of 0 and 1."""
        named = self.named_parameters()
        return torch.cat([torch.full((p.numel(),), float(name in own)) for own, p in named])

    def closure(self) -> Tensor:
        flat = torch.cat([p.flatten() for p in self.parameters()])
        loss = (self.curvature * flat.square()).sum() / 2
        loss.backward()
        return loss.detach()


class Step:
    """What a step saw: the weights at its start and in each pass, and the gradient that it ended with."""

    def __init__(self, model: Model, optimizer: Any, *, fraction_done: float = 0.0):
        optimizer.fraction_done = fraction_done
        self.model = model
        self.w = model.weights()
        passes: list[Tensor] = []

        def closure() -> Tensor:
            passes.append(model.weights())
            return model.closure()

        optimizer.step(closure)
        self.num_passes = len(passes)
        self.e = passes[-1] - self.w
        self.gradient = model.gradients()

    @property
    def g(self) -> Tensor:
        return self.model.curvature * self.w

    @property
    def g_p(self) -> Tensor:
        return self.model.curvature * (self.w + self.e)


def composed(preset: str, *settings: str) -> tuple[Model, Any]:
    model = Model()
    return model, make_optimizer(compose(f"optimizer={preset}", *settings), model)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1e-30)


def mean_of(gradients: list[Tensor], decay: float) -> Tensor:
    mean = gradients[0]
    for gradient in gradients[1:]:
        mean = decay * mean + (1 - decay) * gradient
    return mean


def momentum_of(steps: list[Step]) -> Tensor:
    """SGD's, before the last of the steps; zero before there is one."""
    momentum = torch.zeros_like(steps[0].w)
    for step in steps[:-1]:
        momentum = DECAY_OF_SGD * momentum + step.gradient
    return momentum


def by_tensor(step: Step) -> Tensor:
    sizes = [p.numel() for p in step.model.parameters()]
    return torch.cat([unit(part) for part in step.g.split(sizes)])


def masked(name: str) -> Callable[[list[Step]], Tensor]:
    return lambda steps: unit(steps[-1].g * steps[-1].model.of(name))


PERTURBATIONS: dict[str, Callable[[list[Step]], Tensor]] = {
    "sam": lambda steps: 0.05 * unit(steps[-1].g),
    "sam_on_muon": lambda steps: 0.05 * unit(steps[-1].g),
    "gsam": lambda steps: 0.05 * unit(steps[-1].g),
    "ssam": lambda steps: 0.05 * unit(steps[-1].g),
    "wsam": lambda steps: 0.05 * unit(steps[-1].g),
    "functional_sam": lambda steps: 0.05 * unit(steps[-1].g),
    "looksam": lambda steps: 0.05 * unit(steps[-1].g) * (len(steps) == 1),
    "asam": lambda steps: 0.5 * steps[-1].w.square() * steps[-1].g / (steps[-1].w * steps[-1].g).norm(),
    "lesam": lambda steps: min(0.05 / steps[-1].g.norm().item(), 0.2) * unit(steps[-1].g),
    "per_layer_sam": lambda steps: 0.005 * by_tensor(steps[-1]),
    "sam_image_tower": lambda steps: 0.05 * masked("image_encoder")(steps),
    "sam_text_tower": lambda steps: 0.05 * masked("text_encoder")(steps),
    "sam_norm_only": lambda steps: 0.5 * masked("norm")(steps),
    "vasso": lambda steps: 0.05 * unit(mean_of([step.g for step in steps], 0.6)),
    "fsam": lambda steps: 0.05 * unit(steps[-1].g - mean_of([step.g for step in steps], 0.9)),
    "msam": lambda steps: -0.3 * unit(momentum_of(steps)),
    "async_sam": lambda steps: 0.05 * unit(steps[-2].g_p) if len(steps) > 1 else torch.zeros(20),
}


def orthogonal(vector: Tensor, to: Tensor) -> Tensor:
    return vector - (vector @ to) / (to @ to) * to


def reused(steps: list[Step]) -> Tensor:
    first, last = steps[0], steps[-1]
    kept = orthogonal(first.g_p, first.g)
    return first.g_p if last is first else last.g + 0.7 * last.g.norm() * unit(kept)


DESCENTS: dict[str, Callable[[list[Step]], Tensor]] = {
    "gsam": lambda steps: steps[-1].g_p - 0.4 * orthogonal(steps[-1].g, steps[-1].g_p),
    "ssam": lambda steps: steps[-1].g.norm() * unit(steps[-1].g_p),
    "wsam": lambda steps: steps[-1].g + 0.8 / 0.2 * (steps[-1].g_p - steps[-1].g),
    "looksam": reused,
}
"""Where it is not the gradient at w + e."""


@pytest.mark.parametrize("preset", sorted(PERTURBATIONS))
def test_a_preset_by_its_equation(preset: str) -> None:
    model, optimizer = composed(preset, *(() if preset == "sam_on_muon" else PLAIN_SGD))
    steps: list[Step] = []
    for _ in range(3):
        steps.append(Step(model, optimizer))
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(steps[-1].e, PERTURBATIONS[preset](steps), **close)
        descent = DESCENTS.get(preset, lambda steps: steps[-1].g_p)
        torch.testing.assert_close(steps[-1].gradient, descent(steps), **close)


@pytest.mark.parametrize(
    ("preset", "perturbed"),
    [("interval", [0, 5]), ("late_sam", [8, 9]), ("late_sam_on_muon", [8, 9]), ("looksam", [0, 5])],
)
def test_steps_with_a_perturbation(preset: str, perturbed: list[int]) -> None:
    model, optimizer = composed(preset)
    steps = [Step(model, optimizer, fraction_done=number / 10) for number in range(10)]
    assert [number for number, step in enumerate(steps) if step.e.any()] == perturbed
    assert sum(step.num_passes for step in steps) == 12 == optimizer.num_passes(10)


def test_steps_by_chance() -> None:
    model, optimizer = composed("stochastic_sam", *PLAIN_SGD)
    count = sum(Step(model, optimizer).num_passes == 2 for _ in range(200))
    assert 60 < count < 140


def test_steps_by_the_gradients_length() -> None:
    model, optimizer = composed("aesam", "optimizer/base=sgd", "optimizer.base.lr=1e-9")
    passes = []
    for size in (1.0, 1.1, 3.0, 1.0, 0.2):
        model.curvature = size * torch.linspace(1, 9, 20)
        passes.append(Step(model, optimizer).num_passes)
    assert passes == [2, 2, 2, 1, 1]


def test_a_random_direction_of_the_same_length() -> None:
    model, optimizer = composed("random_sam", *PLAIN_SGD)
    first, second = Step(model, optimizer), Step(model, optimizer)
    for step in (first, second):
        assert step.num_passes == 1 and step.e.norm().item() == pytest.approx(0.05, rel=1e-3)
    assert abs(unit(first.e) @ unit(second.e)) < 0.9


def test_bases_and_the_one_descent_that_needs_features() -> None:
    for preset in ("muon", "muon_short", "sam_on_muon", "late_sam_on_muon"):
        assert isinstance(composed(preset)[1].base_optimizer, MuonAdamW)
    assert isinstance(composed("functional_sam")[1].descent, Functional)


def test_no_preset_is_left_out() -> None:
    presets = {path.stem for path in (HOME / "conf" / "optimizer").glob("*.yaml")}
    assert presets == {*PERTURBATIONS, *ALONE, *OF_SEVERAL_STEPS}
