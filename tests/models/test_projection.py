"""The shared projection by hand."""

import torch
import torch.nn.functional as F

from miniclip.models import ProjectionMLP


def test_skip_mlp_and_norm_by_hand() -> None:
    projection = ProjectionMLP(embed_dim=6, expansion=2)
    first, _, second = projection.mlp  # type: ignore[misc]
    x = torch.randn(4, 6)
    hidden = F.gelu(x @ first.weight.T + first.bias)
    expected = F.layer_norm(x + hidden @ second.weight.T + second.bias, (6,))
    torch.testing.assert_close(projection(x), expected)
    assert first.weight.shape == (12, 6)


def test_expansion_zero_is_the_norm_alone() -> None:
    projection = ProjectionMLP(embed_dim=6, expansion=0)
    x = torch.randn(4, 6)
    torch.testing.assert_close(projection(x), F.layer_norm(x, (6,)))
    assert sum(p.numel() for p in projection.parameters()) == 12
