"""What Weights & Biases refuses of its settings, told before any data are read."""

import importlib.util
import os

from miniclip.errors import SettingError, UserError, is_secret_variable

SHOWN = ("WANDB_PROJECT", "WANDB_MODE", "WANDB_TAGS", "WANDB_RESUME")
"""Variables whose values are told; others may hold what is secret."""


def check_wandb_settings(*, project: str) -> None:
    """Hold the project and the environment's WANDB_ variables against Weights & Biases' own check.

    Raises:
        UserError: when `wandb.init` would fail by one of them, or wandb is missing.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError('logger=wandb needs wandb: pip install -e ".[wandb]"')

    variables = [name for name in os.environ if name.startswith("WANDB_") and not is_secret_variable(name)]
    for name in variables:
        value = os.environ[name]
        reason = _refusal(name, value)
        if reason:
            shown = f"{name}={value}" if name in SHOWN else name
            told = f"{shown}: Weights & Biases refuses this variable of the environment: {reason}"
            raise UserError(f"{told}. Change it with {name}=..., or unset {name}")

    reason = _refusal("WANDB_PROJECT", project)
    if reason:
        raise SettingError("project", project, f"Weights & Biases refuses it: {reason}")


def _refusal(name: str, value: str) -> str:
    """Why Weights & Biases takes no such value of a variable; empty where it does, or does not know it."""
    import wandb
    from pydantic import ValidationError

    try:
        wandb.Settings().update_from_env_vars({name: value})
    except wandb.errors.UsageError as error:
        return str(error).removeprefix(f"Invalid project name {value!r}: ")
    except ValidationError as error:
        # its text has several lines, the reason in their midst
        return error.errors()[0]["msg"]
    return ""
