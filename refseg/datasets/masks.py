"""Masks as COCO writes them: polygons and run lengths to pixels, whatever the file holds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from refseg.errors import RefsegError


def segmentation_mask(segmentation: Any, size: tuple[int, int], owner: str) -> Tensor:
    """The union of all pieces of a COCO ``segmentation``, bool [height,width].

    A piece is a polygon [x0, y0, x1, y1, ...] in pixels or a run-length dict, compressed or not. A polygon of fewer
    than three points covers nothing and is skipped as long as another piece is sound.

    Args:
        segmentation: a list of polygons, a list of run-length dicts, or one run-length dict.
        size: (height, width) of the image.
        owner: whose segmentation this is, the beginning of every error message.

    Raises:
        RefsegError: no sound piece, a damaged piece, a piece made for another size, or not a single pixel in all.
    """
    pieces = segmentation if isinstance(segmentation, list) else [segmentation]
    masks = [_piece_mask(piece, size, owner) for piece in pieces if not _is_degenerate(piece)]
    if not masks:
        raise RefsegError(f"{owner} has an empty polygon: fix its segmentation or remove its refs.")
    mask = np.logical_or.reduce(masks)
    if not mask.any():
        raise RefsegError(f"{owner} covers no pixel of its image: fix its segmentation or remove its refs.")
    return torch.from_numpy(np.ascontiguousarray(mask))


def _is_degenerate(piece: Any) -> bool:
    return piece is None or (isinstance(piece, (list, np.ndarray)) and len(piece) < 6 and len(piece) % 2 == 0)


def _piece_mask(piece: Any, size: tuple[int, int], owner: str) -> np.ndarray:
    """One polygon or run-length dict as bool [height,width]."""
    if isinstance(piece, dict):
        return _run_length_mask(piece, size, owner)
    try:
        points = np.asarray(piece, dtype=np.float64)
        sound = points.ndim == 1 and len(points) % 2 == 0 and bool((np.abs(points) < 1e5).all())  # False for NaN too
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise RefsegError(f"{owner} has a polygon that is not a flat list of x, y pairs: download the file again.")
    return coco_mask.decode(coco_mask.frPyObjects([points.tolist()], *size)[0]).astype(bool)


def _run_length_mask(piece: dict[str, Any], size: tuple[int, int], owner: str) -> np.ndarray:
    if not is_of_size(piece, size):
        raise RefsegError(
            f"{owner} is a mask of size {piece.get('size')} (height, width) but its image is of {list(size)}: "
            f"put the original image there."
        )
    lengths = checked_run_lengths(piece.get("counts"), size)
    if lengths is None:
        raise RefsegError(f"{owner} has run lengths that do not add up to its image: download the file again.")
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)  # background first, down the columns
    return pixels.reshape(size[1], size[0]).T


def is_of_size(piece: dict[str, Any], size: tuple[int, int]) -> bool:
    """Whether a run-length dict says that it is of ``size``, (height, width)."""
    return isinstance(piece.get("size"), (list, tuple)) and list(piece["size"]) == list(size)


def checked_run_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray | None:
    """COCO's ``counts``, compressed or a list of numbers, as int64 [N]; None if they do not fill ``size``.

    Read here and not by pycocotools, whose C code hangs or corrupts memory when fed damaged run lengths.
    """
    pixels = size[0] * size[1]
    if isinstance(counts, list):
        if any(not isinstance(n, int) or not 0 <= n <= pixels for n in counts):
            return None
        lengths = np.array(counts, dtype=np.int64)
    else:
        lengths = decompress_run_lengths(counts)
    return lengths if (lengths >= 0).all() and lengths.sum() == pixels else None


def decompress_run_lengths(counts: Any) -> np.ndarray:
    """COCO's compressed ``counts`` as numbers, int64 [N]; what is not sound becomes an empty array.

    Each character carries 5 bits (least first), a bit that says "more to come", and in the last one a sign; from the
    fourth number on it is the difference to the number two before.

    >>> decompress_run_lengths("5:d0").tolist()
    [5, 10, 20]
    """
    text = counts.encode() if isinstance(counts, str) else counts
    if not isinstance(text, bytes) or not re.fullmatch(rb"(?:[P-o]{0,6}[0-O])+", text):
        return np.zeros(0, dtype=np.int64)
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(characters < 32)  # of each number
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)  # of a character in its number
    numbers = np.add.reduceat((characters & 31) << 5 * place, first)
    numbers -= ((characters[last] & 16) << 1) << 5 * place[last]  # the sign bit stands for -2^bits
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
