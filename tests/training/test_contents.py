"""The parts of a checkpoint are held against their kinds before anything uses them."""

import math
from typing import Any

import pytest
import torch

from miniclip.errors import UserError
from miniclip.training.checkpoint import load_checkpoint
from miniclip.training.contents import (
    PARTS,
    check_contents,
    check_part,
    check_plain,
    check_progress,
    shown,
)
from tests.conftest import ROOT

OF_A_RUN = ROOT / "tests" / "golden" / "run" / "checkpoints" / "last.pt"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return load_checkpoint(OF_A_RUN)


def test_what_a_run_wrote_passes(content: dict[str, Any]) -> None:
    check_contents(content)
    check_progress(content["progress"])


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_or_of_another_kind_is_named(name: str, content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"it holds no '{name}'"):
        check_contents({key: value for key, value in content.items() if key != name})
    with pytest.raises(UserError, match=f"its '{name}' is not "):
        check_contents({**content, name: "a text"})
    check_part(name, content[name])


def test_a_signature_may_be_missing_but_not_be_anything(content: dict[str, Any]) -> None:
    unsigned = {key: value for key, value in content.items() if key != "signature"}
    check_contents(unsigned)
    check_contents({**unsigned, "signature": 64 * "a"})
    with pytest.raises(UserError, match="its 'signature' is not a text of 64 hexadecimal digits"):
        check_contents({**unsigned, "signature": 64 * "g"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": -1}, "step=-1"),
        ({"step": "3"}, "step='3'"),
        ({"seconds": math.inf}, "seconds=inf"),
        ({"more": 1}, "counts 'more', which no run does"),
        ({"best": {"step": 1}}, "no record of the best validation"),
    ],
    ids=str,
)
def test_odd_progress_is_named(change: dict[str, Any], said: str, content: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        check_progress({**content["progress"], **change})
    assert said in str(caught.value)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"a": {"b": torch.ones(1)}}, "config.a.b is no plain value but of the type Tensor"),
        ({"a": [1, (2, 3)]}, "config.a.1 is no plain value but of the type tuple"),
        ({"a": "${oc.env:HOME}"}, "config.a holds an interpolation"),
        ({"a": {"${name}": 1}}, "config.a has the key '${name}'"),
        ({"_target_": "a.B"}, "config has the key '_target_'"),
        ({"a": [{"_target_": "a.B"}]}, "config.a.0 has the key '_target_'"),
        ({"a": {"_args_": []}}, "config.a has the key '_args_'"),
        ({"a": {1: 2}}, "config.a has a key that is no text: 1"),
        (nested(100), "it is nested too deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_plain_and_resolved_data_pass(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_plain(config, "config")
    assert said in str(caught.value)


def test_a_part_and_the_configuration_of_a_hugging_face_model_keep_their_keys() -> None:
    part = {"_target_": "a.B", "_partial_": True, "size": 1}
    check_plain({"encoder": {"text": {**part, "config": {"id2label": {0: "no", 1: "yes"}}}}}, "config")


def test_what_is_shown_of_a_strangers_value_is_short_and_harmless() -> None:
    assert shown("a\x1b[31m") == "'a\\x1b[31m'"
    assert shown(torch.ones(1)) == "a Tensor"
    assert len(shown("x" * 1000)) == 60 and shown("x" * 1000).endswith("...")
