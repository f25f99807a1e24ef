"""The suite's training beside a plain loop of torch on the same batches: the fast ways compute the same.

The loop takes what the suite replaces: torchvision's ResNet in torch's own memory format, the package
linformer on captions padded to the longest that may come, a table of logits, AdamW without its fused
kernels, SAM as its paper has it. Names of weights agree, so that both begin with the same. In float32
convolutions of small maps are torch's own: `tests/models/test_small_map_conv.py` has the others.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from linformer import LinformerSelfAttention
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.steps import VOCAB_SIZE, step
from miniclip.data.batch import Batch
from miniclip.optim import PassOptimizer
from tests.bundles import fill_zeros

STEPS = 20
ROWS, IMAGE_SIZE, LENGTH = 16, 64, 77
WIDTH, LAYERS, HEADS, K = 64, 2, 4, 16
RHO = 0.05

SETTINGS = (
    "encoder.image.architecture=resnet18",
    f"encoder.text.width={WIDTH}",
    f"encoder.text.num_layers={LAYERS}",
    f"encoder.text.num_heads={HEADS}",
    f"encoder.text.attention.k={K}",
    f"context_length={LENGTH}",
    f"embed_dim={WIDTH}",
    "temperature=learned",
    "precision=fp32",
    "trainer.grad_clip_norm=1.0",
)

ROUNDING_OF_BFLOAT16 = 2**-8

EARLY_STEPS, EARLY = 8, 1e-4
"""Of the first steps losses agree better, before batch norms of so few images make much of a last bit."""


class PlainImageTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        self.proj = nn.Linear(512, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.backbone(images))


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = LinformerSelfAttention(WIDTH, LENGTH, k=K, heads=HEADS)
        self.mlp = plain_mlp()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens) * mask)
        return tokens + self.mlp(self.mlp_norm(tokens))


class PlainTextTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCAB_SIZE, WIDTH)
        self.position_embedding = nn.Parameter(torch.empty(LENGTH, WIDTH))
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        missing = LENGTH - token_ids.shape[1]
        mask = F.pad(attention_mask, (0, missing))[..., None].float()  # (B, LENGTH, 1)
        tokens = self.token_embedding(F.pad(token_ids, (0, missing))) + self.position_embedding
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.proj((self.norm(tokens) * mask).sum(dim=1) / mask.sum(dim=1))


class PlainProjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = plain_mlp()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.norm(features + self.mlp(features)), dim=1)


class PlainTemperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.0))


class PlainModel(nn.Module):
    """The loss of a batch, ()."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = PlainImageTower(), PlainTextTower()
        self.projection, self.temperature = PlainProjection(), PlainTemperature()

    def forward(self, batch: Batch) -> Tensor:
        images = self.projection(self.image_encoder(batch.images.contiguous()))
        texts = self.projection(self.text_encoder(batch.token_ids, batch.attention_mask))
        logits = self.temperature.log_scale.exp() * images @ texts.T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def plain_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


def batch(seed: int) -> Batch:
    """Noise with a brightness that its caption's first token knows, as a loader gives it."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(ROWS, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    images += torch.linspace(-2, 2, ROWS)[:, None, None, None]
    token_ids = torch.randint(VOCAB_SIZE, (ROWS, 24), generator=generator)
    token_ids[:, 0] = torch.arange(ROWS)
    lengths = torch.randint(3, 25, (ROWS, 1), generator=generator)
    mask = torch.arange(24) < lengths
    return Batch(images.contiguous(memory_format=torch.channels_last), token_ids * mask, mask)


def plain_adamw(optimizer: PassOptimizer, names: dict[Tensor, str], model: nn.Module) -> torch.optim.AdamW:
    """torch's AdamW with the settings of the suite's for each weight."""
    plain = dict(model.named_parameters())
    groups = []
    for group in optimizer.param_groups:
        settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        groups.append({**settings, "params": [plain[names[p]] for p in group["params"]]})
    return torch.optim.AdamW(groups, fused=False, foreach=False)


def adamw_step(model: PlainModel, optimizer: torch.optim.AdamW, one: Batch) -> float:
    optimizer.zero_grad()
    loss = model(one)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def sam_step(model: PlainModel, optimizer: torch.optim.AdamW, one: Batch) -> float:
    """SAM as in its paper; batch norm's running statistics, which training does not read, move twice."""
    optimizer.zero_grad()
    loss = model(one)
    loss.backward()
    perturbed = [p for name, p in model.named_parameters() if not name.startswith("temperature")]
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in perturbed if p.grad is not None))
    before = [p.detach().clone() for p in perturbed]
    with torch.no_grad():
        for p in perturbed:
            p += RHO / norm * p.grad

    optimizer.zero_grad()
    model(one).backward()
    with torch.no_grad():
        for p, old in zip(perturbed, before, strict=True):
            p.copy_(old)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(
    ("settings", "plain_step"),
    [
        (("optimizer=adamw", "optimizer.lr=1e-4"), adamw_step),
        (("optimizer=sam", "optimizer.base.lr=1e-4"), sam_step),
    ],
)
def test_losses_are_those_of_a_plain_loop(
    settings: tuple[str, ...], plain_step: Callable[[PlainModel, torch.optim.AdamW, Batch], float]
) -> None:
    ours = step(*SETTINGS, *settings)
    fill_zeros(ours.model.text_encoder)
    plain = PlainModel().train()
    weights = {name: value.contiguous() for name, value in ours.model.state_dict().items()}
    plain.load_state_dict(weights)
    names = {p: name for name, p in ours.model.named_parameters()}
    adamw = plain_adamw(ours.optimizer, names, plain)

    losses = []
    for number in range(STEPS):
        one = batch(number)
        losses.append((ours([one]).loss.item(), plain_step(plain, adamw, one)))

    for number, (our_loss, plain_loss) in enumerate(losses):
        largest = EARLY if number < EARLY_STEPS else ROUNDING_OF_BFLOAT16
        assert our_loss == pytest.approx(plain_loss, rel=largest)
    assert losses[-1][0] < 0.95 * losses[0][0]
