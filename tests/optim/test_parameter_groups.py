"""What decays and what SAM perturbs, on the real model."""

import torch
from torch import nn

from miniclip.losses import SigLipLoss
from miniclip.models import (
    CLIP,
    DynamicTemperature,
    FullAttention,
    ProjectionMLP,
    TextEncoder,
    TorchvisionEncoder,
)
from miniclip.optim import parameter_groups


def model() -> CLIP:
    return CLIP(
        TorchvisionEncoder(
            architecture="resnet18",
            weights=None,
            image_size=32,
            embed_dim=16,
            trainable="all",
            freeze_batch_norm_stats=False,
            lr_factor=1.0,
        ),
        TextEncoder(
            vocab_size=50,
            attention=FullAttention,
            width=16,
            num_layers=1,
            num_heads=2,
            context_length=8,
            dropout=0.0,
            pooling="mean",
            embed_dim=16,
        ),
        ProjectionMLP(embed_dim=16, expansion=2),
        DynamicTemperature(initial_scale=10, hidden=4, momentum=0.1),
        SigLipLoss(initial_bias=-10.0),
    )


def test_no_decay_on_biases_norms_temperature_and_loss_and_no_perturbation_of_these_two() -> None:
    clip = model()
    names = {p: name for name, p in clip.named_parameters()}
    weights, no_decay, scale = parameter_groups(clip)
    assert "weight_decay" not in weights
    assert no_decay["weight_decay"] == scale["weight_decay"] == 0
    assert scale["perturb"] is False
    norms = {
        p
        for module in clip.modules()
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for p in module.parameters()
    }
    assert norms <= set(no_decay["params"])
    for p in weights["params"]:
        assert not names[p].endswith("bias")
    of_temperature = {name for name in names.values() if name.startswith("temperature.")}
    assert {names[p] for p in scale["params"]} == of_temperature | {"loss.logit_bias"}
    grouped = [p for group in (weights, no_decay, scale) for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(names)


def test_frozen_parameters_belong_to_no_group() -> None:
    clip = model()
    clip.image_encoder.requires_grad_(False)
    grouped = {p for group in parameter_groups(clip) for p in group["params"]}
    assert grouped.isdisjoint(clip.image_encoder.parameters())


def test_groups_without_parameters_are_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False))) == 1
    assert torch.optim.AdamW(parameter_groups(nn.Linear(2, 2))).param_groups


def test_embeddings_and_blocks_of_the_text_tower_have_rates_of_their_own() -> None:
    encoder = TextEncoder(
        vocab_size=50,
        attention=FullAttention,
        width=16,
        num_layers=1,
        num_heads=2,
        context_length=8,
        dropout=0.0,
        pooling="mean",
        embed_dim=16,
        embedding_lr_factor=10,
        block_lr_factor=0.1,
    )
    factors = {p: group.get("lr_factor", 1) for group in parameter_groups(encoder) for p in group["params"]}
    for name, parameter in encoder.named_parameters():
        expected = {"token_embedding": 10, "blocks": 0.1}.get(name.partition(".")[0], 1)
        assert factors[parameter] == expected
