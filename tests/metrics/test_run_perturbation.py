"""The perturbation of a run's own SAM, beside that of the optimizer which the run's config makes."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.errors import SettingError
from miniclip.metrics import LossSurface, run_perturbation
from miniclip.metrics.vectors import random_like
from tests.conftest import TINY

PERTURBING = (
    *("sam", "late_sam", "sam_on_muon", "gsam", "looksam", "lesam"),
    *("asam", "per_layer_sam", "sam_norm_only", "sam_text_tower"),
)


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
    is_plain = preset not in ("asam", "per_layer_sam", "sam_norm_only", "sam_text_tower")
    assert (abs(cosine(found, gradient)) > 0.999) is is_plain


@pytest.mark.parametrize(
    "words",
    [
        *(
            [f"optimizer={preset}"]
            for preset in ("adamw", "muon", "vasso", "fsam", "msam", "async_sam", "random_sam")
        ),
        ["optimizer=sam", "optimizer.rho=0"],
    ],
    ids=" ".join,
)
def test_a_run_without_one_or_of_another_direction_has_none(words: list[str]) -> None:
    surface = surface_of()
    assert run_perturbation(surface, random_like(surface.params, seed=1), settings_of(*words)) is None


def test_settings_of_a_stranger_are_held_against_what_sam_takes() -> None:
    surface = surface_of()
    gradient = random_like(surface.params, seed=1)
    with pytest.raises(SettingError, match=r"optimizer\.adaptive=yes: must be true or false"):
        run_perturbation(surface, gradient, {**settings_of("optimizer=sam"), "adaptive": "yes"})
    called = {**settings_of("optimizer=sam"), "direction": {"_target_": "os.getcwd"}}
    assert run_perturbation(surface, gradient, called) is None
    assert run_perturbation(surface, gradient, {}) is None
