"""The command line: `python run.py ...`, which is also `miniclip train ...`."""

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miniclip.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
# a checkout has conf/ and experiments/ beside the package, an installed wheel inside it
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent


def main() -> None:
    """The `miniclip` command."""
    commands: dict[str, Callable[[], None]] = {"train": train}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: miniclip train [SETTING=VALUE ...]\n\n  train   the same as python run.py")
        return
    if name not in commands:
        sys.exit(f"miniclip has no command {name}; it has: {', '.join(commands)}")
    sys.argv = [f"miniclip {name}", *sys.argv[2:]]
    commands[name]()


def train() -> None:
    """Compose the config from the command line and train, once or as a sweep.

    Exits with 1 after an error and with 128 + signal after an interruption.
    """
    _prepare_hydra()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of Hydra's printer
    run = hydra.main(config_path=str(HOME / "conf"), config_name="config", version_base="1.3")
    try:
        run(_job)()
    except KeyboardInterrupt as interruption:
        sys.exit(128 + getattr(interruption, "signum", 2))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            traceback.print_exc()
        wrong = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        sys.exit(f"Error: {wrong}{error}{_nearest(str(error))}")


def compose(*overrides: str) -> DictConfig:
    """The config of `python run.py OVERRIDES`, for use from Python."""
    _prepare_hydra()
    with hydra.initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def _prepare_hydra() -> None:
    """What conf/config.yaml refers to."""
    os.environ["MINICLIP_HOME"] = str(HOME)
    OmegaConf.register_new_resolver("short_overrides", _short_overrides, replace=True)


def _job(cfg: DictConfig) -> float:
    """One run. Returns the best rsum, for sweepers to maximise."""
    from miniclip.build import build
    from miniclip.report.figures import draw_curves, draw_retrieval, read_metrics
    from miniclip.tracking import RunDirectory

    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    run.write_status("running")
    try:
        trainer, experiment, logger = build(cfg, run)
        log.info("%s", _headline(experiment, trainer, run))
        logger.start(run.metrics, name=_run_name(cfg), config=experiment.config)
        summary: dict[str, Any] = {}
        figures: dict[str, Path] = {}
        failed = True
        try:
            summary, features = trainer.fit(experiment, run, logger)
            figures = {
                "curves": draw_curves(read_metrics(run), run.figures / "curves.png"),
                "retrieval": draw_retrieval(
                    features,
                    experiment.val_set.split,
                    run.figures / "retrieval.png",
                    protocol=summary["best"]["protocol"],
                ),
            }
            failed = False
        finally:
            logger.finish(failed=failed, summary=summary, figures=figures)
    except KeyboardInterrupt:
        run.write_status("interrupted")
        raise
    except BaseException as error:
        run.write_status("failed", reason=f"{type(error).__name__}: {error}")
        raise
    run.write_status("completed")
    log.info("%s", _table(summary, run))
    return summary["best_rsum"]


def _run_name(cfg: DictConfig) -> str:
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    return f"{cfg.name} {output_dir.name}"


def _headline(experiment: Any, trainer: Any, run: Any) -> str:
    train, val = experiment.train_set, experiment.val_set
    parameters = sum(p.numel() for p in experiment.model.parameters())
    return (
        f"{parameters / 1e6:.1f} M parameters on {trainer.device}, "
        f"{str(experiment.precision.dtype).removeprefix('torch.')}; "
        f"{len(train):,} training and {len(val):,} validation images; writing to {run.path}"
    )


def _table(summary: dict[str, Any], run: Any) -> str:
    best = summary["best"]
    rows: list[tuple[str, ...]] = [("", "R@1", "R@5", "R@10", "median rank")]
    for direction, title in (("i2t", "image to text"), ("t2i", "text to image")):
        recalls = (f"{best[f'val/{direction}_r{k}']:.1f}" for k in (1, 5, 10))
        rows.append((title, *recalls, f"{best[f'val/{direction}_median_rank']:g}"))
    table = "\n".join(f"{row[0]:14}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows)
    return (
        f"\nBest of {summary['epochs']} epochs ({best['protocol']})\n{table}\n"
        f"rsum {summary['best_rsum']:.1f} at epoch {best['epoch']}; "
        f"{summary['images_per_second']:.0f} images/s, {summary['seconds']:.0f} s\n"
        f"Everything is in {run.path}"
    )


def _short_overrides(overrides: list[str]) -> str:
    """A job's overrides as a folder name: `rho=0.05,seed=0`. No paths, the last 80 letters."""
    pairs = (override.partition("=") for override in overrides)
    short = [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs if "/" not in value]
    return re.sub(r"[^\w.,=-]", "-", ",".join(short))[-80:].lstrip(",.") or "default"


def _nearest(message: str) -> str:
    """The right spelling of a key or an option that Hydra does not know, as a sentence to add."""
    wrong_key = re.search(r"Could not override '([^']+)'", message)
    if wrong_key:
        word, known = wrong_key[1], _known_keys()
    else:
        wrong_option = re.search(r"Could not find '([^']+)/([^'/]+)'", message)
        if not wrong_option:
            return ""
        folder = HOME / "conf" / wrong_option[1]
        word = wrong_option[2]
        known = [path.stem for path in folder.glob("*.yaml")]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"\nDid you mean {near[0]}?" if near else ""


def _known_keys() -> list[str]:
    """Every setting and group of the config, whatever its options."""
    keys = set()
    for path in (HOME / "conf").rglob("*.yaml"):
        group = path.relative_to(HOME / "conf").parent.as_posix()
        keys.add(group)
        prefix = "" if group == "." else group.replace("/", ".") + "."
        content = OmegaConf.load(path)
        keys |= {f"{prefix}{key}" for key in map(str, content) if key[0] != "_"}
    return sorted(keys)
