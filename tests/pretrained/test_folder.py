"""Saved models: every kind of part comes back equal, and a stranger's folder makes nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from miniclip import MiniCLIP
from miniclip.errors import UserError
from miniclip.pretrained.folder import load_folder
from tests.bundles import CAPTIONS, bundle_of

KINDS = (
    "encoder.image.architecture=test_resnet",
    "encoder/image=resnet18",
    "encoder.image.architecture=test_vit",
    "encoder.text.pooling=eos",
    "encoder/text=bag",
    "encoder/text/attention=linformer",
    "encoder/text/attention=full",
    "encoder/text/attention=performer",
    "encoder/text/attention=nystrom",
    "encoder/text/attention=reformer",
    "encoder/text/attention=bigbird",
    "projection=separate",
    "projection=linear",
    "projection=none",
    "temperature=learned",
    "temperature=fixed",
    "loss=siglip",
    "tokenizer=unigram",
    "tokenizer=wordpiece",
    "data.eval_crop=center",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "saved"
    return MiniCLIP(bundle_of()).save_pretrained(folder)


@pytest.fixture
def changed(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the saved model with another config.json."""

    def change(**changes: Any) -> Path:
        folder = shutil.copytree(saved, tmp_path / "changed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    return change


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_part_comes_back_equal(kind: str, tmp_path: Path) -> None:
    bundle = bundle_of(kind)
    model = MiniCLIP(bundle)
    again = MiniCLIP.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert again.fingerprint == model.fingerprint and again.name == model.name
    assert again.preprocess.state() == model.preprocess.state()
    assert again.logit_scale == model.logit_scale

    size = model.preprocess.image_size
    images = torch.randn(3, 3, size, size)
    torch.testing.assert_close(again.encode_image(images), model.encode_image(images), atol=1e-6, rtol=0)
    texts = list(CAPTIONS)
    torch.testing.assert_close(again.encode_text(texts), model.encode_text(texts), atol=1e-6, rtol=0)


def test_a_saved_model_is_saved_again(saved: Path, tmp_path: Path) -> None:
    again = MiniCLIP.from_pretrained(saved).save_pretrained(tmp_path / "again")
    for path in saved.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_a_model_that_has_changed_is_saved_as_it_is(saved: Path, tmp_path: Path) -> None:
    model = MiniCLIP.from_pretrained(saved)
    fingerprint = model.fingerprint
    with torch.no_grad():
        model.model.text_encoder.proj.weight.mul_(2)
    again = MiniCLIP.from_pretrained(model.save_pretrained(tmp_path / "changed"))
    assert again.fingerprint == model.fingerprint != fingerprint
    assert torch.equal(again.encode_text("a dog"), model.encode_text("a dog"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision_comes_back(dtype: torch.dtype, saved: Path, tmp_path: Path) -> None:
    model = MiniCLIP.from_pretrained(saved)
    model.model.to(dtype)
    again = MiniCLIP.from_pretrained(model.save_pretrained(tmp_path / "cast"))
    weights = again.model.state_dict()
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(weights[name], tensor.to(weights[name].dtype))


def test_the_config_is_plain(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    assert "_target_" not in text and "_partial_" not in text
    config = json.loads(text)
    assert config["image_encoder"]["type"] == "TimmEncoder"
    assert config["text_encoder"]["attention"]["type"] == "FusedLinformerAttention"
    assert config["preprocessing"]["image_size"] == 32


def test_the_tokenizer_is_read_by_transformers(saved: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(saved))
    ours = load_folder(saved).tokenizer
    for caption in CAPTIONS:
        token_ids, attention_mask = ours.encode([caption])
        assert theirs(caption)["input_ids"] == token_ids[attention_mask].tolist()


def test_a_saved_model_is_saved_again_in_its_place(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "saved")
    other = MiniCLIP(bundle_of("embed_dim=16"))
    other.save_pretrained(folder)
    assert MiniCLIP.from_pretrained(folder).embed_dim == 16
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in saved.iterdir())


def test_no_folder_holds_two_models(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "onnx.json").write_text("{}")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    model = MiniCLIP.from_pretrained(saved)
    for name, told in (("onnx", "holds a model in the format onnx"), ("run", "is a run")):
        with pytest.raises(UserError, match=told):
            model.save_pretrained(tmp_path / name)
        assert len(list((tmp_path / name).iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"library": "other"}, "holds no model of MiniCLIP"),
        ({"format": 2}, "has the format 2"),
        ({"name": 3}, "its name is 3"),
        ({"embed_dim": "32"}, "its embed_dim is"),
        ({"projection": {"type": "Popen"}}, "its projection is of the type 'Popen'"),
        ({"projection": {"type": "os.system", "command": "x"}}, "which MiniCLIP does not have"),
        ({"projection": ["ProjectionMLP"]}, "its projection has no type"),
        ({"image_encoder": {"type": "ProjectionMLP", "embed_dim": 32, "expansion": 4}}, "does not have"),
        ({"temperature": {"type": "FixedTemperature", "scale": "${oc.env:HOME}"}}, "interpolation"),
        ({"temperature": {"type": "FixedTemperature", "_target_": "os.system"}}, "os.system"),
        ({"preprocessing": {"mean": [0, 0, 0]}}, "its 'preprocessing' is not"),
        ({"tokenizer": {}}, "its 'tokenizer' is not"),
        ({"fingerprint": "0" * 64}, "its fingerprint differs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_is_none_of_ours_is_refused(
    changed: Callable[..., Path], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        MiniCLIP.from_pretrained(changed(**changes))
    assert "\n" not in str(error.value)


def test_a_bit_flipped_in_a_weight_is_seen(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "flipped")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="its fingerprint differs"):
        MiniCLIP.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_is_cut_is_named(saved: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "cut")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"damaged|tokenizer: "):
        MiniCLIP.from_pretrained(folder)


def test_a_forged_header_and_weights_that_are_no_numbers_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "forged")
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        MiniCLIP.from_pretrained(folder)

    weights = load_file(saved / "model.safetensors")
    first = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[first].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="not finite"):
        MiniCLIP.from_pretrained(folder)


def test_weights_of_another_model_are_told(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "mixed")
    other = MiniCLIP(bundle_of("embed_dim=16")).save_pretrained(tmp_path / "other")
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(UserError, match="another architecture"):
        MiniCLIP.from_pretrained(folder)


def test_a_hugging_face_tower_needs_no_file_beside_the_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    configuration = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(configuration).save_pretrained(tmp_path / "bert")
    bundle = bundle_of("encoder/text=hf", f"encoder.text.name={tmp_path / 'bert'}", "tokenizer=bpe")
    saved = MiniCLIP(bundle).save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "bert")
    again = MiniCLIP.from_pretrained(saved)
    texts = list(CAPTIONS)
    torch.testing.assert_close(again.encode_text(texts), MiniCLIP(bundle).encode_text(texts))
