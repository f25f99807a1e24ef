"""Classes as sets of Hugging Face hold them: numbers, whose names stand in the set's features."""

import json
import math
from collections.abc import Iterable
from typing import Any

from miniclip.data.sources.caption_cells import shortened
from miniclip.errors import UserError


def features_in_schema(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The features by column that `datasets` writes into a Parquet file; none where another wrote it.

    Args:
        metadata: of the file's Arrow schema.
    """
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def with_class_names(cell: Any, feature: Any, where: object) -> Any:
    """A cell with names in place of the numbers of classes, also of those in lists and objects.

    None stands for -1, which is what sets write where a class is not published.

    Args:
        cell: what a table holds.
        feature: of the column, as `datasets.Features.to_dict` gives it; other cells stay as they are.
        where: how an error calls the cell.

    Raises:
        UserError: when a number has no name.
    """
    if isinstance(feature, list):  # another way to write a list
        feature = {"feature": next(iter(feature), None)}
    if not isinstance(feature, dict):
        return cell

    if isinstance(cell, list):
        return [with_class_names(item, feature.get("feature"), where) for item in cell]
    if isinstance(cell, dict):
        inner = feature.get("feature")
        if feature.get("_type") == "Sequence" and isinstance(inner, dict):
            # before version 4 a list of objects was written as an object of lists
            feature = {name: [each] for name, each in inner.items()}
        return {name: with_class_names(item, feature.get(name), where) for name, item in cell.items()}
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list) or not isinstance(cell, int):
        return cell

    if cell >= len(names):
        raise UserError(f"{where}: the class {cell} has no name among {shortened(names)}. Correct the set.")
    return names[cell] if cell >= 0 else None


def class_of_cell(value: Any, where: object) -> str:
    """The class that a cell of any table names, stripped; "" where it names none.

    Raises:
        UserError: when the cell holds a list, an object or bytes.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict | bytes):
        raise UserError(
            f"{where}: a class is a {type(value).__name__}, {shortened(value)}; a text or a number is "
            "needed. Name another column with data.class_column=..."
        )
    return str(value).strip()


def classes_of_rows(cells: Iterable[Any], source: object) -> list[str]:
    """The class of each row; see `class_of_cell`."""
    return [class_of_cell(cell, f"{source}, row {row}") for row, cell in enumerate(cells)]
