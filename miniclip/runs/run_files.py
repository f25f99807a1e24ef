"""The files of a run: their names, and how they are read. Nothing here creates or changes one."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from miniclip.errors import UserError
from miniclip.files import within
from miniclip.renamed import renamed_config
from miniclip.runs.shapes import COUNT, NUMBER_OR_NULL, OBJECT, TEXT, Shape
from miniclip.runs.small_files import (
    DamagedFile,
    damaged,
    read_arrays,
    read_object,
    read_records,
    read_text,
    read_yaml,
)

CHECKPOINTS = "checkpoints"
JOB = "job.json"
LOG = "train.log"
STATUS = "status.json"
SUMMARY = "summary.json"

FILES = (
    CHECKPOINTS,
    "checkpoints/best.pt",
    "checkpoints/best.safetensors",
    "checkpoints/last.pt",
    "config.yaml",
    "continued_in",
    "environment.json",
    "evaluation",
    "figures",
    "figures/curves.png",
    "figures/retrieval.png",
    JOB,
    ".lock",
    "metrics.jsonl",
    "ranks.npz",
    "ranks_test.npz",
    "skipped_batches.jsonl",
    STATUS,
    SUMMARY,
    "tensorboard",
    "tokenizer",
    "tokenizer/settings.json",
    "tokenizer/tokenizer.json",
    "trace.json.gz",
    "wandb",
    "wandb_id",
)
"""All that is written into a run directory, but for its log and Hydra's own files."""

IDENTITY = (
    "config.yaml",
    "continued_in",
    "environment.json",
    STATUS,
    "tokenizer/settings.json",
    "tokenizer/tokenizer.json",
)
"""Those of them that are written or removed before a run is known to go on from its checkpoint."""

FOLDERS = (CHECKPOINTS, "evaluation", "figures", "tensorboard", "tokenizer", "wandb")
"""Those of them that are folders."""

STATUS_SHAPE: Shape = {"status": TEXT, "reason?": TEXT}
JOB_SHAPE: Shape = {"format?": COUNT, "key": TEXT, "overrides": [TEXT]}
ENVIRONMENT_SHAPE: Shape = {"data?": {"*": {"fingerprint": TEXT}}, "weights?": {"*": TEXT}}

RECORD_SHAPE: Shape = {
    "step?": NUMBER_OR_NULL,
    "protocol?": TEXT,
    "train/*": NUMBER_OR_NULL,
    "val/*": NUMBER_OR_NULL,
    "test/*": NUMBER_OR_NULL,
    "health/*": NUMBER_OR_NULL,
}

SUMMARY_SHAPE: Shape = {
    "best?": RECORD_SHAPE,
    "best_rsum?": NUMBER_OR_NULL,
    "test?": RECORD_SHAPE,
    "steps?": COUNT,
    "skipped_steps?": COUNT,
    "seconds?": NUMBER_OR_NULL,
}

CONFIG_SHAPE: Shape = {
    "seed?": COUNT,
    **{f"{part}?": OBJECT for part in ("data", "encoder", "optimizer", "trainer")},
}

HYDRA_SHAPE: Shape = {
    "hydra?": {
        "job?": {"config_name?": TEXT},
        "runtime?": {"config_sources?": [{"path": TEXT, "provider": TEXT}]},
    }
}
"""Of what Hydra keeps of its own settings."""

RANKS = ("image_to_text", "text_to_image", "image_of_caption")
"""Of N images, of M captions, and the image of each of these."""

ID_OF_WANDB = re.compile(r"[\w-]{1,128}", re.ASCII)


class RunFiles:
    """Names and reads the files of one run, which may be a stranger's.

    Args:
        path: the run directory.

    Raises:
        DamagedFile: when a file is asked for in whose place lies a link that leads out of the directory; by
            the `read_` methods also when it is not what it should be.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFiles | None":
        """The files of the run that a checkpoint lies in; None if its folder is that of no run."""
        return cls(checkpoint.parent.parent) if checkpoint.parent.name == CHECKPOINTS else None

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self._at("config.yaml")

    @property
    def environment(self) -> Path:
        """Versions, machine, and what identifies the data."""
        return self._at("environment.json")

    @property
    def status(self) -> Path:
        """How the run stands; see `read_state`."""
        return self._at(STATUS)

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains."""
        return self._at(".lock")

    @property
    def metrics(self) -> Path:
        """Records of steps and validations, one a line."""
        return self._at("metrics.jsonl")

    @property
    def skipped_batches(self) -> Path:
        """The images of steps that were skipped, a record a line."""
        return self._at("skipped_batches.jsonl")

    @property
    def summary(self) -> Path:
        """What came of the training; a finished run has it."""
        return self._at(SUMMARY)

    @property
    def ranks(self) -> Path:
        """Rank of each validation image and caption with the best checkpoint."""
        return self._at("ranks.npz")

    @property
    def ranks_test(self) -> Path:
        """The same of the test part."""
        return self._at("ranks_test.npz")

    @property
    def trace(self) -> Path:
        """What some steps of a profiled run were made of, for ui.perfetto.dev."""
        return self._at("trace.json.gz")

    @property
    def job(self) -> Path:
        """Which job of a sweep this is."""
        return self._at(JOB)

    @property
    def log(self) -> Path:
        """What the run printed; Hydra writes it (`hydra.job.name` in conf/config.yaml)."""
        return self._at(LOG)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self._at("tokenizer")

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self._at(CHECKPOINTS)

    @property
    def last_checkpoint(self) -> Path:
        """Where the run goes on."""
        return self.checkpoint("last")

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best validation."""
        return self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by its name: "last", "best", "epoch_0010"."""
        return self._at(f"{CHECKPOINTS}/{name}.pt")

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self._at("figures")

    @property
    def curves_figure(self) -> Path:
        """Loss and recalls over the training."""
        return self._at("figures/curves.png")

    @property
    def retrieval_figure(self) -> Path:
        """What the best checkpoint retrieves."""
        return self._at("figures/retrieval.png")

    @property
    def evaluation(self) -> Path:
        """Folder of what evaluation found."""
        return self._at("evaluation")

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's files."""
        return self._at("tensorboard")

    @property
    def wandb(self) -> Path:
        """Folder of Weights & Biases' files."""
        return self._at("wandb")

    @property
    def wandb_id(self) -> Path:
        """The id of the run in Weights & Biases."""
        return self._at("wandb_id")

    @property
    def continued_in(self) -> Path:
        """Where the run went on in another directory."""
        return self._at("continued_in")

    def read_config(self) -> dict[str, Any]:
        """The resolved config, with today's names."""
        return renamed_config(read_yaml(self.config, CONFIG_SHAPE))

    def read_overrides(self) -> list[str] | None:
        """The settings that were typed for the run, as Hydra keeps them; None if it kept none."""
        path = self._at(".hydra/overrides.yaml")
        return read_yaml(path, [TEXT]) if path.is_file() else None

    def read_flags(self) -> list[str]:
        """The flags by which the run was composed of files of one's own, ["--config-name", "mine"]."""
        path = self._at(".hydra/hydra.yaml")
        hydra = read_yaml(path, HYDRA_SHAPE).get("hydra", {}) if path.is_file() else {}
        name = hydra.get("job", {}).get("config_name", "config")
        sources = hydra.get("runtime", {}).get("config_sources", [])

        folders = [source["path"] for source in sources if source["provider"] == "command-line"]
        flags = [word for folder in folders for word in ("--config-dir", folder)]
        return flags if name == "config" else [*flags, "--config-name", name]

    def read_data(self) -> dict[str, dict[str, Any]]:
        """What identifies each part of the data: {"val": {"fingerprint": "9f..."}}; empty if unknown."""
        return read_object(self.environment, ENVIRONMENT_SHAPE).get("data", {})

    def read_weights(self) -> dict[str, str]:
        """Hashes of the files that the towers began with, by their settings; empty if unknown."""
        return read_object(self.environment, ENVIRONMENT_SHAPE).get("weights", {})

    def read_status(self) -> dict[str, Any]:
        """What the run last said of itself; empty before it has said anything."""
        return read_object(self.status, STATUS_SHAPE)

    def read_job(self) -> dict[str, Any]:
        """The job that this run is of a sweep; empty if it is none."""
        return read_object(self.job, JOB_SHAPE)

    def read_summary(self) -> dict[str, Any]:
        """What came of the training; empty until it has ended."""
        return read_object(self.summary, SUMMARY_SHAPE)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records, in their order."""
        return read_records(self.metrics, RECORD_SHAPE)

    def read_ranks(self, *, of_test: bool = False) -> dict[str, np.ndarray] | None:
        """Ranks by their names, and `image_of_caption`; None if the run kept none."""
        path = self.ranks_test if of_test else self.ranks
        arrays = read_arrays(path, RANKS)
        if arrays is not None:
            _check_ranks(path, **arrays)
        return arrays

    def read_wandb_id(self) -> str | None:
        """The id of the run in Weights & Biases; None if it has none."""
        text = read_text(self.wandb_id)
        if text is not None and not ID_OF_WANDB.fullmatch(text.strip()):
            raise damaged(self.wandb_id, "it holds no id of a run")
        return None if text is None else text.strip()

    def read_heir(self) -> Path | None:
        """The directory in which the run has gone on; None if it has not."""
        text = read_text(self.continued_in)
        if text is None:
            return None
        if not text.strip() or "\n" in text.strip() or "\0" in text:
            raise damaged(self.continued_in, "it holds no path")
        return self.path / text.strip()

    def check_links(self) -> None:
        """Hold the whole directory against links that lead out of it."""
        for name in FILES:
            self._at(name)

    def check_places(self) -> None:
        """Refuse a directory in which something lies where a file or a folder of the run is written."""
        for name in FILES:
            check_place(self._at(name), is_folder=name in FOLDERS)

    def _at(self, name: str) -> Path:
        try:
            return within(self.path, name)
        except UserError as error:
            raise DamagedFile(str(error)) from None


def find_runs(folder: Path) -> list[Path]:
    """The run directories at and below a folder, and what is left of them where files are lost."""
    return sorted(set(_run_folders(folder)))


def _run_folders(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        names = {*folders, *files}  # a folder may lie in the place of a file
        if not names.isdisjoint((STATUS, SUMMARY, JOB)):
            yield Path(place)


def find_jobs(folder: Path) -> list[Path]:
    """The run directories of a sweep's jobs."""
    return sorted(job for job in folder.glob("*/") if is_job(job))


def is_job(folder: Path) -> bool:
    """Whether a folder of a sweep is a job's, or what is left of one."""
    return any(os.path.lexists(folder / name) for name in (JOB, STATUS))


def check_place(path: Path, *, is_folder: bool = False) -> None:
    """Refuse a place where no file, or no folder, can be written.

    Raises:
        DamagedFile: when something else lies there.
    """
    if os.path.lexists(path) and not (path.is_dir() if is_folder else path.is_file()):
        kind = "folder" if is_folder else "file"
        raise damaged(path, f"something else lies in the place of a {kind}; move it away")


def _check_ranks(
    path: Path, image_to_text: np.ndarray, text_to_image: np.ndarray, image_of_caption: np.ndarray
) -> None:
    if len(text_to_image) != len(image_of_caption):
        raise damaged(path, f"ranks of {len(text_to_image)} captions, images of {len(image_of_caption)}")
    if np.any((image_of_caption < 0) | (image_of_caption >= len(image_to_text))):
        raise damaged(path, "it has captions of images that it has not")
    if np.any(image_to_text < 0) or np.any(text_to_image < 0):
        raise damaged(path, "it has ranks below 0")
