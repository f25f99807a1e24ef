"""Activation checkpointing: the same to the bit, with less in memory, and the statistics moved once."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError
from miniclip.models.activation_checkpoints import checkpoint_blocks
from tests.training.test_gradient_cache import bytes_saved_for_backward
from tests.training.test_step import batch, step

ON = "encoder.image.checkpoint_activations=true"


@pytest.mark.parametrize(
    ("settings", "least_saving"),
    [
        (["optimizer=sam", "precision=bf16"], 2),
        (["optimizer=functional_sam", "trainer.micro_batch_size=3"], 2),
        (["optimizer=adamw", "encoder.image.architecture=test_vit"], 4),
    ],
    ids=str,
)
def test_training_is_the_same_to_the_bit_and_keeps_less(settings: list[str], least_saving: float) -> None:
    """With masks in the blocks, whose statistics are those of two steps of two batches."""
    states, kept = [], []
    for override in ("seed=0", ON):
        update = step(*settings, override)
        for block in update.model.image_encoder.backbone.modules():
            if isinstance(block, nn.ReLU | nn.GELU):
                block.register_forward_hook(lambda _, inputs, output: nn.functional.dropout(output, 0.1))

        torch.manual_seed(1)
        with bytes_saved_for_backward() as told:
            for _ in range(2):
                update([batch(0), batch(1)])
        kept.append(max(told))
        states.append({**update.model.state_dict(), "random": torch.get_rng_state()})

    plain, checkpointed = states
    assert all(torch.equal(value, checkpointed[name]) for name, value in plain.items())
    assert kept[0] > least_saving * kept[1]


def test_in_evaluation_nothing_is_computed_twice_and_curvature_is_the_same() -> None:
    tower = step(ON).model.image_encoder.eval()
    calls = []
    tower.backbone.layer2[0].register_forward_hook(lambda *_: calls.append(0))

    def curvature(of_tower: nn.Module) -> list[Tensor]:
        """The Hessian's product with the gradient."""
        params = [p for p in of_tower.parameters() if p.requires_grad]
        loss = of_tower(batch().images).square().sum()
        gradient = torch.autograd.grad(loss, params, create_graph=True)
        square = torch.stack([g.square().sum() for g in gradient]).sum()
        return list(torch.autograd.grad(square, params))

    found = curvature(tower)
    assert len(calls) == 1
    for ours, theirs in zip(found, curvature(step().model.image_encoder.eval()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_runs_its_own_blocks() -> None:
    tower = step(ON).model.image_encoder
    copied = deepcopy(tower)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.fill_(torch.nan)
    copied(batch().images).sum().backward()
    assert all(p.grad.isfinite().all() for p in copied.parameters())


def test_layers_in_a_row_have_no_blocks() -> None:
    with pytest.raises(SettingError, match=r"checkpoint_activations=true: finds no blocks"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
