"""Compiled towers: the same numbers up to rounding, and no new kernels once each shape has been seen."""

import pytest
import torch
from torch._dynamo.utils import counters

from miniclip.data.batch import Batch
from tests.training.test_step import batch, step

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def num_compiled() -> int:
    return counters["stats"]["unique_graphs"]


def short(number: int) -> Batch:
    """A batch whose captions are shorter than the others'."""
    whole = batch(number)
    return whole._replace(token_ids=whole.token_ids[:, :4], attention_mask=whole.attention_mask[:, :4])


def test_they_train_as_others_do_and_are_compiled_once_for_each_shape() -> None:
    plain = step("optimizer=sam_norm_only")
    compiled = step("optimizer=sam_norm_only", "trainer.compile=true")
    found = []
    for number in range(6):
        one = short(number) if number % 2 else batch(number)
        theirs, ours = plain([one]).loss, compiled([one]).loss
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        found.append(num_compiled())
    assert 0 < found[0] < found[1] == found[-1]
