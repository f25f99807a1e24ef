"""Seeds, and the states of all generators in a checkpoint."""

import random

import numpy as np
import torch

from miniclip.training.reproducibility import RandomState, seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_go_on_where_their_state_was_taken() -> None:
    state = RandomState().state_dict()
    drawn = draw()
    assert draw() != drawn
    RandomState().load_state_dict(state)
    assert draw() == drawn


def test_a_seed_is_of_all_generators() -> None:
    seed_everything(3)
    drawn = draw()
    seed_everything(3)
    assert draw() == drawn
    seed_everything(4)
    assert all(other != one for other, one in zip(draw(), drawn, strict=True))
