"""The command line: `python run.py ...`, which is also `miniclip train ...`, and `miniclip evaluate`."""

import argparse
import importlib.util
import io
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from miniclip import __version__
from miniclip.config.compose import HOME, compose, prepare_hydra, refuse_unknown, what_is_wrong
from miniclip.config.hints import groups, refuse_misspelled
from miniclip.errors import UserError, counted
from miniclip.files import write_json, write_text
from miniclip.renamed import renamed_words

if TYPE_CHECKING:
    pass

# Threads of libgomp, which torch brings on Linux, wait in a loop: two runs on a machine would all but stop
# each other. This many turns, and they sleep; it is read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

FLAGS_OF_HYDRA = (
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "--resolve",
    "--package",
    "--run",
    "--multirun",
    "--shell-completion",
    "--config-path",
    "--config-name",
    "--config-dir",
    "--experimental-rerun",
    "--info",
)


def main() -> None:
    """The `miniclip` command."""
    commands: dict[str, Callable[[], None]] = {
        "train": train,
        "evaluate": evaluate,
        "report": report,
        "doctor": doctor,
        "text-study": text_study,
    }
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"miniclip {__version__}")
        return
    if name in ("-h", "--help"):
        print(
            "usage: miniclip COMMAND ...\n\n"
            "  train [SETTING=VALUE ...]   the same as python run.py\n"
            "  evaluate RUN [TASK ...]     retrieval, zero-shot, few-shot, health, sharpness, ...\n"
            "  report PATH ...             compare runs and sweeps: one page, Markdown and CSV\n"
            "  doctor [SETTING=VALUE ...]  what is wrong with a data set\n"
            "  text-study                  what each attention costs as captions grow"
        )
        return
    if name not in commands:
        if "=" in name:
            sys.exit(f"{name} is a setting, and needs a command before it: miniclip train {name}")
        sys.exit(f"miniclip has no command {name}; it has: {', '.join(commands)}")
    sys.argv = [f"miniclip {name}", *sys.argv[2:]]
    _take_old_names()
    with _console():
        commands[name]()


def train() -> None:
    """Compose the config from the command line and train, once or as a sweep.

    Exits with 1 after an error and with 128 + signal after an interruption.
    """
    _take_old_names()
    with _console():
        _train()


def _take_old_names() -> None:
    """Put today's names in place of old ones that were typed, and tell them."""
    sys.argv[1:], lines = renamed_words(sys.argv[1:])
    for line in lines:
        print(line, file=sys.stderr)


def _train() -> None:
    _refuse_several_processes()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of Hydra's printer
    # Hydra's parser wants its flag for sweeps in front of the settings
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    try:
        _refuse_flags(sys.argv[1:])
        refuse_misspelled(words)
        prepare_hydra()
        hydra.main(config_path=str(HOME / "conf"), config_name="config", version_base="1.3")(_job)()
    except KeyboardInterrupt as interruption:
        sys.exit(128 + getattr(interruption, "signum", 2))
    except (_Refused, UserError, HydraException, OmegaConfBaseException) as raised:
        error = raised.error if isinstance(raised, _Refused) else raised
        if wants_traceback:
            traceback.print_exc()
        sys.exit(f"Error: {what_is_wrong(error, words)}")


def _refuse_several_processes() -> None:
    """End all processes that torchrun started, of which the first says why."""
    size = os.environ.get("WORLD_SIZE", "")
    rank = os.environ.get("RANK")
    if rank is None or not size.isdigit() or int(size) < 2:
        return
    told = (
        f"Error: torchrun started {size} processes, but one process trains one run. Start it with python "
        "run.py, and several runs with -m and hydra/launcher=... ."
    )
    sys.exit(told if rank == "0" else 1)


def _refuse_flags(words: Sequence[str]) -> None:
    """Tell of a setting that was typed as a flag."""
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--") and not any(own.startswith(flag) for own in FLAGS_OF_HYDRA):
            setting = shlex.quote(f"{flag[2:]}={value or '...'}")
            raise UserError(f"settings are typed without --: {setting}")


def evaluate() -> None:
    """Measure trained models: print, and write into RUN/evaluation/.

    A model is a run directory, a checkpoint, or open_clip:NAME:WEIGHTS. Tasks are retrieval, zero_shot,
    linear_probe, few_shot, health, pictures and sharpness; without any, those that suit the data but
    sharpness. Settings are those of the data (data.class_column=..., data=cifar10 data.root=...) and of the
    tasks (eval.tasks.zero_shot.templates=clip, eval.tasks.few_shot.num_seeds=3, ...). The validation part
    is measured; data.eval_split=test takes the test part, data.use=all every image.
    """
    parser = argparse.ArgumentParser(prog="miniclip evaluate", description=evaluate.__doc__)
    parser.add_argument("words", nargs="+", metavar="MODEL | TASK | SETTING=VALUE")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with _told_errors():
        _evaluate(arguments.words, arguments.device)


def report() -> None:
    """Compare runs, or all runs of a sweep: outputs/report/report.html, report.md and report.csv."""
    parser = argparse.ArgumentParser(prog="miniclip report", description=report.__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN_OR_SWEEP")
    parser.add_argument("--out", type=Path, default=Path("outputs") / "report", help="folder to write into")
    parser.add_argument("--control", help="SETTING=VALUE of the group that others are held against")
    parser.add_argument("--mix", action="store_true", help="also runs measured on different data")
    arguments = parser.parse_args()
    with _told_errors():
        from miniclip.report.page import write_report
        from miniclip.report.runs import read_collection

        if importlib.util.find_spec("scipy") is None:
            raise UserError('miniclip report needs scipy: pip install -e ".[report]"')
        collection = read_collection(arguments.paths)
        files = write_report(collection, arguments.out, control=arguments.control, mixes=arguments.mix)
        for path in files:
            print(path)


def doctor() -> None:
    """Examine the data set of `python run.py SETTINGS`; print, and write outputs/NAME/doctor/.

    Exits with 1 when images lie on both sides of the split or cannot be read.
    """
    overrides = [argument for argument in sys.argv[1:] if argument not in ("-h", "--help")]
    if overrides != sys.argv[1:]:
        print("usage: miniclip doctor [SETTING=VALUE ...], data=folder data.root=DIR for example")
        return
    with _told_errors():
        healthy = _examine(compose(*overrides))
    sys.exit(0 if healthy else 1)


def text_study() -> None:
    """Measure every attention of the text tower at several lengths, and write outputs/text-study/."""
    options = sorted(path.stem for path in (HOME / "conf/encoder/text/attention").glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="miniclip text-study", description=text_study.__doc__)
    parser.add_argument("--attentions", nargs="+", choices=options, help="all that are installed")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16 * 2**i for i in range(9)])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--k", type=int, default=64, help="Linformer's k, where a caption is as long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with _told_errors():
        _study(arguments, options)


def _study(arguments: argparse.Namespace, options: list[str]) -> None:
    from miniclip.config.build import make
    from miniclip.figures import draw_costs
    from miniclip.metrics import Cost, attention_costs
    from miniclip.training.device import find_device

    if min(arguments.lengths) < 1 or arguments.k < 1 or arguments.rounds < 1:
        raise UserError("--lengths, --k and --rounds must be at least 1.")
    if arguments.heads < 1 or arguments.width % arguments.heads:
        raise UserError(f"--heads={arguments.heads} must divide --width={arguments.width}.")

    def maker(name: str) -> Callable[..., Any]:
        def build(*, context_length: int, **sizes: int) -> Any:
            changes = []
            if name.startswith("linformer"):
                changes = [f"encoder.text.attention.k={min(arguments.k, context_length)}"]
            cfg = compose(f"encoder/text/attention={name}", *changes)
            return make(cfg, "encoder.text.attention")(context_length=context_length, **sizes)

        return build

    device = find_device(arguments.device)
    makers = {name: maker(name) for name in arguments.attentions or options}
    for name in list(makers):
        try:
            makers[name](width=arguments.width, num_heads=arguments.heads, context_length=16)
        except UserError as error:
            if arguments.attentions:
                raise
            print(f"Left out: {error}")
            del makers[name]
    costs = attention_costs(
        makers,
        arguments.lengths,
        width=arguments.width,
        num_heads=arguments.heads,
        device=device,
        rounds=arguments.rounds,
    )
    folder = Path("outputs") / "text-study"
    folder.mkdir(parents=True, exist_ok=True)
    header = Cost._fields
    rows = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in cost] for cost in costs
    ]
    write_text(folder / "costs.csv", "".join(f"{','.join(row)}\n" for row in [list(header), *rows]))
    draw_costs(costs, folder / "costs.png", device=str(device))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [list(header), *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    training = {(cost.attention, cost.length): cost.training_ms for cost in costs}
    for name, length in training:
        if name == "linformer_fused" and ("linformer", length) in training:
            ratio = training["linformer", length] / training[name, length]
            print(f"linformer_fused at {length} tokens: {ratio:.2f} times as fast as the package linformer")
    print(f"Everything is in {folder}")


@contextmanager
def _told_errors() -> Iterator[None]:
    """What a user can mend ends the command with one line."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {what_is_wrong(error, sys.argv[1:])}")


def _examine(cfg: DictConfig) -> bool:
    from miniclip.config.build import check, make, names_of
    from miniclip.data.doctor import Remarks, examine
    from miniclip.figures import draw_examination

    check(cfg)
    cfg.data.on_broken_image = "skip"  # to find all that are missing, not the first
    with Remarks() as remarks:
        source = make(cfg, "data")
        with names_of(cfg, "data"):
            splits = source.read_parts().present()
    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for own in splits[0].captions for caption in own)
    found = examine(splits, token_lengths=tokenizer.lengths, context_length=cfg.context_length)
    found.remarks = remarks.texts
    folder = Path("outputs") / cfg.name / "doctor"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "doctor.json", found.as_dict())
    draw_examination(found, folder / "doctor.png")
    for name, counts in found.splits.items():
        least, mean, most = counts["captions_an_image"]
        print(
            f"{name}: {counted(counts['images'], 'image')}, {counted(counts['captions'], 'caption')} "
            f"({least} to {most} an "
            f"image, {mean:.1f} on average), fingerprint {counts['fingerprint']}"
        )
        if counts["classes"]:
            classes = list(counts["classes"].items())
            (largest, most), (smallest, least) = classes[0], classes[-1]
            print(
                f"{name}: {len(classes):,} classes, from {largest} ({counted(most, 'image')}) to "
                f"{smallest} ({least:,})"
            )
    num_captions = sum(found.token_lengths.values())
    print(
        f"captions cut off at context_length={found.context_length}: {found.num_truncated:,} of "
        f"{num_captions:,}; the longest has {counted(max(found.token_lengths), 'token')}"
    )
    for title, found_groups in (
        ("remarks on the tables", [[remark] for remark in found.remarks]),
        ("images that cannot be read", [[reason] for reason in found.broken.values()]),
        ("groups of images with the same pixels", found.exact_duplicates),
        ("pairs of images that look the same", found.near_duplicates),
        ("of these on both sides of the split", found.leaks),
    ):
        print(f"{title}: {len(found_groups):,}")
        for group in found_groups[:3]:
            print(f"    {' = '.join(group)}")
    healthy = not found.leaks and not found.broken
    print(f"{'Healthy.' if healthy else 'NOT healthy.'} Everything is in {folder}")
    return healthy


def _evaluate(words: list[str], device_name: str) -> None:
    from miniclip.config.build import check_part, make, read_data
    from miniclip.config.restore import restore
    from miniclip.evaluation import MiniCLIPModel, OpenClipModel, TaskContext, comparison
    from miniclip.evaluation.folders import evaluation_folder
    from miniclip.training.device import find_device

    device = find_device(device_name)
    known_tasks = groups()["eval/tasks"]
    # jobs of sweeps lie in folders such as 0_rho=0.05
    paths = [word for word in words if Path(word).exists()]
    tasks = [word for word in words if word in known_tasks and word not in paths]
    settings = [word for word in words if ("=" in word or word.startswith("~")) and word not in paths]
    models = [word for word in words if word not in tasks and word not in settings]
    if not models:
        raise UserError("Which model? Give a run directory, a checkpoint or open_clip:NAME:WEIGHTS.")
    for word in models:
        if not word.startswith("open_clip:") and word not in paths:
            told = ", ".join(known_tasks)
            raise UserError(f"{word} is no run, no checkpoint and none of the tasks {told}.")
    own = [word for word in settings if word.lstrip("~").startswith(("eval.", "eval/", "eval="))]
    cfg = _config_of_tasks(tasks, own)
    check_part(cfg, "eval")
    evaluation = make(cfg, "eval")
    of_data = [word for word in settings if word not in own]
    restored = None
    found = []
    for word in sorted(models, key=lambda word: word.startswith("open_clip:")):  # runs name the data
        loss, seed = None, 0
        if word.startswith("open_clip:"):
            checkpoint = word
            model: Any = OpenClipModel(word.partition(":")[2], device)
            # photographs are decoded at the size that a model needs
            size = model.image_size
            if restored is None:
                datasets = read_data(compose(*of_data, f"image_size={size}", "data.cache=none"))
            else:
                datasets = restored.datasets(image_size=size, cache="none")
            folder = Path("outputs") / model.name.replace(" ", "/") / "evaluation"
        else:
            restored = restore(Path(word), *of_data)
            checkpoint = str(restored.checkpoint)
            datasets = restored.datasets()
            model = MiniCLIPModel(
                word,
                restored.model,
                restored.tokenizer,
                preprocess=restored.preprocessing,
                device=device,
            )
            folder = evaluation_folder(restored.checkpoint, datasets[1].split.fingerprint())
            loss, seed = restored.loss(), restored.config.seed
        context = TaskContext(model, *datasets, folder=folder, loss=loss, seed=seed)
        results = evaluation.run(context, checkpoint=checkpoint)
        print(f"{model.name}, data {datasets[1].split.fingerprint()}")
        _print_results(results)
        print(f"Everything is in {folder}\n")
        if "retrieval" in results:
            found.append((model.name, results["retrieval"].numbers))
    if len(found) > 1:
        print("\n".join(comparison(found)))


def _config_of_tasks(tasks: Sequence[str], settings: Sequence[str]) -> DictConfig:
    """The config whose `eval` holds the named tasks, or without names those that suit the data."""
    if tasks:
        return compose(f"eval/tasks=[{','.join(tasks)}]", *settings)
    chooses = any(word.startswith(("eval=", "eval/tasks=")) for word in settings)
    return compose(*([] if chooses else ["eval=standard"]), *settings)


def _print_results(results: dict[str, Any]) -> None:
    for task, result in results.items():
        print(f"{task} ({result.numbers['protocol']}; {result.numbers['checkpoint']})")
        print("\n".join(f"  {line}" for line in result.lines))


@contextmanager
def _console() -> Iterator[None]:
    """A console that shows what it can and ends nothing, whatever its letters and whoever still reads.

    What it cannot show is escaped; a stream that was closed takes everything and keeps nothing; a reader
    that has gone (`| head -1`) ends a command in silence, but not a training.
    """
    logging.raiseExceptions = False  # a message that cannot be written is no reason for pages of others
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        sys.exit(128 + 13)  # SIGPIPE, which Windows does not name
    finally:
        _flush()


def _nowhere() -> io.TextIOWrapper:
    return io.TextIOWrapper(open(os.devnull, "wb"), encoding="utf-8")


def _flush() -> None:
    """Write what is left, or drop it: Python would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Refused(BaseException):
    """A user's error on its way past Hydra, which would put a line of its own in front."""

    def __init__(self, error: UserError):
        self.error = error


def _job(cfg: DictConfig) -> float:
    settings = HydraConfig.get()
    try:
        if settings.mode is RunMode.RUN:  # jobs of sweeps have been checked together
            refuse_unknown(cfg, settings.overrides.task, settings.job.config_name or "config")
        from miniclip.commands.train import (
            run_job,  # brings torch, for which a misspelt setting need not wait
        )

        return run_job(cfg)
    except UserError as error:
        if settings.mode is RunMode.RUN:
            raise _Refused(error) from error
        raise
