"""One pass over the batches of a step: the gradient of their mean loss, and what the loss is given."""

from typing import Any

import torch
from torch import Tensor

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.distributed import World
from miniclip.losses import ClipLoss, Loss
from miniclip.training import Precision
from miniclip.training.forward_backward import Accumulation
from tests.bundles import fill_zeros
from tests.conftest import TINY
from tests.training.test_step import batch


def accumulation(*overrides: str, **settings: Any) -> Accumulation:
    cfg = compose(*TINY, "precision=fp32", *overrides)
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300).train()
    fill_zeros(model)
    precision = Precision(dtype="float32", device=torch.device("cpu"))
    loss = settings.pop("loss", ClipLoss())
    return Accumulation(model, loss, precision, **settings)


def test_gradients_are_those_of_the_mean_loss() -> None:
    """Against one backward pass through all batches at once."""
    batches = [batch(seed) for seed in range(3)]
    ours, theirs = accumulation(), accumulation()
    found = ours(batches, first_pass=None)

    losses = []
    for each in batches:
        output = theirs.model(each.images, each.token_ids, each.attention_mask)
        losses.append(ClipLoss()(output.image_features, output.text_features, output.logit_scale))
    mean = torch.stack(losses).mean()
    mean.backward()

    torch.testing.assert_close(found.loss, mean.detach())
    assert not found.loss.requires_grad and not found.logit_scale.requires_grad
    for own, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_variances_are_those_that_the_temperature_read() -> None:
    passes = accumulation("temperature.sam=reuse")
    batches = [batch(0), batch(1)]
    first = passes(batches, first_pass=None)
    with torch.no_grad():
        for parameter in passes.model.parameters():
            parameter.add_(0.01)
    second = passes(batches, first_pass=first)
    assert all(torch.equal(a, b) for a, b in zip(first.variances, second.variances, strict=True))

    recomputed = accumulation("temperature.sam=recompute")(batches, first_pass=second)
    assert not torch.equal(recomputed.variances[0], recomputed.variances[1])
    for temperature in ("learned", "fixed"):
        assert not accumulation(f"temperature={temperature}").model.temperature.reuses_variance


def test_the_loss_is_called_by_name_with_the_rows_of_all_processes() -> None:
    class Twice(World):
        is_alone = False

        def gather(self, features: Tensor) -> Tensor:
            return torch.cat([features, features.detach()])

    seen: dict[str, Any] = {}

    class Watched(Loss):
        def forward(self, **inputs: Any) -> Tensor:
            seen.update(inputs)
            return inputs["image_features"].sum()

    accumulation(loss=Watched(), world=Twice())([batch()], first_pass=None)
    assert seen.keys() >= {"image_features", "text_features", "logit_scale", "positives"}
    assert seen["image_features"].shape[0] == seen["text_features"].shape[0] == 16


def vector_of_gradients(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_in_two_parts_the_gradient_is_the_same() -> None:
    batches = [batch(0), batch(1)]
    whole, parts = accumulation(), accumulation(reuses_feature_gradient=True)
    first, second = whole(batches, None), parts(batches, None)
    torch.testing.assert_close(second.loss, first.loss)
    torch.testing.assert_close(
        vector_of_gradients(parts.model), vector_of_gradients(whole.model), rtol=1e-4, atol=1e-6
    )


def test_a_known_feature_gradient_goes_through_the_weights_as_they_are_now() -> None:
    """Against the gradient of the features' product with what the first pass left, by autograd."""
    passes = accumulation(reuses_feature_gradient=True)
    passes.model.eval()
    batches = [batch(0), batch(1)]
    first = passes(batches, None)
    same = passes(batches, first)
    torch.testing.assert_close(same.loss, first.loss)  # the weights are the same

    with torch.no_grad():
        for parameter in passes.model.parameters():
            parameter.add_(0.01)
    passes.model.zero_grad()
    second = passes(batches, first)
    found = vector_of_gradients(passes.model)

    passes.model.zero_grad()
    linear = torch.zeros(())
    for each, known in zip(batches, first.feature_gradients, strict=True):
        output = passes.model(each.images, each.token_ids, each.attention_mask)
        linear = linear + (output.image_features * known.of_images).sum() + known.offset
        linear = linear + (output.text_features * known.of_texts).sum()
    linear.backward()
    torch.testing.assert_close(second.loss, linear.detach())
    torch.testing.assert_close(found, vector_of_gradients(passes.model), rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in passes.model.temperature.parameters())


def test_a_tower_without_a_graph_is_passed_over_in_both_passes() -> None:
    passes = accumulation("projection=none", reuses_feature_gradient=True)
    passes.model.image_encoder.requires_grad_(False)
    first = passes([batch()], None)
    passes.model.zero_grad()
    passes([batch()], first)
    assert all(p.grad is None for p in passes.model.image_encoder.parameters())
    assert vector_of_gradients(passes.model.text_encoder).norm() > 0
