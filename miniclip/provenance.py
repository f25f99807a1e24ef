"""Telling a user's own checkpoints from those of strangers, by a key that stays on the machine.

Evaluation reads the data that a checkpoint's config names, and a search shows images that an index names. A
run signs these settings, and an index its places, with a random key of its user, so that places which a
stranger wrote into a file are never opened by themselves.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

log = logging.getLogger(__name__)

KEY_BYTES = 32


CHECKPOINTS_UNSIGNED = (
    "The checkpoints of this run are not signed; miniclip evaluate will ask for the place of their data"
)


def sign(data: dict[str, Any], *, unsigned: str = CHECKPOINTS_UNSIGNED) -> str | None:
    """Sign plain data, such as the data part of a config; the user's key is made where there is none yet.

    None, and a line in the log, where the key cannot be kept or read.

    Args:
        unsigned: what the line says.
    """
    try:
        key = _read_key() or _make_key()
    except OSError as error:
        log.warning("%s (%s).", unsigned, error)
        return None
    return _signature(data, key)


def is_ours(data: dict[str, Any], signature: str | None) -> bool:
    """Whether a signature is that of data, by this user's key; makes no key."""
    if signature is None:
        return False
    try:
        key = _read_key()
    except OSError:
        return False
    return key is not None and hmac.compare_digest(_signature(data, key).encode(), signature.encode())


def _signature(data: dict[str, Any], key: bytes) -> str:
    """HMAC-SHA256 of the settings, in one spelling whatever their order."""
    spelled = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, spelled.encode(), hashlib.sha256).hexdigest()


def _folder() -> Path:
    """The folder that holds nothing but the key.

    Raises:
        OSError: when the user has no home.
    """
    folder = platformdirs.user_state_path("miniclip") / "signing"
    if not folder.is_absolute():  # below the working directory it could be anybody's
        raise FileNotFoundError("there is no home folder for a key")
    return folder


def _read_key() -> bytes | None:
    """The user's key; None where there is none yet.

    Raises:
        OSError: when it cannot be read, or is damaged.
    """
    path = _folder() / "key"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is damaged; remove it, and the next run makes another")
    return key


def _make_key() -> bytes:
    """A new key, or that of another process which was faster: the folder appears whole or not at all.

    Raises:
        OSError: when the folder cannot be written.
    """
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".signing.", dir=folder.parent))  # for the user alone
    try:
        _write_key(partial / "key")
        os.rename(partial, folder)
    except OSError:
        if not (folder / "key").exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)

    key = _read_key()
    if key is None:
        raise FileNotFoundError(f"{folder} does not keep a key")
    return key


def _write_key(path: Path) -> None:
    path.touch(mode=0o600, exist_ok=False)
    with path.open("wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
