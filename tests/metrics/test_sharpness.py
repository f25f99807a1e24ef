"""Sharpness measures against surfaces whose curvature is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.config.restore import restore
from miniclip.data.batch import Batch
from miniclip.errors import UserError
from miniclip.losses import ClipLoss
from miniclip.metrics import LossSurface, landscape, m_sharpness, top_eigenvalue
from miniclip.positives import PositivePairs
from miniclip.runs import RunDirectory
from tests.conftest import TINY, parts_of

CURVATURE = torch.tensor([1.0, 4.0, 9.0])


class Quadratic(LossSurface):
    """L(w) = w'Aw / 2 + offset: eigenvalues 1, 4 and 9."""

    def __init__(self, w: Tensor, offsets: tuple[float, ...] = (0.0, 2.0)):
        self.params = [nn.Parameter(w[:2].clone()), nn.Parameter(w[2:].clone())]
        self.batches = [torch.tensor(offset) for offset in offsets]  # type: ignore[assignment]

    def batch_loss(self, batch: Any) -> Tensor:
        return (CURVATURE * torch.cat(self.params).square()).sum() / 2 + batch


def test_m_sharpness_by_hand() -> None:
    w = torch.tensor([1.0, -2.0, 0.5])
    surface = Quadratic(w)
    gradient = CURVATURE * w
    e = 0.3 * gradient / gradient.norm()
    expected = (CURVATURE * (w + e).square()).sum() / 2 - (CURVATURE * w.square()).sum() / 2
    assert m_sharpness(surface, 0.3) == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(torch.cat([p.detach() for p in surface.params]), w)


def test_the_top_eigenvalue_of_a_known_hessian() -> None:
    surface = Quadratic(torch.tensor([1.0, -2.0, 0.5]))
    assert top_eigenvalue(surface, max_products=50, tolerance=1e-6) == pytest.approx(9, rel=1e-3)


def test_the_landscape_of_a_bowl() -> None:
    slices = landscape(Quadratic(torch.zeros(3) + 1e-3), radius=1.0, points=5)
    assert slices.distances == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert slices.fractions == pytest.approx([-0.5, -0.25, 0, 0.25, 0.5])
    assert slices.gradient[0] == pytest.approx(slices.gradient[4], abs=0.1)
    assert min(slices.gradient) == slices.gradient[2]


def test_hessian_products_of_the_model_are_differences_of_gradients() -> None:
    cfg = compose(*TINY)
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300).double()
    model.temperature.float()
    for module in list(model.modules()):  # without kinks, which differences step over
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.MaxPool2d):
                smooth = nn.Softplus(beta=3) if isinstance(child, nn.ReLU) else nn.AvgPool2d(3, 2, 1)
                setattr(module, name, smooth)
    token_ids = torch.randint(300, (8, 6))
    inputs = Batch(torch.randn(8, 3, 32, 32).double(), token_ids, torch.ones_like(token_ids).bool())

    def loss(image_features: Tensor, text_features: Tensor, **rest: Tensor | None) -> Tensor:
        return -(image_features * text_features).sum()

    surface = LossSurface(model, loss, [inputs])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    uphill = surface.gradient(inputs)
    length = torch.cat([g.flatten() for g in uphill]).norm()
    vector = [g / length for g in uphill]
    product = torch.cat([x.flatten() for x in surface.hessian_product(vector)])
    gradients = []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(surface.params, vector, alpha=sign * 1e-3)
        gradients.append(torch.cat([g.flatten() for g in surface.gradient(inputs)]))
        with torch.no_grad():
            torch._foreach_add_(surface.params, vector, alpha=-sign * 1e-3)
    difference = (gradients[0] - gradients[1]) / 2e-3
    # features are float32, whatever the weights
    assert torch.cosine_similarity(product, difference, dim=0) > 0.99
    assert (product.norm() / difference.norm() - 1).abs() < 0.05
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


def test_a_checkpoint_cannot_call_what_it_likes(class_run: RunDirectory, tmp_path: Path) -> None:
    checkpoint = parts_of(class_run.best_checkpoint)
    checkpoint["config"]["projection"] = {"_target_": "os.system", "command": "touch /tmp/pwned"}
    torch.save(checkpoint, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"os\.system"):
        restore(tmp_path / "bad.pt")


def test_a_setting_of_the_run_can_be_changed_also_one_that_was_null(class_run: RunDirectory) -> None:
    restored = restore(class_run.path, "data.limit=20", "trainer.budget.steps=null", "trainer.resume=auto")
    assert len(restored.datasets()[0]) == 20 and restored.config.trainer.resume == "auto"


def test_the_surface_is_that_of_the_loss_with_several_positives() -> None:
    cfg = compose(*TINY)
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300)
    token_ids = torch.randint(300, (8, 6))
    everything = PositivePairs(torch.zeros(8), torch.zeros(8))
    inputs = Batch(torch.randn(8, 3, 32, 32), token_ids, torch.ones_like(token_ids).bool(), everything)
    several, plain = (
        LossSurface(model, ClipLoss(multi_positive=flag), [inputs]).mean_loss() for flag in (True, False)
    )
    assert several != pytest.approx(plain, rel=1e-3)


def test_a_model_with_dropout_is_as_sharp_as_its_loss_and_no_generator_moves() -> None:
    cfg = compose(*TINY, "encoder.text.dropout=0.5")
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300)
    token_ids = torch.randint(300, (8, 6))
    inputs = Batch(torch.randn(8, 3, 32, 32), token_ids, torch.ones_like(token_ids).bool())
    surface = LossSurface(model, ClipLoss(), [inputs])
    before = torch.get_rng_state()
    model.image_encoder.eval()
    modes = [module.training for module in model.modules()]
    assert abs(m_sharpness(surface, rho=1e-7)) < 1e-4
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    first = m_sharpness(surface, rho=0.05)
    torch.manual_seed(7)
    assert m_sharpness(surface, rho=0.05) == first
