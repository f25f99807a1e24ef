"""Settings of optimizers that are refused, and the name each error gives."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from miniclip.errors import SettingError
from miniclip.optim.checks import check_group, check_rho, require_plain_step


@pytest.mark.parametrize(
    ("group", "setting"),
    [
        ({"lr": math.nan}, "lr"),
        ({"lr": 0.1, "betas": (0.9, math.inf)}, "betas"),
        ({"rho": -0.1}, "rho"),
        ({"rho": math.inf}, "rho"),
    ],
)
def test_a_group_with_a_number_that_cannot_be(group: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingError) as caught:
        check_group(group)
    assert caught.value.setting == setting


def test_a_good_group_and_no_perturbation_pass() -> None:
    check_group({"params": [torch.ones(1)], "lr": 0.1, "betas": (0.9, 0.98), "fused": None, "rho": 0.05})
    check_rho(0)


def test_a_base_that_needs_a_closure_is_refused() -> None:
    parameters = [nn.Parameter(torch.ones(1))]
    require_plain_step(torch.optim.AdamW(parameters))
    with pytest.raises(SettingError, match=r"LBFGS.*take AdamW or SGD"):
        require_plain_step(torch.optim.LBFGS(parameters))
