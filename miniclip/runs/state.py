"""How a run stands: what it says of itself, and what shows that its process is gone."""

import platform
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.files import is_locked
from miniclip.runs.run_files import RunFiles
from miniclip.runs.small_files import DamagedFile

SILENT_SECONDS = 120.0
"""So long after its last heartbeat a run whose lock cannot be seen is taken for killed.

Six beats, for a network file system may show the time of a file a minute late.
"""

UNREADABLE = "unreadable"
"""The status of a run whose `status.json` is damaged."""


class State(NamedTuple):
    """How a run stands.

    Attributes:
        status: of `status.json`; "killed" where the process of a run that never ended is gone, and
            "unreadable" where that file is damaged.
        reason: why it ended so, else empty.
    """

    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.status} ({self.reason})" if self.reason else self.status

    @property
    def is_resumable(self) -> bool:
        """Whether it only lacked time: a failed run would fail again, a running one goes on by itself."""
        return self.status in ("interrupted", "killed")


def read_state(folder: Path) -> State:
    """The state of the run in a folder."""
    run = RunFiles(folder)
    try:
        state = run.read_status()
        is_held = is_locked(run.lock_file)
    except DamagedFile as error:
        return State(UNREADABLE, str(error))

    status = state.get("status", "running")  # without a file it has not come so far yet, or never will
    if status != "running" or is_held or _is_heard(run, state):
        return State(status, state.get("reason", ""))

    # a process that is killed cannot say so, but the system takes its lock from it
    return State("killed", _last_heard(run, state))


def who_is_heard(folder: Path) -> str:
    """Where a run without a visible lock is trained, and when it will be taken for killed; else empty."""
    run = RunFiles(folder)
    try:
        host = run.read_status().get("host")
        if host is None or is_locked(run.lock_file):
            return ""
        until = datetime.fromtimestamp(run.status.stat().st_mtime + SILENT_SECONDS, timezone.utc)
    except (DamagedFile, OSError):  # it has just changed
        return ""
    return (
        f" (on {host}, heard a moment ago). If it was killed, start the sweep again at {until:%H:%M:%S} "
        "UTC or later, which takes the job over"
    )


def _is_heard(run: RunFiles, state: dict[str, Any]) -> bool:
    """Whether a run whose lock is not held here is alive by its heartbeat.

    One of this machine whose lock holds is not: the lock would say so.
    """
    is_of_this_machine = state.get("host", platform.node()) == platform.node()
    if is_of_this_machine and state.get("lock", True):
        return False
    return abs(time.time() - run.status.stat().st_mtime) < SILENT_SECONDS


def _last_heard(run: RunFiles, state: dict[str, Any]) -> str:
    """What is known of the end of a run that was killed."""
    if "host" not in state:
        return ""
    last = datetime.fromtimestamp(run.status.stat().st_mtime, timezone.utc)
    return f"process {state.get('pid')} on {state['host']} is gone, last heard {last:%Y-%m-%d %H:%M:%S} UTC"
