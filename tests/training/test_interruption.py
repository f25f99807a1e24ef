"""Signals between two steps: of this process, and of another one."""

import os
import signal

import pytest

from miniclip.distributed import World
from miniclip.training.interruption import Interrupted, Interruption


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_loop_asks(signum: signal.Signals) -> None:
    interruption = Interruption()
    before = signal.getsignal(signum)
    with interruption.caught():
        interruption.check()
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted, match=signum.name) as caught:
            interruption.check()
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_second_one_stops_at_once() -> None:
    with Interruption().caught(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(caught.value, Interrupted)


def test_a_signal_to_another_process_stops_this_one_too() -> None:
    class OtherWasTold(World):
        def any(self, claim: bool) -> bool:
            return True

    with pytest.raises(Interrupted) as caught:
        Interruption(OtherWasTold()).check()
    assert caught.value.signum == signal.SIGTERM
