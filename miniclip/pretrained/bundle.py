"""A model and what goes with it."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.models import CLIP
from miniclip.pretrained.parts import Config
from miniclip.tokenizers import Tokenizer

_MAKING = threading.Lock()
"""Held while an image tower is made, so that two threads that ask for it get one."""


class LateTower(NamedTuple):
    """An image tower that is not made yet: to import its library takes as long as to import torch.

    Attributes:
        weights: by their names in the state dict of the whole model.
        make: makes the tower with these weights, in evaluation mode on the CPU.
    """

    weights: dict[str, Tensor]
    make: Callable[[], nn.Module]


@dataclass
class ModelBundle:
    """A model and what goes with it.

    Attributes:
        name: how tables call it.
        config: of the model's parts at least, resolved, as plain data.
        text_model: the network as texts need it: whole, but for a late image tower.
        tokenizer: of its captions.
        preprocessing: of its images.
        late_tower: the image tower that the network still lacks.
    """

    name: str
    config: Config
    text_model: CLIP
    tokenizer: Tokenizer
    preprocessing: EvalPreprocessing
    late_tower: LateTower | None = None

    @property
    def model(self) -> CLIP:
        """The whole network; see `make_image_tower`."""
        self.make_image_tower()
        return self.text_model

    def make_image_tower(self) -> None:
        """Make the late image tower, if there is one still, and put it into the network.

        Raises:
            UserError: when the weights are not those of the image tower in the config.
        """
        with _MAKING:
            if self.late_tower is None:
                return
            device = next(self.text_model.text_encoder.parameters()).device

            # whoever asks first: neither their random numbers change nor whether the tower can be trained
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                self.text_model.image_encoder = self.late_tower.make().to(device)
            self.late_tower = None

    def fingerprint(self) -> str:
        """A digest, hexadecimal, of all that an embedding depends on."""
        tokenizer = self.tokenizer.state()
        # written and read again, the last digit of a token's score may be another
        tokenizer["backend"] = json.loads(
            tokenizer["backend"], parse_float=lambda text: f"{float(text):.12g}"
        )
        plain = {"tokenizer": tokenizer, "preprocessing": self.preprocessing.state()}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for name, weight in sorted(self._weights().items()):
            # as it is loaded again, also where it was cast to another precision
            tensor = weight.float() if weight.is_floating_point() else weight
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _weights(self) -> dict[str, Tensor]:
        """The state dict of the whole model, for which no image tower is made."""
        with _MAKING:
            late_weights = self.late_tower.weights if self.late_tower is not None else {}
            return {**self.text_model.state_dict(), **late_weights}
