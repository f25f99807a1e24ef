"""The scorecard, run for real where the extra `bench` is installed."""

import pytest


def test_no_pitfall_of_the_scorecard_fails_for_us() -> None:
    pytest.importorskip("pytorch_optimizer", reason="needs the extra bench")
    from benchmarks.sam_scorecard import OURS, PITFALLS, THEIRS

    assert len(PITFALLS) == 10
    for text, check in PITFALLS.items():
        verdict = check(OURS)
        assert verdict.passed, f"{text}: {verdict.detail}"
    assert not all(check(THEIRS).passed for check in PITFALLS.values())
