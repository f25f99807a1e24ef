"""Every attention: what padding may do (nothing), and what it equals or approaches."""

import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models import (
    BagOfTokens,
    BigBirdAttention,
    FullAttention,
    FusedLinformerAttention,
    LinformerAttention,
    NystromAttention,
    PerformerAttention,
    ReformerAttention,
    TextEncoder,
)
from miniclip.models.attention import TokenPacking
from miniclip.models.text_encoder import TransformerBlock
from tests.bundles import fill_zeros

ATTENTIONS: dict[str, Any] = {
    "full": FullAttention,
    "linformer": partial(LinformerAttention, k=8),
    "linformer, shared": partial(LinformerAttention, k=8, share_kv=True, one_kv_head=True),
    "linformer_fused": partial(FusedLinformerAttention, k=8),
    "linformer_fused, few places": partial(FusedLinformerAttention, k=3),
    "linformer_fused, per head": partial(FusedLinformerAttention, k=8, per_head=True),
    "linformer_fused, shared": partial(FusedLinformerAttention, k=3, share_kv=True, one_kv_head=True),
    "performer": partial(PerformerAttention, num_features=None),
    "nystrom": partial(NystromAttention, num_landmarks=4, conv_kernel=3),
    "nystrom, no convolution": partial(NystromAttention, num_landmarks=8, conv_kernel=None),
    "reformer": partial(ReformerAttention, bucket_size=4, num_hashes=2),
    "bigbird": partial(BigBirdAttention, block_size=2, num_random=1),
}
NEEDS = {"performer": "performer_pytorch", "nystrom": "nystrom_attention", "reformer": "reformer_pytorch"}


@pytest.fixture(params=ATTENTIONS)
def make(request: pytest.FixtureRequest) -> Any:
    """One attention after another; those whose package is missing are skipped."""
    package = NEEDS.get(request.param.partition(",")[0])
    if package is not None:
        pytest.importorskip(package, reason="needs the extra attention")
    return ATTENTIONS[request.param]


def build(make: Any, *, width: int = 32, num_heads: int = 4, context_length: int = 24) -> nn.Module:
    torch.manual_seed(0)
    attention = make(width=width, num_heads=num_heads, context_length=context_length)
    for name, parameter in attention.named_parameters():
        if "proj_" in name:
            nn.init.normal_(parameter, std=0.3)
    return attention.eval()


def mixed(attention: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """Attention on padded tokens (B, L, D), whatever lies in the padding; zero there."""
    packing = TokenPacking(mask)
    return packing.pad(attention(packing.unpad(tokens), packing))


def captions(*lengths: int, width: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(len(lengths), max(lengths), width, generator=generator)
    return tokens, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_padding_changes_nothing(make: Any, on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its length, nor its content, nor the captions beside; in values and in gradients."""
    if not on_cpu:  # the way of a GPU, where padded places are computed all the same
        monkeypatch.setattr(TokenPacking, "is_packed", False)
    attention = build(make).double()
    tokens, mask = captions(7, 3, 10, 1)
    tokens = tokens.double()
    results = []
    for num_pads, content in ((0, 0.0), (1, 5.0), (6, -3.0), (14, 100.0)):
        attention.zero_grad()
        wide = torch.nn.functional.pad(tokens, (0, 0, 0, num_pads))
        wide_mask = torch.nn.functional.pad(mask, (0, num_pads))
        wide = torch.where(wide_mask[..., None], wide, content).requires_grad_()
        out = mixed(attention, wide, wide_mask)[:, :10]
        out.square().sum().backward()
        gradients = [p.grad.clone() for p in attention.parameters() if p.grad is not None]
        results.append([out, wide.grad[:, :10] * mask[..., None], *gradients])  # type: ignore[index]
    for other in results[1:]:
        for expected, actual in zip(results[0], other, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
    for row, length in enumerate((7, 3, 10, 1)):
        alone = mixed(attention, tokens[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone[0], results[0][0][row, :length], atol=1e-6, rtol=1e-6)


def test_low_precision_stays_finite(make: Any) -> None:
    attention = build(make)
    tokens, mask = captions(7, 3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        low = mixed(attention, 5 * tokens, mask)
    assert low.isfinite().all()


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name.startswith(("full", "linformer"))])
def test_float64_is_left_alone_by_an_autocast_and_meta_has_none(name: str) -> None:
    tokens, mask = captions(3, 9, 6)
    attention = build(ATTENTIONS[name]).double()
    plain = mixed(attention, tokens.double(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixed(attention, tokens.double(), mask), plain)

    of_meta = mixed(attention.to("meta"), tokens.double().to("meta"), mask.to("meta"))
    assert of_meta.shape == plain.shape and of_meta.dtype is torch.float64


@pytest.mark.parametrize("length", [5, 12, 24])
@pytest.mark.parametrize("options", [{}, {"share_kv": True}, {"one_kv_head": True}])
@pytest.mark.parametrize("k", [3, 8, 24])
def test_linformer_equals_the_package_on_unpadded_tokens(
    options: dict[str, bool], length: int, k: int
) -> None:
    packages = build(partial(LinformerAttention, k=k, **options))
    fused = build(partial(FusedLinformerAttention, k=k, **options))
    fused.load_state_dict(packages.attention.state_dict())  # type: ignore[union-attr]
    tokens, mask = captions(length, length)
    expected = packages.attention(tokens)  # type: ignore[operator]
    for attention in (packages, fused):
        torch.testing.assert_close(mixed(attention, tokens, mask), expected, atol=1e-5, rtol=1e-5)


def test_one_projection_for_all_heads_is_the_same_one_for_each() -> None:
    shared = build(partial(FusedLinformerAttention, k=5))
    each = build(partial(FusedLinformerAttention, k=5, per_head=True))
    state = shared.state_dict()
    for name in ("proj_k", "proj_v"):
        state[name] = state[name].expand(4, -1, -1)
    each.load_state_dict(state)
    tokens, mask = captions(11, 4)
    torch.testing.assert_close(mixed(each, tokens, mask), mixed(shared, tokens, mask))


@pytest.mark.parametrize("make", [LinformerAttention, FusedLinformerAttention])
def test_a_projection_that_keeps_every_place_is_exact_attention(make: Any) -> None:
    """Also for captions shorter than k, where places without a token count as keys of zero."""
    linformer = make(width=32, num_heads=4, context_length=12, k=12)  # starts as a folding: the identity
    full = FullAttention(width=32, num_heads=4, context_length=12)
    inner = getattr(linformer, "attention", linformer)
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat([layer.weight for layer in (inner.to_q, inner.to_k, inner.to_v)]))
        full.qkv.bias.zero_()
        full.out.load_state_dict(inner.to_out.state_dict())
    tokens, mask = captions(12, 12)
    torch.testing.assert_close(mixed(linformer, tokens, mask), mixed(full, tokens, mask))


def weights_of(full: FullAttention, queries: nn.Linear, keys: nn.Linear, values: nn.Linear) -> None:
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat([queries.weight, keys.weight, values.weight]))
        full.qkv.bias.zero_()


def test_without_a_projection_it_is_exact_attention() -> None:
    unreduced = build(partial(FusedLinformerAttention, k=None))
    full = FullAttention(width=32, num_heads=4, context_length=24)
    weights_of(full, unreduced.to_q, unreduced.to_k, unreduced.to_v)  # type: ignore[arg-type]
    full.out.load_state_dict(unreduced.to_out.state_dict())  # type: ignore[operator, union-attr]
    tokens, mask = captions(9, 3, 24)
    torch.testing.assert_close(mixed(unreduced, tokens, mask), mixed(full, tokens, mask))
    assert not any("proj" in name for name, _ in unreduced.named_parameters())


def test_performers_estimate_converges_to_exact_attention() -> None:
    pytest.importorskip("performer_pytorch", reason="needs the extra attention")
    tokens, mask = captions(20, 9)
    errors = []
    for num_features in (16, 256, 4096):
        performer = build(partial(PerformerAttention, num_features=num_features))
        full = FullAttention(width=32, num_heads=4, context_length=24)
        layer: Any = performer.attention
        weights_of(full, layer.to_q, layer.to_k, layer.to_v)
        full.out.load_state_dict(layer.to_out.state_dict())
        errors.append((mixed(performer, tokens, mask) - mixed(full, tokens, mask)).abs().mean().item())
    assert errors[2] < errors[1] < errors[0] and errors[2] < errors[0] / 5


def test_nystroemformer_is_exact_on_captions_with_a_landmark_for_each_token() -> None:
    pytest.importorskip("nystrom_attention", reason="needs the extra attention")
    nystrom = build(partial(NystromAttention, num_landmarks=12, conv_kernel=None)).double()
    nystrom.ITERATIONS = 30  # type: ignore[assignment]
    full = FullAttention(width=32, num_heads=4, context_length=24).double()
    layer: Any = nystrom.attention
    with torch.no_grad():
        full.qkv.weight.copy_(layer.to_qkv.weight)
        full.qkv.bias.zero_()
        full.out.load_state_dict(layer.to_out[0].state_dict())
    tokens, mask = captions(12, 5, 1)
    expected = mixed(full, tokens.double(), mask)
    torch.testing.assert_close(mixed(nystrom, tokens.double(), mask), expected, atol=1e-4, rtol=1e-4)


def test_bigbird_is_exact_where_every_block_sees_all_and_sparse_elsewhere() -> None:
    bigbird = build(partial(BigBirdAttention, block_size=4, num_random=6))
    sparse = build(partial(BigBirdAttention, block_size=4, num_random=0))
    full = FullAttention(width=32, num_heads=4, context_length=24)
    full.load_state_dict(
        {name: value for name, value in bigbird.state_dict().items() if name != "neighbours"}
    )
    tokens, mask = captions(23, 9)
    torch.testing.assert_close(mixed(bigbird, tokens, mask), mixed(full, tokens, mask))
    sparse.load_state_dict({**bigbird.state_dict(), "neighbours": sparse.neighbours})
    before = mixed(sparse, tokens, mask)
    changed = tokens.clone()
    changed[0, 14] += 1  # block 3, which block 1 does not look at
    after = mixed(sparse, changed, mask)
    assert torch.equal(after[0, 4:8], before[0, 4:8])
    assert not torch.allclose(after[0, 0:4], before[0, 0:4])  # the first block looks everywhere
    assert not torch.allclose(after[0, 16:20], before[0, 16:20])


def test_reformer_looks_at_what_hashes_alike_and_hashes_the_same_every_time() -> None:
    pytest.importorskip("reformer_pytorch", reason="needs the extra attention")
    reformer = build(partial(ReformerAttention, bucket_size=4, num_hashes=2), context_length=64)
    tokens, mask = captions(60)
    assert torch.equal(mixed(reformer, tokens, mask), mixed(reformer, tokens, mask))
    changed = tokens.clone()
    changed[0, 30] += 1
    moved = (mixed(reformer, changed, mask) != mixed(reformer, tokens, mask)).any(dim=-1).sum()
    assert 0 < moved < 60


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 3, 20])
def test_reformer_in_low_precision_stays_near_float32(dtype: torch.dtype, length: int) -> None:
    pytest.importorskip("reformer_pytorch", reason="needs the extra attention")
    reformer = build(partial(ReformerAttention, bucket_size=4, num_hashes=2))
    mask = torch.arange(24).expand(2, 24) < length
    tokens = torch.randn(2 * length, 32)
    exact = reformer(tokens, TokenPacking(mask))
    reformer.to(dtype)
    low = reformer(tokens.to(dtype), TokenPacking(mask))
    assert low.dtype is dtype
    # hashes of vectors near a border may differ
    assert (low.float() - exact).norm() < (0.02 if length == 1 else 0.5) * exact.norm()
    low.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in reformer.parameters())


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("k", partial(FusedLinformerAttention, k=25)),
        ("per_head", partial(FusedLinformerAttention, k=4, per_head=True, one_kv_head=True)),
        ("num_features", partial(PerformerAttention, num_features=0)),
        ("conv_kernel", partial(NystromAttention, num_landmarks=4, conv_kernel=4)),
        ("bucket_size", partial(ReformerAttention, bucket_size=0, num_hashes=2)),
        ("num_random", partial(BigBirdAttention, block_size=2, num_random=-1)),
    ],
)
def test_refuses_settings_out_of_range(setting: str, make: Any) -> None:
    with pytest.raises(SettingError) as caught:
        make(width=32, num_heads=4, context_length=24)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("performer-pytorch", partial(PerformerAttention, num_features=None)),
        ("nystrom-attention", partial(NystromAttention, num_landmarks=4, conv_kernel=3)),
        ("reformer-pytorch", partial(ReformerAttention, bucket_size=4, num_hashes=2)),
    ],
)
def test_a_missing_package_names_the_extra(
    package: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(UserError, match=rf'needs {package}: pip install -e "\.\[attention\]"'):
        make(width=32, num_heads=4, context_length=24)


def test_captions_of_4096_tokens() -> None:
    encoder = TextEncoder(
        vocab_size=50,
        attention=partial(FusedLinformerAttention, k=64),
        width=32,
        num_layers=1,
        num_heads=4,
        context_length=4096,
        dropout=0.0,
        pooling="mean",
        embed_dim=8,
    )
    fill_zeros(encoder)
    token_ids = torch.randint(50, (2, 4096))
    mask = torch.arange(4096) < torch.tensor([[4096], [9]])
    out = encoder(token_ids, mask)
    torch.testing.assert_close(out[1:], encoder(token_ids[1:, :9], mask[1:, :9]), atol=1e-5, rtol=1e-4)


def test_a_block_begins_by_handing_on_its_tokens(make: Any) -> None:
    block = TransformerBlock(make(width=32, num_heads=4, context_length=24), width=32, dropout=0.0)
    tokens, mask = captions(7, 3)
    packing = TokenPacking(mask)
    packed = packing.unpad(tokens)

    assert torch.equal(block(packed, packing), packed)
    block(packed, packing).square().sum().backward()
    learning = [name for name, p in block.named_parameters() if p.grad is not None and p.grad.any()]
    assert "mlp.2.weight" in learning and any(name.startswith("attention.") for name in learning)


def order_task(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Captions of ten words; which of two of them comes first decides."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.stack([torch.randperm(10, generator=generator) for _ in range(count)]) + 2
    places = [(token_ids == word).int().argmax(dim=1) for word in (2, 3)]
    return token_ids, (places[0] < places[1]).float()


def accuracy_on_order(encoder: nn.Module) -> float:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    token_ids, labels = order_task(2048, seed=0)
    for step in range(400):
        rows = torch.arange(step * 64, step * 64 + 64) % 2048
        mask = torch.ones(64, 10, dtype=torch.bool)
        scores = encoder(token_ids[rows], mask)[:, 0]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(scores, labels[rows]).backward()
        optimizer.step()
    token_ids, labels = order_task(512, seed=1)
    with torch.no_grad():
        scores = encoder.eval()(token_ids, torch.ones_like(token_ids).bool())[:, 0]
    return ((scores > 0) == labels.bool()).float().mean().item()


@pytest.mark.long
def test_it_learns_the_order_of_words_which_a_bag_cannot(make: Any) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(
        vocab_size=12,
        attention=make,
        width=32,
        num_layers=2,
        num_heads=4,
        context_length=24,
        dropout=0.0,
        pooling="mean",
        embed_dim=1,
    )
    assert accuracy_on_order(encoder) > 0.8


def test_a_bag_cannot_learn_the_order_of_words() -> None:
    torch.manual_seed(0)
    assert accuracy_on_order(BagOfTokens(vocab_size=12, width=32, embed_dim=1)) < 0.6
