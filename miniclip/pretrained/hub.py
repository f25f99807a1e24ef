"""Models on the Hugging Face Hub."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from miniclip.errors import SettingError, UserError, first_line
from miniclip.pretrained.folder import FILES

REPO_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

HOW_TO_LOG_IN = " Log in by the environment's HF_TOKEN, or: hf auth login"


def is_repo_name(text: str) -> bool:
    """Whether a text can be OWNER/MODEL."""
    return REPO_NAME.fullmatch(text) is not None


def download(repo_id: str, *, token: str | None) -> Path:
    """The folder of a model of the hub, in the hub's own cache.

    Raises:
        UserError: when it cannot be had.
    """
    from huggingface_hub import snapshot_download

    with _told(f"The model {repo_id} is neither a path here nor to be had from the Hugging Face Hub"):
        return Path(snapshot_download(repo_id, allow_patterns=list(FILES), token=token))


def upload(save: Callable[[Path], Path], repo_id: str, *, private: bool, token: str | None) -> str:
    """Save a model into a repository of the hub. Returns its address.

    Args:
        save: writes the model into a folder.

    Raises:
        UserError: when the name is none, nobody is logged in or the hub refuses.
    """
    from huggingface_hub import HfApi

    if not is_repo_name(repo_id):  # of MODEL alone the hub would make OWNER/MODEL, and take no file for it
        raise SettingError("repo_id", repo_id, "must be OWNER/MODEL")

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        with _told(f"The model cannot be pushed to {repo_id}", hint=HOW_TO_LOG_IN):
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Add a MiniCLIP model")
    return str(address)


@contextmanager
def _told(problem: str, *, hint: str = "") -> Iterator[None]:
    """Whatever the hub or the network raise is one line."""
    try:
        yield
    except Exception as error:  # of the hub, of its client, or of the network
        reason = first_line(error)
        raise UserError(f"{problem} ({reason}).{hint}") from None
