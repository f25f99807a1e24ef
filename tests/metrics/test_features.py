"""Features of a split: order, owners, and a model that is left as it was."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from miniclip.config.compose import compose
from miniclip.config.instantiate import make, make_model
from miniclip.metrics import Features, encode, encode_texts
from miniclip.models import CLIP
from miniclip.tokenizers import Tokenizer
from tests.conftest import TINY

CAPTIONS = [["a red square", "red"], ["a very long caption of a blue circle"], ["green", "x", "y z"]]


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[CLIP, Tokenizer]]:
    cfg = compose(*TINY)
    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for captions in CAPTIONS for caption in captions)
    torch.manual_seed(0)
    yield make_model(cfg, vocab_size=tokenizer.vocab_size), tokenizer


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


def test_first_captions_are_each_images_first() -> None:
    texts = torch.eye(4)
    features = Features(torch.eye(2), texts, torch.tensor([0, 0, 0, 1]))
    assert torch.equal(features.first_captions, texts[[0, 3]])
