"""What a record of a validation says of features that do not spread."""

from typing import Any

from miniclip.metrics.health import Health


def has_collapsed(record: dict[str, Any]) -> bool:
    """Whether the health in a validation record is that of features that do not spread.

    Records of older versions lack it and count as sound.
    """
    measures = [record.get(f"health/{name}") for name in Health._fields]
    return None not in measures and Health._make(measures).has_collapsed
