"""The table of commands: help, versions, and words that are no command."""

import runpy

import pytest

from miniclip.cli import COMMANDS, main


def ended(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `miniclip WORDS` exits with; empty where it returns."""
    monkeypatch.setattr("sys.argv", ["miniclip", *words])
    try:
        main()
    except SystemExit as end:
        return str(end.code)
    return ""


def test_without_words_all_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended([], monkeypatch) == "0"
    listed = capsys.readouterr().out
    assert all(f"\n    {name}" in listed for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_the_help_of_a_command_has_examples_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended([name, "--help"], monkeypatch) == "0"
    help_text = capsys.readouterr().out
    assert help_text.startswith(f"usage: miniclip {name}")
    assert f"miniclip {name}" in help_text.partition("examples:")[2]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian", "miniclip has no command trian; it has: train, evaluate"),
        ("seed=1", "seed=1 is a setting, and needs a command before it: miniclip train seed=1"),
    ],
)
def test_a_word_that_is_no_command(word: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said in ended([word], monkeypatch)


def test_a_wrong_setting_ends_a_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ended(["doctor", "data.rooot=x"], monkeypatch)
    assert told.startswith("Error: data.rooot") and "\n" not in told


def test_an_old_name_is_told_before_any_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(["doctor", "optimizer.every=5", "seed=x"], monkeypatch)
    assert "optimizer.every=5 is optimizer.interval=5 now" in capsys.readouterr().err


def test_python_runs_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["miniclip", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("miniclip", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith("miniclip ")
