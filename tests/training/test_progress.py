"""Progress as a part of a checkpoint, and the stopwatch."""

import time

from miniclip.training.progress import Progress, Stopwatch


def test_progress_goes_through_a_checkpoint_in_place() -> None:
    progress = Progress(epoch=2, position=8, step=11, broken={"a.jpg: empty": "broken"})
    state = progress.state_dict()
    other = Progress()
    other.load_state_dict(state)
    assert other == progress and other.epochs_begun == 3
    progress.step += 1
    assert other.step == state["step"] == 11


def test_a_stopwatch_goes_on_from_an_earlier_part() -> None:
    clock = Stopwatch(before=100.0)
    time.sleep(0.01)
    assert 100.01 <= clock.seconds < 101
    clock.before = 0.0
    assert clock.seconds < 1
