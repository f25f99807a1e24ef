"""Signals as the training loop sees them: it asks between two steps, so that no step is torn."""

import signal

from miniclip.distributed import World
from miniclip.stop_signals import Interrupted, stop_signals

__all__ = ["Interrupted", "Interruption"]


class Interruption:
    """Asks whether a signal has come, to this process or to another that trains with it.

    Args:
        world: the processes that stop together.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come, to this process or to another."""
        if self.world.any(stop_signals.signum is not None):
            stop_signals.check()
            raise Interrupted(signal.SIGTERM)
