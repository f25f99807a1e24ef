"""Digests of a checkpoint's parts: they tell whether what was read is what was written.

The checksums of the archive cover its bytes, not which of them become which tensor. A digest covers the
content itself, names, shapes and values, and each part has one of its own: who reads some parts only can
hold these against theirs. It lies in the checkpoint, so that a file that is moved or renamed keeps it.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from miniclip.errors import UserError

DIGESTS = "sha256"
"""The entry of a checkpoint that holds the digest of every other entry."""


def digests_of(content: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of every part of a checkpoint, by its name."""
    return {name: digest_of(part) for name, part in content.items() if name != DIGESTS}


def check_digests(content: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Hold the parts of a checkpoint against the digests that were written with them.

    Args:
        content: all parts, or those that were read.

    Raises:
        UserError: names the part that is not what was written.
    """
    for name, part in content.items():
        if name != DIGESTS and digest_of(part) != digests.get(name):
            raise UserError(f"its {name!r} is not what was written: the SHA-256 differs")


def digest_of(part: Any) -> str:
    """The SHA-256 of tensors and plain data, nested in dicts, lists and tuples."""
    digest = hashlib.sha256()
    _add(part, digest)
    return digest.hexdigest()


def _add(value: Any, digest: Any) -> None:
    """Add a value and its kind, so that no two different values add the same bytes."""
    if isinstance(value, Tensor):
        _add_tensor(value, digest)
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)};".encode())
        for key, below in value.items():
            _add(key, digest)
            _add(below, digest)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)};".encode())
        for below in value:
            _add(below, digest)
    else:
        text = repr(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__} {len(text)};".encode())
        digest.update(text)


def _add_tensor(tensor: Tensor, digest: Any) -> None:
    """Add dtype, shape and values; how they lie in memory counts for nothing."""
    on_host = tensor.detach().cpu()
    # a forged tensor can repeat one number without end
    if on_host.nbytes > on_host.untyped_storage().nbytes():
        raise UserError("a tensor in it is larger than its memory")

    digest.update(f"{on_host.dtype} {tuple(on_host.shape)};".encode())
    values = on_host.contiguous().reshape(-1)  # (N,)
    if values.numel():
        digest.update(values.view(torch.uint8).numpy().data)
