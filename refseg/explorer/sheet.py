"""The contact sheet: the explorer for paper and for where no JavaScript runs, as a picture and a table of numbers."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from refseg.explorer.reading import Reading
from refseg.viz import overlay

SIDE = 150  # pixels, of a panel
COLUMNS = 5
INK, QUIET = "#222222", "#5f5f5f"


def contact_sheet(
    image: Tensor,
    reading: Reading,
    level: str,
    normalisation: str,
    caption: str = "",
    *,
    frame: int = 0,
    mask: Tensor | None = None,
    words: Sequence[int] | None = None,
    side: int = SIDE,
) -> Image.Image:
    """The picture with the mask, and a map per word, all at one scale.

    Args:
        image: [3,H,W] uint8, the frame of that number, of the proportions of the masks.
        reading: with at least one frame.
        caption: a line below.
        mask: instead of the reading's own.
        words: positions of those whose maps are drawn, default all.
        side: longest side of a panel in pixels.
    """
    of_frame = reading.frames[frame]
    mask = of_frame.mask if mask is None else mask
    height, width = mask.shape
    size = (round(side * height / max(height, width)), round(side * width / max(height, width)))
    panels = [(_marked(image, mask, size), "picture and mask")]
    if level in of_frame.levels:
        maps = [reading.map(n, level, normalisation, frame) for n in range(len(reading.words))]
        largest = max(float(x.max()) for x in maps)
        drawn = range(len(maps)) if words is None else words
        panels += [(heat(maps[n] / largest, size), reading.words[n]) for n in drawn]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = textwrap.wrap(caption, 24 * columns)
    below = 10 + 17 * len(lines) if lines else 0
    sheet = Image.new("RGB", (columns * (side + 12) + 12, rows * (size[0] + 32) + 10 + below), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (panel, name) in enumerate(panels):
        left, top = 12 + number % columns * (side + 12), 10 + number // columns * (size[0] + 32)
        draw.text((left, top), textwrap.shorten(name, 22), INK, _font(13))
        sheet.paste(panel, (left, top + 18))
    for number, line in enumerate(lines):
        draw.text((12, rows * (size[0] + 32) + 12 + 17 * number), line, QUIET, _font(12))
    return sheet


def word_table(reading: Reading, level: str, normalisation: str, frame: int = 0) -> str:
    """A <table>: of every word its largest weight and where that lies, whether it points, and the IoU without it."""
    if level not in reading.frames[frame].levels:
        return ""
    points = reading.points.get(level, {}).get(normalisation, [])
    ious = [reading.strikes[n,].iou if (n,) in reading.strikes else None for n in range(len(reading.words))]
    head = ["word", "largest weight", "in row, column"]
    head += ["points at it"] * any(points) + ["IoU without it"] * any(iou is not None for iou in ious)
    lines = [_line("th", head)]
    for n, word in enumerate(reading.words):
        weights = reading.map(n, level, normalisation, frame)
        row, column = divmod(int(weights.argmax()), weights.shape[1])
        largest = f"{weights.max():.0%} of all words'" if normalisation == "words" else f"{weights.max():.1f} × even"
        cells = [word + (" (not in the vocabulary)" if word in reading.unknown else "")]
        cells += [largest, f"{row + 1}, {column + 1}"]
        if any(points):
            cells.append("" if not points[n] else "hit" if points[n].hit else "miss")
        if len(cells) < len(head):
            cells.append("" if ious[n] is None else f"{ious[n]:.2f}")
        lines.append(_line("td", cells))
    return f"<table>{''.join(lines)}</table>"


def _line(tag: str, cells: Sequence[str]) -> str:
    texts = [f'<{tag} style="text-align:left;padding:2px 14px 2px 0">{html.escape(cell)}</{tag}>' for cell in cells]
    return f"<tr>{''.join(texts)}</tr>"


def heat(shares: Tensor, size: tuple[int, int]) -> Image.Image:
    """A map with values 0..1 in cividis, enlarged to ``size`` (height, width), bilinear as for the pointing game."""
    large = interpolate(shares[None, None].float(), size, mode="bilinear")[0, 0].clamp(0, 1).numpy()
    return Image.fromarray(matplotlib.colormaps["cividis"](large, bytes=True)[..., :3])


def to_html(sheet: Image.Image, alt: str, sentence: str = "", table: str = "", kind: str = "PNG") -> str:
    """A <figure> with the sheet inside, its alternative text, and a sentence and numbers below.

    Args:
        table: HTML.
        kind: "PNG", or "WEBP" where many sheets share a file.
    """
    buffer = io.BytesIO()
    if kind == "PNG":
        sheet.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(buffer, kind, optimize=True)
    else:
        sheet.save(buffer, kind, quality=60)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f'<img alt="{html.escape(alt, quote=True)}" style="max-width:100%" src="data:image/{kind.lower()};base64,'
    caption = f"<figcaption>{html.escape(sentence)}</figcaption>" if sentence else ""
    return f'<figure style="margin:0">{image}{data}">{caption}{table}</figure>'


def _marked(image: Tensor, mask: Tensor, size: tuple[int, int]) -> Image.Image:
    small = F.resize(image, list(mask.shape), antialias=True)
    return Image.fromarray(overlay(small, mask)).resize((size[1], size[0]), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings: it knows more letters than Pillow's own."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


__all__ = ["contact_sheet", "heat", "to_html", "word_table"]
