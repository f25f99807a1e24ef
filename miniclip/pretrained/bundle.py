"""A model and what goes with it."""

import hashlib
import json
from typing import NamedTuple

import torch

from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.models import CLIP
from miniclip.pretrained.parts import Config
from miniclip.tokenizers import Tokenizer


class ModelBundle(NamedTuple):
    """A model and what goes with it.

    Attributes:
        name: how tables call it.
        config: of the model's parts at least, resolved, as plain data.
        model: the network.
        tokenizer: of its captions.
        preprocessing: of its images.
    """

    name: str
    config: Config
    model: CLIP
    tokenizer: Tokenizer
    preprocessing: EvalPreprocessing

    def fingerprint(self) -> str:
        """A digest, hexadecimal, of all that an embedding depends on."""
        tokenizer = self.tokenizer.state()
        # written and read again, the last digit of a token's score may be another
        tokenizer["backend"] = json.loads(
            tokenizer["backend"], parse_float=lambda text: f"{float(text):.12g}"
        )
        plain = {"tokenizer": tokenizer, "preprocessing": self.preprocessing.state()}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
