"""Unknown settings: none passes, and each message names the one that was meant."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from miniclip.cli import main
from miniclip.config.compose import compose
from miniclip.config.hints import explained
from miniclip.errors import UserError, as_override
from tests.in_process import train_in_process


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("optimizer.lr=0.001", "optimizer.base.lr"),
        ("lr=0.001", "optimizer.base.lr"),
        ("trainer.lr=0.001", "optimizer.base.lr"),
        ("learning_rate=0.001", "optimizer.base.lr"),
        ("weight_decay=0.1", "optimizer.base.weight_decay"),
        ("rho=0.1", "optimizer.rho"),
        ("epochs=3", "trainer.budget.epochs"),
        ("num_epochs=3", "trainer.budget.epochs"),
        ("trainer.epochs=3", "trainer.budget.epochs"),
        ("trainer.max_epochs=3", "trainer.budget.epochs"),
        ("batch_size=32", "trainer.batch_size"),
        ("bs=32", "trainer.batch_size"),
        ("workers=4", "trainer.num_workers"),
        ("num_workers=4", "trainer.num_workers"),
        ("gpu=0", "device"),
        ("resume=auto", "trainer.resume"),
        ("experiment=rho_sweep", "experiments=rho_sweep"),
        ("model=resnet50", "encoder/image=resnet50"),
        ("backbone=resnet18", "encoder/image=resnet18"),
        ("image_encoder=resnet18", "encoder/image=resnet18"),
        ("text_encoder=bag", "encoder/text=bag"),
        ("encoder/imag=resnet18", "encoder/image=resnet18"),
        ("optimizer/bas=sgd", "optimizer/base=sgd"),
        ("resolution=64", "image_size"),
        ("img_size=64", "image_size"),
        ("k=8", "encoder.text.attention.k"),
        ("expansion=2", "projection.expansion"),
        ("initial_scale=20", "temperature.initial_scale"),
        ("sede=1", "seed"),
        ("root=x", "data.root"),
        ("data_dir=x", "data.root"),
        ("train_split=x", "data.train_split"),
        ("optimzer.rho=1", "optimizer.rho"),
        ("optimizer.roh=1", "optimizer.rho"),
        ("trainer.btach_size=1", "trainer.batch_size"),
    ],
)
def test_the_setting_that_was_meant(word: str, meant: str) -> None:
    key = word.partition("=")[0]
    message = explained(f"Could not override '{key}'.\nTo append to your config use +{word}", [word])
    assert message == f"{word}: there is no setting {key}. Did you mean {meant}?"


@pytest.mark.parametrize(
    ("key", "group", "who"),
    [
        ("data.class_column", "data", "data=hub, data=parquet and data=shards have it"),
        ("loss.initial_bias", "loss", "loss=siglip has it"),
        # of a file that several share
        ("data.root", "data", "data=cifar10, data=cifar100, data=coco_captions and N others have it"),
        # the default first
        (
            "optimizer.rho",
            "optimizer",
            "optimizer=late_sam, optimizer=aesam, optimizer=asam and N others have it",
        ),
        (
            "encoder/text/attention",
            "encoder/text",
            "encoder/text=linformer and encoder/text=transformer have it",
        ),
    ],
)
def test_a_setting_of_another_option_says_of_which(key: str, group: str, who: str) -> None:
    message = explained(f"Could not override '{key}'.", [f"{key}=1"])
    message = re.sub(r"\d+ others", "N others", message)
    noun = "group" if "/" in key else "setting"
    assert message == f"{key}=1: the option chosen for {group} has no {noun} {key}; {who}."


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        # none wraps another, and the settings are the optimizer's own
        (["optimizer=adamw", "lr=1"], "optimizer.lr"),
        (["optimizer=adamw", "optimizer.base.lr=1"], "optimizer.lr"),
        (["optimizer=muon_short", "optimizer.muon_intervall=2"], "optimizer.muon_interval"),
        (["experiments=time_to_recall", "lr=1"], "optimizer.lr"),
        # they are those of the optimizer that is wrapped
        (["optimizer=late_sam_on_muon", "optimizer.muon_interval=2"], "optimizer.base.muon_interval"),
        (["optimizer=late_sam_on_muon", "optimizer.muon_intervall=2"], "optimizer.base.muon_interval"),
        (["experiments=time_to_recall", "optimizer=sam", "lr=1"], "optimizer.base.lr"),
    ],
    ids=str,
)
def test_an_optimizers_settings_stand_where_it_stands(words: list[str], meant: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(*words)
    assert str(caught.value).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+lr=0.5"], "Did you mean optimizer.base.lr?"),
        (["++optimzer.rho=0.9"], "Did you mean optimizer.rho?"),
        (["+experiment=flickr30k"], "Did you mean experiments=flickr30k?"),
        (["+epochs=50"], "Did you mean trainer.budget.epochs?"),  # which one study has, but not this run
        (["experiments=rho_sweep", "+arm.foo=1"], "arm.foo is no setting"),
        (["+encoder.foo=1"], "encoder.foo is no setting"),
        (["+optimizer@foo=adamw"], "foo is no setting"),
        (["+data=csv"], "goes without a +"),
        (["+trainer.batch_size=32"], "goes without a +"),
        (["data=coco"], "Did you mean data=coco_captions?"),
        (["optimizer=SAM"], "Did you mean optimizer=sam?"),
        (["hydra/launcher=slurm"], "Did you mean hydra/launcher=submitit_slurm?"),
        (["+hydra.run.dri=/x"], "hydra.run.dri is no setting of Hydra. Did you mean hydra.run.dir?"),
        (["++hydra.job.nam=x"], "Did you mean hydra.job.name?"),
        (["+hydra.sweap={dir:x}"], "Did you mean hydra.sweep?"),
        (
            ["+hydra.job.config.override_dirname.sep=x"],
            "hydra.job.config.override_dirname.sep is no setting",
        ),
        (["hydra.rnu.dir=/x"], "Did you mean hydra.run.dir?"),
        (["~loger"], "Did you mean logger?"),
        (["temperature=fixed", "temperature.momentum=1"], "the option chosen for temperature has no"),
    ],
    ids=str,
)
def test_nothing_unknown_composes(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(*words)
    assert said in str(caught.value) and "append" not in str(caught.value)


def test_several_values_are_a_sweep_or_a_list() -> None:
    with pytest.raises(UserError) as caught:
        compose("optimizer.rho=0,0.05")
    said = "optimizer.rho=0,0.05: holds several values; type 'optimizer.rho=[0,0.05]' for a list"
    assert str(caught.value) == said

    done = train_in_process("optimizer.rho=0,0.05")
    sweep = "type -m optimizer.rho=0,0.05 for a sweep, 'optimizer.rho=[0,0.05]' for a list"
    assert done.stderr == f"Error: optimizer.rho=0,0.05: holds several values; {sweep}\n"


def test_what_exists_may_be_given_with_plus_and_studies_keep_their_own_keys() -> None:
    assert compose("++trainer.batch_size=32").trainer.batch_size == 32
    assert compose("experiments=rho_sweep", "++epochs=7").trainer.budget.epochs == 7


@pytest.mark.parametrize(
    "value",
    [
        *("outputs/a_b-c.d", "a=b c", "a,b", "[a]", "{a:1}", "it's", 'say "a"', "C:\\a\\", "犬", "", " a "),
        *("1", "1e5", "null", "True", "inf", "$HOME", "*", "a#b", "~/x", "a:b", "(a)", "a;b", '\\"'),
    ],
)
def test_a_printed_setting_is_valid_in_a_shell_and_for_hydra(value: str) -> None:
    (word,) = shlex.split(as_override("trainer.resume", value))
    assert OverridesParser.create().parse_override(word).value() == value


def test_a_printed_setting_is_not_looked_up() -> None:
    (word,) = shlex.split(as_override("trainer.resume", "${name}"))
    assert compose(word).trainer.resume == "${name}"
    assert [as_override("a", value) for value in (None, True, 0.5)] == ["a=null", "a=true", "a=0.5"]
    assert as_override("a", [0.9, "b c"]) == """'a=[0.9,"b c"]'"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--version"], "miniclip 0."),
        (["train", "--optimizer=sam"], "settings are typed without --: optimizer=sam"),
        (["train", "--name=a b"], "settings are typed without --: 'name=a b'"),
        (["optimizer=sam"], "miniclip train optimizer=sam"),
    ],
    ids=str,
)
def test_flags(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["miniclip", *words])
    ended = ""
    try:
        main()
    except SystemExit as exit:
        ended = str(exit.code)
    assert said in ended + capsys.readouterr().out
