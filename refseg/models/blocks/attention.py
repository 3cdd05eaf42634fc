"""The mathematics that several models share, as free functions; modules only hold the weights.

Letters: B batch, L words, C channels, h w feature grid, R = h*w regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SPATIAL_CHANNELS = 8  # what spatial_coordinates returns for every region


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, or its float32 copy if it is of a shorter type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_normalize(vectors: Tensor, dim: int = -1) -> Tensor:
    """``vectors`` at length one along ``dim``; a vector shorter than 1e-6 is divided by 1e-6, so zero stays zero.

    The bound is that of ``tf.nn.l2_normalize`` in the authors' release of CMSA (1e-12 on the squared length).
    """
    return F.normalize(vectors, dim=dim, eps=1e-6)


def masked_softmax(scores: Tensor, valid: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the valid entries of ``dim``; invalid ones get exactly 0, and so does a row without a valid one.

    Args:
        scores: any shape, any finite values.
        valid: bool, broadcasts to ``scores``, True = takes part.
        dim: the dimension over which the weights sum to one.
    """
    # The lowest finite number instead of -inf: a row without a valid entry then gives no NaN, neither here nor in
    # the gradient, and the second masked_fill makes it zero.
    weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim)
    return weights.masked_fill(~valid, 0.0)


def masked_mean(values: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Mean of the valid entries of ``values`` along ``dim``; zero where there is none.

    Args:
        values: any shape.
        valid: bool, broadcasts to ``values``.
        dim: the dimension that the mean takes away.
    """
    count = valid.expand_as(values).sum(dim).clamp(min=1)
    return values.masked_fill(~valid, 0.0).sum(dim) / count


def mutual_information(weights: Tensor) -> Tensor:
    """How far ``weights`` are from a product of word weights and region weights, in nats.

    It is 0 for a product: then knowing the word tells nothing about the region. It is at most the log of the smaller
    of the two counts, reached when each word has a region of its own.

    Args:
        weights: [...,L,R], none negative; each [L,R] is divided by its sum. All zeros give 0.

    Returns:
        [...], computed in float64, returned in the type of ``weights``
    """
    joint = weights.double() / weights.double().sum((-2, -1), keepdim=True).clamp(min=1e-300)
    words, regions = joint.sum(-1), joint.sum(-2)
    information = torch.xlogy(joint, joint).sum((-2, -1))
    information = information - torch.xlogy(words, words).sum(-1) - torch.xlogy(regions, regions).sum(-1)
    return information.clamp(min=0).to(weights.dtype)


def spatial_coordinates(
    h: int, w: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Where every region lies, [8,h,w]: x_min, y_min, x_max, y_max, x_c, y_c, 1/w, 1/h.

    Edges and centres run from -1 (left, top) to 1 (right, bottom) of the picture. The list is the one of the
    authors' release of CMSA, "spatial coordinate feature" of Ye et al., CVPR 2019, Sec. 3.1.
    """
    x = torch.linspace(-1, 1, w + 1, device=device, dtype=dtype).expand(h, w + 1)
    y = torch.linspace(-1, 1, h + 1, device=device, dtype=dtype)[:, None].expand(h + 1, w)
    x_min, x_max, y_min, y_max = x[:, :-1], x[:, 1:], y[:-1], y[1:]
    ones = torch.ones_like(x_min)
    return torch.stack([x_min, y_min, x_max, y_max, (x_min + x_max) / 2, (y_min + y_max) / 2, ones / w, ones / h])


def sine_positions(
    h: int, w: int, channels: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Where every region lies as sines and cosines of many wavelengths, [C,h,w]: the rows first, then the columns.

    DETR's, normalised: the last row and column are at 2 pi (Carion et al., ECCV 2020; MagNet's decoders use it).

    Args:
        channels: C, a multiple of 4.
    """
    half = channels // 2
    wavelengths = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)
    halves = []
    for side in (h, w):
        places = torch.arange(1, side + 1, device=device) / (side + 1e-6) * 2 * torch.pi
        angles = places[:, None] / wavelengths
        halves.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1).T.to(dtype))
    rows, columns = halves
    return torch.cat([rows[:, :, None].expand(half, h, w), columns[:, None].expand(half, h, w)])
