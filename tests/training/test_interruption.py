"""Signals between two steps: of this process, and of another one that trains with it."""

import os
import signal

import pytest

from miniclip.distributed import World
from miniclip.stop_signals import stop_signals
from miniclip.training.interruption import Interrupted, Interruption


def test_the_loop_asks_for_a_signal() -> None:
    interruption = Interruption()
    with stop_signals.caught(), pytest.raises(Interrupted, match="SIGTERM"), stop_signals.deferred():
        interruption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        interruption.check()


def test_a_signal_to_another_process_stops_this_one_too() -> None:
    class OtherWasTold(World):
        def any(self, claim: bool) -> bool:
            return True

    with pytest.raises(Interrupted) as caught:
        Interruption(OtherWasTold()).check()
    assert caught.value.signum == signal.SIGTERM
