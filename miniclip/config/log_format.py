"""The format of a run's log, on the console and in its file."""

import logging

from miniclip.errors import without_secrets


class LogFormat(logging.Formatter):
    """A formatter whose lines, tracebacks among them, show no passwords and no keys of the environment."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
