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

    @property
    def is_due(self) -> bool:
        """Whether a signal has come to this process."""
        return stop_signals.signum is not None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come, to this process or to another."""
        self.heed(self.world.any(self.is_due))

    def heed(self, is_due_somewhere: bool) -> None:
        """The same where the processes have asked each other already."""
        if is_due_somewhere:
            stop_signals.check()
            raise Interrupted(signal.SIGTERM)
