"""A GPU's part of a step, rehearsed where there is none.

Fake tensors say that they lie on a GPU, on any machine. To read one's value on the host raises an error,
and so does an operation between devices: what passes here waits for no GPU, and makes nothing in the wrong
place. Autocast, the scaler, the random generator and autograd's backward need a driver: `tests/test_gpu.py`
has them.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.data.transforms import crop_and_resize_batch, normalize
from miniclip.losses import Loss
from miniclip.models import CLIP
from miniclip.positives import PositivePairs
from miniclip.training import StepResult, TrainingStep
from miniclip.training.forward_backward import PassResult
from miniclip.training.precision import Precision
from tests.conftest import OPTIMIZERS, TINY

DECIDES_ON_THE_HOST = ("aesam",)
"""Its trigger reads the gradient's norm: how many passes a step has is no tensor."""

SHORT = ("adamw", "gsam", "lesam", "looksam", "msam", "muon", "sam", "sam_norm_only", "vasso")
"""Of each part of SAM's axes that computes something of its own, one optimizer."""


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tensors are fake ones on a GPU, whose random generator holds still."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    with FakeTensorMode(), torch.device("cuda"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def batch() -> Batch:
    token_ids = torch.zeros(8, 12, dtype=torch.int64)
    ids = torch.zeros(8, dtype=torch.int64)
    images = torch.zeros(8, 3, 32, 32)
    return Batch(images, token_ids, token_ids == 0, PositivePairs(ids, ids))


class ForwardOnly:
    """Forward and loss of a batch; gradients of any value stand in for those of autograd."""

    def __init__(self, model: CLIP, loss: Loss):
        self.model = model
        self.loss = loss

    @torch.no_grad()
    def __call__(
        self, batches: Sequence[Batch], first_pass: PassResult | None, *, alone: bool = False
    ) -> PassResult:
        (one,) = batches
        output = self.model(one.images, one.token_ids, one.attention_mask)
        loss = self.loss(**output.loss_inputs(), positives=one.positives)
        for p in self.model.parameters():
            if p.requires_grad:
                p.grad = torch.empty_like(p)
        return PassResult(loss, output.logit_scale, [output.variance], [])


def one_step(*overrides: str) -> StepResult:
    """A run's second step on fake tensors, but for autograd's part.

    The first asks whether it was skipped, so that it leaves no state behind: see `forget_skipped_state`.
    """
    cfg = compose(*TINY, *overrides)
    model = instantiate.make_model(cfg, vocab_size=300).train()
    optimizer = instantiate.make_optimizer(cfg, model)
    precision = Precision(dtype="float32", device=torch.device("cuda"))
    step = TrainingStep(model, model.loss, optimizer, precision, grad_clip_norm=1.0)
    step.forward_backward = ForwardOnly(model, model.loss)
    with suppress(DataDependentOutputException):
        step([batch()])
    return step([batch()])


@pytest.mark.parametrize(
    "optimizer",
    [
        *SHORT,
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in OPTIMIZERS
            if name not in SHORT + DECIDES_ON_THE_HOST
        ),
    ],
)
def test_a_step_waits_for_nothing(optimizer: str) -> None:
    result = one_step(f"optimizer={optimizer}")
    assert result.loss.device.type == result.grad_norm.device.type == "cuda"


@pytest.mark.parametrize("optimizer", DECIDES_ON_THE_HOST)
def test_who_reads_on_the_host_is_known(optimizer: str) -> None:
    with pytest.raises(DataDependentOutputException):
        one_step(f"optimizer={optimizer}")


@pytest.mark.parametrize(
    "settings",
    [
        ("loss=clip", "loss.multi_positive=true", "loss.label_smoothing=0.1"),
        ("loss=clip", "loss.chunk_size=4"),
        ("loss=siglip", "loss.multi_positive=true"),
        ("loss=siglip", "loss.chunk_size=4"),
        ("temperature=fixed",),
        ("temperature=learned",),
    ],
    ids=str,
)
def test_losses_and_temperatures_wait_for_nothing(settings: tuple[str, ...]) -> None:
    one_step("optimizer=sam", *settings)


@pytest.mark.parametrize("name", ["full", "linformer", "linformer_fused"])
def test_attentions_wait_for_nothing(name: str) -> None:
    one_step("optimizer=adamw", f"encoder/text/attention={name}")


def test_images_are_cut_and_encoded_without_a_wait() -> None:
    model = instantiate.make_model(compose(*TINY), vocab_size=300).eval()
    images = torch.zeros(4, 3, 50, 60, dtype=torch.uint8)
    seen = normalize(crop_and_resize_batch(images, torch.zeros(4, 5, dtype=torch.int64), 32))
    assert seen.shape == (4, 3, 32, 32)
    with torch.no_grad():
        features = model.encode_image(seen)
    assert features.shape == (4, 32) and features.device.type == "cuda"
