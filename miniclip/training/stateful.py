"""The parts of a run that a checkpoint holds, and how each takes over the state of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from miniclip.data.streamed import StreamedDataset
from miniclip.errors import UserError
from miniclip.models.image_encoder import adopt_preprocessing
from miniclip.optim import PassOptimizer
from miniclip.runs import RunDirectory
from miniclip.tokenizers import Tokenizer
from miniclip.training.progress import Progress
from miniclip.training.reproducibility import RandomState
from miniclip.training.setup import TrainingSetup


class Stateful(Protocol):
    """A part of a run that changes while it trains."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class DoesNotFit(UserError):
    """A part cannot take over a state; the text goes on a sentence that begins with the checkpoint."""


class OptimizerState:
    """An optimizer that takes over a checkpoint's moments, but keeps the settings it was made with.

    torch's `load_state_dict` overwrites learning rate, decay and all else with the checkpoint's.
    """

    def __init__(self, optimizer: PassOptimizer):
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """The moments, and the settings as they were made.

        The schedule sets each learning rate anew before a step: what it was in the last one, a run that has
        been resumed and took none yet does not know, and both are to write the same.
        """
        state = self.optimizer.state_dict()
        groups: list[dict[str, Any]] = []
        for group in state["param_groups"]:
            as_made = {name: value for name, value in group.items() if name != "initial_lr"}
            as_made["lr"] = group.get("initial_lr", group["lr"])
            groups.append(as_made)
        return {**state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments.

        Raises:
            DoesNotFit: when the state is of an optimizer with other parameter groups.
        """
        settings: list[dict[str, Any]] = []
        for group in self.optimizer.param_groups:
            settings.append({name: value for name, value in group.items() if name != "params"})

        try:
            self.optimizer.load_state_dict(state)
        except (ValueError, KeyError, TypeError) as error:
            raise DoesNotFit(
                f"has a state of the optimizer that does not fit this run's ({error}). Resume with the "
                "same optimizer, model and lr_factor settings."
            ) from None

        for group, kept in zip(self.optimizer.param_groups, settings, strict=True):
            group.pop("initial_lr", None)  # the schedule's, taken anew from lr
            group.update(kept)


class TokenizerState:
    """A tokenizer, which is written into the run directory when it takes over a checkpoint's state."""

    def __init__(self, tokenizer: Tokenizer, folder: Path):
        self.tokenizer = tokenizer
        self.folder = folder

    def state_dict(self) -> dict[str, Any]:
        return self.tokenizer.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the checkpoint's tokenizer.

        Raises:
            DoesNotFit: when that is another one.
        """
        if not self.tokenizer.adopt_state(state):
            raise DoesNotFit(
                "was trained with another tokenizer. Resume with the same data and tokenizer settings."
            )
        self.tokenizer.save(self.folder)


class PreprocessingState:
    """What an image needs before the model sees it; mean and deviation are those the weights saw."""

    def __init__(self, image_encoder: nn.Module, preprocessing: dict[str, Any]):
        self.image_encoder = image_encoder
        self.preprocessing = dict(preprocessing)

    def state_dict(self) -> dict[str, Any]:
        return self.preprocessing

    def load_state_dict(self, state: dict[str, Any]) -> None:
        adopt_preprocessing(self.image_encoder, state)
        self.preprocessing |= {"mean": state["mean"], "std": state["std"]}


def stateful_parts(setup: TrainingSetup, run: RunDirectory, progress: Progress) -> dict[str, Stateful]:
    """The parts of a run by their names in a checkpoint, in the order in which they are loaded."""
    stream = {"stream": setup.train_set} if isinstance(setup.train_set, StreamedDataset) else {}
    return {
        "model": setup.model,
        "preprocessing": PreprocessingState(setup.model.image_encoder, setup.preprocessing),
        "tokenizer": TokenizerState(setup.tokenizer, run.tokenizer),
        "optimizer": OptimizerState(setup.optimizer),
        "scaler": setup.precision,
        **stream,
        "progress": progress,
        "random_state": RandomState(),  # last: loading another part may draw numbers
    }
