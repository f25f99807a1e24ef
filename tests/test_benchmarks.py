"""The scorecard's pitfalls, run for real: ours always, the rival's where the extra `bench` is installed."""

import pytest

from benchmarks.sam_scorecard import OURS, PITFALLS, THEIRS


@pytest.mark.parametrize("text", PITFALLS)
def test_no_pitfall_of_the_scorecard_fails_for_us(text: str) -> None:
    verdict = PITFALLS[text](OURS)
    assert verdict.passed, verdict.detail


def test_the_scorecard_tells_the_rival_from_us() -> None:
    pytest.importorskip("pytorch_optimizer", reason="needs the extra bench")
    assert len(PITFALLS) == 10
    assert not all(check(THEIRS).passed for check in PITFALLS.values())
