"""What a batch holds: which captions are right for which images."""

import torch

from miniclip.data.batch import positive_pairs


def test_positives_are_captions_of_one_image_and_equal_captions() -> None:
    positives = positive_pairs(torch.tensor([0, 1, 2, 1]), ["a dog", "a cat", "a dog", "a bird"])
    expected = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert positives.int().tolist() == expected
