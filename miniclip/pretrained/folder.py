"""A model saved into a folder: `model.safetensors`, `config.json`, and the tokenizer's own files.

config.json is plain data. A part in it is a type, the last word of a class of the table `PARTS`, and its
settings; what is no such part is refused, and nothing is looked up anywhere else.
"""

from pathlib import Path
from typing import Any

from miniclip import __version__
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import UserError
from miniclip.files import read_json, replacing, within, write_json, write_text
from miniclip.pretrained.bundle import ModelBundle
from miniclip.pretrained.loading import (
    check_finite,
    late_tower_of,
    named_after,
    named_by,
    text_model_of,
    without_places,
)
from miniclip.pretrained.parts import MODEL_PARTS, PARTIAL, PARTS, Config, check_parts, node_at
from miniclip.pretrained.target import check_target
from miniclip.tokenizers import Tokenizer
from miniclip.training.contents import check_part, check_plain, shown

FORMAT = 1
"""Of config.json."""

CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

FILES = (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG)
"""What a saved model consists of; of a repository of the hub nothing else is downloaded."""

NAMES = {
    "encoder.image": "image_encoder",
    "encoder.text": "text_encoder",
    "projection": "projection",
    "temperature": "temperature",
    "loss": "loss",
}
"""The parts of a model as a run's config calls them, and as config.json does."""


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a saved model."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def save_folder(bundle: ModelBundle, folder: Path, *, fingerprint: str) -> Path:
    """Write a model into a folder, which is made. The config comes last: without it there is no model.

    Args:
        fingerprint: of the bundle.

    Returns:
        the folder.

    Raises:
        UserError: see `check_target`.
    """
    from safetensors.torch import save

    check_target(folder, "safetensors", [folder / name for name in FILES])
    tokenizer = bundle.tokenizer.state()
    backend = tokenizer.pop("backend")
    config = _as_saved(bundle, tokenizer, fingerprint)  # before a former model is written over

    folder.mkdir(parents=True, exist_ok=True)
    state = bundle.model.state_dict()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(folder / WEIGHTS, "wb") as file:
        file.write(save(weights, metadata={"format": "pt"}))

    write_text(folder / TOKENIZER, backend)
    write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(bundle.tokenizer))
    write_json(folder / CONFIG, config)
    return folder


def load_folder(folder: Path) -> ModelBundle:
    """Read a model that `save_folder` wrote; the folder may be a stranger's.

    Raises:
        UserError: when a file is missing or damaged, or the config names anything but MiniCLIP's parts.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    saved = _read_config(within(folder, CONFIG))
    with named_after(folder):
        config = _as_config(saved)
        tokenizer = _tokenizer(saved, within(folder, TOKENIZER))
        check_part("preprocessing", saved.get("preprocessing"))
        with named_by("preprocessing"):
            preprocessing = EvalPreprocessing.from_state(saved["preprocessing"])

        try:
            weights = load_file(within(folder, WEIGHTS))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{WEIGHTS} is damaged ({error})") from None
        check_part("model", weights)
        check_finite(weights)
        checkpoint = {"model": weights, "config": config, "preprocessing": saved["preprocessing"]}
        model = text_model_of(config, tokenizer, checkpoint)
    late_tower = late_tower_of(config, checkpoint, folder)

    bundle = ModelBundle(str(saved["name"]), config, model, tokenizer, preprocessing, late_tower)
    if bundle.fingerprint() != saved.get("fingerprint"):
        raise UserError(
            f"The model in {folder} is not the one that was saved: its fingerprint differs, so a file was "
            "damaged or exchanged. Save or download it again."
        )
    return bundle


def _as_saved(bundle: ModelBundle, tokenizer: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """The content of config.json."""
    config = without_places(bundle.config)
    return {
        "library": "miniclip",
        "format": FORMAT,
        "miniclip_version": __version__,
        "name": bundle.name,
        "fingerprint": fingerprint,
        "embed_dim": config["embed_dim"],
        "context_length": bundle.tokenizer.context_length,
        **{name: _as_type(node_at(config, part)) for part, name in NAMES.items()},
        "preprocessing": bundle.preprocessing.state(),
        "tokenizer": tokenizer,
    }


def _as_type(node: Config) -> Config:
    """A part of a config with its type in place of what Hydra calls."""
    settings = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    if isinstance(settings.get("attention"), dict):
        settings["attention"] = _as_type(settings["attention"])
    return {"type": node["_target_"].rpartition(".")[2], **settings}


def _read_config(path: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        UserError: when it is no saved model of MiniCLIP.
    """
    try:
        saved = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}).") from None

    if not isinstance(saved, dict) or saved.get("library") != "miniclip":
        raise UserError(f"{path.parent} holds no model of MiniCLIP: {path.name} says nothing of it.")
    if saved.get("format") != FORMAT:
        raise UserError(
            f"The model in {path.parent} has the format {shown(saved.get('format'))}; this version reads "
            f"{FORMAT}. Update MiniCLIP: pip install -U miniclip"
        )
    return saved


def _as_config(saved: dict[str, Any]) -> Config:
    """The config of a model as a run has it, held against the table.

    Raises:
        UserError: when anything else stands there.
    """
    for key, kind in (("name", str), ("embed_dim", int)):
        if type(saved.get(key)) is not kind:
            raise UserError(f"its {key} is {shown(saved.get(key))}")
    if not saved["name"].isprintable():
        raise UserError(f"its name is {shown(saved['name'])}")
    parts = {part: _as_target(saved.get(name), part, name) for part, name in NAMES.items()}
    config: Config = {
        "embed_dim": saved["embed_dim"],
        "encoder": {"image": parts["encoder.image"], "text": parts["encoder.text"]},
        "projection": parts["projection"],
        "temperature": parts["temperature"],
        "loss": parts["loss"],
    }
    check_plain(config, "config")
    check_parts(config, MODEL_PARTS)
    return config


def _as_target(node: Any, part: str, name: str) -> Config:
    """A part of config.json as a run's config has it."""
    if type(node) is not dict or type(node.get("type")) is not str:
        raise UserError(f"its {name} has no type")
    settings = {key: value for key, value in node.items() if key != "type"}
    if type(settings.get("attention")) is dict:
        settings["attention"] = _as_target(settings["attention"], f"{part}.attention", f"{name}.attention")

    target = next((path for path in PARTS[part] if path.endswith(f".{node['type']}")), None)
    if target is None:
        raise UserError(f"its {name} is of the type {shown(node['type'])}, which MiniCLIP does not have")
    return {"_target_": target, **({"_partial_": True} if part in PARTIAL else {}), **settings}


def _tokenizer(saved: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer of a saved model.

    Raises:
        UserError: when its file or its settings are damaged.
    """
    try:
        state = {**saved["tokenizer"], "backend": path.read_text(encoding="utf-8")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.name} cannot be read ({error})") from None
    check_part("tokenizer", state)
    with named_by("tokenizer"):
        return Tokenizer.from_state(state)


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """What lets transformers' AutoTokenizer read the folder."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "pad_token": tokenizer.pad_token,
    }
