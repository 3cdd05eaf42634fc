"""Figures for the lessons, each with the alternative text for those who cannot see it.

Every function takes plain tensors and returns a :class:`Picture`. Nothing touches pyplot's global state. Nothing is
said by hue alone: a prediction has a solid outline and the true mask a dashed one, maps use cividis, and every outline
has a dark edge so that it is seen on any image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from refseg.datasets.transforms import within
from refseg.errors import RefsegError
from refseg.types import RefSample, size_of
from refseg.viz import DARK, INK, PREDICTION, QUIET, TRUTH, where
from refseg_course.picture import Picture, show, to_html, to_png_bytes

__all__ = [
    "Picture",
    "as_mask",
    "as_picture",
    "learning_curve",
    "prediction_figure",
    "show",
    "show_sample",
    "to_html",
    "to_png_bytes",
    "word_map_figure",
]

CURVE = "#0072B2"  # Okabe and Ito's blue; each curve has a panel and a title of its own
LONGEST_SIDE = 640  # pixels; larger images are shrunk before they are drawn
DASHES = {"solid": "solid", "dashed": (0, (3.2, 1.8))}
WORD_MAP_RECIPE = "attention from this word at every region, summed over the words it attends to"


def show_sample(sample: RefSample) -> Picture:
    """A sample as read from its data set: the image, and the referent marked in it.

    Raises:
        RefsegError: see :func:`as_picture`.
    """
    image, mask = as_picture(sample.frames[sample.target_frame]), as_mask(sample.mask)
    figure, (left, right) = _panels(image, 2, sample.expression)
    _draw(left, image, "picture")
    _draw(right, image, "referent")
    _mark(right, mask, TRUTH, "dashed")
    alt = f"{_size(mask)}, and the same picture with the referent of “{sample.expression}” marked: {where(mask)}."
    return Picture(figure, alt)


def prediction_figure(image: Tensor, expression: str, pred_mask: Tensor, mask: Tensor | None, iou: float) -> Picture:
    """The image, and on it the predicted mask (solid outline) and the true one (dashed outline).

    Args:
        image: see :func:`as_picture`.
        pred_mask, mask: [H,W] bool, at the size of the image; ``mask`` is None where the truth is not known, and
            ``iou`` is not looked at then.

    Raises:
        RefsegError: see :func:`as_picture` and :func:`as_mask`.
    """
    image = as_picture(image)
    figure, (left, right) = _panels(image, 2, expression)
    _draw(left, image, "picture")
    _draw(right, image, "prediction" if mask is None else f"IoU {iou:.2f}")
    alt = f"{_size(pred_mask)} for “{expression}”. The prediction covers {where(as_mask(pred_mask, image))}"
    handles = [_legend_line(PREDICTION, "solid", "prediction")]
    if mask is not None:
        _mark(right, as_mask(mask, image), TRUTH, "dashed")
        handles.append(_legend_line(TRUTH, "dashed", "true mask"))
        alt += f"; the true mask covers {where(as_mask(mask))}. Their IoU is {iou:.2f}"
    _mark(right, as_mask(pred_mask), PREDICTION, "solid")
    figure.legend(
        handles=handles, loc="outside lower right", ncols=2, frameon=False, fontsize=9, labelcolor=INK, handlelength=3
    )
    return Picture(figure, alt + ".")


def word_map_figure(
    image: Tensor,
    words: Sequence[str],
    maps: Tensor,
    pred_mask: Tensor | None = None,
    *,
    level: str = "c5",
    recipe: str = WORD_MAP_RECIPE,
) -> Picture:
    """One small panel per word: where in the image that word looks.

    All panels share one scale, so a faint panel is a word that spreads its attention evenly. The caption states
    what a map needs to be read: level, query set, aggregation and normalisation.

    Args:
        image: see :func:`as_picture`.
        words: L words; ``maps`` [L,h,w] their maps over the image (padding already cut away), not negative.
        pred_mask: [H,W] bool, drawn as a thin outline for orientation.
        level, recipe: what the maps are made of, for the caption.

    Raises:
        RefsegError: words and maps differ in number, or a map has a negative or undefined value.
    """
    maps = _checked_maps(words, maps)
    image = as_picture(image)
    shares = maps / maps.mean().clamp(min=1e-12)
    smooth = F.interpolate(shares[None], size=image.shape[:2], mode="bilinear")[0].numpy()
    figure, axes = _panels(image, len(words) + 1, "", columns=min(len(words) + 1, 5))
    _draw(axes[0], image, "picture")
    for axis, word, weights in zip(axes[1:], words, smooth, strict=True):
        drawn = _draw(axis, weights, f"“{word}”", cmap="cividis", vmin=0, vmax=float(smooth.max()))
    if pred_mask is not None:
        for axis in axes:
            _mark(axis, as_mask(pred_mask, image), "white", "solid", fill=0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("attention, 1 = mean of all maps", fontsize=8, color=QUIET)
    bar.ax.tick_params(labelsize=8, colors=QUIET, length=2)
    bar.outline.set_visible(False)
    outline = "" if pred_mask is None else " White outline: the predicted mask."
    caption = f"Level {level}; {recipe}; mean over regions. Scale shared by all words, 1 = mean weight.{outline}"
    figure.supxlabel(textwrap.fill(caption, round(13 * figure.get_figwidth())), fontsize=8, color=QUIET)
    return Picture(figure, _word_map_alt(words, shares, level), caption)


def learning_curve(log_rows: Sequence[Mapping[str, Any]], over: str = "step") -> Picture:
    """Training loss and validation mIoU over training.

    Args:
        log_rows: the lines of a ``log.jsonl``: dicts with ``over`` and "loss", or with ``over`` and "val", which holds
            "mIoU".
        over: the key of the horizontal axis, "step" or "seconds".

    Raises:
        RefsegError: no row has the two keys that a curve needs.
    """
    readers = {
        "training loss": lambda row: row.get("loss"),
        "validation mIoU": lambda row: row.get("val", {}).get("mIoU"),
    }
    curves = {title: _curve(log_rows, over, read) for title, read in readers.items()}
    curves = {title: points for title, points in curves.items() if len(points)}
    if not curves:
        raise RefsegError(f"The log has no row with {over!r} and 'loss' or 'val': there is nothing to draw.")
    figure = Figure(figsize=(4.2 * len(curves), 2.9), layout="constrained", facecolor="white")
    axes = np.atleast_1d(figure.subplots(1, len(curves), sharex=True))
    for axis, (title, points) in zip(axes, curves.items(), strict=True):
        _plot(axis, points, title, over)
    ranges = [f"{title} goes from {points[0, 1]:.3g} to {points[-1, 1]:.3g}" for title, points in curves.items()]
    if "validation mIoU" in curves:
        ranges[-1] += f", best {curves['validation mIoU'][:, 1].max():.3g}"
    last = max(points[-1, 0] for points in curves.values())
    return Picture(figure, f"Learning curve over {last:g} {_unit(over)}: {'; '.join(ranges)}.")


# ---- how it is drawn -------------------------------------------------------------------------------------------


def as_picture(image: Tensor | np.ndarray, longest_side: int | None = LONGEST_SIDE) -> np.ndarray:
    """An image ready to draw, [H,W,3] uint8, shrunk to ``longest_side`` pixels (None keeps its size).

    Args:
        image: [3,H,W] uint8 0..255, or float between 0 and 1; an array may be [H,W,3].

    Raises:
        RefsegError: another shape, or float values outside 0..1 (a normalised image).
    """
    tensor = torch.as_tensor(image).detach().cpu()
    if tensor.ndim == 3 and tensor.shape[0] != 3 and tensor.shape[2] == 3:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise RefsegError(f"An image of shape {tuple(tensor.shape)} cannot be drawn: it must be [3,H,W].")
    if tensor.dtype != torch.uint8:
        if not (tensor.min() >= 0 and tensor.max() <= 1):
            raise RefsegError("The image has values outside 0..1: draw the image as read, not the normalised one.")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return _shrunk(tensor, longest_side).permute(1, 2, 0).numpy()


def as_mask(mask: Tensor | np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """A mask as [H,W] bool array; with ``like`` it must have the shape of that image before it was shrunk.

    Raises:
        RefsegError: not bool, not two-dimensional, or of other proportions than the image.
    """
    array = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if array.dtype != bool or array.ndim != 2:
        raise RefsegError(f"A mask must be bool and [H,W], not {array.dtype} of shape {array.shape}.")
    if like is not None:
        scale = max(like.shape[:2]) / max(array.shape)
        if any(abs(side * scale - drawn) > 1 for side, drawn in zip(array.shape, like.shape[:2], strict=True)):
            raise RefsegError(f"The mask of {array.shape} pixels does not fit the image: give both at one size.")
    return array


def _panels(image: np.ndarray, count: int, expression: str, columns: int | None = None):
    """A figure with ``count`` panels of the image's proportions, and the expression as its title."""
    rows = -(-count // (columns or count))
    columns = -(-count // rows)  # full rows rather than one long and one short
    ratio = min(max(image.shape[0] / image.shape[1], 0.4), 2.0)  # a sliver of an image still gets a usable figure
    wide = 3.6 if count == 2 else 2.1  # inches
    title = textwrap.fill(f"“{expression}”", round(9 * wide * columns)) if expression else ""
    height = rows * (wide * ratio + 0.3) + 0.32 * len(title.splitlines()) + 0.35
    figure = Figure(figsize=(wide * columns + 0.2, height), layout="compressed", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    return figure, axes[:count]


def _draw(axis, image: np.ndarray, title: str, **options):
    axis.set_title(title, fontsize=9.5, color=QUIET, pad=4, parse_math=False)
    height, width = image.shape[:2]
    return axis.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **options)


def _mark(axis, mask: np.ndarray, colour: str, style: str, fill: float = 0.32) -> None:
    """A translucent fill and an outline in the colour, over a wider dark line."""
    if not mask.any():
        return
    extent = axis.images[0].get_extent()
    width, height = extent[1], extent[2]
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = to_rgba(colour, fill)
    axis.imshow(layer, extent=extent, interpolation="nearest")
    ring = np.pad(mask, 1).astype(float)  # so that a mask at the border is closed too
    x = (np.arange(ring.shape[1]) - 0.5) * width / mask.shape[1]
    y = (np.arange(ring.shape[0]) - 0.5) * height / mask.shape[0]
    thin = 1.2 if fill == 0 else 2.0
    axis.contour(x, y, ring, levels=[0.5], colors=DARK, linewidths=thin + 1.6)
    axis.contour(x, y, ring, levels=[0.5], colors=[colour], linewidths=thin, linestyles=[DASHES[style]])
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


def _legend_line(colour: str, style: str, label: str) -> Line2D:
    return Line2D(
        [], [], color=colour, linestyle=(0, (3.2, 1.8)) if style == "dashed" else "solid", lw=2.4, label=label
    )


def _checked_maps(words: Sequence[str], maps: Tensor) -> Tensor:
    maps = maps.detach().float().cpu()
    if not words or maps.ndim != 3 or len(maps) != len(words):
        raise RefsegError(f"{len(words)} words and maps of shape {tuple(maps.shape)}: give one [h,w] map per word.")
    if not bool((maps >= 0).all()) or not bool(maps.isfinite().all()):
        raise RefsegError("A word map has a negative or undefined value: maps are attention weights.")
    return maps


def _word_map_alt(words: Sequence[str], shares: Tensor, level: str) -> str:
    peaks = [
        f"“{word}” is strongest at the {_place(share)} ({share.max():.1f})"
        for word, share in zip(words, shares, strict=True)
    ]
    return f"One attention map per word at level {level}; 1 is the mean weight. {'; '.join(peaks)}."


def _place(weights: Tensor) -> str:
    peak = torch.zeros_like(weights, dtype=torch.bool).flatten()
    peak[weights.argmax()] = True
    return where(peak.view_as(weights).numpy()).split(" at the ")[1]


def _size(mask: np.ndarray) -> str:
    return f"A picture of {mask.shape[1]} by {mask.shape[0]} pixels"


def _curve(rows: Sequence[Mapping[str, Any]], over: str, read: Callable[[Mapping], float | None]) -> np.ndarray:
    """[n,2]: the rows that have both."""
    points = [(row[over], read(row)) for row in rows if over in row and read(row) is not None]
    return np.array(points, dtype=float).reshape(-1, 2)


def _unit(over: str) -> str:
    return "steps" if over == "step" else over


def _plot(axis, points: np.ndarray, title: str, over: str) -> None:
    marker = "o" if len(points) < 30 else None
    axis.plot(*points.T, color=CURVE, lw=2, marker=marker, ms=4)
    axis.annotate(f"{points[-1, 1]:.3g}", points[-1], xytext=(4, 4), textcoords="offset points", fontsize=9, color=INK)
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel(_unit(over), fontsize=9, color=QUIET)
    axis.set_ylim(bottom=0, top=1 if title.endswith("mIoU") else None)
    axis.grid(axis="y", color="#dddddd", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#aaaaaa")
    axis.tick_params(labelsize=8, colors=QUIET, length=3)
    axis.margins(x=0.08)


def _shrunk(tensor: Tensor, longest_side: int | None) -> Tensor:
    size = size_of(tensor)
    if longest_side is None or max(size) <= longest_side:
        return tensor
    return F.interpolate(tensor[None], size=within(size, longest_side), mode="bilinear", antialias=True)[0]
