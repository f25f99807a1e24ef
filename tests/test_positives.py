"""Which pairs of a batch are right: the table, its parts, and their number."""

import torch

from miniclip.positives import PositivePairs

CAPTIONS = ["a dog", "a cat", "a dog", "a bird"]


def test_positives_are_captions_of_one_image_and_equal_captions() -> None:
    positives = PositivePairs.of(torch.tensor([0, 1, 2, 1]), CAPTIONS)
    expected = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]).bool()
    assert torch.equal(positives.table(), expected)
    assert torch.equal(positives.table(slice(1, 3), slice(2, 4)), expected[1:3, 2:4])
    assert positives.num_off_diagonal() == 4


def test_the_number_is_that_of_the_table_also_where_image_and_caption_are_the_same() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        image_ids = torch.randint(0, 6, (12,))
        captions = [str(number) for number in torch.randint(0, 6, (12,)).tolist()]
        positives = PositivePairs.of(image_ids, captions)
        assert positives.num_off_diagonal() == positives.table().sum() - 12
        assert positives.count_off_diagonal() == positives.num_off_diagonal()


def test_processes_put_their_rows_together() -> None:
    """Equal captions have one number in each."""
    whole = PositivePairs.of(torch.arange(4), CAPTIONS)
    parts = [PositivePairs.of(torch.arange(4)[rows], CAPTIONS[rows]) for rows in (slice(2), slice(2, 4))]
    assert torch.equal(torch.cat([part.text_ids for part in parts]), whole.text_ids)
    assert torch.equal(whole.each(lambda ids: ids.repeat(2)).table()[:4, 4:], whole.table())
