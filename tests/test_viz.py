"""What is drawn and said can be counted, and strange images do not break it."""

import numpy as np
import pytest
import torch

from refseg.errors import RefsegError
from refseg.viz import clip_sheet, overlay, where

H, W = 11, 17


def picture(height: int = H, width: int = W) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_where_names_all_nine_places():
    mask = np.zeros((3, 3), bool)
    places = []
    for index in range(9):
        mask.flat[index] = True
        places.append(where(mask).split(" at the ")[1])
        mask.flat[index] = False
    assert places[0] == "upper left" and places[4] == "centre" and places[5] == "middle right"
    assert len(set(places)) == 9
    assert where(mask) == "nothing"
    assert where(~mask) == "100 % of the image, at the centre"
    mask = np.zeros((20, 20), bool)
    mask[19, 0] = True
    assert where(mask) == "less than 1 % of the image, at the lower left"


def test_overlay_dims_outside_and_keeps_inside_bright():
    white = torch.full((3, 29, 31), 255, dtype=torch.uint8)
    mask = torch.zeros(29, 31, dtype=torch.bool)
    mask[10:19, 10:21] = True
    drawn = overlay(white, mask)
    assert drawn.dtype == np.uint8
    assert drawn[0, 0].tolist() == [140, 140, 140]
    assert drawn[14, 15].min() > 180
    assert drawn[9, 15].tolist() == [230, 159, 0]  # the line lies just outside the mask
    assert drawn[8, 15].max() < 20  # and its dark edge around it
    assert drawn[7, 15].tolist() == [140, 140, 140]
    with pytest.raises(RefsegError, match="of the same size"):
        overlay(white, mask[1:])


def test_a_sheet_shows_every_frame_and_says_where_the_masks_are():
    grey = torch.full((3, H, W), 200, dtype=torch.uint8)
    corner, nothing = torch.zeros(2, H, W, dtype=torch.bool)
    corner[:3, :4] = True
    for count in (1, 2, 7, 24):
        masks = [nothing, *[corner] * (count - 1)]
        sheet, words = clip_sheet([grey] * count, [f"f{n}" for n in range(count)], masks, "the <b>red</b> one")
        pixels = np.asarray(sheet)
        dimmed = (pixels == int(0.55 * 200)).all(2).sum()  # all but the corners and the lines around them
        assert dimmed >= count * (H * W - 30)
        assert sheet.width == min(count, 6) * (W + 22) + 22
        assert words.startswith(f"{count} frames with the prediction for “the <b>red</b> one”. f0: nothing")
        assert count < 3 or words.endswith(f"f1 to f{count - 1}: 6 % of the image, at the upper left.")
