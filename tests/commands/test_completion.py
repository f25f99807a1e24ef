"""Scripts that complete the commands, run by the shell they are for."""

import shutil
import subprocess
import sys

import pytest

from miniclip.cli import COMMANDS, main
from miniclip.commands.completion import SCRIPTS


@pytest.mark.parametrize("shell", SCRIPTS)
def test_it_names_every_command(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["miniclip", "completion", shell])
    main()
    assert " ".join(COMMANDS) in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["miniclip", "completion", "bash"])
    main()
    ask = "COMP_WORDS=(miniclip ev); COMP_CWORD=1; _miniclip; echo ${COMPREPLY[@]}"
    script = capsys.readouterr().out + ask
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout == "evaluate\n", done.stderr
