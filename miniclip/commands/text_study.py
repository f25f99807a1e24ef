"""Measure every attention of the text tower at several lengths, and write outputs/text-study/."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.config.compose import compose
from miniclip.config.groups import groups
from miniclip.errors import UserError
from miniclip.files import write_text

if TYPE_CHECKING:
    from miniclip.metrics import Cost

EXAMPLES = """\
  miniclip text-study
  miniclip text-study --attentions full linformer --lengths 64 256 1024 --device cuda
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Attentions and the sizes they are measured at."""
    parser.add_argument(
        "--attentions", nargs="+", choices=_attentions(), help="those to measure; all that are installed"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[16 * 2**i for i in range(9)])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--k", type=int, default=64, help="Linformer's k, where a caption is as long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, and write it and its figure."""
    from miniclip.figures import draw_costs
    from miniclip.metrics import attention_costs
    from miniclip.training.device import find_device

    _check(arguments)
    device = find_device(arguments.device, setting="--device")
    costs = attention_costs(
        _makers(arguments),
        arguments.lengths,
        width=arguments.width,
        num_heads=arguments.heads,
        device=device,
        rounds=arguments.rounds,
    )

    folder = Path("outputs") / "text-study"
    folder.mkdir(parents=True, exist_ok=True)
    _write_and_print(costs, folder / "costs.csv")
    draw_costs(costs, folder / "costs.png", device=str(device))

    _print_fused_speed(costs)
    print(f"Everything is in {folder}")


def _attentions() -> list[str]:
    return groups()["encoder/text/attention"]


def _check(arguments: argparse.Namespace) -> None:
    if min(*arguments.lengths, arguments.k, arguments.rounds, arguments.width) < 1:
        raise UserError("--lengths, --k, --rounds and --width must be at least 1.")
    if arguments.heads < 1 or arguments.width % arguments.heads:
        raise UserError(f"--heads={arguments.heads} must divide --width={arguments.width}.")


def _makers(arguments: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """What makes each attention; one that was not asked for and is not installed is left out, and told."""
    makers = {}
    for name in arguments.attentions or _attentions():
        maker = _maker(name, k=arguments.k)
        try:
            maker(width=arguments.width, num_heads=arguments.heads, context_length=16)
        except UserError as error:
            if arguments.attentions:
                raise
            print(f"Left out: {error}")
        else:
            makers[name] = maker
    return makers


def _maker(name: str, *, k: int) -> Callable[..., Any]:
    from miniclip.config.instantiate import make

    def build(*, context_length: int, **sizes: int) -> Any:
        changes = []
        if name.startswith("linformer"):
            changes = [f"encoder.text.attention.k={min(k, context_length)}"]
        cfg = compose(f"encoder/text/attention={name}", *changes)
        return make(cfg, "encoder.text.attention")(context_length=context_length, **sizes)

    return build


def _write_and_print(costs: Sequence["Cost"], path: Path) -> None:
    """The table of all costs, as CSV and on the console."""
    from miniclip.metrics import Cost

    header = list(Cost._fields)
    rows = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in cost] for cost in costs
    ]
    write_text(path, "".join(f"{','.join(row)}\n" for row in [header, *rows]))

    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _print_fused_speed(costs: Sequence["Cost"]) -> None:
    """How much faster the fused Linformer trains than the package's, where both were measured."""
    training = {(cost.attention, cost.length): cost.training_ms for cost in costs}
    for name, length in training:
        if name == "linformer_fused" and ("linformer", length) in training:
            ratio = training["linformer", length] / training[name, length]
            print(f"linformer_fused at {length} tokens: {ratio:.2f} times as fast as the package linformer")
