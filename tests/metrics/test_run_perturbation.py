"""The perturbation of a run's own SAM, beside that of the optimizer which the run's config makes."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.config.groups import groups
from miniclip.metrics import LossSurface, run_perturbation
from miniclip.metrics.vectors import random_like
from tests.conftest import TINY

OTHERWISE = {"vasso", "fsam", "msam", "async_sam", "random_sam"}
"""Presets whose direction is not the gradient."""

PERTURBING = sorted({*groups()["optimizer"]} - {*groups()["optimizer/base"]} - OTHERWISE)

SHAPED = {"asam", "per_layer_sam", "sam_norm_only", "sam_text_tower", "sam_image_tower"}


def settings_of(*words: str) -> dict[str, Any]:
    settings = OmegaConf.to_container(compose(*TINY, *words).optimizer, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def surface_of(*words: str) -> LossSurface:
    cfg = compose(*TINY, *words)
    torch.manual_seed(0)
    return LossSurface(instantiate.make_model(cfg, vocab_size=64), lambda **inputs: torch.zeros(()), [])


def cosine(a: list[Tensor], b: list[Tensor]) -> float:
    first, second = (torch.cat([part.flatten() for part in vector]) for vector in (a, b))
    return torch.cosine_similarity(first, second, dim=0).item()


@pytest.mark.parametrize("preset", PERTURBING)
def test_it_is_that_of_the_optimizer_which_the_config_makes(preset: str) -> None:
    surface = surface_of(f"optimizer={preset}")
    gradient = random_like(surface.params, seed=1)
    weights = [p.detach().clone() for p in surface.params]
    found = run_perturbation(surface, gradient, settings_of(f"optimizer={preset}"))
    assert found is not None
    assert all(torch.equal(p, w) for p, w in zip(surface.params, weights, strict=True))
    assert all(p.grad is None for p in surface.params)

    optimizer = instantiate.make_optimizer(compose(*TINY, f"optimizer={preset}"), surface.model)
    for p, part in zip(surface.params, gradient, strict=True):
        p.grad = part.clone()
    optimizer.ascend(rho=1.0)
    e = [p.detach() - w for p, w in zip(surface.params, weights, strict=True)]
    optimizer.descend()
    assert cosine(found, e) == pytest.approx(1, abs=1e-5)
    assert (cosine(found, gradient) < 0.999) is (preset in SHAPED)


@pytest.mark.parametrize(
    "words",
    [
        *([f"optimizer={preset}"] for preset in ("adamw", "muon", *sorted(OTHERWISE))),
        ["optimizer=sam", "optimizer.rho=0"],
    ],
    ids=" ".join,
)
def test_a_run_without_one_or_of_another_direction_has_none(words: list[str]) -> None:
    surface = surface_of()
    assert run_perturbation(surface, random_like(surface.params, seed=1), settings_of(*words)) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"adaptive": "yes"}, "its adaptive=yes must be true or false."),
        ({"perturb": ["nosuch"]}, "its perturb=nosuch names no parameter of the model"),
        ({"direction": {"_target_": "os.getcwd"}}, ""),
        ({"_target_": "os.getcwd"}, ""),
    ],
)
def test_settings_of_a_stranger_end_no_measurement(
    changed: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    surface = surface_of()
    gradient = random_like(surface.params, seed=1)
    settings = {**settings_of("optimizer=sam"), **changed}
    assert run_perturbation(surface, gradient, settings) is None
    assert told in caplog.text and len(caplog.records) == bool(told)
