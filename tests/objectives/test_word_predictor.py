"""What the predictor of hidden words knows about a place."""

import pytest
import torch

from refseg.models.blocks.attention import sine_positions
from refseg.objectives.word_predictor import feature_at, mask_centre, place_code


def test_the_centre_by_hand():
    mask = torch.zeros(3, 1, 4, 10, dtype=torch.bool)
    mask[0, 0, 1, 2:5] = True  # row 1 of 4: 3/8; columns 2, 3, 4 of 10: 0.35
    mask[1, 0, :, :] = True
    centre, found = mask_centre(mask)
    assert torch.allclose(centre, torch.tensor([[0.35, 0.375], [0.5, 0.5], [0.0, 0.0]]))
    assert found.tolist() == [True, True, False]


def test_a_place_is_written_like_a_region():
    code = place_code(torch.tensor([[2 / 5, 1 / 3]]), 12)  # the end of the second column of 5 and first row of 3
    assert torch.allclose(code[0], sine_positions((3, 5), 12, code)[1], atol=1e-5)


def test_what_the_image_shows_at_a_place():
    pixels = torch.arange(8.0).view(1, 1, 2, 4)
    places = torch.tensor([[[0.625, 0.25]], [[0.5, 0.5]], [[0.0, 1.0]], [[1.0, 0.0]]])
    # The middle of the third region of the first row; between four regions; and two corners of the image.
    assert [feature_at(pixels, place).item() for place in places] == pytest.approx([2.0, 3.5, 4.0, 3.0])
