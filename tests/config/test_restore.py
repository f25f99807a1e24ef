"""A checkpoint from a stranger executes nothing, learns nothing, and opens no other file."""

import copy
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import cli, provenance
from miniclip.config.restore import restore
from miniclip.errors import UserError
from miniclip.figures import new_figure, save
from miniclip.files import write_text
from miniclip.integrations.clip_benchmark import load
from miniclip.pretrained.parts import PARTS
from miniclip.runs import RunDirectory
from miniclip.signature import fits, signature_of
from miniclip.training.checkpoint import load_checkpoint
from tests.conftest import ROOT, TINY, fit, parts_of

SMALL = (*TINY, "data.limit=16", "trainer.budget.steps=1", "precision=fp32")
SECRET = "a-secret-of-the-environment"

Node = dict[str, Any]
Attack = Callable[[Node, Node], None]
"""Changes a config, and is given the node that would make a folder if anything called it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return fit(tmp_path_factory.mktemp("run"), *SMALL)


@pytest.fixture(scope="module")
def content(run: RunDirectory) -> Node:
    whole = parts_of(run.best_checkpoint)
    return {**whole, "optimizer": {"state": {}, "param_groups": []}}  # a smaller file


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder that exists as soon as the attack has worked."""
    return tmp_path / "canary"


@pytest.fixture
def evil(canary: Path) -> Node:
    return {"_target_": "os.mkdir", "path": str(canary)}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRANGERS_WISH", SECRET)


def put(place: str, make: Callable[[Node], Any]) -> Attack:
    """An attack that puts something at a place of the config."""
    *above, last = place.split("/")

    def attack(config: Node, evil: Node) -> None:
        for key in above:
            config = config[key]
        config[last] = make(evil)

    return attack


def fixed(place: str, value: Any) -> Attack:
    return put(place, lambda evil: value)


def elsewhere(place: str) -> Attack:
    """The node lies beside the parts, and an interpolation leads to it."""

    def attack(config: Node, evil: Node) -> None:
        config["helper"] = evil
        put(place, lambda evil: "${helper}")(config, evil)

    return attack


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def target(name: str, place: str = "projection") -> Attack:
    return put(place, lambda evil: {**evil, "_target_": name})


def backbone(architecture: str) -> Attack:
    """timm reads some names as places."""

    def attack(config: Node, evil: Node) -> None:
        image = config["encoder"]["image"]
        image |= {"_target_": "miniclip.models.TimmEncoder", "architecture": architecture}

    return attack


ATTACKS: dict[str, Attack] = {
    # what Hydra's instantiate would reach
    "the part itself": put("projection", lambda evil: evil),
    "the data": put("data", lambda evil: evil),
    "a dict as a value": put("projection/expansion", lambda evil: evil),
    "two deep": put("projection/expansion", lambda evil: {"a": {"b": evil}}),
    "in a list": put("projection/expansion", lambda evil: [evil]),
    "in a list in a list": put("projection/expansion", lambda evil: [[evil]]),
    "in a dict in a list": put("projection/expansion", lambda evil: [{"a": evil}]),
    "in a list of the data": put("data/crop_scale", lambda evil: [evil, 1.0]),
    "in a list of the loss": put("loss/label_smoothing", lambda evil: [evil]),
    "in a list of the temperature": put("temperature/hidden", lambda evil: [evil]),
    "in a list of the text tower": put("encoder/text/width", lambda evil: [evil]),
    "in a list of the attention": put("encoder/text/attention/k", lambda evil: [evil]),
    "a new key of a part": put("data/more", lambda evil: evil),
    "a new key in a list": put("temperature/more", lambda evil: [evil]),
    "between two parts": put("encoder/more", lambda evil: [evil]),
    "in a list of a helper key": put("arm", lambda evil: [evil]),
    "positional": put("projection/_args_", lambda evil: [evil]),
    "positional text": fixed("temperature/_args_", ["open('canary', 'w')"]),
    "positional in the attention": put("encoder/text/attention/_args_", lambda evil: [evil]),
    "instead of the attention": put("encoder/text/attention", lambda evil: {**evil, "_partial_": True}),
    "attentions in a list": put("encoder/text/attention", lambda evil: [evil]),
    "partial": put("projection", lambda evil: {**evil, "_partial_": True}),
    "partial where none belongs": fixed("projection/_partial_", True),
    "no partial where one belongs": fixed("encoder/text/_partial_", False),
    "converted": fixed("projection/_convert_", "all"),
    "not recursive": fixed("projection/_recursive_", False),
    "a mode": fixed("projection/_mode_", "call"),
    "a method": fixed("projection/_method_", "__init__"),
    "at the root": fixed("_target_", "os.mkdir"),
    # interpolations and resolvers
    "interpolated value": elsewhere("projection/expansion"),
    "interpolated part": elsewhere("projection"),
    "interpolated data": elsewhere("data"),
    "interpolated in a list": put("data/crop_scale", lambda evil: ["${projection}", 1.0]),
    "interpolated name": fixed("projection/_target_", "${name}"),
    "interpolated key": put("${name}", lambda evil: 1),
    "interpolated in a text": fixed("data/limit", "a${seed}"),
    "in a part that nothing makes": fixed("trainer/resume", "${oc.env:STRANGERS_WISH}"),
    "the environment": fixed("data/limit", "${oc.env:STRANGERS_WISH}"),
    "the environment to a hub": put(
        "data",
        lambda evil: {"_target_": "miniclip.data.Hub", "hub": "stranger/${oc.env:STRANGERS_WISH}"},
    ),
    "the environment as a target": fixed("projection/_target_", "${oc.env:STRANGERS_WISH}"),
    "a created node": fixed("projection", "${oc.create:{_target_: os.mkdir, path: canary}}"),
    "a decoded node": fixed("projection", "${oc.decode:'{_target_: os.mkdir, path: canary}'}"),
    "a selected node": fixed("projection", "${oc.select:helper}"),
    "an own resolver": fixed("projection/expansion", "${product:2,2}"),
    "nested interpolations": fixed("projection/expansion", "${oc.env:${name}}"),
    "YAML in a text": fixed("projection", "{_target_: os.mkdir, path: canary}"),
    "a tag of YAML": fixed("projection/expansion", "!!python/object/apply:os.mkdir [canary]"),
    "a command line": fixed("image_size", "32 +x=${oc.env:STRANGERS_WISH}"),
    "an override": fixed("seed", "0,data.root=canary"),
    # names near allowed ones
    "another module's": target("os.system"),
    "a space": target("miniclip.models.ProjectionMLP "),
    "a line break": target("miniclip.models.ProjectionMLP\nos.mkdir"),
    "a lookalike": target("miniclip.models.Pr\u043ejectionMLP"),
    "small letters": target("miniclip.models.projectionmlp"),
    "an attribute": target("miniclip.models.ProjectionMLP.load_state_dict"),
    "a constructor": target("miniclip.data.Folder.__init__", "data"),
    "a module's import": target("miniclip.tokenizers.huggingface.os.mkdir"),
    "torch through a module": target("miniclip.models.clip.torch.load"),
    "another way to a class": target("miniclip.models.projection.ProjectionMLP"),
    "a relative way": target("miniclip.models..ProjectionMLP"),
    "a class in the wrong place": target("miniclip.data.Folder"),
    "a tokenizer": fixed("temperature", {"_target_": "miniclip.tokenizers.HFTokenizer", "name": "/etc"}),
    "a function": target("miniclip.models.linformer_attention", "loss"),
    "a tower as the data": target("miniclip.models.TorchvisionEncoder", "data"),
    "an attention as a projection": target("miniclip.models.FullAttention"),
    "a name in a list": fixed("projection/_target_", ["miniclip.models.ProjectionMLP"]),
    "a name in a dict": fixed("projection/_target_", {"_target_": "os.mkdir"}),
    "no name": fixed("projection", {}),
    "a number as the name": fixed("projection/_target_", 1),
    # values that are no plain data, and keys that are no names
    "a key with dots": put("projection.expansion", lambda evil: [evil]),
    "a target with dots": fixed("projection/expansion._target_", "os.mkdir"),
    "a number as a key": lambda config, evil: config["projection"].__setitem__(0, evil),
    "true as a key": lambda config, evil: config.__setitem__(True, evil),
    "bytes": fixed("projection/expansion", b"4"),
    "a tensor": fixed("projection/expansion", torch.ones(())),
    "a tuple": fixed("data/crop_scale", (0.5, 1.0)),
    "a complex number": fixed("projection/expansion", 1j),
    "a hundred levels": fixed("helper", nested(100)),
    "a missing value": fixed("projection/expansion", "???"),
    "a list as a part": fixed("encoder", []),
    "a list as the config of the image tower": fixed("encoder/image", [1]),
    "a size of a trillion": fixed("encoder/text/width", 10**12),
    "a negative size": fixed("encoder/text/width", -4),
    # what would be read by a name of the file
    "a model by its name": fixed(
        "encoder/text",
        {
            "_target_": "miniclip.models.HFTextModel",
            "_partial_": True,
            "name": "stranger/model",
            "config": None,
            "frozen": False,
            "pooling": "mean",
            "embed_dim": 32,
        },
    ),
    "a backbone of the hub": backbone("hf-hub:stranger/model"),
    "a backbone of a folder": backbone("local-dir:/etc"),
}


def attacked(content: Node, attack: Attack, evil: Node, path: Path) -> Path:
    """A checkpoint whose config is attacked."""
    config = copy.deepcopy(content["config"])
    attack(config, evil)
    torch.save({**content, "config": config}, path)
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_a_strangers_checkpoint_executes_nothing(
    name: str, content: Node, evil: Node, canary: Path, tmp_path: Path
) -> None:
    path = attacked(content, ATTACKS[name], evil, tmp_path / "evil.pt")
    for read in (lambda: restore(path), lambda: load(str(path), "best", "", "cpu")):
        with pytest.raises(UserError) as caught:
            restored = read()
            _ = restored.datasets(), restored.loss()  # only a hole gets here
        told = str(caught.value)
        assert SECRET not in told and "\n" not in told and len(told) < 500, told
    assert not canary.exists()


@pytest.mark.parametrize("name", ["in a list", "interpolated part", "the environment to a hub"])
def test_the_command_refuses_it_in_one_line(
    name: str,
    content: Node,
    evil: Node,
    canary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = attacked(content, ATTACKS[name], evil, tmp_path / "evil.pt")
    monkeypatch.setattr(sys, "argv", ["miniclip", "evaluate", str(path), "retrieval", "data=openmoji"])
    with pytest.raises(SystemExit, match=r"^Error: The checkpoint .*evil\.pt .*refused") as caught:
        cli.main()
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value) + capsys.readouterr().out
    assert not canary.exists()


def test_resuming_executes_nothing(run: RunDirectory, evil: Node, canary: Path, tmp_path: Path) -> None:
    content = parts_of(run.last_checkpoint)
    path = attacked(content, ATTACKS["in a list"], evil, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        fit(tmp_path / "run", *SMALL, f"trainer.resume={path}")
    path = attacked(content, ATTACKS["the part itself"], evil, tmp_path / "evil.pt")
    with suppress(UserError):  # its config is compared at most
        fit(tmp_path / "run", *SMALL, f"trainer.resume={path}")
    assert not canary.exists()


def places(node: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every leaf."""
    if not isinstance(node, dict | list):
        yield above
        return
    for key, below in node.items() if isinstance(node, dict) else enumerate(node):
        yield from places(below, *above, key)


def test_no_place_of_a_config_lets_anything_through(
    content: Node, evil: Node, canary: Path, tmp_path: Path
) -> None:
    payloads = ["${oc.env:STRANGERS_WISH}", [evil], {"_args_": [evil]}, [[{"a": evil}]]]
    ways = list(places(content["config"]))
    assert len(ways) > 60
    for number, way in enumerate(ways):
        config = copy.deepcopy(content["config"])
        node = config
        for key in way[:-1]:
            node = node[key]
        node[way[-1]] = payloads[number % len(payloads)]
        torch.save({**content, "config": config}, path := tmp_path / "evil.pt")
        with pytest.raises(UserError) as caught:
            restored = restore(path)
            _ = restored.datasets(), restored.loss()
        assert SECRET not in str(caught.value), way
    assert not canary.exists()


def test_every_part_that_a_config_offers_can_be_restored() -> None:
    for place, known in PARTS.items():
        files = (ROOT / "conf" / place.replace(".", "/")).glob("*.yaml")
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        offered = {line.split()[1] for line in lines if line.strip().startswith("_target_:")}
        assert offered <= set(known), place


def changed(content: Node, path: Path, **parts: Any) -> Path:
    """A checkpoint with other parts, "..." for none."""
    whole = {name: part for name, part in {**content, **parts}.items() if part is not ...}
    torch.save(whole, path)
    return path


def tokenizer_with(content: Node, change: Callable[[Node], None]) -> Node:
    """The tokenizer's state with another tokenizer.json."""
    backend = json.loads(content["tokenizer"]["backend"])
    change(backend)
    return {**content["tokenizer"], "backend": json.dumps(backend)}


ODD_PARTS: dict[str, Callable[[Node], Node]] = {
    "no model": lambda content: {"model": ...},
    "a list as the model": lambda content: {"model": [torch.ones(1)]},
    "a model of numbers": lambda content: {"model": {"a": 1.0}},
    "numbers as names": lambda content: {"model": {1: torch.ones(1)}},
    "a sparse model": lambda content: {"model": {"a": torch.eye(2).to_sparse()}},
    "an empty model": lambda content: {"model": {}},
    "a list as the config": lambda content: {"config": []},
    "an empty config": lambda content: {"config": {}},
    "no tokenizer": lambda content: {"tokenizer": None},
    "a tokenizer of nothing": lambda content: {"tokenizer": {}},
    "a tokenizer that is no JSON": lambda content: {"tokenizer": {**content["tokenizer"], "backend": "{"}},
    "a tokenizer with more": lambda content: {"tokenizer": {**content["tokenizer"], "more": 1}},
    "a padding that is no token": lambda content: {
        "tokenizer": {**content["tokenizer"], "pad_token": "nowhere"}
    },
    "a length of zero": lambda content: {"tokenizer": {**content["tokenizer"], "context_length": 0}},
    "a length that is a text": lambda content: {
        "tokenizer": {**content["tokenizer"], "context_length": "9"}
    },
    "ids beyond the vocabulary": lambda content: {
        "tokenizer": tokenizer_with(content, lambda backend: backend["model"]["vocab"].update(zebra=10**6))
    },
    "no optimizer": lambda content: {"optimizer": ...},
    "a list as the optimizer": lambda content: {"optimizer": []},
    "a text as the progress": lambda content: {"progress": "much"},
    "a negative step": lambda content: {"progress": {**content["progress"], "step": -1}},
    "an infinite time": lambda content: {"progress": {**content["progress"], "seconds": float("inf")}},
    "no preprocessing": lambda content: {"preprocessing": {}},
    "a deviation of zero": lambda content: {
        "preprocessing": {**content["preprocessing"], "std": [0.2, 0.0, 0.2]}
    },
    "a text as the mean": lambda content: {"preprocessing": {**content["preprocessing"], "mean": "abc"}},
    "no random state": lambda content: {"random_state": None},
    "a format of another time": lambda content: {"format": 99},
}


@pytest.mark.parametrize("name", ODD_PARTS)
def test_odd_contents_are_one_line(name: str, content: Node, tmp_path: Path) -> None:
    path = changed(content, tmp_path / "odd.pt", **ODD_PARTS[name](content))
    with pytest.raises(UserError, match=r"odd\.pt|The checkpoint") as caught:
        restore(path)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_an_end_is_one_line(content: Node, tmp_path: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": r"((a+)+)+$"}, "behavior": "Isolated", "invert": False}
    state = tokenizer_with(content, lambda backend: backend.update(pre_tokenizer=pattern))
    restored = restore(changed(content, tmp_path / "slow.pt", tokenizer=state))
    with pytest.raises(UserError, match="tokenizer cannot encode"):
        restored.tokenizer.encode(["a" * 60 + "b"])


def test_weights_that_are_not_finite_are_told(content: Node, tmp_path: Path) -> None:
    model = {name: tensor.clone() for name, tensor in content["model"].items()}
    statistics = [name for name in model if name.endswith("running_var")]
    model[statistics[0]].fill_(torch.nan)
    with pytest.raises(UserError, match=r"nan\.pt cannot be restored: 1 of its \d+ tensors is not finite"):
        restore(changed(content, tmp_path / "nan.pt", model=model))


def flipped(path: Path, place: float) -> bytes:
    """The file with one wrong bit in the middle of its largest tensor, or at a share of its length."""
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 16
    return bytes(data)


@pytest.mark.parametrize("damage", ["bits", "half", "text", "empty", "pickle", "packed", "folder", "fifo"])
def test_a_damaged_or_foreign_file_is_one_line(
    damage: str, content: Node, tmp_path: Path, canary: Path
) -> None:
    whole, path = changed(content, tmp_path / "whole.pt"), tmp_path / "bad.pt"
    if damage == "bits":
        files = [flipped(whole, place) for place in (0.1, 0.3, 0.5, 0.7, 0.9)]
    else:
        files = [whole.read_bytes()[: whole.stat().st_size // 2]]
    if damage == "text":
        files = [b"e\nand more text\n", b"\x80\x02}q\x00.", "\u00fcber".encode("latin-1")]
    elif damage == "empty":
        files = [b""]
    elif damage == "pickle":
        files = [f"cos\nmkdir\n(V{canary}\ntR.".encode()]
    for data in files:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        if damage == "packed":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("whole/data.pkl", bytes(10**7))
        if damage in ("folder", "fifo"):
            path.unlink()
            path.mkdir() if damage == "folder" else os.mkfifo(path)
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        told = str(caught.value)
        assert "bad.pt" in told and "\n" not in told and "weights_only" not in told
    assert not canary.exists()


def test_what_a_user_asks_for_is_resolved_by_itself(
    run: RunDirectory, content: Node, tmp_path: Path
) -> None:
    os.environ["STRANGERS_WISH"] = "3"  # the user's own wish, this time
    restored = restore(run.path, "data.limit=${oc.decode:${oc.env:STRANGERS_WISH}}")
    assert len(restored.datasets()[0]) == 3
    with pytest.raises(Exception, match="helper"):
        restore(run.path, "data.limit=${helper}")
    for change in ("projection._target_=os.mkdir", "data.crop_scale=[{_target_: os.mkdir}, 1.0]"):
        with pytest.raises(UserError):
            restore(run.path, change)


def opened_during(action: Callable[[], Any]) -> set[Path]:
    """Files and folders that are opened or listed."""
    seen: set[Path] = set()
    watching = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
            seen.add(Path(arguments[0]).resolve())

    sys.addaudithook(hook)
    action()
    watching.clear()
    return seen


def test_paths_of_a_strangers_config_are_not_opened(content: Node, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "weights.pth").write_bytes(b"private")
    config = copy.deepcopy(content["config"])
    config["encoder"]["image"]["weights"] = str(private / "weights.pth")
    config["data"] |= {"cache": "disk", "cache_dir": str(private)}
    config["tokenizer"] = {"_target_": "miniclip.tokenizers.HFTokenizer", "name": str(private)}
    config["eval"]["templates"] = str(private / "weights.pth")
    config["trainer"]["resume"] = str(private / "weights.pth")
    path = changed(content, tmp_path / "named.pt", config=config)
    seen = opened_during(lambda: restore(path))
    assert path in seen and not any(each.is_relative_to(private) for each in seen)
    assert restore(path).config.data.cache_dir is None


def test_a_hugging_face_configuration_brings_no_code() -> None:
    from miniclip.pretrained.loading import _without_code

    asked = {
        "model_type": "bert",
        "auto_map": {"AutoModel": "stranger/model--code.Model"},
        "_attn_implementation": "stranger/kernel",
        "text_config": {"attn_implementation": "stranger/kernel", "hidden_size": 32},
        "quantization_config": {"quant_method": "stranger"},
        "conv_kernel_size": 9,
    }
    kept = {"model_type": "bert", "text_config": {"hidden_size": 32}, "conv_kernel_size": 9}
    assert _without_code(asked) == kept


FILES_OF_CONFIGURATIONS: dict[str, Callable[[Path], Node]] = {
    "arguments": lambda place: {
        "model_type": "timm_wrapper",
        "model_args": {"checkpoint_path": str(place)},
    },
    "an architecture": lambda place: {"model_type": "timm_wrapper", "architecture": f"local-dir:{place}"},
    "a backbone": lambda place: {"model_type": "timm_backbone", "backbone": f"local-dir:{place}"},
    "a detector": lambda place: {"model_type": "detr", "backbone": str(place), "use_timm_backbone": False},
    "a tower beside": lambda place: {
        "model_type": "vision-text-dual-encoder",
        "text_config": {"model_type": "bert"},
        "vision_config": {"model_type": "gemma3n_vision", "architecture": f"local-dir:{place}"},
    },
    "in a list": lambda place: {"model_type": "bert", "more": [{"architecture": f"local-dir:{place}"}]},
}


@pytest.mark.parametrize("name", FILES_OF_CONFIGURATIONS)
def test_a_hugging_face_configuration_opens_no_file(name: str, content: Node, tmp_path: Path) -> None:
    place = tmp_path / "private"
    place.mkdir()
    (place / "config.json").write_text('{"architecture": "resnet18"}')
    tower = {"_target_": "miniclip.models.HFTextModel", "_partial_": True, "name": "stranger/model"}
    tower |= {"config": FILES_OF_CONFIGURATIONS[name](place), "frozen": False, "pooling": "mean"}
    config = copy.deepcopy(content["config"])
    config["encoder"]["text"] = {**tower, "embed_dim": 32}
    path = changed(content, tmp_path / "foreign.pt", config=config)

    def asked() -> None:
        with pytest.raises(UserError, match=r"cannot be restored: encoder\.text\.config has .*other files"):
            restore(path)

    assert not any(each.is_relative_to(place) for each in opened_during(asked))


def linked(run: RunDirectory, folder: Path, name: str, place: Path) -> Path:
    """A copy of a run with a link in the place of one of its files."""
    shutil.copytree(run.path, folder)
    target = folder / name
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(place)
    return folder


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/best.pt", "evaluation", "environment.json"])
def test_links_of_a_strangers_run_are_not_followed(
    name: str, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = outside if "." not in name else outside / "private"
    (outside / "private").write_text("private")
    folder = linked(run, tmp_path / "run", name, place)
    monkeypatch.setattr(sys, "argv", ["miniclip", "evaluate", str(folder), "retrieval"])
    with pytest.raises(SystemExit, match="is a link out of its folder"):
        cli.main()
    assert [path.name for path in outside.iterdir()] == ["private"]
    if name != "environment.json":
        assert (outside / "private").read_text() == "private"


def test_what_is_written_replaces_links(run: RunDirectory, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("private")
    names = (".retrieval.json.partial", "retrieval.json", "retrieval.png", ".retrieval.png.partial")
    for name in names:
        (tmp_path / name).symlink_to(private)
    write_text(tmp_path / "retrieval.json", "{}")
    figure, _ = new_figure(1, 1, size=(1, 1))
    save(figure, tmp_path / "retrieval.png")
    assert private.read_text() == "private" and not (tmp_path / "retrieval.png").is_symlink()
    assert (tmp_path / "retrieval.json").read_text() == "{}"


def test_training_goes_on_in_no_folder_of_links(run: RunDirectory, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("private")
    for name in ("metrics.jsonl", "tokenizer", "figures", "wandb_id", ".lock"):
        folder = linked(run, tmp_path / name.strip("."), name, private)
        with pytest.raises(UserError, match="is a link out of its folder"):
            RunDirectory(folder)
    with pytest.raises(UserError, match="is a link out of its folder"):
        RunDirectory(tmp_path / "new").go_on_from(tmp_path / "wandb_id")
    inside = linked(run, tmp_path / "inside", "checkpoints/best.pt", Path("last.pt"))
    assert restore(inside).checkpoint == inside / "checkpoints" / "best.pt"


ODD_RUNS: dict[str, Node] = {
    "a random state of texts": {"random_state": {"python": "a", "numpy": "b", "torch": "c", "cuda": []}},
    "an empty random state": {"random_state": {}},
    "moments of nobody": {"optimizer": {"state": {}, "param_groups": []}},
}


@pytest.mark.parametrize("name", ODD_RUNS)
def test_resuming_odd_contents_is_one_line(name: str, run: RunDirectory, tmp_path: Path) -> None:
    content = parts_of(run.last_checkpoint)
    path = changed(content, tmp_path / "odd.pt", **ODD_RUNS[name])
    with pytest.raises(UserError, match=r"odd\.pt") as caught:
        fit(tmp_path / "run", *SMALL, f"trainer.resume={path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": -1},
        {"step": True},
        {"seconds": float("nan")},
        {"images": 1e400},
        {"broken": []},
        {"best": {}},
        {"best": {"step": 1, "epoch": 1, "val/rsum": "much", "protocol": "val"}},
        {"more": 1},
        {1: 1},
    ],
    ids=str,
)
def test_odd_progress_is_one_line(change: Node, content: Node, tmp_path: Path) -> None:
    path = changed(content, tmp_path / "odd.pt", progress={**content["progress"], **change})
    with pytest.raises(UserError, match=r"odd\.pt is refused: its progress") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_setting_of_the_data_has_its_full_name(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.root"):
        restore(run.path, "data=folder", f"data.root={tmp_path / 'nowhere'}").datasets()
    with pytest.raises(UserError, match=r"data\.root|empty"):
        restore(run.path, "data=folder", f"data.root={tmp_path / 'empty'}").datasets()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of sixteen pictures to train on and of eight to validate, beside their pictures."""
    folder = tmp_path_factory.mktemp("table")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(24):
        pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"{index}.png,picture number {index}")
    (folder / "train.csv").write_text("\n".join(["image,caption", *rows[:16]]))
    (folder / "val.csv").write_text("\n".join(["image,caption", *rows[16:]]))
    return folder


def of_table(folder: Path) -> list[str]:
    """The settings that name it, with places that are not named left at null."""
    names = {"train_csv": folder / "train.csv", "train_root": folder, "val_csv": folder / "val.csv"}
    return [f"data.{name}={path}" for name, path in names.items()]


@pytest.fixture(scope="module")
def run_of_table(table: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return fit(tmp_path_factory.mktemp("run_of_table"), *SMALL, "data=csv", *of_table(table))


@pytest.fixture
def other_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be somebody else, who has no key yet. Returns where their key would be."""
    monkeypatch.setattr(provenance.platformdirs, "user_state_path", lambda name: tmp_path / "other" / name)
    return tmp_path / "other"


def test_an_own_run_needs_no_place(run_of_table: RunDirectory, table: Path) -> None:
    restored = restore(run_of_table.path)
    assert restored.unopened == ()
    seen = opened_during(lambda: restored.datasets()[1][0])
    assert {table / "val.csv", table / "16.png"} <= seen
    assert len(restore(run_of_table.path, "data.limit=3").datasets()[0]) == 3


def unsigned(content: Node) -> Node:
    return {"signature": ...}


def signed_for_another_data_set(content: Node) -> Node:
    return {"signature": provenance.sign({**content["config"]["data"], "flip": False})}


def moved(content: Node) -> Node:
    """An own checkpoint whose data a stranger has changed."""
    config = copy.deepcopy(content["config"])
    config["data"]["train_root"] += "/"
    return {"config": config}


@pytest.mark.parametrize("change", [unsigned, signed_for_another_data_set, moved])
def test_what_a_user_did_not_sign_is_not_opened(
    change: Callable[[Node], Node], run_of_table: RunDirectory, table: Path, tmp_path: Path
) -> None:
    content = parts_of(run_of_table.best_checkpoint)
    path = changed(content, tmp_path / "foreign.pt", **change(content))
    assert_refused(path, table)


def test_the_run_of_another_user_is_not_opened(
    run_of_table: RunDirectory, table: Path, other_user: Path
) -> None:
    assert_refused(run_of_table.path, table)
    assert not other_user.exists()


def assert_refused(path: Path, table: Path) -> None:
    """Nothing of the table is opened, and one line names the places and what to say instead."""

    def asked() -> None:
        with pytest.raises(UserError) as caught:
            restore(path).datasets()
        told.append(str(caught.value))

    told: list[str] = []
    assert not any(each.is_relative_to(table) for each in opened_during(asked))
    assert "was not trained by you on this machine" in told[0] and "\n" not in told[0]
    for place in ("train_csv", "train_root", "val_csv"):
        assert f" data.{place}='" in told[0] and f" data.{place}=..." in told[0]
    assert "val_root" not in told[0] and "cache_dir" not in told[0] and "data=NAME" in told[0]


def test_a_place_that_the_user_names_is_opened(
    run_of_table: RunDirectory, table: Path, other_user: Path
) -> None:
    root, *others = of_table(table)
    train, val = restore(run_of_table.path, root, *others).datasets()
    assert (len(train), len(val)) == (16, 8)
    with pytest.raises(UserError, match=r"where the data is, data\.train_csv=\.\.\., or") as caught:
        restore(run_of_table.path, *others).datasets()
    assert "train_root" not in str(caught.value)
    val_csv = restore(run_of_table.path, root, others[0], "data.val_csv=null").datasets()[1].split
    assert val_csv.name == "seeded val"
    named = {name: str(table / file) for name, file in {"train_csv": "val.csv", "train_root": ""}.items()}
    assert len(restore(run_of_table.path).datasets(**named, val_csv=None)[0]) == 7


def test_another_data_set_is_the_users_own(
    run_of_table: RunDirectory, table: Path, other_user: Path
) -> None:
    seen = opened_during(lambda: restore(run_of_table.path, "data=openmoji", "data.limit=4").datasets())
    assert not any(each.is_relative_to(table) for each in seen)
    assert len(restore(run_of_table.path, "data=csv", *of_table(table)).datasets()[1]) == 8
    with pytest.raises(UserError, match=r"data\.train_csv"):
        restore(run_of_table.path, "data=csv", *of_table(table)[1:]).datasets()


def test_embedded_data_need_no_signature(run: RunDirectory, other_user: Path) -> None:
    assert len(restore(run.path).datasets()[0]) == 16


def test_a_class_that_the_user_asks_for_brings_no_place_of_the_file(
    run: RunDirectory, content: Node, tmp_path: Path
) -> None:
    config = copy.deepcopy(content["config"])
    config["data"]["root"] = str(tmp_path)
    with pytest.raises(UserError, match=r"root.* is no setting"):
        restore(changed(content, tmp_path / "more.pt", config=config), "data._target_=miniclip.data.Folder")


def test_the_command_asks_for_the_place_in_one_line(
    run_of_table: RunDirectory,
    table: Path,
    other_user: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["miniclip", "evaluate", str(run_of_table.path), "retrieval"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"^Error: The checkpoint .*best\.pt was not trained by you"):
        cli.main()
    monkeypatch.setattr(sys, "argv", [*words, *of_table(table)])
    cli.main()
    assert "rsum" in capsys.readouterr().out


def test_clip_benchmark_opens_no_data(run_of_table: RunDirectory, table: Path, other_user: Path) -> None:
    seen = opened_during(lambda: load(str(run_of_table.path), "best", "", "cpu"))
    assert run_of_table.best_checkpoint.resolve() in seen
    assert not any(each.is_relative_to(table) for each in seen)


def test_resuming_opens_nothing_that_a_file_names(run: RunDirectory, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    content = parts_of(run.last_checkpoint)
    config = copy.deepcopy(content["config"])
    config["data"] = {**config["data"], "_target_": "miniclip.data.Folder", "root": str(private)}
    config["data"]["cache_dir"] = str(private)
    config["trainer"]["resume"] = str(private / "last.pt")
    config["eval"]["class_names"] = config["eval"]["templates"] = str(private / "names.txt")
    path = changed(content, tmp_path / "foreign.pt", config=config)
    more = [*SMALL, "trainer.budget.steps=2", f"trainer.resume={path}"]
    seen = opened_during(lambda: fit(tmp_path / "run", *more))
    assert path in seen and not any(each.is_relative_to(private) for each in seen)
    resumed = load_checkpoint(RunDirectory(tmp_path / "run").last_checkpoint)
    assert resumed["progress"]["step"] == 2 and resumed["config"]["data"]["cache_dir"] is None


def test_without_a_key_a_run_trains_unsigned(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(provenance.platformdirs, "user_state_path", lambda name: tmp_path / "file" / name)
    run = fit(tmp_path / "run", *SMALL, "data=csv", *of_table(table))
    assert sum("not signed" in line for line in caplog.messages) == 1
    assert "signature" not in load_checkpoint(run.best_checkpoint)
    assert_refused(run.path, table)
    assert len(restore(run.path, *of_table(table)).datasets()[1]) == 8


def test_a_checkpoint_of_version_0_1_0_asks_for_its_places(
    run_of_table: RunDirectory, table: Path, tmp_path: Path
) -> None:
    content = parts_of(run_of_table.best_checkpoint)
    progress = content["progress"]
    progress["batch"] = progress.pop("position") // 8
    for new in ("forward_passes", "total_seconds", "validations", "validated_step", "validation_due"):
        del progress[new]
    path = changed(content, tmp_path / "old.pt", format=1, progress=progress, data=..., signature=...)
    assert_refused(path, table)
    assert len(restore(path, *of_table(table)).datasets()[0]) == 16


NO_PLACES = {
    "caption_column",  # names of columns and parts
    "class_column",
    "image_column",
    "split_column",
    "train_split",
    "val_split",
    "separator",
    "config",  # of a set of the hub; datasets refuses the signs of a path
}
"""Text settings of the data that open nothing."""


def test_every_text_setting_of_the_data_is_a_place_or_none() -> None:
    for name, source in PARTS["data"].items():
        settings, hints = signature_of(source)
        texts = {setting for setting in settings if setting not in hints or takes_text(hints[setting])}
        places = set(source.places)
        assert places <= set(settings), name
        assert texts - places - NO_PLACES == set(), name
        assert not places & NO_PLACES, name


def takes_text(hint: Any) -> bool:
    """Whether any text fits a type, by itself or in a list."""
    return any(fits(value, hint) for value in ("any text", ["any text"], {"any": "text"}))


def test_a_file_that_does_not_say_what_it_was_trained_on(run: RunDirectory, tmp_path: Path) -> None:
    assert restore(run.path).trained_on == parts_of(run.best_checkpoint)["data"]["train"]
    for data in (["train"], {}, None):
        torch.save({**parts_of(run.best_checkpoint), "data": data}, tmp_path / "said.pt")
        assert restore(tmp_path / "said.pt").trained_on is None
