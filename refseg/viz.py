"""A mask drawn on its image, a sheet of the frames of a clip, and a mask in words.

Nothing is said by hue alone: the image is dimmed outside of the mask, and the line around it has a dark edge so that it
is seen on any image. Figures for lessons are in ``refseg_course.figures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from refseg.datasets.images import ImageLike, to_image
from refseg.errors import RefsegError

PREDICTION, TRUTH = "#E69F00", "#56B4E9"  # Okabe and Ito's orange and sky blue
INK, QUIET, DARK = "#222222", "#666666", "#101010"
SHEET_COLUMNS, SHEET_MARGIN = 6, 22  # of a clip's sheet; pixels


def overlay(image: ImageLike, pred_mask: Tensor) -> np.ndarray:
    """The image with everything but the mask dimmed, and a light line with a dark edge around the mask.

    Args:
        image: see ``to_image``; kept at its size.
        pred_mask: [H,W] bool at the size of the image.

    Returns:
        [H,W,3] uint8.

    Raises:
        RefsegError: not an image, or a mask of another type or size.
    """
    picture, mask = to_image(image).permute(1, 2, 0).numpy(), pred_mask.cpu().numpy()
    if mask.dtype != bool or picture.shape[:2] != mask.shape:
        raise RefsegError(
            f"The image is {picture.shape[:2]} pixels and the mask {mask.dtype} of shape {mask.shape}: it must be bool "
            "and of the same size."
        )
    width = max(1, round(max(mask.shape) / 400))
    tint = np.frombuffer(bytes.fromhex(PREDICTION[1:]), np.uint8)
    result = np.where(mask[..., None], 0.72 * picture + 0.28 * tint, 0.55 * picture).astype(np.uint8)
    inner, outer = _grown(mask, width) & ~mask, _grown(mask, 2 * width) & ~_grown(mask, width)
    result[outer] = np.frombuffer(bytes.fromhex(DARK[1:]), np.uint8)
    result[inner] = tint
    return result


def clip_sheet(
    frames: Sequence[Tensor], names: Sequence[str], pred_masks: Sequence[Tensor], expression: str
) -> tuple[Image.Image, str]:
    """A sheet of frames of one clip, each with its predicted mask, under the expression; and the sheet in words.

    Args:
        frames: N images of one size, see :func:`overlay`; small ones, for all are in memory.
        names: of the frames, drawn above them.
        pred_masks: [H,W] bool each, at the size of the frames.

    Raises:
        RefsegError: see :func:`overlay`.
    """
    pictures = [overlay(frame, mask) for frame, mask in zip(frames, pred_masks, strict=True)]
    height, width = (side + SHEET_MARGIN for side in pictures[0].shape[:2])
    columns = min(len(pictures), SHEET_COLUMNS)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width + SHEET_MARGIN, rows * height + 2 * SHEET_MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((SHEET_MARGIN, 4), f"“{expression}”", INK, font)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x, y = number % columns * width + SHEET_MARGIN, number // columns * height + 2 * SHEET_MARGIN
        draw.text((x, y - 18), name, QUIET, font)
        sheet.paste(Image.fromarray(picture), (x, y))
    said = groupby([(name, where(mask)) for name, mask in zip(names, pred_masks)], key=lambda pair: pair[1])
    runs = [(place, [name for name, _ in run]) for place, run in said]
    parts = [f"{run[0]}{f' to {run[-1]}' if len(run) > 1 else ''}: {place}" for place, run in runs]
    return sheet, f"{len(pictures)} frames with the prediction for “{expression}”. {'; '.join(parts)}."


def where(mask: np.ndarray | Tensor) -> str:
    """A mask in words: its share of the image and the part of the image where its centre lies.

    >>> where(np.eye(3, dtype=bool) & (np.arange(3) == 2))
    '11 % of the image, at the lower right'
    """
    array = np.asarray(mask)
    if not array.any():
        return "nothing"
    rows, columns = np.nonzero(array)
    third = [int(3 * (rows.mean() + 0.5) / array.shape[0]), int(3 * (columns.mean() + 0.5) / array.shape[1])]
    centre = third == [1, 1]
    place = "centre" if centre else f"{('upper', 'middle', 'lower')[third[0]]} {('left', 'centre', 'right')[third[1]]}"
    share = 100 * array.mean()
    percent = "less than 1 %" if share < 1 else f"{share:.0f} %"
    return f"{percent} of the image, at the {place}"


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask and everything within ``pixels`` of it, counted along rows and columns."""
    field = torch.from_numpy(mask)[None, None].to(torch.uint8)
    for _ in range(2):  # a square neighbourhood is a row neighbourhood of a column one
        field = F.max_pool2d(field.float(), (2 * pixels + 1, 1), 1, (pixels, 0)).transpose(2, 3)
    return field[0, 0].bool().numpy()
