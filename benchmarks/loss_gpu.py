"""Time and memory of the loss in tiles on a GPU, beside memeff's Triton kernels.

    python -m benchmarks.loss_gpu [ROUNDS] [BATCH_SIZE]

Needs the extra `bench` and a CUDA GPU. Forward and backward of unit vectors in bfloat16, width 512; ours
also by the scale, which memeff holds still. The memory is the most that was allocated beyond what was there
before, both sides' gradients included.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.timing import alternate, conditions
from miniclip.losses import ClipLoss

BATCH_SIZE = 65536
WIDTH = 512
SCALE = 1 / 0.07
GIB = 2**30

RIVAL = "memeff"


def batch(size: int) -> list[Tensor]:
    """Images, texts whose cosine with their images is about 0.4, and the scale."""
    generator = torch.Generator("cuda").manual_seed(0)
    images, noise = torch.randn(2, size, WIDTH, device="cuda", generator=generator)
    features = (torch.nn.functional.normalize(x, dim=1) for x in (images, images + 2 * noise))
    return [*(x.bfloat16().requires_grad_() for x in features), torch.tensor(SCALE, device="cuda")]


def of_memeff() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The rival with our arguments."""
    from memeff import MemoryEfficientCLIPLoss

    # its stable form has other gradients: times the square root of batch over temperature
    loss = MemoryEfficientCLIPLoss(temperature=1 / SCALE, normalized_inputs=True, stable=False)

    def call(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        value: Tensor = loss(images, texts)
        return value

    return call


def differentiate(loss: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Forward and backward once."""
    return torch.autograd.grad(loss(*inputs), [x for x in inputs if x.requires_grad])


def extra_memory(run: Callable[[], object]) -> float:
    """GiB that a call allocates at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / GIB


def main() -> None:
    arguments = arguments_of(__doc__, rounds=5, batch_size=BATCH_SIZE)
    rounds, size = arguments.rounds, arguments.batch_size
    images, texts, scale = batch(size)
    ours = [images, texts, scale.requires_grad_()]
    rivals: dict[str, Callable[[], object]] = {
        RIVAL: partial(differentiate, of_memeff(), [images, texts, scale.detach()])
    }
    for chunk_size in (4096, 8192):
        for compiles in (False, True):
            loss = ClipLoss(chunk_size=chunk_size, compile_tiles=compiles)
            name = f"MiniCLIP, chunk_size={chunk_size}{', compiled' if compiles else ''}"
            rivals[name] = partial(differentiate, loss, ours)

    times = alternate(rivals, rounds=rounds)
    print(conditions("torch", "memeff"))
    print(f"batch {size:,}, width {WIDTH}, bfloat16")
    for name, run in rivals.items():
        tell(times.figure(name, over=RIVAL, unit="times the seconds"))
        print(f"{1000 * times.median(name):.1f} ms, {extra_memory(run):.2f} GiB")


if __name__ == "__main__":
    main()
