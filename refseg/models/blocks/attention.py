"""The mathematics that several models share, as free functions; modules only hold the weights.

Letters: B batch, L words, C channels, h w feature grid, R = h*w regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import RefsegError

Kept = dict[str, Any] | None  # where a block puts what ``explain`` needs, by name
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
        dim: the dimension that is averaged.
    """
    count = valid.expand_as(values).sum(dim).clamp(min=1)
    return values.masked_fill(~valid, 0.0).sum(dim) / count


def spatial_coordinates(
    h: int, w: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Where every region lies, [8,h,w]: x_min, y_min, x_max, y_max, x_c, y_c, 1/w, 1/h.

    Edges and centres run from -1 (left, top) to 1 (right, bottom) of the image. The list is the one of the
    authors' release of CMSA, "spatial coordinate feature" of Ye et al., CVPR 2019, Sec. 3.1.
    """
    x = torch.linspace(-1, 1, w + 1, device=device, dtype=dtype).expand(h, w + 1)
    y = torch.linspace(-1, 1, h + 1, device=device, dtype=dtype)[:, None].expand(h + 1, w)
    x_min, x_max, y_min, y_max = x[:, :-1], x[:, 1:], y[:-1], y[1:]
    ones = torch.ones_like(x_min)
    return torch.stack([x_min, y_min, x_max, y_max, (x_min + x_max) / 2, (y_min + y_max) / 2, ones / w, ones / h])


def sines(places: Tensor, channels: int) -> Tensor:
    """Places as sines and cosines of many wavelengths: [...] -> [...,channels], ``channels`` even."""
    wavelengths = 10000 ** (2 * (torch.arange(channels, device=places.device) // 2) / channels)
    angles = places[..., None] / wavelengths
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def sine_positions(grid: Sequence[int], channels: int, like: Tensor) -> Tensor:
    """Where every region of a grid (h, w) lies, as ``sines`` of its row, then of its column: [R,C].

    DETR's, normalised: the last row and column are at 2 pi (Carion et al., ECCV 2020; MagNet's decoders use it).

    Args:
        channels: C, a multiple of 4.
        like: a tensor; the result gets its device and type.
    """
    (h, w), device = grid, like.device
    rows, columns = (
        sines(torch.arange(1, side + 1, device=device) / (side + 1e-6) * 2 * torch.pi, channels // 2).to(like.dtype)
        for side in (h, w)
    )
    return torch.cat([rows[:, None].expand(h, w, -1), columns.expand(h, w, -1)], dim=-1).flatten(0, 1)


def keys_and_values(level: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """The regions of a level [B,D,h,w] as keys, which know their places, and as values; ``embedding`` [D] is in both.

    Returns:
        two tensors [B,R,D]
    """
    values = level.flatten(2).mT + embedding
    return values + sine_positions(level.shape[-2:], level.shape[1], level), values


def first_positions(table: Tensor, L: int, owner: str) -> Tensor:
    """The first ``L`` rows of a table of positions, [M,C] -> [L,C].

    Args:
        owner: whose table it is, for the message.

    Raises:
        RefsegError: the table has fewer rows.
    """
    if L > len(table):
        raise RefsegError(f"The batch has {L} words, the {owner} knows {len(table)}: cut them in the tokenizer.")
    return table[:L]


def instance_norm(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Every channel of [B,N,C] at mean 0 and variance 1 over the valid of its N positions; a lone one becomes 0."""
    if valid is None or valid.all():
        centred = x - x.mean(1, keepdim=True)
        return centred * (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt()
    valid = valid[..., None]
    centred = x - masked_mean(x, valid, dim=1)[:, None]
    variance = masked_mean(centred.square(), valid, dim=1)[:, None]
    return centred * (variance + 1e-5).rsqrt()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B,N,C] -> [B,K,N,C/K]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B,K,N,C/K] -> [B,N,C]."""
    return x.transpose(1, 2).flatten(2)


def as_map(regions: Tensor, grid: Sequence[int]) -> Tensor:
    """[B,R,C] -> [B,C,h,w]."""
    return regions.mT.unflatten(2, grid)


def regions_with_pixels(pixel_valid: Tensor, grid: tuple[int, ...]) -> Tensor:
    """A region is valid if any of its pixels is: [B,1,H,W] bool -> [B,h,w] bool."""
    return F.adaptive_max_pool2d(pixel_valid.float(), grid)[:, 0] > 0
