"""Checkpoints: plain tensors and plain data in one file that is whole or not there."""

import os
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from miniclip.disk_errors import naming
from miniclip.errors import UserError, counted, first_line
from miniclip.files import flatten, partial_path, replace, replacing
from miniclip.renamed import renamed_config
from miniclip.training.contents import check_contents, check_progress
from miniclip.training.digests import DIGESTS, check_digests, digest_of, digests_of

FORMAT = 2
"""What is written. Format 1 counted positions in batches; it is read as well."""

TENSORS = "/data/"
"""What lies between an archive's own name and the number of a tensor's memory."""

READ_AT_ONCE = 2**20


class CheckpointError(UserError):
    """A file is no checkpoint to go on with: it is missing, damaged, or holds anything else."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, replacing it in one step: a reader sees the old file or the new one.

    Raises:
        OSError: when the system does not write it; no part of it is left.
    """
    parts = {"format": FORMAT, **content}
    whole = {**parts, DIGESTS: digests_of(parts)}
    with replacing(path, "wb") as file:
        output = _Output(file)
        torch.save(whole, output)  # type: ignore[arg-type]  # all that torch calls is there
        output.check()
        file.flush()
        os.fsync(file.fileno())


class _Output:
    """A file as torch writes to it, which keeps the system's reason why it cannot be written.

    torch goes on after an error, and tells of a position in its place.
    """

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing: what `check` tells would be lost."""

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise self.error


def copy_checkpoint(source: Path, target: Path) -> None:
    """Give a written checkpoint a second name; as a hard link where the file system has them."""
    partial = partial_path(target)
    with naming(target, partial):
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        replace(partial, target)
        partial.unlink(missing_ok=True)  # two names of one file are not replaced by each other


def save_weights(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write a state dict as safetensors, which any library reads, with facts about it as text.

    One of the facts is "sha256": `digest_of` the tensors in the order of their names.

    Raises:
        OSError: when the system does not write it; no part of it is left.
    """
    # safetensors takes no tensor that lies in another order, or shares memory with a second one
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in sorted(weights.items())
    }
    metadata = {name: str(fact) for name, fact in facts.items()} | {DIGESTS: digest_of(tensors)}
    with replacing(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path, *, unread: Collection[str] = ()) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        unread: parts that the caller does not use, which are not held against what was written. Where there
            are any, all tensors stay in the file, from which each is read when it is used.

    Raises:
        CheckpointError: when it is missing, damaged, of another format, or holds anything but what a run
            writes.
    """
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"The checkpoint {path} {problem}.")

    try:
        content = _read(path, unread)
    except Exception as error:  # a damaged file makes almost any of torch's reader
        # torch's own words advise to let the file execute code
        known = isinstance(error, UserError | OSError)
        reason = error if known else "it cannot be read as plain tensors and data"
        raise CheckpointError(f"The checkpoint {path} is damaged or no checkpoint ({reason}).") from None

    if not isinstance(content, dict) or content.get("format") not in (1, FORMAT):
        raise CheckpointError(f"The file {path} is not a MiniCLIP checkpoint of format {FORMAT}.")

    try:
        check_contents(content)
        content["config"] = renamed_config(content["config"])
        content = _from_format_1(content) if content["format"] == 1 else content
        check_progress(content["progress"])
    except (UserError, LookupError, TypeError) as error:
        reason = error if isinstance(error, UserError) else f"its progress is that of no run ({error!r})"
        raise CheckpointError(f"The checkpoint {path} is refused: {reason}.") from None
    return content


def sound_beside(path: Path) -> str:
    """Where to find another checkpoint than a damaged one, as the end of a sentence; empty if nowhere."""
    steps: list[str] = []
    for other in sorted(set(path.parent.glob("*.pt")) - {path}):
        with suppress(CheckpointError):
            steps.append(f"{other.name} (step {load_checkpoint(other)['progress']['step']})")
    return f" Sound ones beside it: {', '.join(steps)}." if steps else ""


def _read(path: Path, unread: Collection[str]) -> Any:
    """What the file holds, once what is read was held against its digests, or the checksums of older files.

    Raises:
        UserError: when bytes are damaged.
    """
    _check_archive(path, tensors=False)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(unread))

    digests = content.pop(DIGESTS, None) if isinstance(content, dict) else None
    if digests is None:
        _check_archive(path, tensors=True)
    else:
        read = {name: part for name, part in content.items() if name not in unread}
        check_digests(read, digests)
    return content


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of version 0.1.0 as format 2 has it."""
    trainer = content["config"]["trainer"]
    progress = dict(content["progress"])
    progress["position"] = progress.pop("batch") * trainer["batch_size"]
    progress["forward_passes"] = None
    progress["total_seconds"] = progress["seconds"]
    # whether the last epoch was validated is not known; if the run ends here, it is so once more
    best = progress["best"]
    progress["validated_step"] = 0 if best is None else best["step"]
    progress["validations"] = progress["epoch"] // trainer["validate_every_epochs"]
    return {**content, "format": FORMAT, "progress": progress}


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn whatever odd contents make the parts of a run raise into one line.

    Raises:
        UserError: when they do not fit.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"The checkpoint {path} does not fit this run ({reason}).") from error


def _check_archive(path: Path, *, tensors: bool) -> None:
    """Hold the archive that torch writes against its checksums, which torch does not look at.

    Args:
        tensors: whether to read the tensors, too, which are nearly all of it.

    Raises:
        UserError: when bytes are damaged, or its content would take more memory than the file.
    """
    if not zipfile.is_zipfile(path):
        raise UserError("it is no archive of tensors, or its end is missing")

    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        is_packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if is_packed or sum(member.file_size for member in members) > path.stat().st_size:
            raise UserError("it holds more than its size says")

        for member in members:
            if tensors or TENSORS not in member.filename:
                _check_member(archive, member)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as file:
            while file.read(READ_AT_ONCE):
                pass
    except zipfile.BadZipFile:
        raise UserError("its bytes are not those that were written: a checksum differs") from None


def load_model(model: nn.Module, checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Load the checkpoint's weights; see `check_architecture`."""
    check_architecture(model, checkpoint, config)
    model.load_state_dict(checkpoint["model"])


def check_architecture(model: nn.Module, checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Hold the tensors of a model, which needs no memory for it, against those of a checkpoint.

    Raises:
        UserError: when it is of another architecture; names the settings that differ.
    """
    theirs, ours = checkpoint["model"], model.state_dict()
    common = {key for key in theirs.keys() & ours.keys() if theirs[key].shape == ours[key].shape}
    wrong = sorted((theirs.keys() | ours.keys()) - common)

    if wrong:
        parts = ("encoder", "projection", "temperature", "loss", "tokenizer", "embed_dim", "context_length")
        settings = [
            f"{name}={value} (here {flatten(config).get(name)})"
            for name, value in flatten(checkpoint["config"]).items()
            if name.startswith(parts) and flatten(config).get(name) != value
        ]
        raise UserError(
            f"The checkpoint is of another architecture. {counted(len(wrong), 'tensor')} of other names or "
            f"shapes, the first is {wrong[0]}. It was made with "
            f"{', '.join(settings) or 'other training captions'}."
        )
