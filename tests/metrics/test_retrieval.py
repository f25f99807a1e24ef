"""Retrieval on matrices written by hand, and beside other implementations."""

import math
import subprocess
import sys

import pytest
import torch

from miniclip.errors import UserError
from miniclip.metrics.retrieval import (
    chance_metrics,
    fold_metrics,
    retrieval_metrics,
    retrieval_ranks,
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
    ranks = retrieval_ranks(images, texts, owners)
    assert ranks.image_to_text.tolist() == [1, 0]
    # captions: 0.1 < 0.3, 0.5 < 0.6, 0.2 > 0.1, 0.2 < 0.9, 0.8 > 0.4
    assert ranks.text_to_image.tolist() == [1, 1, 0, 1, 0]
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


def some_features(
    num_images: int, captions: int, *, noise: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit vectors of images, and of captions that lie near them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, 32, generator=generator)
    owners = torch.arange(num_images).repeat_interleave(captions)
    texts = images[owners] + noise * torch.randn(len(owners), 32, generator=generator)
    return *(torch.nn.functional.normalize(x, dim=1) for x in (images, texts)), owners


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features = some_features(30, 3, noise=2.0)
    whole = retrieval_ranks(*features)
    assert whole.image_to_text.sum() > 0
    monkeypatch.setattr("miniclip.metrics.retrieval.IMAGES_AT_ONCE", 7)
    monkeypatch.setattr("miniclip.metrics.retrieval.CAPTIONS_AT_ONCE", 11)
    blocks = retrieval_ranks(*features)
    assert all(torch.equal(a, b) for a, b in zip(whole, blocks, strict=True))


@pytest.mark.long
def test_memory_is_bounded_however_many_pairs_there_are() -> None:
    """All scores of 20,000 images and 100,000 captions would take 8 GB."""
    program = (
        "import resource, torch; from miniclip.evaluation import retrieval_metrics\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "x = torch.nn.functional.normalize(torch.randn(20_000, 16), dim=1)\n"
        "owners = torch.arange(20_000).repeat_interleave(5)\n"
        "assert retrieval_metrics(x, x[owners], owners)['i2t_r1'] == 100\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 500_000, done.stderr  # kB


def test_a_collapsed_model_of_any_size_finds_nothing() -> None:
    """Equal features give products that differ in the last bit, by their place in the matrix."""
    feature = torch.nn.functional.normalize(torch.randn(1, 250), dim=1)
    metrics = retrieval_metrics(feature.repeat(333, 1), feature.repeat(999, 1), torch.arange(999) // 3)
    assert metrics["rsum"] == 0


def test_twins_tie_however_their_products_are_rounded() -> None:
    """A product alone and the same product in a matrix differ in the last bit, up or down."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(300, 250, generator=generator), dim=1)
    twins = features.repeat(2, 1)
    ranks = retrieval_ranks(twins, twins, torch.arange(600))
    assert ranks.image_to_text.min() == ranks.text_to_image.min() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ranks_are_by_products_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(200, 64, generator=generator), dim=1).to(dtype)
    noise = torch.randn(600, 64, generator=generator).to(dtype)
    texts = images.repeat_interleave(3, dim=0) + noise / 4
    owners = torch.arange(600) // 3
    expected = retrieval_ranks(images.float(), texts.float(), owners)
    of_low_precision = retrieval_ranks(images, texts, owners)
    with torch.autocast("cpu", dtype):
        under_autocast = retrieval_ranks(images.float(), texts.float(), owners)
    for ranks in (of_low_precision, under_autocast):
        assert all(torch.equal(a, b) for a, b in zip(ranks, expected, strict=True))


def test_an_image_without_a_caption_is_told() -> None:
    with pytest.raises(UserError, match="2 images of 4 without a caption"):
        retrieval_metrics(torch.eye(4), torch.eye(4)[:3], torch.tensor([2, 0, 2]))


def test_recalls_are_clip_benchmarks() -> None:
    theirs = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_retrieval", reason="needs the extra bench"
    )
    images, texts, owners = some_features(60, 4, noise=3.0)
    scores = texts @ images.T
    positives = torch.zeros_like(scores, dtype=torch.bool)
    positives[torch.arange(len(owners)), owners] = True
    metrics = retrieval_metrics(images, texts, owners)
    for k in (1, 5, 10):
        for way, args in (("t2i", (scores, positives)), ("i2t", (scores.T, positives.T))):
            recall = 100 * (theirs.recall_at_k(*args, k) > 0).float().mean().item()
            assert metrics[f"{way}_r{k}"] == pytest.approx(recall) and 0 < recall < 100


def test_recalls_are_torchmetrics() -> None:
    retrieval = pytest.importorskip("torchmetrics.retrieval", reason="needs torchmetrics")
    images, texts, owners = some_features(60, 4, noise=3.0)
    scores, right = images @ texts.T, owners == torch.arange(60)[:, None]
    metrics = retrieval_metrics(images, texts, owners)
    for k in (1, 5, 10):
        for way, table, positives in (("i2t", scores, right), ("t2i", scores.T, right.T)):
            queries = torch.arange(len(table))[:, None].expand(table.shape)
            hit_rate = retrieval.RetrievalHitRate(top_k=k)  # of several positives one is enough
            recall = hit_rate(table.flatten(), positives.flatten(), indexes=queries.flatten())
            assert metrics[f"{way}_r{k}"] == pytest.approx(100 * recall.item()) and 0 < recall < 1


def test_a_random_model_lies_within_its_binomial_interval_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, 32, generator=generator) for n in (1000, 5000))
    owners = torch.arange(1000).repeat_interleave(5)
    metrics, chance = retrieval_metrics(images, texts, owners), chance_metrics(owners)
    # by hand: ten of 5,000 captions hit one of five with 1 - C(4995, 10) / C(5000, 10)
    assert chance["i2t_r10"] == pytest.approx(100 * (1 - math.comb(4995, 10) / math.comb(5000, 10)))
    assert chance["t2i_r5"] == 0.5
    for way, count in (("i2t", 1000), ("t2i", 5000)):
        for k in (1, 5, 10):
            p = chance[f"{way}_r{k}"] / 100
            assert abs(metrics[f"{way}_r{k}"] / 100 - p) < 4 * math.sqrt(p * (1 - p) / count) + 1e-3


def test_folds_are_the_mean_of_their_parts() -> None:
    images, texts, owners = some_features(50, 2, noise=3.0)
    metrics, count = fold_metrics(images, texts, owners, fold_size=20)
    first = retrieval_metrics(images[:20], texts[:40], owners[:40])
    second = retrieval_metrics(images[20:40], texts[40:80], owners[40:80] - 20)
    assert count == 2 and first != second
    assert metrics["rsum"] == pytest.approx((first["rsum"] + second["rsum"]) / 2)
