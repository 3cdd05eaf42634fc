"""Resizing as the authors' release of CMSA does it, with scikit-image 0.14; a protocol scores with it."""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.datasets.transforms import fit
from refseg.types import size_of


def release_resize_and_pad(values: Tensor, size: int) -> Tensor:
    """``values`` [...,H,W] letterboxed into ``size`` x ``size`` as the authors' release of CMSA does it.

    Ours differs on purpose: ``Letterbox`` averages what it scales down, so that fine lines survive; the release takes
    single points. To train as the release does its mask is what comes out above zero.

    Returns:
        [...,size,size] float64
    """
    inner, (left, top, right, bottom) = fit(*size_of(values), size)
    return torch.nn.functional.pad(release_resize(values, inner), (left, right, top, bottom))


def release_resize_and_crop(mask: Tensor, original_size: tuple[int, int]) -> Tensor:
    """The way back: a square ``mask`` [S,S] at ``original_size``, float64 [height,width].

    The release counts every pixel above zero as found, which thickens what it found: see the protocol ``cmsa-release``.
    """
    height, width = original_size
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return release_resize(mask, (side, side))[..., top : top + height, left : left + width]


def release_resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """``values`` [...,H,W] at ``size`` as scikit-image 0.14, the release's, resizes: float64.

    Bilinear between half-pixel centres without antialiasing, with zeros beyond the border, then clipped to the range of
    the values.
    """
    values = values.double()
    height, width = (_release_weights(*sides) for sides in zip(values.shape[-2:], size, strict=True))
    return (height @ values @ width.mT).clamp(values.min(), values.max())


def _release_weights(side: int, new_side: int) -> Tensor:
    """How much of each old place is in each new one, [new_side,side]: a triangle of width one about its centre."""
    centres = (torch.arange(new_side, dtype=torch.float64) + 0.5) * side / new_side - 0.5
    distances = centres[:, None] - torch.arange(side, dtype=torch.float64)
    return (1 - distances.abs()).clamp(min=0)
