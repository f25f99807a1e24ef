"""Parts that open_clip or transformers do not have: one line names the setting, and nothing is written."""

import importlib.util
from pathlib import Path

import pytest
from tokenizers import processors

from miniclip import MiniCLIP
from miniclip.deploy.open_clip_export import export_open_clip
from miniclip.deploy.transformers_export import export_transformers
from miniclip.errors import UserError
from tests.bundles import CAPTIONS, bundle_of, hugging_face_folder
from tests.deploy.test_open_clip import TRANSFORMER, squares

EXPORTS = {"open_clip": export_open_clip, "transformers": export_transformers}

PLAIN = (*TRANSFORMER, "projection=none")

OF_BOTH = (
    ("projection=mlp", TRANSFORMER),
    ("projection=separate", TRANSFORMER),
    ("encoder/text=bag", ("projection=none",)),
    ("encoder.text.pooling=mean", (*PLAIN, "encoder.text.pooling=mean")),
    ("encoder.text.pooling=eos", (*PLAIN, "encoder.text.pooling=eos")),
    ("encoder.text.pooling=max", (*PLAIN, "encoder.text.pooling=max")),
    ("encoder.image.architecture=mobilenet_v3_small", (*PLAIN, "encoder/image=torchvision")),
    *(
        (f"encoder/text/attention={attention}", PLAIN)
        for attention in ("linformer", "linformer_fused", "performer", "nystrom", "reformer", "bigbird")
    ),
)
"""The part as the message names it, which is a setting of the model too, and what else it is made of."""


def refusal(library: str, model: MiniCLIP, folder: Path) -> str:
    """What an export says, having written nothing."""
    with pytest.raises(UserError) as caught:
        EXPORTS[library](model, folder, images=squares(model.preprocess.image_size), texts=CAPTIONS)
    assert not folder.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("part", "settings"), OF_BOTH, ids=[part for part, _ in OF_BOTH])
def test_a_part_of_ours_alone_is_named(part: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    model = MiniCLIP(bundle_of(*settings, part))
    for library in EXPORTS:
        message = refusal(library, model, tmp_path / "exported")
        assert message.startswith(f"--format {library} cannot express {part} (")
        assert message.endswith("Use --format onnx, or safetensors, which works for every model.")


def test_all_parts_that_stand_in_the_way_are_named_at_once(tmp_path: Path) -> None:
    model = MiniCLIP(bundle_of("loss=siglip"))
    message = refusal("transformers", model, tmp_path / "exported")
    for part in ("loss=siglip", "projection=mlp", "attention=linformer_fused", "pooling=mean"):
        assert part in message


@pytest.mark.parametrize(
    ("library", "part", "settings"),
    [
        ("transformers", "loss=siglip", ()),
        ("transformers", "encoder.image.architecture=test_efficientnet", ()),
        ("transformers", "embed_dim=64", ()),
        ("open_clip", "encoder.image.architecture=test_vit", ()),
    ],
)
def test_a_part_of_one_library_alone_is_named(
    library: str, part: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    _need(library)
    model = MiniCLIP(bundle_of(*PLAIN, *settings, part))
    assert f"--format {library} cannot express {part} (" in refusal(library, model, tmp_path / "exported")


@pytest.mark.parametrize(
    ("library", "kind", "part", "settings"),
    [
        ("open_clip", "distilbert", "encoder.text.name=", ("encoder.text.pooling=cls",)),
        ("transformers", "distilbert", "encoder.text.name=", ("encoder.text.pooling=cls",)),
        ("open_clip", "bert", "encoder.text.pooling=eos", ("encoder.text.pooling=eos",)),
        ("transformers", "bert", "encoder.text.pooling=mean", ("encoder.text.pooling=mean",)),
        ("open_clip", "bert", "embed_dim=64", ("embed_dim=64",)),
        ("transformers", "bert", "embed_dim=64", ("embed_dim=64", "encoder.text.pooling=cls")),
    ],
)
def test_a_hugging_face_model_that_does_not_fit_is_named(
    library: str, kind: str, part: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    _need(library)
    name = hugging_face_folder(tmp_path / "text", kind)
    bundle = bundle_of("encoder/text=hf", f"encoder.text.name={name}", "projection=none", *settings)
    message = refusal(library, MiniCLIP(bundle), tmp_path / "exported")
    assert f"--format {library} cannot express {part}" in message


def test_captions_without_a_start_are_named(tmp_path: Path) -> None:
    _need("open_clip")
    bundle = bundle_of(*PLAIN)
    backend = bundle.tokenizer.backend
    end = ("<end>", backend.token_to_id("<end>"))
    backend.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[end])
    message = refusal("open_clip", MiniCLIP(bundle), tmp_path / "exported")
    assert "cannot express encoder.text.pooling=cls" in message and "token before a caption" in message


def _need(library: str) -> None:
    if library == "open_clip" and importlib.util.find_spec("open_clip") is None:
        pytest.skip("needs the extra open_clip")
