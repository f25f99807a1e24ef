"""A table of retrieval results of several models."""

from collections.abc import Sequence
from typing import Any

from miniclip.metrics import DIRECTIONS, joined_recalls


def comparison(results: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """A row per model, below a row of chance.

    Args:
        results: names, and the numbers of `Retrieval` of each, all on the same data.
    """
    results = _with_precision_by_name(results)
    data = {numbers["data_fingerprint"]: numbers["protocol"] for _, numbers in results}
    if len(data) > 1:
        told = "; ".join(f"{protocol} ({fingerprint})" for fingerprint, protocol in data.items())
        return [f"No table: the models were measured on different data, {told}. Name one: data=..."]

    # chance depends on the data alone, so that any of the models knows it
    chance = results[0][1]["chance"]
    rows = [("chance", chance), *((name, numbers["metrics"]) for name, numbers in results)]

    width = max(len(name) for name, _ in rows)
    header = "  ".join(f"{title} R@1/5/10" for title in DIRECTIONS.values())
    lines = [*data.values(), f"{'':{width}}  {header}    rsum"]

    for name, metrics in rows:
        cells = "  ".join(f"{joined_recalls(metrics, direction):>22}" for direction in DIRECTIONS)
        lines.append(f"{name:{width}}  {cells}  {metrics['rsum']:6.1f}")

    return lines


def _with_precision_by_name(
    results: Sequence[tuple[str, dict[str, Any]]],
) -> list[tuple[str, dict[str, Any]]]:
    """Results whose protocols are of the data alone, where models were measured in several precisions."""
    parts = [numbers["protocol"].rpartition("; ") for _, numbers in results]
    if len({precision for *_, precision in parts}) == 1:
        return list(results)
    return [
        (f"{name} ({precision})", {**numbers, "protocol": of_data})
        for (name, numbers), (of_data, _, precision) in zip(results, parts, strict=True)
    ]
