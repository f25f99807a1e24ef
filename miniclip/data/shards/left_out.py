"""Samples that are not whole, an image without a caption say: counted, and told or refused."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

ReasonCounts = Mapping[str, tuple[int, str]]
"""By reason, how many samples were left out and the first of them."""


class LeftOut(NamedTuple):
    """What was left out of the shards of a part.

    Attributes:
        part: its name.
        num_whole: samples that are read.
        reasons: why others are not.
    """

    part: str
    num_whole: int
    reasons: ReasonCounts

    def check(self, allowed: float | None) -> None:
        """Tell how many were left out in one line, or stop at them.

        Args:
            allowed: the fraction that may be; None allows none.

        Raises:
            UserError: when more were, or no sample is whole.
        """
        if self.num_whole == 0:
            held = f": {self}" if self.reasons else ""
            raise UserError(
                f"The shards of the {self.part} part hold no image with a caption{held}. A sample is "
                "KEY.jpg with KEY.txt, or with KEY.json and data.caption_column=FIELD."
            )

        num_left_out = sum(count for count, _ in self.reasons.values())
        total = self.num_whole + num_left_out
        which = f"{self.part}: {num_left_out:,} of {counted(total, 'sample')} in shards left out: {self}"
        if num_left_out > (allowed or 0) * total:
            fix = "or leave them out with data.on_broken_image=skip"
            if allowed is not None:
                which += f"; that is more than data.max_broken_fraction={allowed:g}"
                fix = "or allow more"
            raise UserError(f"{which}. Write these shards anew, {fix}.")
        if num_left_out:
            log.warning("%s.", which)

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {reason} ({first})" for reason, (count, first) in self.reasons.items())


def merged(shards: Iterable[tuple[str, ReasonCounts]]) -> ReasonCounts:
    """The reasons of several shards together; the first sample of each is named with its shard."""
    reasons: dict[str, tuple[int, str]] = {}
    for shard_id, of_shard in shards:
        for reason, (count, key) in of_shard.items():
            before, first = reasons.get(reason, (0, f"{shard_id}/{key}"))
            reasons[reason] = before + count, first
    return reasons
