"""Which parameters are perturbed, by kind and by name."""

import pytest
import torch
from torch import nn

from miniclip.errors import SettingError
from miniclip.optim import SAM
from miniclip.optim.selection import selected_params
from tests.optim.test_sam import SGD


def model() -> nn.Module:
    image_encoder = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    return nn.ModuleDict({"image_encoder": image_encoder, "text_encoder": nn.Linear(2, 2)})


def names(net: nn.Module, **settings: object) -> list[str]:
    chosen = selected_params(net, **{"norms_only": False, "perturb": None, **settings})  # type: ignore[arg-type]
    assert chosen is not None
    return [name for name, parameter in net.named_parameters() if parameter in chosen]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"perturb": ["text_encoder"]}, ["text_encoder.weight", "text_encoder.bias"]),
        ({"perturb": ["*.bias"]}, ["image_encoder.0.bias", "image_encoder.1.bias", "text_encoder.bias"]),
        ({"perturb": ["text_encoder.bias", "image_encoder.1"]}, 3),
        ({"norms_only": True}, ["image_encoder.1.weight", "image_encoder.1.bias"]),
        ({"norms_only": True, "perturb": ["*.bias"]}, ["image_encoder.1.bias"]),
        ({"perturb": ["*"]}, 6),
    ],
)
def test_names_and_kinds(settings: dict, expected: list[str] | int) -> None:
    found = names(model(), **settings)
    assert len(found) == expected if isinstance(expected, int) else found == expected


def test_without_a_choice_all_are_perturbed() -> None:
    assert selected_params(model(), norms_only=False, perturb=None) is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"perturb": ["txt"]}, r"perturb=txt: names no parameter of the model \(parts: image_encoder, tex"),
        ({"perturb": "*.bias"}, r"perturb=\*\.bias: must be a list, as \['\*\.bias'\]"),
        ({"perturb": []}, r"perturb=\[\]: must name something that is trained"),
        ({"norms_only": True, "perturb": ["text_encoder"]}, r"finds no norm layer to perturb in perturb="),
    ],
)
def test_what_finds_nothing_is_refused(settings: dict, problem: str) -> None:
    net = model()
    with pytest.raises(SettingError, match=problem):
        SAM(net.parameters(), SGD, model=net, **settings)


def test_a_part_that_is_trained_without_a_perturbation_is_no_choice() -> None:
    net = model()
    groups = [
        {"params": [*net["image_encoder"].parameters()]},
        {"params": [*net["text_encoder"].parameters()], "perturb": False},
    ]
    with pytest.raises(
        SettingError, match=r"perturb=\['text_encoder'\]: is trained without a perturbation"
    ):
        SAM(groups, SGD, model=net, perturb=["text_encoder"])
    with pytest.warns(UserWarning, match="perturb=text_encoder: nothing of it is perturbed"):
        SAM(groups, SGD, model=net, perturb=["image_encoder", "text_encoder"])


def test_names_need_the_model() -> None:
    with pytest.raises(SettingError, match=r"perturb=.*: needs the model"):
        SAM(model().parameters(), SGD, perturb=["text_encoder"])


def test_a_frozen_tower_cannot_be_perturbed() -> None:
    net = model()
    net["text_encoder"].requires_grad_(False)  # type: ignore[index]
    with pytest.raises(SettingError, match="must name something that is trained"):
        SAM(net.parameters(), SGD, model=net, perturb=["text_encoder"])
    with pytest.warns(UserWarning, match="perturb=text_encoder: nothing of it is perturbed"):
        SAM(net.parameters(), SGD, model=net, perturb=["image_encoder", "text_encoder"])


def test_names_that_all_add_something_are_taken_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    net = model()
    optimizer = SAM(net["image_encoder"].parameters(), SGD, model=net, perturb=["*.bias", "text_encoder"])  # type: ignore[index]
    optimizer.add_param_group({"params": [*net["text_encoder"].parameters()]})  # type: ignore[index]
    assert len(list(optimizer.perturbed_params())) == 4 and not recwarn.list


def test_the_first_pass_computes_no_other_gradient() -> None:
    net = model()
    optimizer = SAM(net.parameters(), SGD, rho=0.1, model=net, perturb=["text_encoder"])
    has_gradient = []

    def closure() -> torch.Tensor:
        inputs = torch.ones(3, 2)
        loss = (net["image_encoder"](inputs) * net["text_encoder"](inputs)).sum()  # type: ignore[index]
        loss.backward()
        has_gradient.append([name for name, p in net.named_parameters() if p.grad is not None])
        return loss.detach()

    optimizer.backward(closure)
    assert has_gradient[0] == ["text_encoder.weight", "text_encoder.bias"] and len(has_gradient[1]) == 6
