"""Errors a user can fix, which the command line prints as one line; how settings and counts are written."""

import math
import os
import re
import shlex
from collections.abc import Sequence

PLAIN_VALUE = re.compile(r"[\w./+-]*[A-Za-z_/][\w./+-]*", re.ASCII)
"""Text that Hydra takes as it is: no number, and no sign of its grammar."""

PASSWORD_IN_URL = re.compile(r"://[^/\s]+@")

TOKEN = re.compile(
    r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-|AKIA|wandb_v\d_)[\w-]{16,}",  # of hubs, hosts and clouds
    re.ASCII,
)

NAME_OF_SECRET = re.compile(r"(?i)(^|_)(api_?key|access_key|token)$|secret|passw(or)?d$")
"""Names of settings, and of variables of the environment, whose values are for nobody's eyes."""

KEY_OF_SERVICE = re.compile(r"(?i)_(key|pass|pat)$")
"""The same of variables alone: KAGGLE_KEY, DB_PASS; a setting's key may be that of a table."""

SHORTEST_SECRET = 12
"""Letters; a shorter value of the environment may be a word of any text."""

SECRETS = (
    (re.compile(r"//\S*@"), "//***@"),  # user:password before a host
    (re.compile(r"[^\s/:@]+:(?![/\\])[^\s]*@"), "***@"),
    (TOKEN, r"\1***"),
    (re.compile(r"\bhf_\w+"), "hf_***"),
    (re.compile(r"(?i)\b(token|key|password|secret)=(?!\*{3}:)[^\s&]+"), r"\1=***"),
)

FOR_TERMINALS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for a tab and the end of a line
    r"\u202a-\u202e\u2066-\u2069]"  # letters in another order than they stand
)
"""What a terminal obeys instead of showing it: it moves the cursor, hides and recolors what was printed."""

HOW_TO_LOG_IN = "holds a password or token; give the name alone, and log in by HF_TOKEN or: hf auth login"

WORDS_OF_HYDRA = {"null", "true", "false", "inf", "nan"}


class UserError(ValueError):
    """Something outside the code is wrong (a file, a setting, the machine); the text says what to do."""


class SettingError(UserError):
    """A setting has a value that is not allowed.

    Raised by the part that uses the value, which knows only its own parameter name (`rho`). The build
    step puts the part's place in front, so that the user reads the name they typed (`optimizer.rho`).
    """

    def __init__(self, setting: str, value: object, allowed: str):
        super().__init__(setting, value, allowed)
        self.setting = setting
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        # true, false and null as they are typed
        value = _for_hydra(self.value) if self.value is None or isinstance(self.value, bool) else self.value
        return f"{self.setting}={value}: {self.allowed}. Change it with {self.setting}=..."


UNREADABLE = "unreadable"
"""Reason of a `BrokenImage` which another time may be whole: the system refused to read its file."""


class BrokenImage(UserError):
    """An image cannot be read.

    Attributes:
        reason: "missing", "too large", `UNREADABLE` or "broken", to count by.
    """

    def __init__(self, text: str, reason: str = "broken"):
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str]]:
        return BrokenImage, (str(self), self.reason)


def at_least(setting: str, value: float, least: float, *, hint: str = "") -> None:
    """Raise a SettingError where a value is below the least one, infinite or no number.

    Args:
        hint: what else the error says, as in " and finite".
    """
    if not least <= value < math.inf:
        raise SettingError(setting, value, f"must be at least {least}{hint}")


def above_zero(setting: str, value: float, *, hint: str = "") -> None:
    """Raise a SettingError where a value is not positive.

    Args:
        hint: what else the error says, as in "; trainable=none freezes the backbone".
    """
    if not value > 0:
        raise SettingError(setting, value, f"must be above 0{hint}")


def in_range(
    setting: str,
    value: float,
    low: float,
    high: float,
    *,
    includes_low: bool = True,
    includes_high: bool = True,
    high_is: str = "",
) -> None:
    """Raise a SettingError where a value lies outside of a range.

    Args:
        high_is: name of the setting that is the upper limit, such as "context_length".
    """
    is_above = low <= value if includes_low else low < value
    is_below = value <= high if includes_high else value < high
    if is_above and is_below:
        return

    limit = f"{high_is}={high:g}" if high_is else f"{high:g}"
    if includes_low and includes_high:
        raise SettingError(setting, value, f"must lie between {low:g} and {limit}")
    signs = ("<=" if includes_low else "<", "<=" if includes_high else "<")
    raise SettingError(setting, value, f"must lie in {low:g} {signs[0]} {setting} {signs[1]} {limit}")


def one_of(setting: str, value: object, choices: Sequence[str]) -> None:
    """Raise a SettingError that lists the choices where a value is none of them."""
    if value not in choices:
        *others, last = choices
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise SettingError(setting, value, f"must be {allowed}")


def first_line(error: BaseException) -> str:
    """What an error says, without the lines below the first; the name of its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def without_secrets(text: str) -> str:
    """The text with *** for passwords, tokens, and the environment's keys."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, "***")
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def visible(text: str) -> str:
    """The text with what a terminal would obey as an escape, such as \\x1b; lines and tabs stay."""
    return FOR_TERMINALS.sub(lambda found: ascii(found[0])[1:-1], text)


def holds_secret(text: str) -> bool:
    """Whether a text surely holds a password, a token, or one of the environment's keys."""
    has_key = any(secret in text for secret in _secrets_of_environment())
    return has_key or PASSWORD_IN_URL.search(text) is not None or TOKEN.search(text) is not None


def is_name_of_secret(name: str) -> bool:
    """Whether a setting is by its name a password or a key."""
    return NAME_OF_SECRET.search(name) is not None


def is_secret_variable(name: str) -> bool:
    """Whether a variable of the environment is by its name a password or a key."""
    return is_name_of_secret(name) or KEY_OF_SERVICE.search(name) is not None


def _secrets_of_environment() -> list[str]:
    """Passwords and keys that the environment holds, the longest first."""
    values = {value for name, value in os.environ.items() if is_secret_variable(name)}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def as_override(key: str, value: object) -> str:
    """A setting as it is typed in a shell, for Hydra: `'trainer.resume="a=b c"'`.

    Text that means something else to Hydra (a number, `null`, one with `=`, spaces, commas or brackets) is
    quoted for it, and the whole then for the shell. None is `null`; a list is one for Hydra, too.
    """
    return shlex.quote(for_hydra(key, value))


def for_hydra(key: str, value: object) -> str:
    """A setting as Hydra reads it, without quotes for a shell; see `as_override`."""
    return f"{key}={_for_hydra(value)}"


def _for_hydra(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_for_hydra, value))}]"
    return _text_for_hydra(str(value))


def _text_for_hydra(text: str) -> str:
    looks_like_number = re.fullmatch(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE)
    is_word = text.lower().lstrip("+-") in WORDS_OF_HYDRA
    if PLAIN_VALUE.fullmatch(text) and not looks_like_number and not is_word:
        return text

    # inside quotes a backslash is one, but in front of a quote it escapes it
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    escaped = escaped.replace("${", r"\${")  # which would be looked up
    return f'"{escaped}"'
