"""From the towers' outputs into the joint space."""

from torch import Tensor, nn

from miniclip.errors import SettingError, at_least


class Projection(nn.Module):
    """Carries each tower's output into the joint space, `(B, embed_dim) -> (B, embed_dim)`.

    As it stands one `forward` serves both towers.
    """

    def image(self, embedding: Tensor) -> Tensor:
        return self(embedding)

    def text(self, embedding: Tensor) -> Tensor:
        return self(embedding)


class ProjectionMLP(Projection):
    """Two linear layers with GELU between, a skip connection and LayerNorm, shared by both towers.

    Args:
        embed_dim: length of input and output.
        expansion: hidden width over `embed_dim`; 0 leaves the MLP out, and LayerNorm alone remains.
    """

    def __init__(self, *, embed_dim: int, expansion: float):
        super().__init__()
        at_least("expansion", expansion, 0, hint="; 0 is no MLP")
        hidden = round(expansion * embed_dim)
        if expansion > 0 and hidden == 0:
            allowed = f"leaves the MLP no hidden unit at embed_dim={embed_dim}; 0 is no MLP"
            raise SettingError("expansion", expansion, allowed)

        self.mlp: nn.Sequential | None = None
        if hidden:
            self.mlp = nn.Sequential(nn.Linear(embed_dim, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(embedding if self.mlp is None else embedding + self.mlp(embedding))


class LinearProjection(Projection):
    """One linear layer, shared by both towers."""

    def __init__(self, *, embed_dim: int):
        super().__init__()
        self.linear = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(embedding)


class NoProjection(Projection):
    """The towers' own last linear layers are the projections, as in the original CLIP."""

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding


class SeparateProjection(Projection):
    """A `ProjectionMLP` of its own for each tower."""

    def __init__(self, *, embed_dim: int, expansion: float):
        super().__init__()
        self.image_mlp = ProjectionMLP(embed_dim=embed_dim, expansion=expansion)
        self.text_mlp = ProjectionMLP(embed_dim=embed_dim, expansion=expansion)

    def image(self, embedding: Tensor) -> Tensor:
        return self.image_mlp(embedding)

    def text(self, embedding: Tensor) -> Tensor:
        return self.text_mlp(embedding)
