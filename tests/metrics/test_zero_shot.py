"""Zero-shot classification beside open_clip's own classifier builder, and by hand."""

import pytest
import torch

from miniclip.errors import UserError
from miniclip.metrics.zero_shot import (
    TEMPLATES,
    class_embeddings,
    classification,
    classify,
)

NAMES = ["dog", "cat", "red car", "tree"]


def encode(texts: list[str]) -> torch.Tensor:
    """A feature for each text, from its letters."""
    rows = [torch.bincount(torch.tensor(list(text.encode())), minlength=128).float() for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def test_embeddings_are_open_clips() -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra open_clip")

    class Model(torch.nn.Module):
        def encode_text(self, texts: torch.Tensor, normalize: bool) -> torch.Tensor:
            return encode([bytes(row[row > 0].tolist()).decode() for row in texts])

    def tokenizer(texts: list[str]) -> torch.Tensor:
        rows = [torch.tensor(list(text.encode())) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    templates = [text.format for text in TEMPLATES["clip"]]
    theirs = open_clip.build_zero_shot_classifier(Model(), tokenizer, NAMES, templates)
    torch.testing.assert_close(class_embeddings(encode, NAMES, TEMPLATES["clip"]), theirs.T)


def test_classification_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.2, 0.1], [0.5, 0.1, 0.4]])
    found = classification(scores, torch.tensor([0, 1, 1, 2]))
    # right: the first two; class 0 all, class 1 half, class 2 none
    assert found.top1 == 50 and found.top5 == 100
    assert found.mean_per_class == pytest.approx(50)
    assert found.chance == pytest.approx(100 / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_ties_count_against() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    for scores in (torch.ones(4, 8), torch.full((4, 8), torch.nan)):
        found = classification(scores, labels)
        assert found.top1 == found.top5 == found.mean_per_class == 0
        assert found.confusion.diagonal().sum() == 0 and found.confusion.sum() == 4


@pytest.mark.parametrize("num_classes", [2, 6, 10, 13, 101])
def test_classes_of_one_embedding_are_ties_whatever_their_number(num_classes: int) -> None:
    """The rounding of one product depends on its place in a matrix."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(num_classes, 128, generator=generator), dim=1)
    embeddings[-1] = embeddings[0]
    images = embeddings[:1] + 0.01 * torch.randn(999, 128, generator=generator)
    images = torch.nn.functional.normalize(images, dim=1)
    found = classify(images, embeddings, torch.zeros(999, dtype=torch.int64))
    assert found.top1 == 0 and found.confusion[0, -1] == 999


def test_each_class_is_found_by_its_own_name() -> None:
    embeddings = class_embeddings(encode, NAMES, TEMPLATES["simple"])
    images = encode([f"a photo of a {name}." for name in NAMES])
    assert classify(images, embeddings, torch.arange(4)).top1 == 100


@pytest.mark.parametrize("templates", TEMPLATES.values(), ids=TEMPLATES)
def test_built_in_templates_hold_one_place_for_the_name(templates: tuple[str, ...]) -> None:
    assert all(text.count("{}") == 1 for text in templates)


@pytest.mark.parametrize(
    ("templates", "found"),
    [("a photo of a {}.", "'a'"), (("{}", "a photo"), "'a photo'"), ((), "none at all")],
)
def test_templates_without_a_place_for_the_name_are_refused(templates: tuple[str, ...], found: str) -> None:
    with pytest.raises(UserError, match=rf"in place of the class's name, not {found}"):
        class_embeddings(encode, NAMES, templates)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="these repeat: dog"):
        class_embeddings(encode, ["dog", "cat", "dog"], ("{}",))
    with pytest.raises(UserError, match="at least two classes"):
        class_embeddings(encode, ["dog"], ("{}",))
    with pytest.raises(UserError, match="not finite"):
        classify(torch.full((2, 3), torch.nan), torch.ones(2, 3), torch.tensor([0, 1]))
