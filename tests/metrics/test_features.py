"""Features of a split: order, owners, and a model that is left as it was."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from miniclip.config.compose import compose
from miniclip.config.instantiate import make, make_model
from miniclip.metrics import Features, encode, encode_texts
from miniclip.models import CLIP
from miniclip.tokenizers import Tokenizer
from miniclip.training.precision import Precision
from tests.bundles import fill_zeros
from tests.conftest import TINY

CAPTIONS = [["a red square", "red"], ["a very long caption of a blue circle"], ["green", "x", "y z"]]


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[CLIP, Tokenizer]]:
    cfg = compose(*TINY)
    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for captions in CAPTIONS for caption in captions)
    torch.manual_seed(0)
    model = make_model(cfg, vocab_size=tokenizer.vocab_size)
    fill_zeros(model)
    yield model, tokenizer


def test_features_keep_the_order_whatever_the_lengths(parts: tuple[CLIP, Tokenizer]) -> None:
    model, tokenizer = parts
    texts = [caption for captions in CAPTIONS for caption in captions]
    cpu = torch.device("cpu")
    together = encode_texts(model, texts, tokenizer, device=cpu, batch_size=2)
    alone = [encode_texts(model, [text], tokenizer, device=cpu, batch_size=1) for text in texts]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_split_is_encoded_in_evaluation_mode_and_the_model_left_as_it_was(
    parts: tuple[CLIP, Tokenizer],
) -> None:
    model, tokenizer = parts
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 3, 32, 32)
    found = encode(
        model,
        iter(images.split(2)),
        CAPTIONS,
        tokenizer,
        device=torch.device("cpu"),
        autocast=nullcontext,
        batch_size=4,
    )
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.image_of_caption.tolist() == [0, 0, 1, 2, 2, 2]

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.images, model.encode_image(images))


def test_a_part_that_was_held_in_evaluation_mode_stays_so(parts: tuple[CLIP, Tokenizer]) -> None:
    model, tokenizer = parts
    model.train()
    model.image_encoder.eval()  # whose batch norms a user holds still
    before = [module.training for module in model.modules()]
    cpu = torch.device("cpu")
    encode_texts(model, ["a red square"], tokenizer, device=cpu, batch_size=1)
    assert [module.training for module in model.modules()] == before and len(set(before)) == 2


def test_first_captions_are_each_images_first() -> None:
    texts = torch.eye(4)
    features = Features(torch.eye(2), texts, torch.tensor([0, 0, 0, 1]))
    assert torch.equal(features.first_captions, texts[[0, 3]])
    features = Features(torch.eye(2), texts, torch.tensor([1, 0, 1, 0]))
    assert torch.equal(features.first_captions, texts[[1, 0]])


class Casts(TorchDispatchMode):
    """Shapes of what is cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.dtype is torch.bfloat16:
            self.shapes.append(result.shape)
        return result


def test_a_weight_is_cast_once_for_all_batches(parts: tuple[CLIP, Tokenizer]) -> None:
    model, tokenizer = parts
    autocast = Precision(dtype="bfloat16", device=torch.device("cpu")).autocast
    images = [torch.zeros(1, 3, 32, 32)] * 3
    with Casts() as casts:
        encode(
            model, images, CAPTIONS, tokenizer, device=torch.device("cpu"), autocast=autocast, batch_size=1
        )
    layers = [each for each in model.image_encoder.modules() if isinstance(each, torch.nn.Conv2d)]
    weights = Counter(layer.weight.shape for layer in layers)
    assert weights and Counter(shape for shape in casts.shapes if shape in weights) == weights
