"""Retrieval on matrices written by hand."""

import pytest
import torch

from miniclip.evaluation.retrieval import (
    image_to_text_ranks,
    retrieval_metrics,
    text_to_image_ranks,
)

FIVE_EACH = torch.arange(4).repeat_interleave(5)


def from_scores(scores: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose products are the given scores (images x captions)."""
    matrix = torch.tensor(scores)
    return torch.eye(len(matrix)), matrix.T.contiguous()


def test_perfect_model_on_five_captions_an_image_scores_100() -> None:
    metrics = retrieval_metrics(torch.eye(4), torch.eye(4).repeat_interleave(5, dim=0), FIVE_EACH)
    assert metrics["rsum"] == pytest.approx(600)
    assert metrics["i2t_median_rank"] == metrics["t2i_median_rank"] == 1


def test_ties_count_against_the_model() -> None:
    constant = torch.ones(4, 3)
    metrics = retrieval_metrics(constant, torch.ones(20, 3), FIVE_EACH)
    assert metrics["i2t_r1"] == metrics["i2t_r10"] == 0  # 15 foreign captions tie
    assert metrics["t2i_r1"] == 0
    assert metrics["t2i_r5"] == 100  # 3 foreign images tie: rank 4
    assert metrics["t2i_median_rank"] == 4


def test_not_a_number_counts_against_the_model() -> None:
    broken = torch.full((4, 3), torch.nan)
    metrics = retrieval_metrics(broken, torch.full((20, 3), torch.nan), FIVE_EACH)
    assert metrics["i2t_r10"] == 0 and metrics["t2i_r1"] == 0


def test_ranks_by_hand() -> None:
    # two images, captions 0 1 2 of image 0 and 3 4 of image 1
    owners = torch.tensor([0, 0, 0, 1, 1])
    images, texts = from_scores([[0.1, 0.5, 0.2, 0.9, 0.4], [0.3, 0.6, 0.1, 0.2, 0.8]])
    # image 0: best own 0.5, above it 0.9; image 1: best own 0.8, none above
    assert image_to_text_ranks(images, texts, owners).tolist() == [1, 0]
    # captions: 0.1 < 0.3, 0.5 < 0.6, 0.2 > 0.1, 0.2 < 0.9, 0.8 > 0.4
    assert text_to_image_ranks(images, texts, owners).tolist() == [1, 1, 0, 1, 0]
    metrics = retrieval_metrics(images, texts, owners)
    assert metrics["i2t_r1"] == 50
    assert metrics["t2i_r1"] == 40
    assert metrics["rsum"] == pytest.approx(50 + 100 + 100 + 40 + 100 + 100)


def test_order_of_captions_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, 8, generator=generator) for n in (30, 90))
    owners = torch.arange(30).repeat_interleave(3)
    order = torch.randperm(90, generator=generator)
    assert retrieval_metrics(images, texts, owners) == retrieval_metrics(
        images, texts[order], owners[order]
    )


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, 8, generator=generator) for n in (30, 90))
    owners = torch.arange(30).repeat_interleave(3)
    whole = retrieval_metrics(images, texts, owners)
    monkeypatch.setattr("miniclip.evaluation.retrieval.CHUNK", 7)
    assert retrieval_metrics(images, texts, owners) == whole
