"""Old names are read for one version, and whoever typed one is told the new one."""

import importlib

import pytest

from miniclip.renamed import TARGETS, renamed_config, renamed_words


@pytest.mark.parametrize("target", TARGETS.values())
def test_new_targets_exist(target: str) -> None:
    module, _, name = target.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_a_config_of_an_older_file_has_todays_names() -> None:
    old = {
        "seed": 0,
        "data": {"_target_": "miniclip.data.OpenMoji", "eval_crop": "centre", "crop_scale": [0.5, 1.0]},
        "tokenizer": {"_target_": "miniclip.models.BPETokenizer"},
        "encoder": {"image": {"frozen_statistics": True, "weights": None}},
        "optimizer": {"every": 5, "base": {"every": 1}},
        "name": "whole",
    }
    assert renamed_config(old) == {
        "seed": 0,
        "data": {
            "_target_": "miniclip.data.OpenMoji",
            "eval_crop": "center",
            "crop_scale": [0.5, 1.0],
            "caption_noise": 0,
        },
        "tokenizer": {"_target_": "miniclip.tokenizers.BPETokenizer"},
        "encoder": {"image": {"freeze_batch_norm_stats": True, "weights": None}},
        "optimizer": {"interval": 5, "base": {"every": 1}},
        "name": "whole",
    }
    assert renamed_config(renamed_config(old)) == renamed_config(old)


@pytest.mark.parametrize(
    ("old", "axis", "part"),
    [
        ({"_target_": "miniclip.optim.SAM"}, "descent", {"_target_": "miniclip.optim.Descent"}),
        (
            {"_target_": "miniclip.optim.GSAM", "alpha": 0.3},
            "descent",
            {"_target_": "miniclip.optim.SurrogateGap", "alpha": 0.3},
        ),
        (
            {"_target_": "miniclip.optim.LookSAM", "alpha": 0.7, "interval": 5},
            "descent",
            {"_target_": "miniclip.optim.ReusedAscent", "alpha": 0.7},
        ),
        ({"_target_": "miniclip.optim.MSAM"}, "direction", {"_target_": "miniclip.optim.Momentum"}),
    ],
)
def test_sams_of_an_older_file_are_a_choice_of_axes(old: dict, axis: str, part: dict) -> None:
    new = renamed_config({"optimizer": {"rho": 0.1, **old}})["optimizer"]
    assert new["_target_"] == "miniclip.optim.SAM" and new[axis] == part and new["rho"] == 0.1
    assert "alpha" not in new and new["start_fraction"] == 0
    assert new.get("interval") == old.get("interval")
    assert renamed_config({"optimizer": new}) == {"optimizer": new}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.every=5", "optimizer.interval=5"),
        ("++optimizer.every=1,5", "++optimizer.interval=1,5"),
        ("data.eval_crop=whole,centre", "data.eval_crop=squash,center"),
        ("data.eval_crop='centre'", "data.eval_crop='center'"),
        ("arm={rho:0,times:1}", "_arm={rho:0,times:1}"),
        ("epochs=10", "_epochs=10"),
        ("++forward_passes=4", "++_forward_passes=4"),
        ("encoder.image.frozen_statistics=true", "encoder.image.freeze_batch_norm_stats=true"),
        ("eval.tasks=[retrieval,zero_shot]", "eval/tasks=[retrieval,zero_shot]"),
        ("eval.tasks=null", "eval=standard"),
        ("eval.shots=[1,2]", "eval.tasks.few_shot.shots=[1,2]"),
        ("optimizer.alpha=0.3", "optimizer.descent.alpha=0.3"),
    ],
)
def test_what_was_typed_is_taken_and_told(typed: str, meant: str) -> None:
    words, lines = renamed_words(["seed=1", typed])
    assert words == ["seed=1", meant]
    assert lines == [f"{typed} is {meant} now; the old name goes with the next version."]


@pytest.mark.parametrize("word", ["name=whole", "data.root=/whole/centre", "-m", "", "optimizer=sam"])
def test_other_words_stay(word: str) -> None:
    assert renamed_words([word]) == ([word], [])
