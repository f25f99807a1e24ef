"""What only a GPU can show: float16 with a scaler, resumes to the bit, no wait for the device, flat memory.

    pytest -m gpu -n 0

Shapes are those of the whole recipe made small, so that each test takes seconds.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.data.transforms import RandomResizedCrop, crop_and_resize_batch
from miniclip.errors import SettingError
from miniclip.losses import ClipLoss
from miniclip.runs import RunDirectory
from miniclip.training.loop import Loop
from miniclip.training.recorder import READ_EVERY_STEPS
from tests.conftest import OPTIMIZERS, TINY, fit, interrupt_at_step, parts_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

DECIDES_ON_THE_HOST = ("aesam",)
"""Its trigger reads the gradient's norm: how many passes a step has is no tensor."""

ON_GPU = (*TINY, "device=cuda")


@pytest.fixture
def memory_of_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of the GPU after each step; to wait for the GPU, from reading the batches on, raises an error.

    The first five may wait for it: libraries choose their kernels, the scaler its scale, and the first one
    that is not skipped makes the optimizer's state. So may every tenth, which reads the numbers of ten.
    """
    original = Loop._train_step
    memory: list[int] = []

    def watched(self: Loop, clock: Any) -> None:
        may_read = len(memory) < 5 or len(self.recorder._unread) == READ_EVERY_STEPS - 1
        torch.cuda.set_sync_debug_mode("default" if may_read else "error")
        try:
            original(self, clock)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        memory.append(torch.cuda.memory_allocated())

    monkeypatch.setattr(Loop, "_train_step", watched)
    yield memory


def losses_of(run: RunDirectory) -> list[float]:
    return [row["train/loss"] for row in run.read_metrics() if "train/loss" in row]


def assert_same_weights(run: RunDirectory, other: RunDirectory) -> None:
    found, expected = (parts_of(each.last_checkpoint)["model"] for each in (run, other))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_in_float16(tmp_path: Path, optimizer: str) -> None:
    run = fit(tmp_path, *ON_GPU, "precision=fp16", f"optimizer={optimizer}")
    best = parts_of(run.best_checkpoint)
    assert all(value.isfinite().all() for value in best["model"].values() if value.is_floating_point())
    assert best["scaler"]["scale"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sam", "muon"])
def test_a_gpu_trains_as_the_cpu_does(tmp_path: Path, optimizer: str, precision: str) -> None:
    same = ["trainer.budget.steps=5", "data.crop=eval", "data.flip=false", f"optimizer={optimizer}"]
    gpu = fit(tmp_path / "gpu", *ON_GPU, *same, f"precision={precision}")
    cpu = fit(tmp_path / "cpu", *TINY, *same, "device=cpu", "precision=fp32")

    assert losses_of(gpu) == pytest.approx(losses_of(cpu), rel=0.05 if precision == "bf16" else 0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "sam", "msam", "looksam", "functional_sam", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, precision: str
) -> None:
    settings = [*ON_GPU, f"optimizer={optimizer}", f"precision={precision}", "trainer.deterministic=true"]
    whole = fit(tmp_path / "whole", *settings, "trainer.checkpoint_every_steps=3")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at_step(patch, step=8)
        fit(tmp_path / "parts", *settings, "trainer.checkpoint_every_steps=3")
    parts = fit(tmp_path / "parts", *settings, "trainer.checkpoint_every_steps=3", "trainer.resume=auto")

    expected, found = parts_of(whole.last_checkpoint), parts_of(parts.last_checkpoint)
    assert all(torch.equal(expected["model"][name], found["model"][name]) for name in expected["model"])
    assert expected["scaler"] == found["scaler"]


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        *[(name, "fp16") for name in OPTIMIZERS if name not in DECIDES_ON_THE_HOST],
        *itertools.product(["adamw", "sam", "muon"], ["fp32", "bf16"]),
    ],
)
def test_no_step_waits_for_the_device(
    tmp_path: Path, memory_of_steps: list[int], optimizer: str, precision: str
) -> None:
    settings = [f"optimizer={optimizer}", f"precision={precision}", "trainer.budget.steps=8"]
    fit(tmp_path, *ON_GPU, *settings, "trainer.batch_size=4")
    assert len(memory_of_steps) == 8


@pytest.mark.parametrize("optimizer", ["adamw", "sam", "functional_sam", "muon"])
def test_memory_stays_as_it_is(tmp_path: Path, memory_of_steps: list[int], optimizer: str) -> None:
    fit(tmp_path, *ON_GPU, f"optimizer={optimizer}", "trainer.budget.steps=200")
    assert max(memory_of_steps[50:]) == max(memory_of_steps[10:50])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "optimizer", ["adamw", "sam_norm_only", "gsam", "looksam", "functional_sam", "muon"]
)
def test_cuda_graphs_change_no_bit(tmp_path: Path, optimizer: str, precision: str) -> None:
    settings = (
        *(*ON_GPU, f"optimizer={optimizer}", f"precision={precision}", "encoder.text.dropout=0.1"),
        *("trainer.budget.steps=16", "trainer.accumulate_steps=2", "trainer.deterministic=true"),
    )
    plain = fit(tmp_path / "plain", *settings)
    graphs = fit(tmp_path / "graphs", *settings, "trainer.cuda_graphs=true")
    assert_same_weights(graphs, plain)


def test_no_step_with_cuda_graphs_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_of_steps: list[int]
) -> None:
    """All graphs are recorded in the first steps, as all captions are of one length."""
    monkeypatch.setattr("miniclip.training.cuda_graphs.WARM_UP", 1)
    settings = ("optimizer=sam", "precision=bf16", "trainer.budget.steps=60", "trainer.cuda_graphs=true")
    fit(tmp_path, *ON_GPU, *settings, "tokenizer.pad_to_multiple_of=77")
    assert max(memory_of_steps[30:]) == max(memory_of_steps[10:30])


def test_what_cannot_be_recorded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of a user's own that reads a value on the host."""
    compute = ClipLoss.forward

    def reading(self: ClipLoss, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = compute(self, *args, **kwargs)
        return loss if loss.detach().isfinite() else loss * 0

    monkeypatch.setattr(ClipLoss, "forward", reading)
    with pytest.raises(SettingError, match=r"trainer\.cuda_graphs=true: .*take false"):
        fit(tmp_path, *ON_GPU, "trainer.cuda_graphs=true")


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_compiled_towers_train_as_others_do(tmp_path: Path, graphs: str) -> None:
    settings = (*ON_GPU, "optimizer=sam", "precision=fp32", "trainer.budget.steps=5")
    plain = fit(tmp_path / "plain", *settings)
    compiled = fit(
        tmp_path / "compiled", *settings, "trainer.compile=true", f"trainer.cuda_graphs={graphs}"
    )
    losses = [
        [row["train/loss"] for row in run.read_metrics() if "train/loss" in row]
        for run in (compiled, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [None, slice(100, 400)])
def test_kernels_of_tiles_compute_the_whole_loss(dtype: torch.dtype, rows: slice | None) -> None:
    images, texts = torch.nn.functional.normalize(torch.randn(2, 600, 64, device="cuda"), dim=2)
    texts = torch.nn.functional.normalize(images + texts, dim=1)
    given = [each.to(dtype).requires_grad_() for each in (images, texts)]
    scale = torch.tensor(20.0, device="cuda", requires_grad=True)
    exact = [each.detach().float().requires_grad_() for each in given]
    whole = ClipLoss()(*exact, scale, rows=rows)
    tiled = ClipLoss(chunk_size=256, compile_tiles=True)(*given, scale, rows=rows)

    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=0)
    expected = torch.autograd.grad(whole, [*exact, scale])
    precision = max(torch.finfo(dtype).eps, 1e-5)  # rounded to it before the product, and after
    for found, gradient in zip(torch.autograd.grad(tiled, [*given, scale]), expected, strict=True):
        assert (found.float() - gradient).norm() <= precision * gradient.norm()


def test_a_gpu_cuts_as_the_cpu_does() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 90, 120), dtype=torch.uint8)
    crop = RandomResizedCrop(48, crop_scale=(0.3, 1.0), flip=True)
    boxes = torch.tensor([crop.box(90, 120, torch.Generator().manual_seed(n)) for n in range(8)])
    levels = crop_and_resize_batch(images.cuda(), boxes.cuda(), 48).cpu() - crop_and_resize_batch(
        images, boxes, 48
    )
    assert levels.abs().max() <= 1 and levels.abs().mean() < 0.05


def test_images_in_the_memory_of_the_gpu_are_those_that_travel(tmp_path: Path, noise_folder: Path) -> None:
    settings = (
        *(*ON_GPU, "data=folder", f"data.root={noise_folder}", "data.cache=memory", "precision=fp32"),
        *("trainer.batch_size=4", "trainer.deterministic=true"),
    )
    there = fit(tmp_path / "there", *settings)
    travel = fit(tmp_path / "travel", *settings, "trainer.images_on_gpu=false")
    assert_same_weights(there, travel)


def test_the_summary_tells_the_memory(tmp_path: Path) -> None:
    run = fit(tmp_path, *ON_GPU, "trainer.budget.steps=2")
    assert 0 < run.read_summary()["peak_gpu_gb"] < 4
