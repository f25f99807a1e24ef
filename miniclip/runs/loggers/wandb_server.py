"""What the server of Weights & Biases answers, and the end of W&B's own process."""

import base64
import json
import netrc
import os
import queue
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from urllib.parse import ParseResult, urlparse

PROBE_SECONDS = 4.0
"""A slow server, which answers each of several requests after two seconds, is still waited for."""


def end_service() -> None:
    """End W&B's own process here, for which Python would else wait at its end."""
    import wandb

    with suppress(Exception):  # it may be gone
        wandb.teardown()


def kill_service() -> None:
    """End W&B's own process at once; its orderly end would wait for the server."""
    from wandb.sdk import wandb_setup

    with suppress(AttributeError):  # it has not started
        wandb_setup._singleton._connection._proc._process.kill()  # type: ignore[union-attr]


def end_telemetry() -> None:
    """Keep W&B's own measurements off, for whose server Python would wait ten seconds at its end."""
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


def why_offline(answers: "queue.SimpleQueue[str]") -> str:
    """What keeps a run from Weights & Biases; empty when its server takes the key.

    Args:
        answers: where the server's answer arrives, or that of one who waits for it no longer.
    """
    key = _api_key()
    if not key:
        return "Weights & Biases has no API key (WANDB_API_KEY, or run: wandb login)"

    answer = _problem_within(PROBE_SECONDS, answers, key)
    return f"Weights & Biases at {_server().hostname} {answer}" if answer else ""


def is_answering(seconds: float) -> bool:
    """Whether the server takes the key, asked now and waited for so long."""
    return not _problem_within(seconds, queue.SimpleQueue(), _api_key())


def _problem_within(seconds: float, answers: "queue.SimpleQueue[str]", key: str) -> str:
    """What is wrong with the server, or that it does not answer in time; empty when it takes the key."""
    threading.Thread(target=lambda: answers.put(_problem_of_server(key)), daemon=True).start()
    try:
        return answers.get(timeout=seconds)  # urllib's own limit is one for each read
    except queue.Empty:
        return "does not answer"


def _problem_of_server(key: str) -> str:
    """Ask the server who the key belongs to."""
    # the smallest question that needs a key
    request = urllib.request.Request(
        f"{_server().geturl().rstrip('/')}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { id } }"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        },
    )

    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        return "does not take the API key" if error.code in (401, 403) else f"answers {error.code}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        has_timed_out = isinstance(error, TimeoutError) or isinstance(reason, TimeoutError)
        return "does not answer" if has_timed_out else f"cannot be used ({reason})"
    return "" if isinstance(answer, dict) and "data" in answer else "answers something else"


def _server() -> ParseResult:
    return urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")


def _api_key() -> str:
    """The key of the environment, or of the netrc file that `wandb login` writes; else empty."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]

    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(_server().netloc)
        return found[2] or "" if found else ""
    return ""
