"""One step: micro-batches, SAM's two passes, and which temperature the second one sees."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import steps
from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.training import StepResult, TrainingStep
from tests.bundles import fill_zeros
from tests.conftest import TINY

PLAIN = ("precision=fp32", "trainer.grad_clip_norm=null")


def step(*overrides: str) -> TrainingStep:
    cfg = compose(*TINY, *PLAIN, *overrides)
    torch.manual_seed(0)
    trainer = instantiate.make(cfg, "trainer")
    model = instantiate.make_model(cfg, vocab_size=300).train()
    fill_zeros(model)
    optimizer, precision = instantiate.make_optimizer(cfg, model), instantiate.make_precision(cfg, trainer)
    return TrainingStep(
        model,
        instantiate.make(cfg, "loss"),
        optimizer,
        precision,
        grad_clip_norm=None,
        micro_batch_size=trainer.micro_batch_size,
        compiles=trainer.compile,
    )


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(300, (8, 6), generator=generator)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    return Batch(images, token_ids, torch.ones_like(token_ids, dtype=torch.bool))


def weights(update: TrainingStep) -> Tensor:
    return torch.cat([p.detach().flatten() for p in update.model.parameters()])


@pytest.mark.parametrize("optimizer", ["adamw", "sam", "gsam", "looksam", "msam", "sam_norm_only"])
def test_equal_micro_batches_are_one_batch(optimizer: str) -> None:
    finals = []
    for count in (1, 4):
        update = step(f"optimizer={optimizer}")
        results = [update([batch(seed)] * count) for seed in range(2)]
        assert all(isinstance(result, StepResult) for result in results)
        finals.append((weights(update), results[1].loss, results[1].grad_norm, results[1].logit_scale))
    # AdamW turns a last bit of a gradient near zero into a step, so weights agree to part of a step
    torch.testing.assert_close(finals[1][0], finals[0][0], rtol=0, atol=1e-3)
    for ours, theirs in zip(finals[1][1:], finals[0][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_mean_over_micro_batches() -> None:
    alone = [step("optimizer=adamw")([batch(seed)]).loss for seed in range(3)]
    together = step("optimizer=adamw")([batch(seed) for seed in range(3)]).loss
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("choice", ["recompute", "reuse"])
def test_what_the_temperature_reads_in_the_second_pass(choice: str) -> None:
    update = step("optimizer=sam", "optimizer.rho=0.5", f"temperature.sam={choice}")
    read: list[Tensor] = []
    temperature: Any = update.model.temperature
    temperature.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].clone()))
    before = [p.detach().clone() for p in temperature.parameters()]
    for _ in range(2):  # the first step only opens the output layer, which starts at zero
        update([batch(0), batch(1)])
    for first, second in ((0, 2), (1, 3)):
        assert torch.equal(read[first], read[second]) == (choice == "reuse")
    assert not torch.equal(read[0], read[1])
    assert any(not torch.equal(p, old) for p, old in zip(temperature.parameters(), before, strict=True)), (
        "the temperature must go on learning"
    )


def test_sam_tells_what_it_measured() -> None:
    update = step("optimizer=sam", "optimizer.measure_every=2")
    first, second = update([batch()]), update([batch()])
    assert first.metrics.keys() == {"sharpness", "perturbation_norm", "gradient_cosine"}
    assert second.metrics.keys() == {"sharpness"}
    torch.testing.assert_close(first.metrics["perturbation_norm"], torch.tensor(0.05), rtol=1e-3, atol=0)
    assert step("optimizer=adamw")([batch()]).metrics == {}


@pytest.mark.parametrize("text_tower", ["linformer", "transformer", "bag"])
def test_sam_sees_the_same_slope_from_the_first_step(text_tower: str) -> None:
    """With embeddings of 0.02, which its perturbation undoes, the cosine is 0.14: nothing is learned."""
    update = steps.step(
        "optimizer=sam", "precision=fp32", "encoder/image=resnet10t", f"encoder/text={text_tower}"
    )
    result = update([steps.noise(16, 32, num_tokens=8, device=torch.device("cpu"))])
    assert result.metrics["gradient_cosine"] > 0.8


def test_on_a_device_without_values_nothing_is_asked_for() -> None:
    """`meta` tensors hold no numbers: asking for one, which on CUDA would wait, raises."""
    for optimizer in ("sam", "asam", "gsam", "looksam", "msam", "sam_norm_only"):
        cfg = compose(f"optimizer={optimizer}", "optimizer/base=sgd", "optimizer.base.fused=false")
        with torch.device("meta"):
            model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
            inputs = torch.randn(2, 4)
        sam: Any = instantiate.make_optimizer(cfg, model)  # type: ignore[arg-type]
        for _ in range(3):

            def closure() -> Tensor:
                loss = model(inputs).square().sum()  # noqa: B023
                loss.backward()
                return loss.detach()

            sam.step(closure)
