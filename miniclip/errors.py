"""Errors a user can mend. The command line prints them as one line, without a traceback."""


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
        return f"{self.setting}={self.value}: {self.allowed}. Change it with {self.setting}=..."


class BrokenImage(UserError):
    """An image cannot be read.

    Attributes:
        reason: "missing", "too large" or "broken", to count by.
    """

    def __init__(self, text: str, reason: str = "broken"):
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str]]:
        return BrokenImage, (str(self), self.reason)
