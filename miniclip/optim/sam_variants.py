"""Names of SAM's family from before its axes, for code that uses them: each is `SAM` with one chosen."""

from typing import Any

from miniclip.optim.descents import ReusedAscent, SurrogateGap
from miniclip.optim.directions import Momentum
from miniclip.optim.sam import SAM, Base, Params


class GSAM(SAM):
    """SAM with the descent `SurrogateGap`.

    Args:
        alpha: weight of the orthogonal part; 0 is SAM.
        sam_settings: see `SAM`.
    """

    def __init__(self, params: Params, base: Base, *, alpha: float = 0.4, **sam_settings: Any):
        super().__init__(params, base, descent=SurrogateGap(alpha=alpha), **sam_settings)


class LookSAM(SAM):
    """SAM in one of `interval` steps, with the descent `ReusedAscent`.

    Args:
        alpha: length of the added part over that of the plain gradient.
        interval: the paper's k.
        sam_settings: see `SAM`.
    """

    def __init__(
        self, params: Params, base: Base, *, alpha: float = 0.7, interval: int = 5, **sam_settings: Any
    ):
        super().__init__(params, base, descent=ReusedAscent(alpha=alpha), interval=interval, **sam_settings)


class MSAM(SAM):
    """SAM with the direction `Momentum`.

    Args:
        sam_settings: see `SAM`.
    """

    def __init__(self, params: Params, base: Base, **sam_settings: Any):
        super().__init__(params, base, direction=Momentum(), **sam_settings)
