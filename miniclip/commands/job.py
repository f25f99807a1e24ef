"""One job of the command line: a run, or one of a sweep, from its config to the table at its end."""

import logging
import math
import os
import shlex
import signal
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from miniclip.allocator import keep_freed_memory
from miniclip.commands.job_text import headline, table
from miniclip.commands.out_of_memory import is_out_of_memory, out_of_memory_text
from miniclip.commands.processes import Followers, joined
from miniclip.config.build import build
from miniclip.config.compose import short_overrides
from miniclip.config.instantiate import make
from miniclip.data import ImageTextDataset
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.disk_errors import DiskError, disk_errors_told
from miniclip.distributed import LostProcess
from miniclip.errors import UserError, as_override, first_line
from miniclip.evaluation import Result, TaskContext, flat_numbers, result_text
from miniclip.figures import draw_curves, draw_retrieval
from miniclip.metrics import Features, retrieval_ranks
from miniclip.pretrained import MiniCLIP, ModelBundle
from miniclip.runs import DamagedFile, JsonlLogger, RunDirectory, RunFacts, RunFiles, read_state
from miniclip.runs.environment import git_revision
from miniclip.runs.job_key import job_key
from miniclip.runs.run_directory import Status
from miniclip.runs.state import who_is_heard
from miniclip.runs.sweep import Sweep
from miniclip.stop_signals import Interrupted, signal_name, stop_signals
from miniclip.training import Trainer, TrainingSetup
from miniclip.training.guards import Diverged
from miniclip.training.held_out import HeldOutResult, measure_test
from miniclip.training.reproducibility import deterministic_algorithms, release_memory
from miniclip.training.resuming import check_directory, go_on, other_weights

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig) -> float:
    """One run, or one of a sweep. Returns the best rsum, for sweepers to maximise.

    Raises:
        Interrupted: when a signal ends it, after what there is has been saved.
    """
    keep_freed_memory()
    with stop_signals.caught(), joined() as followers:
        followers.check_settings(OmegaConf.to_container(cfg, resolve=True))
        if followers.world.is_main:
            return _run_main(cfg, followers)
        return _run_along(cfg, followers)


def _run_main(cfg: DictConfig, followers: Followers) -> float:
    """The job of a process alone, or of the main one of several."""
    settings = HydraConfig.get()
    place = Path(settings.runtime.output_dir)
    # what is not in `_train` is quickly done, and not to be torn
    with stop_signals.deferred():
        if settings.mode is RunMode.MULTIRUN:
            overrides = list(settings.overrides.task)
            return _job_of_sweep(cfg, place, Path(settings.sweep.dir), overrides, followers)

        run = RunDirectory(place)
        with run.lock():
            check_directory(cfg.trainer.resume, run)
            if _is_completed(cfg, run):
                _tell_of_other_files(cfg, run.path, folder="hydra.run.dir")
                log.info("Completed already, nothing is left to do: %s", run.path)
                return run.read_summary()["best_rsum"]
            with run.kept_until_it_goes_on():
                return _train(cfg, run, followers)


def _is_completed(cfg: DictConfig, run: RunDirectory) -> bool:
    """Whether the directory holds the very run that is asked for, to its end."""
    if read_state(run.path).status != "completed" or "best_rsum" not in run.read_summary():
        return False
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    before = run.read_config()
    return job_key(config) == job_key(before) and config["eval"] == before.get("eval")


def _job_of_sweep(
    cfg: DictConfig, place: Path, folder: Path, overrides: list[str], followers: Followers
) -> float:
    """Train unless that is done; what fails is told and leaves the other jobs running."""
    sweep = Sweep(folder)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    key = job_key(config)

    # an earlier launch, or a process beside this one, may have the job
    before = sweep.job(key)
    if before is not None and before.is_completed:
        log.info("Done already: %s", before.path)
        for damage in before.damages:
            log.warning("%s", damage)
        _tell_of_other_tasks(config, before.path)
        _tell_of_other_files(cfg, before.path, folder="hydra.sweep.dir")
        return before.summary["best_rsum"]
    if before is not None and before.state.status == "running":
        log.warning("Another process is at it: %s%s", before.path, who_is_heard(before.path))
        return math.nan

    if sweep.is_of_another_job(place, key):  # the same number and name in an earlier launch
        place = place.with_name(f"{place.name}_{key[:8]}")

    try:
        with disk_errors_told():
            run = RunDirectory(place)
        with disk_errors_told(), run.lock(), _own_device(cfg, sweep, followers) as device:
            resume = None if before is None else before.checkpoint
            if before is None or resume is None or before.path.resolve() != run.path.resolve():
                run.clear()  # what an earlier try left
            run.write_job(key=key, overrides=overrides)

            settings = {"device": device, "trainer": {"resume": None if resume is None else str(resume)}}
            return _train(OmegaConf.merge(cfg, settings), run, followers)  # type: ignore[arg-type]
    except Exception as error:
        show = log.error if isinstance(error, UserError) else log.exception
        show("This job failed, the others go on: %s", error)
        return math.nan
    finally:
        sweep.write_summary()
        release_memory()


def _own_device(cfg: DictConfig, sweep: Sweep, followers: Followers) -> AbstractContextManager[str]:
    """The device of a job: with "auto" a GPU that no other job of the sweep has, if there is one.

    Each of several processes takes the one of its place among those of its machine.
    """
    is_free_to_choose = cfg.device == "auto" and followers.world.is_alone
    return sweep.own_device(torch.cuda.device_count()) if is_free_to_choose else nullcontext(cfg.device)


def _train(cfg: DictConfig, run: RunDirectory, followers: Followers) -> float:
    """Train and measure one run; whatever happens, its status is written."""
    run.write_status("running")
    try:
        with (
            deterministic_algorithms(cfg.trainer.deterministic),
            disk_errors_told(),
            run.heartbeat(),
            stop_signals.raised(partial(_write_interrupted, run)),
        ):
            summary, measured = _train_and_measure(cfg, run, followers)
            stop_signals.check()  # a library may have swallowed it
    except (KeyboardInterrupt, SystemExit) as error:
        signum = getattr(error, "signum", signal.SIGINT)
        _write_interrupted(run, signum)
        stop_signals.hand_over(signum)
        raise
    except LostProcess as error:
        _write_last_status(run, "interrupted", reason=str(error))
        raise
    except DiskError as error:
        # with room on the disk it would not fail again
        _write_last_status(run, "interrupted" if error.takes_no_more else "failed", reason=str(error))
        raise DiskError(error.cause, _way_on(run, error)) from error
    except BaseException as error:
        signaled = stop_signals.signum
        if signaled is not None and stop_signals.is_noticed:
            _write_interrupted(run, signaled, what_else=f"; then {error}")
            raise Interrupted(signaled) from error
        _write_failure(run, error)
        raise

    run.write_status("completed")
    log.info("%s", table(summary, run))
    for task, result in measured.items():
        log.info("%s", result_text(task, result))
    return summary["best_rsum"]


def _run_along(cfg: DictConfig, followers: Followers) -> float:
    """The job of a process beside the main one; of a sweep, what fails leaves the other jobs running."""
    try:
        return _train_along(cfg, followers)
    except Exception as error:
        if HydraConfig.get().mode is RunMode.RUN:
            raise
        show = log.error if isinstance(error, UserError) else log.exception
        show("This job failed in process %d, counted from 0: %s", followers.world.rank, error)
        return math.nan


def _tell_of_other_tasks(config: dict[str, Any], path: Path) -> None:
    """Tell that a job which is done was not measured by the tasks that are asked for now."""
    try:
        measured = RunFiles(path).read_config().get("eval")
    except DamagedFile:
        return
    tasks = list(config["eval"]["tasks"])
    if tasks and measured != config["eval"]:
        log.warning(
            "It was trained with another eval, and is not measured again: miniclip evaluate %s %s",
            shlex.quote(os.path.relpath(path)),
            " ".join(tasks),
        )


def _tell_of_other_files(cfg: DictConfig, path: Path, *, folder: str) -> None:
    """Tell that the settings lead to other images, captions or first weights than a run was trained with.

    Args:
        folder: the setting of where another run could be written.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    try:
        trained_on = RunFiles(path).read_data()
        today = make(cfg, "data").fingerprints()
        others = [name for name, own in today.items() if own != trained_on.get(name, {}).get("fingerprint")]
    except (DamagedFile, UserError, OSError):  # what is no longer there is no other
        trained_on, others = {}, []

    changed = [f"other images or captions ({', '.join(others)})"] if trained_on and others else []
    changed += [f"other weights in {setting}" for setting in other_weights(path, config)]
    if changed:
        log.warning(
            "Since it was trained its files have changed: %s. To train with them: another %s",
            "; ".join(changed),
            folder,
        )


def _train_along(cfg: DictConfig, followers: Followers) -> float:
    """The job of a process beside the main one; what it writes is thrown away."""
    order = followers.wait_for_order()
    if order is None:
        return math.nan

    with tempfile.TemporaryDirectory(prefix="miniclip-process-") as folder:
        run = RunDirectory(Path(folder))
        trainer, setup, _ = build(cfg, run)
        logger = JsonlLogger(every_steps=None)
        trainer.train_along(setup, run, logger, checkpoint=order.checkpoint)
    return math.nan


def _write_last_status(run: RunDirectory, status: Status, **details: str) -> None:
    """Record how a run has ended that did not complete; if that fails, what ended it is still told."""
    try:
        run.write_status(status, **details)
    except OSError as error:
        log.debug("%s: %s", run.status, error)


def _way_on(run: RunDirectory, error: DiskError) -> str:
    """How to go on with a run whose disk takes no more, or where else to begin it."""
    if run.last_checkpoint.is_file():
        return f"Then go on with: {as_override('trainer.resume', str(run.path))}"
    is_of_run = run.path.is_dir() and str(error.cause.filename).startswith(str(run.path))
    return "Where a run is written: hydra.run.dir=FOLDER" if is_of_run else ""


def _write_interrupted(run: RunDirectory, signum: int, what_else: str = "") -> None:
    _write_last_status(run, "interrupted", reason=f"{signal_name(signum)}{what_else}")


def _write_failure(run: RunDirectory, error: BaseException) -> None:
    """Write why a run has failed.

    Raises:
        UserError: in place of an error of memory, or of torch.compile; says what needs less, or not that.
    """
    cause = _root(error)
    if is_out_of_memory(cause):
        told = UserError(out_of_memory_text(cause, run))
        _write_last_status(run, "out_of_memory", reason=str(told))
        raise told from error

    if is_of_compiler(cause):
        told = UserError(
            f"torch.compile fails ({first_line(cause)}). It wants a C++ compiler, on a GPU Triton; "
            "without them take trainer.compile=false"
        )
        _write_last_status(run, "failed", reason=str(told))
        raise told from error

    status: Status = "diverged" if isinstance(cause, Diverged) else "failed"
    _write_last_status(run, status, reason=f"{type(cause).__name__}: {cause}")


def _train_and_measure(
    cfg: DictConfig, run: RunDirectory, followers: Followers
) -> tuple[dict[str, Any], dict[str, Result]]:
    """The summary of the training, and what each task of `eval` found."""
    trainer, setup, logger = build(cfg, run)

    # some tasks are measured at each validation, too
    evaluation = make(cfg, "eval")
    context = _context(cfg, trainer, setup, run)
    setup = replace(setup, measures=evaluation.at_each_validation(context))
    log.info("%s", headline(setup, trainer, run))

    checkpoint = go_on(trainer.resume, run, setup.config)
    followers.begin(checkpoint)
    logger.start(run.metrics, RunFacts(_run_name(cfg), setup.config, _sweep_name(), _tags()))

    # what the logger is given at the end, however that comes
    summary: dict[str, Any] = {}
    figures: dict[str, Path] = {}
    failed = True
    try:
        summary, features = trainer.fit(setup, run, logger, checkpoint=checkpoint)
        ranks = retrieval_ranks(*features)
        run.write_ranks(image_of_caption=features.image_of_caption, **ranks._asdict())

        if setup.test_set is not None:
            context = _context(cfg, trainer, setup, run, test_set=setup.test_set)
            measures = evaluation.at_each_validation(context)
            tested = measure_test(setup, setup.test_set, trainer, best=summary["best"], measures=measures)
            _write_test(tested, summary, run)
            numbers = {key: value for key, value in tested.record.items() if key.startswith("test/")}
            logger.log({"step": summary["steps"], **numbers})

        figures = _draw(features, setup, summary, run)
        measured = evaluation.run(context, checkpoint=str(run.best_checkpoint))
        if measured:
            logger.log({"step": summary["steps"], **flat_numbers(measured)})
        failed = False
    except KeyboardInterrupt:
        if summary:  # else the training has told so
            again = as_override("trainer.resume", run.path)
            log.warning("Interrupted after the training. Go on with: %s", again)
        raise
    finally:
        logger.finish(failed=failed, summary=summary, figures=figures)
    return summary, measured


def _context(
    cfg: DictConfig,
    trainer: Trainer,
    setup: TrainingSetup,
    run: RunDirectory,
    *,
    test_set: ImageTextDataset | None = None,
) -> TaskContext:
    """The run's model and the data that tasks measure it on: the validation part, or a test part."""
    preprocessing = EvalPreprocessing.from_state(setup.preprocessing)
    bundle = ModelBundle("this run", setup.config, setup.model, setup.tokenizer, preprocessing)
    return TaskContext(
        MiniCLIP(bundle, device=trainer.device),
        setup.train_set,
        setup.val_set if test_set is None else test_set,
        folder=run.evaluation if test_set is None else run.evaluation / "test",
        loss=setup.loss,
        optimizer=setup.config["optimizer"],
        seed=cfg.seed,
    )


def _draw(
    features: Features, setup: TrainingSetup, summary: dict[str, Any], run: RunDirectory
) -> dict[str, Path]:
    """Draw the curves of the run, and what its best checkpoint retrieves."""
    figures = {
        "retrieval": draw_retrieval(
            features,
            setup.val_set.split,
            run.retrieval_figure,
            protocol=summary["best"]["protocol"],
        ),
    }
    try:
        figures["curves"] = draw_curves(run.read_metrics(), run.curves_figure)
    except DamagedFile as error:  # the training is no worse for it
        log.warning("%s The run has no figure of its curves.", error)
    return figures


def _write_test(tested: HeldOutResult, summary: dict[str, Any], run: RunDirectory) -> None:
    """Keep what the test part gave, in the summary, too."""
    owners = tested.features.image_of_caption
    run.write_ranks(of_test=True, image_of_caption=owners, **tested.ranks._asdict())
    summary["test"] = tested.record
    run.write_summary(summary)


def is_of_compiler(error: BaseException) -> bool:
    """Whether torch.compile has raised an error; what raises one has brought this module of torch's."""
    exceptions = sys.modules.get("torch._dynamo.exc")
    return exceptions is not None and isinstance(error, exceptions.TorchDynamoException)


def _root(error: BaseException) -> BaseException:
    """What went wrong at first; Hydra wraps it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _run_name(cfg: DictConfig) -> str:
    """Its name, and what it was told to do otherwise than the config says."""
    settings = HydraConfig.get()
    swept = settings.callbacks["keep_sweep"].swept
    return f"{cfg.name} {short_overrides(settings.overrides.task, swept)}"


def _sweep_name() -> str | None:
    """The folder of the sweep, if this is a job of one."""
    settings = HydraConfig.get()
    return Path(settings.sweep.dir).name if settings.mode is RunMode.MULTIRUN else None


def _tags() -> list[str]:
    """Experiment, optimizer and git revision."""
    choices = HydraConfig.get().runtime.choices
    revision = (git_revision() or "").partition("+")[0][:10]
    return [str(tag) for tag in (choices.get("experiments"), choices.get("optimizer"), revision) if tag]
