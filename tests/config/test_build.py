"""Every config composes and builds; wrong settings are named before any data is read."""

import importlib.metadata
import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from miniclip.config.build import build, check, unlike_the_run
from miniclip.config.compose import compose
from miniclip.config.instantiate import make_model, read_data
from miniclip.config.optuna_sweeper import settings_to_check
from miniclip.data import DataSource
from miniclip.errors import SettingError, UserError
from miniclip.preprocessing import IMAGENET, Preprocessing
from miniclip.runs import RunDirectory, RunFacts
from tests.bundles import hugging_face_folder
from tests.conftest import ROOT, TINY

CONF = ROOT / "conf"
OPTIONS = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent != CONF / "data" / "base"  # parts of the options beside it
)
# settings that an option needs and has no default for
NEEDED = {
    "data/csv": [f"data.{side}_{what}=nowhere" for side in ("train", "val") for what in ("csv", "root")],
    **{
        f"data/{name}": ["data.root=nowhere"]
        for name in (
            *("flickr8k", "flickr30k", "coco_captions", "folder", "parquet"),
            *("imagefolder", "cifar10", "cifar100", "food101", "oxford_pets"),
        )
    },
    "data/hub": ["data.hub=nowhere"],
    "data/shards": ["data.urls=nowhere"],
    "encoder/image/torchvision": ["encoder.image.architecture=resnet18"],
    "encoder/image/timm": ["encoder.image.architecture=resnet18"],
    "encoder/text/hf": ["encoder.text.name=nowhere"],
    "tokenizer/of_text_encoder": ["+encoder.text.name=nowhere"],
    "tokenizer/hf": ["tokenizer.name=nowhere"],
}


OTHER_TOWERS = ("encoder/text/bag", "encoder/text/hf")
"""Text towers with other settings than the transformer's."""


def override(option: str) -> str:
    group, _, name = option.rpartition("/")
    return f"{group}={name}"


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_resolves(option: str) -> None:
    cfg = compose(override(option), *NEEDED.get(option, []))
    assert OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in NEEDED and o != "tokenizer/gpt2"])
def test_every_option_builds(option: str, tmp_path: Path) -> None:
    if option == "tokenizer/clip":
        pytest.importorskip("open_clip", reason="needs the extra bench")
    tiny = [each for each in TINY if option not in OTHER_TOWERS or not each.startswith("encoder.text.")]
    if option.startswith("encoder/image/"):
        tiny = [each for each in tiny if not each.startswith("encoder.image.")]
    cfg = compose(*tiny, override(option))
    _, experiment, logger = build(cfg, RunDirectory(tmp_path))
    logger.start(tmp_path / "metrics.jsonl", RunFacts("test", experiment.config))
    logger.finish(failed=False, summary={}, figures={})
    assert (tmp_path / "config.yaml").is_file()
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes(path: Path) -> None:
    needed = ["data.root=nowhere"] if "override /data" in path.read_text() else []
    cfg = compose(f"experiments={path.stem}", *needed)
    assert OmegaConf.to_container(cfg, resolve=True)
    assert "python run.py" in path.read_text(encoding="utf-8")


def documented_commands() -> list[str]:
    """What follows `run.py` wherever the README, or a page of docs/, starts it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    return [command.strip() for command in re.findall(r"(?:python|torchrun[^\n`]*) run\.py([^\n`]*)", text)]


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_composes(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True) if "=" in word]
    of_launcher = [word for word in words if word.startswith(("hydra/launcher", "hydra.launcher"))]
    jobs = settings_to_check(OverridesParser.create().parse_overrides(words))
    for job in jobs:
        assert OmegaConf.to_container(compose(*job, *of_launcher), resolve=True)


def test_every_target_belongs_to_the_project_or_its_dependencies() -> None:
    targets = [
        match
        for path in [*CONF.rglob("*.yaml"), *(ROOT / "experiments").glob("*.yaml")]
        for match in re.findall(r"^\s*_target_: (\S+)", path.read_text(encoding="utf-8"), re.M)
    ]
    assert len(targets) > 25
    ours = ("miniclip.", "torch.optim.", "optuna.", "hydra_plugins.")
    assert all(target.startswith(ours) for target in targets)


def test_the_environment_is_recorded(tmp_path: Path) -> None:
    build(compose(*TINY), RunDirectory(tmp_path))
    environment = OmegaConf.load(tmp_path / "environment.json")
    assert environment.versions.torch == importlib.metadata.version("torch")
    assert environment.data.train.images == environment.data.val.images == 40
    assert len(environment.data.val.fingerprint) == 16
    assert "images_with_exchanged_captions" not in environment.data.train


def test_wrong_captions_are_recorded_and_change_the_training_part_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = []
    for noise in (0, 0.2):
        with caplog.at_level(logging.INFO):
            build(compose(*TINY, f"data.caption_noise={noise}"), RunDirectory(tmp_path / str(noise)))
        facts.append(OmegaConf.load(tmp_path / str(noise) / "environment.json").data)
    assert facts[1].train.images_with_exchanged_captions == 8
    assert facts[1].train.fingerprint != facts[0].train.fingerprint
    assert facts[1].val == facts[0].val
    assert caplog.text.count("8 of 40 training images have another image's captions.") == 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.rho=-0.1"], "optimizer.rho=-0.1: must be at least 0"),
        (["optimizer.rho=much"], "optimizer.rho='much': must be a number"),
        (["trainer.budget.minutes=0"], "trainer.budget.minutes=0: must be above 0"),
        (
            ["trainer.budget.minutes=3", "trainer.budget.steps=3"],
            "trainer.budget.steps=3 and trainer.budget.minutes=3 cannot both end a run",
        ),
        (["trainer.batch_size=1"], "trainer.batch_size=1: must be at least 2"),
        (["encoder.text.attention.k=64"], "encoder.text.attention.k=64: must lie between 1 and"),
        (["encoder.text.num_heads=3"], "encoder.text.num_heads=3: must divide width=256"),
        (["embed_dim=0"], "embed_dim=0: must be at least 1"),
        (["image_size=4"], "image_size=4: must be at least 16"),
        (["data.crop_scale=[0.5]"], "data.crop_scale=[0.5]"),
        (["data=flickr8k", "data.root=nowhere"], "data.root=nowhere: does not exist"),
        (["encoder.image.weights=nowhere.pth"], "encoder.image.weights=nowhere.pth: is no file"),
        (["temperature.momentum=0"], "temperature.momentum=0: must lie in"),
        (["projection.expansion=-1"], "projection.expansion=-1"),
        (["tokenizer.vocab_size=10"], "tokenizer.vocab_size=10"),
        (["optimizer.base.lr=-1"], "optimizer.base.lr=-1: Invalid learning rate: -1"),
        (["schedule.final_factor=3"], "schedule.final_factor=3"),
        (["~optimizer.base"], "optimizer.base is needed"),
        (["~data.flip"], "data.flip is needed"),
        (["device=cuda:77"], "device=cuda:77: torch finds"),
        (["device=gpu"], "device=gpu: must be auto, cpu, mps"),
        (["device=meta"], "device=meta: must be auto, cpu, mps"),
    ],
)
def test_a_wrong_setting_is_named_before_data_is_read(
    overrides: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataSource, "datasets", lambda self: pytest.fail("data was read"))
    with pytest.raises(UserError) as caught:
        check(compose(*overrides))
    assert named in str(caught.value)


def test_a_loss_that_is_none_of_the_kind_is_told() -> None:
    cfg = compose(*TINY)
    with open_dict(cfg):
        cfg.loss = {"_target_": "torch.nn.Identity"}
    told = r"loss\._target_=torch\.nn\.Identity: must be derived from miniclip\.losses\.Loss"
    with pytest.raises(SettingError, match=told):
        make_model(cfg, vocab_size=300)


def test_a_part_that_no_checkpoint_may_name_is_told_before_it_trains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = compose(*TINY)
    build(cfg, RunDirectory(tmp_path / "own"))
    assert "none of MiniCLIP's own parts" not in caplog.text

    with open_dict(cfg):
        cfg.data._target_ = "miniclip.data.sources.openmoji.OpenMoji"  # by a name that is not in the table
    build(cfg, RunDirectory(tmp_path / "other"))
    assert f"data._target_={cfg.data._target_} is none of MiniCLIP's own parts" in caplog.text


def test_what_weights_saw_is_told_where_it_differs_from_the_run() -> None:
    same = Preprocessing(interpolation="bicubic", crop_fraction=1.0)
    assert unlike_the_run(IMAGENET, eval_crop="squash") == []
    assert unlike_the_run(same, eval_crop="center") == []
    assert unlike_the_run(same, eval_crop="squash") == [
        "a center crop of 1 of the side, where this run has data.eval_crop=squash"
    ]
    assert unlike_the_run(same._replace(interpolation="bilinear"), eval_crop="center") == [
        "bilinear interpolation, where this run has bicubic"
    ]
    (line,) = unlike_the_run(same._replace(mean=(0.5,) * 3), eval_crop="center")
    assert line.startswith("mean [0.5, 0.5, 0.5] and deviation [0.229") and line.endswith("are applied")


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="device=cuda: torch finds 0 CUDA devices here"):
        check(compose("device=cuda"))


def test_mps_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=mps: torch finds no MPS device here"):
        check(compose("device=mps"))


def test_an_error_while_data_is_read_names_the_setting_as_it_is_typed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Change it with data\.root=") as caught:
        read_data(compose("data=parquet", f"data.root={tmp_path}"))
    assert str(caught.value).startswith("data.root=")


def test_a_good_config_passes_and_makes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = torch.nn.init.kaiming_normal_
    monkeypatch.setattr(
        torch.nn.init,
        "kaiming_normal_",
        lambda tensor, **kwargs: made.append(tensor.device.type) or original(tensor, **kwargs),
    )
    check(compose())
    assert set(made) == {"meta"}


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.base.lr=-1"],
        ["optimizer.base.eps=-0.5"],
        ["optimizer.base.weight_decay=-1e-3"],
        ["optimizer.base.lr=0.01", "optimizer.base.betas=[0.9,2]"],
        ["optimizer/base=sgd", "optimizer.base.weight_decay=-1", "optimizer.base.momentum=-1"],
        ["optimizer=adamw", "optimizer.weight_decay=-1", "optimizer.lr=1", "optimizer.eps=-1"],
    ],
    ids=str,
)
def test_a_number_that_torch_refuses_is_named_as_it_was_typed(words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check(compose(*TINY, *words))
    name, _, allowed = str(caught.value).partition(": Invalid ")
    assert name.partition("=")[0] in [word.partition("=")[0] for word in words]
    assert f". Change it with {name.partition('=')[0]}=..." in allowed


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer/base=sgd", "optimizer.base.nesterov=true", "optimizer.base.momentum=0"],
        ["optimizer.base.lr=-1", "optimizer.base.weight_decay=-1"],  # of which torch says "learning rate"
    ],
    ids=str,
)
def test_what_may_be_of_two_settings_blames_neither(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"optimizer: .* Change its settings, optimizer\.\*"):
        check(compose(*TINY, *words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["~trainer.budget.epochs"], "trainer.budget.epochs is needed: give trainer.budget.epochs=..."),
        (["~trainer.batch_size"], "trainer.batch_size is needed: give trainer.batch_size=..."),
        (["encoder.text.width=400000000000000000"], "Change its settings, encoder.text.*"),
    ],
)
def test_what_a_nested_part_lacks_and_what_torch_cannot_make_is_told_in_our_words(
    words: list[str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(compose(*TINY, *words))
    assert said in str(caught.value) and "Error in call" not in str(caught.value)


def test_a_tokenizer_that_is_not_the_text_models_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bert = hugging_face_folder(tmp_path / "bert")
    tiny = [each for each in TINY if not each.startswith("encoder.text.")]
    tower = ("encoder/text=hf", f"encoder.text.name={bert}", "context_length=16", "data.limit=40")
    told = f"encoder.text.name={bert} was trained with the token ids of its own tokenizer"
    for number, (tokenizer, is_own) in enumerate(
        [
            ((), True),
            (("tokenizer=bpe", "tokenizer.vocab_size=300"), False),
            (("tokenizer=hf", f"tokenizer.name={hugging_face_folder(tmp_path / 'other')}"), False),
        ]
    ):
        caplog.clear()
        build(compose(*tiny, *tower, *tokenizer), RunDirectory(tmp_path / str(number)))
        assert (told in caplog.text) != is_own


def test_a_place_of_the_data_is_looked_for_before_a_model_is_downloaded(tmp_path: Path) -> None:
    nowhere = ("data=folder", f"data.root={tmp_path}/nowhere")
    tower = ("encoder/text=hf", "encoder.text.name=nobody/nothing")
    with pytest.raises(UserError, match=r"data\.root"):
        check(compose(*nowhere, *tower))
