"""Going on with a run: which checkpoint `trainer.resume` means, and what it hands over."""

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

from miniclip.errors import SettingError, UserError, counted
from miniclip.files import write_text
from miniclip.models.weights import digests_of_weights
from miniclip.runs import DamagedFile, RunDirectory, RunFiles, read_state
from miniclip.training.changed_settings import changed_settings
from miniclip.training.checkpoint import CheckpointError, load_checkpoint
from miniclip.training.kept_checkpoints import checkpoints_in
from miniclip.training.progress import Progress

log = logging.getLogger(__name__)

AUTO = "auto"
"""The value of `trainer.resume` that looks for an interrupted run by itself."""

LAST = "last.pt"
"""The checkpoint in whose place another is taken: whoever names one of the others means that one."""


def check_directory(resume: str | None, run: RunDirectory) -> None:
    """Refuse to write a second run over a first one, and to go on from a place that does not exist.

    Raises:
        UserError: when the directory holds a run that `trainer.resume` does not mean.
    """
    is_path = resume is not None and resume != AUTO
    if is_path:
        _check_path(str(resume))
    is_inside = is_path and Path(str(resume)).expanduser().resolve().is_relative_to(run.path.resolve())
    goes_on_here = resume == AUTO or is_inside
    if run.holds_a_run and not goes_on_here:
        raise UserError(
            f"{run.path} holds a run already ({read_state(run.path).status}). Go on with it: "
            "trainer.resume=auto; or give this run another directory: hydra.run.dir=..."
        )


def _check_path(resume: str) -> None:
    """Raise a SettingError where there is nothing to go on from; the checkpoint is read later."""
    path = Path(resume).expanduser()
    # in place of a missing last checkpoint another may stand in
    if not path.exists() and not checkpoints_in(path.parent):
        allowed = "does not exist; give a run directory or a checkpoint, or auto"
        raise SettingError("trainer.resume", resume, allowed)


def go_on(resume: str | None, run: RunDirectory, config: dict[str, Any]) -> Path | None:
    """Make a run directory ready for `Trainer.fit`, and find the checkpoint to pass to it.

    What a try in the same directory recorded before its first checkpoint is removed.
    """
    run.continued_in.unlink(missing_ok=True)  # from now on it goes on here
    checkpoint = find_checkpoint(resume, run, config)
    if checkpoint is None or not checkpoint.resolve().is_relative_to(run.path.resolve()):
        run.clear()
    if checkpoint is not None:
        run.go_on_from(source_of(checkpoint, run))
    return checkpoint


def source_of(checkpoint: Path, run: RunDirectory) -> Path:
    """The directory whose records lead up to a checkpoint: its run's; of a copy inside `run` that one."""
    former = RunFiles.of_checkpoint(checkpoint)
    is_copy = former is None and checkpoint.resolve().is_relative_to(run.path.resolve())
    return run.path if is_copy else checkpoint.parent.parent


def find_checkpoint(resume: str | None, run: RunDirectory, config: dict[str, Any]) -> Path | None:
    """The checkpoint that `trainer.resume` means; None for a fresh start. See `Trainer`.

    A run beside it is taken with "auto" if it was interrupted or killed, is of the same settings, and no
    other run has gone on with it; it belongs to this run then.
    """
    if resume is None:
        return None
    if not resume:
        raise SettingError("trainer.resume", repr(resume), "must be null, auto, or a path")
    if resume == AUTO:
        return _interrupted_run(run, config)

    path = Path(resume).expanduser()
    checkpoint = RunFiles(path).last_checkpoint if path.is_dir() else path
    former = RunFiles.of_checkpoint(checkpoint)
    if checkpoint.is_file() and former is not None and former.status.is_file():
        run.claim(former.path)
    return checkpoint


def _interrupted_run(run: RunDirectory, config: dict[str, Any]) -> Path | None:
    """The last checkpoint of this run directory, else of the newest fitting one beside it.

    Raises:
        UserError: when a finished run lies here that a fresh start would remove.
    """
    if checkpoints_in(run.checkpoints):  # the last may be missing: see `load_sound`
        return run.last_checkpoint
    if run.summary.exists():
        raise UserError(
            f"trainer.resume=auto: {run.path} holds a finished run without its checkpoints. Give this run "
            "another directory: hydra.run.dir=..."
        )

    num_others = 0
    for sibling in sorted(run.path.parent.iterdir(), key=_numbered_name, reverse=True):
        if sibling == run.path or not _may_go_on(sibling):
            continue
        if not _is_of_the_same_settings(sibling, config):
            num_others += 1
        elif run.claim(sibling):
            return RunFiles(sibling).last_checkpoint

    others = f" ({num_others} of other settings left alone)" if num_others else ""
    log.info(
        "trainer.resume=auto finds no interrupted run in %s%s: a fresh start.", run.path.parent, others
    )
    return None


def _numbered_name(folder: Path) -> list[str | int]:
    """What run directories are sorted by, the newest last: dates by name, and try_10 after try_9."""
    # text and digits take turns, so that each is compared with its kind
    parts = re.split(r"([0-9]+)", folder.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _may_go_on(folder: Path) -> bool:
    """Whether a folder holds a run that only lacked time; one that is damaged is told of."""
    try:
        has_checkpoint = RunFiles(folder).last_checkpoint.is_file()
    except DamagedFile as error:
        log.warning("trainer.resume=auto leaves it alone: %s", error)
        return False

    state = read_state(folder)
    if has_checkpoint and state.status == "unreadable":
        log.warning("trainer.resume=auto leaves it alone: %s", state.reason)
    return has_checkpoint and state.is_resumable


def carry_on_metrics(source: Path, run: RunDirectory, progress: Progress) -> None:
    """Give the run the records of the run it goes on from, itself perhaps, as far as the checkpoint stands.

    What follows training is measured again; so is the validation of the last step, if it was interrupted.
    """
    metrics = RunFiles(source).metrics
    if not metrics.is_file():
        run.metrics.unlink(missing_ok=True)
        return

    # a torn line, and what follows training, have no step that counts
    kept = []
    for line in _lines(metrics):
        record = _record(line)
        step = _step(record)
        is_training = "train/loss" in record
        is_validation = "val/rsum" in record
        comes_again = progress.validation_due and step == progress.step

        if step <= progress.step and (is_training or (is_validation and not comes_again)):
            kept.append(line)
    write_text(run.metrics, "".join(kept))


def carry_on_skipped(source: Path, run: RunDirectory, progress: Progress) -> None:
    """Give the run what is known of skipped steps, up to the checkpoint's, of the run it goes on from."""
    skipped = RunFiles(source).skipped_batches
    lines = _lines(skipped) if skipped.is_file() else []
    kept = [line for line in lines if _step(_record(line)) <= progress.step]
    if kept:
        write_text(run.skipped_batches, "".join(kept))
    else:
        run.skipped_batches.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    """The lines of a file of records; those that are damaged are left out, and told of."""
    lines = path.read_bytes().splitlines(keepends=True)
    texts = [line.decode("utf-8", errors="replace") for line in lines]
    sound = [text for text in texts if _record(text)]

    num_damaged = sum(text.endswith("\n") for text in texts) - len(sound)
    if num_damaged:
        log.warning("%s: %s left out.", path, counted(num_damaged, "damaged line"))
    return sound


def _record(line: str) -> dict[str, Any]:
    """A line of a file of records; empty if it is torn or damaged."""
    try:
        record = json.loads(line) if line.endswith("\n") and "\ufffd" not in line else {}
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def load_sound(path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint; in place of a damaged or missing last one the newest sound one beside it.

    Returns:
        its path and its content.

    Raises:
        CheckpointError: when there is none.
    """
    try:
        return path, load_checkpoint(path)
    except CheckpointError as error:
        found = _newest_sound(path.parent) if path.name == LAST else None
        if found is None:
            raise

        log.warning(
            "%s Going on from the newest sound checkpoint beside it, %s, of step %d.",
            error,
            found[0],
            found[1]["progress"]["step"],
        )
        return found


def _newest_sound(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of a folder that has come furthest, of those that are whole."""
    newest, furthest = None, (-1, -1)
    for path in checkpoints_in(folder):
        try:
            content = load_checkpoint(path)
        except CheckpointError:
            continue
        # the same step was saved before its validation and after it
        come = content["progress"]["step"], content["progress"]["validations"]
        if come > furthest:
            newest, furthest = (path, content), come
    return newest


def _step(record: dict[str, Any]) -> float:
    """The step of a record; infinite where it has none."""
    step = record.get("step")
    return step if isinstance(step, int) else math.inf


def is_checkpoint_of(path: Path, best: dict[str, Any]) -> bool:
    """Whether a file holds, undamaged, the weights that a validation record was measured with."""
    try:
        progress = load_checkpoint(path)["progress"]
    except CheckpointError as error:
        log.warning("%s", error)
        return False
    kept = progress["best"]
    if kept is None or progress["step"] != best["step"]:
        return False
    return all(kept[key] == best[key] for key in ("step", "val/rsum"))


def _is_of_the_same_settings(folder: Path, config: dict[str, Any]) -> bool:
    try:
        theirs = RunFiles(folder).read_config()
    except DamagedFile as error:
        log.warning("trainer.resume=auto leaves it alone: %s", error)
        return False
    # another budget is another schedule, which only who names the run can want
    their_budget, our_budget = (each.get("trainer", {}).get("budget") for each in (theirs, config))
    if their_budget != our_budget or changed_settings(theirs, config):
        return False
    return not other_weights(folder, config)


def other_weights(folder: Path, config: dict[str, Any]) -> list[str]:
    """The settings of a config whose files hold other weights than a run began with."""
    try:
        theirs = RunFiles(folder).read_weights()
    except DamagedFile:
        return []
    ours = digests_of_weights(config)
    return [name for name, digest in ours.items() if digest != theirs.get(name, digest)]
