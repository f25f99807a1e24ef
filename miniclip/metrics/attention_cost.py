"""What attentions cost as captions grow: where an efficient one starts to pay."""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from miniclip.models.attention import TokenPacking

TOKENS_AT_ONCE = 4096
"""As many captions are measured together as hold so many tokens."""


class Cost(NamedTuple):
    """What one attention layer costs at one length.

    Attributes:
        attention: its name.
        length: tokens per caption, none of them padding.
        parameters: of the layer.
        gflops: 10^9 operations of a forward pass, per caption; a multiplication and an addition are two.
            Only matrix products are counted.
        forward_ms: milliseconds of a forward pass, per caption; the median of the rounds.
        training_ms: of a forward and a backward pass.
        peak_mb: 10^6 bytes that a forward and a backward pass hold at most, weights aside, per caption.
    """

    attention: str
    length: int
    parameters: int
    gflops: float
    forward_ms: float
    training_ms: float
    peak_mb: float


def attention_costs(
    attentions: dict[str, Callable[..., nn.Module]],
    lengths: Sequence[int],
    *,
    width: int,
    num_heads: int,
    device: torch.device,
    rounds: int,
) -> list[Cost]:
    """Measure every attention at every length, in turn within a round.

    Args:
        attentions: make a layer from width, num_heads and context_length.
        lengths: tokens per caption.
        rounds: how often everything is timed.
    """
    costs = []
    for length in lengths:
        layers = {
            name: make(width=width, num_heads=num_heads, context_length=length).to(device)
            for name, make in attentions.items()
        }

        # captions of full length, side by side as the text tower has them
        count = max(1, TOKENS_AT_ONCE // length)
        tokens = torch.randn(count * length, width, device=device, requires_grad=True)
        packing = TokenPacking(torch.ones(count, length, dtype=torch.bool, device=device))

        # in turn, so that a machine that slows down slows all of them
        seconds: dict[tuple[str, bool], list[float]] = {}
        for number in range(rounds + 1):
            for name, layer in layers.items():
                for trains in (False, True):
                    taken = _seconds(layer, tokens, packing, trains=trains)
                    if number > 0:  # the first one warms up
                        seconds.setdefault((name, trains), []).append(taken / count)

        for name, layer in layers.items():
            costs.append(
                Cost(
                    attention=name,
                    length=length,
                    parameters=sum(p.numel() for p in layer.parameters()),
                    gflops=_flops(layer, tokens, packing) / count / 1e9,
                    forward_ms=1000 * statistics.median(seconds[name, False]),
                    training_ms=1000 * statistics.median(seconds[name, True]),
                    peak_mb=_peak_bytes(layer, tokens, packing) / count / 1e6,
                )
            )
    return costs


def _run(layer: nn.Module, tokens: Tensor, packing: TokenPacking, *, trains: bool) -> None:
    with torch.set_grad_enabled(trains):
        out = layer(tokens, packing)
    if trains:
        out.sum().backward()
        layer.zero_grad()
        tokens.grad = None


def _seconds(layer: nn.Module, tokens: Tensor, packing: TokenPacking, *, trains: bool) -> float:
    _wait(tokens.device)
    started = time.perf_counter()
    _run(layer, tokens, packing, trains=trains)
    _wait(tokens.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flops(layer: nn.Module, tokens: Tensor, packing: TokenPacking) -> int:
    # it imports triton, which only this measure needs
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        _run(layer, tokens.detach(), packing, trains=False)
    return counter.get_total_flops()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silence what native code writes there."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _peak_bytes(layer: nn.Module, tokens: Tensor, packing: TokenPacking) -> int:
    """The most that was in use above what there was before."""
    device = tokens.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _run(layer, tokens, packing, trains=True)
        return torch.cuda.max_memory_allocated(device) - before

    # elsewhere the profiler's trace says when memory was taken and given back
    recording = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )
    with _without_stderr(), recording as profile:  # to which it writes that it starts and stops
        _run(layer, tokens, packing, trains=True)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8", errors="replace"))["traceEvents"]

    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    in_use = peak = 0
    for _, change in changes:
        in_use += change
        peak = max(peak, in_use)
    return peak
