"""Towers of torchvision as timm has them give the same features."""

import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torchvision.models import VisionTransformer, resnet18

from miniclip.deploy.timm_tower import VIT_NAMES, VITS, has_twin, renamed, twin

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_vision_transformer_keeps_its_features() -> None:
    torch.manual_seed(0)
    ours = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=128)
    ours.heads = torch.nn.Identity()  # type: ignore[assignment]
    for tensor in ours.state_dict().values():  # some start as zeros or ones
        tensor.add_(0.1 * torch.randn_like(tensor))

    theirs = TimmViT(32, 16, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    theirs.load_state_dict(renamed(ours.state_dict(), VIT_NAMES))
    torch.testing.assert_close(theirs.eval()(PIXELS), ours.eval()(PIXELS), atol=1e-5, rtol=1e-4)


def test_the_vision_transformers_of_torchvision_have_the_shapes_of_timms() -> None:
    with torch.device("meta"):
        from torchvision import models

        for name, other in VITS.items():
            ours = models.get_model(name, image_size=64 if name != "vit_h_14" else 56)
            ours.heads = torch.nn.Identity()
            theirs = timm.create_model(other, num_classes=0, img_size=ours.image_size)
            shapes = {key: tensor.shape for key, tensor in renamed(ours.state_dict(), VIT_NAMES).items()}
            assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


def test_a_resnet_is_the_same_in_both() -> None:
    ours = resnet18()
    ours.fc = torch.nn.Identity()  # type: ignore[assignment]
    architecture, backbone = twin("resnet18", ours, 32)
    theirs = timm.create_model(architecture, num_classes=0)
    theirs.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(theirs.eval()(PIXELS), ours.eval()(PIXELS))


def test_others_have_no_twin() -> None:
    assert has_twin("resnext50_32x4d") and has_twin("vit_b_32")
    assert not has_twin("mobilenet_v3_small") and not has_twin("convnext_tiny")
