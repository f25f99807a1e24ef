"""What a config may hold: each wrong key, type, group and number is named as it is typed."""

from typing import Any

import pytest
import torch

from miniclip.config.compose import compose
from miniclip.config.schema import check_values, full_name, select
from miniclip.data import DataSource
from miniclip.errors import UserError
from miniclip.signature import fits, of_config, signature_of


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.rho=much"], "optimizer.rho='much': must be a number"),
        (["+optimizer.roh=0.1"], "Did you mean optimizer.rho?"),
        (["trainer.budget.epochs=1.5"], "trainer.budget.epochs=1.5: must be a whole number"),
        (["seed=zero"], "seed='zero': must be a whole number"),
        (["trainer.budget.epochs=null"], "trainer.budget.epochs=null: must be a whole number"),
        (["trainer.batch_size=true"], "trainer.batch_size=true: must be a whole number"),
        (["data.flip=maybe"], "data.flip='maybe': must be true or false"),
        (["data=csv"], "data.train_csv is needed: give data.train_csv=..."),
        (["encoder/text=hf"], "encoder.text.name is needed: give encoder.text.name=..."),
        (
            ["tokenizer=of_text_encoder"],
            "tokenizer.name comes from encoder.text.name, which this config lacks; give tokenizer.name=...",
        ),
        (["embed_dim=99999999999"], "embed_dim=99999999999: must be at most 536870912"),
        (["precision.dtype=float8"], "precision.dtype='float8': must be one of auto, float16"),
        (["optimizer._target_=miniclip.optim.Sam"], "optimizer._target_=miniclip.optim.Sam"),
        (["+trainer.epochs=3"], "Did you mean trainer.budget.epochs?"),
        (["+optimizer.base.momentum=0.9"], "optimizer.base.momentum is no setting"),
        (["+optimizer.defaults={}"], "optimizer.defaults is no setting of miniclip.optim.SAM"),
        (["encoder.image=resnet18"], "an option is chosen with encoder/image=resnet18"),
        (["optimizer.base=sgd"], "an option is chosen with optimizer/base=sgd"),
        (["optimizer.trigger=unusual"], "an option is chosen with optimizer/trigger=unusual"),
        (["~logger"], "choose logger=none"),
        (["~trainer"], "trainer cannot be left out"),
        (["seed=100000000000000"], "seed=100000000000000: must lie between 0 and 4294967295"),
        (["seed=-1"], "seed=-1: must lie between 0"),
        (["optimizer.base.lr=.inf"], "optimizer.base.lr='.inf': must be a number"),
        (["optimizer.base.betas=[0.9,nan]"], "must be a finite number"),
        (["optimizer.rho=inf"], "optimizer.rho=inf: must be a finite number"),
        (["optimizer.base.lr=much"], "optimizer.base.lr='much': must be a number. "),
        (["optimizer.base.lr=null"], "optimizer.base.lr=null: must be a number. "),
        (["optimizer.base.betas=0.9"], "optimizer.base.betas=0.9: must be a list of 2, each a"),
        (
            ["optimizer.base.betas=[0.9]"],
            "optimizer.base.betas=[0.9]: must be a list of 2, each a number. ",
        ),
        (
            ["optimizer/base=nadam", "optimizer.base.betas=[]"],
            "optimizer.base.betas=[]: must be a list of 2",
        ),
        (["optimizer/base=muon", "optimizer.base.betas=[0.9]"], "betas=[0.9]: must be a list of 2"),
    ],
)
def test_a_wrong_setting_is_named_before_data_is_read(
    overrides: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataSource, "datasets", lambda self: pytest.fail("data was read"))
    with pytest.raises(UserError) as caught:
        check_values(compose(*overrides))
    assert named in str(caught.value)


def test_a_part_of_other_options_is_no_option() -> None:
    with pytest.raises(UserError, match="only a part of others; choose another: data="):
        check_values(compose("data=base/source"))


def test_a_value_that_comes_from_elsewhere_is_named_by_that_place() -> None:
    cfg = compose()
    assert full_name(cfg, "encoder.image", "embed_dim") == "embed_dim"
    assert full_name(cfg, "optimizer", "rho") == "optimizer.rho"
    assert full_name(cfg, "optimizer", "nothing") == "optimizer.nothing"


def test_a_setting_without_a_value_is_asked_for() -> None:
    assert select(compose(), "optimizer.base.nothing") is None
    with pytest.raises(UserError, match=r"data\.root is needed: give data\.root=\.\.\."):
        select(compose("data=folder"), "data.root")


@pytest.mark.parametrize(
    ("hint", "value", "fitting"),
    [
        (float | torch.Tensor, [0.1], False),
        (float | torch.Tensor, None, False),
        (float | list[float], [0.1], True),  # of what is not known nothing is refused
        (tuple[float, float | torch.Tensor], [0.9], False),
        (tuple[float, float | torch.Tensor], [0.9, 1], True),
    ],
)
def test_annotations_of_other_packages(hint: Any, value: Any, fitting: bool) -> None:
    assert fits(value, of_config(hint)) == fitting


def test_careless_annotations() -> None:
    def part(steps=None, hook=None): ...  # type: ignore[no-untyped-def]

    part.__annotations__ = {"steps": int, "hook": callable}
    hints = signature_of(part)[1]
    assert fits(None, of_config(hints["steps"])) and not fits("many", of_config(hints["steps"]))
    assert fits("any", of_config(hints["hook"]))


def test_a_number_may_stand_for_a_scalar_of_another_package() -> None:
    check_values(compose("optimizer/base=sgd", "optimizer.base.nesterov=1"))
