"""The format of a run's log, on the console and in its file."""

import logging

from miniclip.errors import visible, without_secrets


class LogFormat(logging.Formatter):
    """A formatter whose lines, tracebacks among them, show no passwords and no keys of the environment.

    What a terminal would obey is escaped, as a log may tell what stands in a stranger's file.
    """

    def format(self, record: logging.LogRecord) -> str:
        return visible(without_secrets(super().format(record)))
