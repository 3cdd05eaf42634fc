"""Lesson 00, start here: what a mask is, counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from refseg_course.exercises import Exercise


def masks() -> list[tuple]:
    """A slanted bar, a ring and a single pixel, on grids of prime sides."""
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(11), indexing="ij")
    bar = (rows + columns >= 8) & (rows + columns <= 9) & (rows >= 2) & (columns >= 3)
    ring = (rows - 3).abs().maximum((columns - 7).abs()) == 2
    point = torch.zeros(5, 13, dtype=torch.bool)
    point[1, 4] = True
    return [(bar,), (ring,), (point,)]


def _right_share(mask: Tensor) -> float:
    """Share of the image that the mask covers."""
    return mask.float().mean().item()


share = Exercise(
    title="The share of a mask",
    difficulty=1,
    importance=3,
    minutes=3,
    right=_right_share,
    cases=masks,
    mistakes=[
        (
            lambda mask: mask.sum().item(),
            "It is the number of pixels. A share is between 0 and 1: divide by all pixels.",
        ),
        (lambda mask: 100 * _right_share(mask), "It is a percentage. A share is between 0 and 1."),
        (lambda mask: 1 - _right_share(mask), "It is the share of what the mask does not cover."),
        (
            lambda mask: mask.sum().item() / mask.shape[0] ** 2,
            "It is right for square images only: the number of all pixels is not the height times itself.",
        ),
        (
            lambda mask: mask.sum().item() / mask.shape[1] ** 2,
            "It is right for square images only: the number of all pixels is not the width times itself.",
        ),
        (lambda mask: mask.float().mean(1), "There is one number per row: the mean runs over the columns only."),
        (lambda mask: mask.float().mean(0), "There is one number per column: the mean runs over the rows only."),
    ],
    verified="three masks on grids that are not square",
)


def _right_box(mask: Tensor) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max, y_max of the pixels of the mask, both ends counted in."""
    rows, columns = mask.nonzero().unbind(1)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def _swapped(mask: Tensor) -> tuple[int, int, int, int]:
    return _right_box(mask.T)


def _one_too_far(mask: Tensor) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = _right_box(mask)
    return x_min, y_min, x_max + 1, y_max + 1


def _width_and_height(mask: Tensor) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = _right_box(mask)
    return x_min, y_min, x_max - x_min + 1, y_max - y_min + 1


def _first_and_last_pixel(mask: Tensor) -> tuple[int, int, int, int]:
    first, last = mask.nonzero()[0], mask.nonzero()[-1]
    return int(first[1]), int(first[0]), int(last[1]), int(last[0])


def _of_the_image(mask: Tensor) -> tuple[int, int, int, int]:
    return 0, 0, mask.shape[1] - 1, mask.shape[0] - 1


def _x_then_y(mask: Tensor) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = _right_box(mask)
    return x_min, x_max, y_min, y_max


box = Exercise(
    title="The box around a mask",
    difficulty=2,
    importance=3,
    minutes=7,
    right=_right_box,
    cases=masks,
    mistakes=[
        (_swapped, "Rows and columns are exchanged: a tensor is indexed [y, x], the box begins with x."),
        (_one_too_far, "The right and the lower end are one pixel too far: the last pixel of the mask is included."),
        (
            _width_and_height,
            "It ends with width and height, as COCO's boxes do. It should end with the last x and the last y.",
        ),
        (
            _first_and_last_pixel,
            "It looks only at the first and the last pixel in reading order. The first one is in the top row, but need "
            "not be the leftmost.",
        ),
        (_of_the_image, "It is the box of the whole image: the values of the mask play no part."),
        (_x_then_y, "The order is different: it should be x_min, y_min, x_max, y_max."),
    ],
    verified="a slanted bar, a ring and a single pixel, both ends included",
)
