"""Lesson 03, regions: how many there are, what one of them sees, where it lies, and its vector at length one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.models.blocks.attention import l2_normalize
from refseg.models.blocks.attention import spatial_coordinates as _right_coordinates
from refseg_course.exercises import Exercise, numbers

# ------------------------------------------------------------------------------------------- the size of the grid


def grid_cases() -> list[tuple]:
    """Sides of images that stride 8 divides and does not, and one stage without a stride."""
    return [(96, [2, 2, 2]), (103, [2, 2, 2]), (107, [2, 2, 2, 1, 1]), (97, [2]), (33, [1])]


def _right_grid(side: int, strides: list[int]) -> int:
    """Regions along a side after 3x3 convolutions that pad one pixel all around."""
    for stride in strides:
        side = (side + 2 - 3) // stride + 1
    return side


def _rounded_down(side, strides):
    return side // math.prod(strides)


def _nearest(side, strides):
    return round(side / math.prod(strides))


def _divided(side, strides):
    return side / math.prod(strides)


def _strides_added(side, strides):
    return -(-side // sum(strides))


def _the_stride(side, strides):
    return math.prod(strides)


def _no_padding(side, strides):
    for stride in strides:
        side = (side - 3) // stride + 1
    return side


def _always_one_more(side, strides):
    return side // math.prod(strides) + 1


def _last_stride(side, strides):
    return _right_grid(side, strides[-1:])


def _first_stride(side, strides):
    return _right_grid(side, strides[:1])


grid_size = Exercise(
    title="How many regions there are",
    difficulty=1,
    importance=4,
    minutes=8,
    right=_right_grid,
    cases=grid_cases,
    mistakes=[
        (
            _rounded_down,
            "A side that the stride does not divide gives one region too few: it looks rounded down. What does "
            "the window on the last pixel see?",
        ),
        (_nearest, "It looks rounded to the nearest number. One left-over pixel is a region too."),
        (_divided, "There are fractions of regions: it looks divided and not rounded at all."),
        (_strides_added, "The strides look added. Each stage thins out what the one before it left."),
        (_the_stride, "That is the stride of the whole backbone, not the number of regions."),
        (_no_padding, "The padding looks forgotten: each convolution loses its border."),
        (_always_one_more, "There is one region too many where the stride divides the side."),
        (_last_stride, "Only the last stage is counted."),
        (_first_stride, "Only the first stage is counted."),
    ],
    verified="sides that the stride divides and sides that it does not",
)


# --------------------------------------------------------------------------------------------- what one region sees


def layers_cases() -> list[tuple]:
    """Lists of (kernel, stride, dilation): one layer, three plain ones, strides, dilations, a 1x1 at the end."""
    return [
        ([(3, 1, 1)],),
        ([(3, 1, 1), (3, 1, 1), (5, 1, 1)],),
        ([(3, 2, 1), (3, 2, 1), (3, 1, 1)],),
        ([(3, 2, 1), (3, 1, 2), (3, 1, 4), (1, 1, 1)],),
    ]


def _right_field(layers: list[tuple[int, int, int]]) -> int:
    """Side of the square of pixels that one value after the layers depends on."""
    field = jump = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field


def _strides_ignored(layers):
    return _right_field([(kernel, 1, dilation) for kernel, _, dilation in layers])


def _dilations_ignored(layers):
    return _right_field([(kernel, stride, 1) for kernel, stride, _ in layers])


def _only_kernels(layers):
    return _right_field([(kernel, 1, 1) for kernel, _, _ in layers])


def _kernels_added(layers):
    return sum(kernel for kernel, _, _ in layers)


def _kernels_multiplied(layers):
    return math.prod(kernel for kernel, _, _ in layers)


def _own_stride(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        jump *= stride
        field += (kernel - 1) * dilation * jump
    return field


def _begins_at_zero(layers):
    return _right_field(layers) - 1


def _last_layer(layers):
    return _right_field(layers[-1:])


receptive_field = Exercise(
    title="What one region sees",
    difficulty=3,
    importance=3,
    minutes=12,
    right=_right_field,
    cases=layers_cases,
    mistakes=[
        (_strides_ignored, "Strides look ignored. After a stride of 2, a step on the grid is two pixels."),
        (_dilations_ignored, "Dilations look ignored. A kernel with holes reaches farther."),
        (_only_kernels, "Strides and dilations look ignored: only the kernels are counted."),
        (_kernels_added, "The kernels look added. Two windows of 3 that overlap do not see 6 pixels."),
        (_kernels_multiplied, "The kernels look multiplied. Each layer adds to what the ones before see."),
        (_own_stride, "A layer's own stride widens its own window. It should widen only those that come after."),
        (_begins_at_zero, "One pixel is missing: with no layer at all, a value sees itself."),
        (_last_layer, "Only the last layer is counted."),
    ],
    verified="kernels, strides and dilations, in any order",
)


# --------------------------------------------------------------------------------------------- the eight coordinates


def coordinates_cases() -> list[tuple]:
    """Grids of 2x3, 5x3 and 1x1 regions."""
    return [(2, 3), (5, 3), (1, 1)]


def _from_zero(h, w):
    s = _right_coordinates(h, w)
    return torch.cat([(s[:6] + 1) / 2, s[6:]])


def _x_and_y_exchanged(h, w):
    return _right_coordinates(h, w)[[1, 0, 3, 2, 5, 4, 6, 7]]


def _sizes_exchanged(h, w):
    return _right_coordinates(h, w)[[0, 1, 2, 3, 4, 5, 7, 6]]


def _centres_first(h, w):
    return _right_coordinates(h, w)[[4, 5, 0, 1, 2, 3, 6, 7]]


def _x_before_y(h, w):
    return _right_coordinates(h, w)[[0, 2, 1, 3, 4, 5, 6, 7]]


def _upwards(h, w):
    s = _right_coordinates(h, w).clone()
    s[[1, 3, 5]] = -s[[3, 1, 5]]
    return s


def _widths_of_two(h, w):
    s = _right_coordinates(h, w)
    return torch.cat([s[:6], 2 * s[6:]])


def _corners_on_the_border(h, w):
    x = torch.linspace(-1, 1, w).expand(h, w)
    y = torch.linspace(-1, 1, h)[:, None].expand(h, w)
    ones = torch.ones(h, w)
    return torch.stack([x - 1 / w, y - 1 / h, x + 1 / w, y + 1 / h, x, y, ones / w, ones / h])


def _in_regions(h, w):
    x = torch.arange(w).float().expand(h, w)
    y = torch.arange(h).float()[:, None].expand(h, w)
    ones = torch.ones(h, w)
    return torch.stack([x, y, x + 1, y + 1, x + 0.5, y + 0.5, ones / w, ones / h])


def _channels_last(h, w):
    return _right_coordinates(h, w).movedim(0, -1)


_ORDER = "The numbers are right, but their order is not. Look at the list again."

spatial_coordinates = Exercise(
    title="Where every region lies",
    difficulty=2,
    importance=4,
    minutes=12,
    right=_right_coordinates,
    cases=coordinates_cases,
    mistakes=[
        (
            _from_zero,
            "The coordinates go from 0 to 1. They should go from -1 at the left and the top to 1 at the right and"
            " the bottom.",
        ),
        (_x_and_y_exchanged, "It looks as if x and y are exchanged. Along which dimension of [h,w] does x change?"),
        (_sizes_exchanged, "The places are right, but the last two are exchanged: 1/w comes before 1/h."),
        (_centres_first, _ORDER),
        (_x_before_y, _ORDER),
        (_upwards, "Here y grows upwards. In an image the first row is the top."),
        (
            _widths_of_two,
            "The places are right. The last two are the widths on a scale of two; they should be 1/w and 1/h.",
        ),
        (
            _corners_on_the_border,
            "The outer centres lie on the border of the image: it looks as if w points were spread from -1 to 1. "
            "How many edges do w regions in a row have?",
        ),
        (_in_regions, "The places are counted in regions. Then the numbers depend on how fine the grid is."),
        (_channels_last, "The eight come last. The shape should be [8,h,w]."),
        (lambda h, w: _right_coordinates(w, h), "The grid lies on its side: height and width look exchanged."),
    ],
    verified="grids of 2x3, 5x3 and 1x1",
)


# ------------------------------------------------------------------------------------------ every region at length one


def regions_cases() -> list[tuple]:
    """regions [B,R,C]; in the second one region is zero everywhere, in the third all are tiny."""
    regions = numbers(2, 6, 5, seed=1)
    empty = regions.relu()
    empty[1, 3] = 0
    return [(regions,), (empty,), (0.01 * regions,)]


def _right_unit(regions: Tensor) -> Tensor:
    """[B,R,C], zero stays zero."""
    return l2_normalize(regions)


def _over_places(regions):
    return F.normalize(regions)


def _divided_by_zero(regions):
    return regions / regions.norm(dim=-1, keepdim=True)


def _sums_to_one(regions):
    return regions / regions.abs().sum(-1, keepdim=True).clamp(min=1e-6)


def _no_root(regions):
    return regions / regions.square().sum(-1, keepdim=True).clamp(min=1e-12)


def _as_a_whole(regions):
    return regions / regions.norm()


def _of_each_image(regions):
    return regions / regions.norm(dim=(1, 2), keepdim=True)


def _one_added(regions):
    return regions / (regions.norm(dim=-1, keepdim=True) + 1)


def _at_least_one(regions):
    return regions / regions.norm(dim=-1, keepdim=True).clamp(min=1)


def _standardised(regions):
    return (regions - regions.mean(-1, keepdim=True)) / regions.std(-1, keepdim=True).clamp(min=1e-6)


def _softmax(regions):
    return regions.softmax(-1)


unit_regions = Exercise(
    title="Every region at length one",
    difficulty=2,
    importance=4,
    minutes=8,
    right=_right_unit,
    cases=regions_cases,
    mistakes=[
        (
            _over_places,
            "The lengths run over the regions: each channel has length one, not each region. Which dimension does"
            " your function take if you name none?",
        ),
        (_divided_by_zero, "A region that is zero everywhere gives NaN: it is divided by its own length."),
        (_sums_to_one, "The values of a region add up to one. Its length is something else."),
        (_no_root, "It looks as if the root is missing: a region is divided by the square of its length."),
        (_as_a_whole, "One length for the whole batch: then a bright image makes the others faint."),
        (_of_each_image, "One length for each image. Every region has its own."),
        (_one_added, "The regions come out too short: the number that prevents a division by zero is far too large."),
        (_at_least_one, "Short regions stay short: the number that prevents a division by zero is far too large."),
        (_standardised, "The mean is subtracted: that is a standardisation, and it changes the direction of a vector."),
        (_softmax, "That is a softmax. The vector should keep its direction and change its length."),
    ],
    verified="long, short and empty regions",
)
