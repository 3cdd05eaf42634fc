"""The contact sheet: a picture of the explorer for paper, and for where no widget can live."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
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


def contact_sheet(image: Tensor, reading: Reading, level: str, normalisation: str, caption: str) -> Image.Image:
    """The picture with the mask, and a map per word, all at one scale.

    Args:
        image: [3,H,W] uint8, of the proportions of the masks.
        reading: with at least one frame; the first is drawn.
        caption: a line below.
    """
    frame = reading.frames[0]
    height, width = frame.mask.shape
    size = (round(SIDE * height / max(height, width)), round(SIDE * width / max(height, width)))
    panels = [(_marked(image, frame.mask, size), "picture and mask")]
    if level in frame.levels:
        maps = [reading.map(n, level, normalisation) for n in range(len(reading.words))]
        largest = max(float(x.max()) for x in maps)
        panels += [(heat(x / largest, size), word) for x, word in zip(maps, reading.words)]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = textwrap.wrap(caption, 24 * columns)
    sheet = Image.new("RGB", (columns * (SIDE + 12) + 12, rows * (size[0] + 32) + 20 + 17 * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (panel, name) in enumerate(panels):
        left, top = 12 + number % columns * (SIDE + 12), 10 + number // columns * (size[0] + 32)
        draw.text((left, top), textwrap.shorten(name, 22), INK, _font(13))
        sheet.paste(panel, (left, top + 18))
    for number, line in enumerate(lines):
        draw.text((12, rows * (size[0] + 32) + 12 + 17 * number), line, QUIET, _font(12))
    return sheet


def heat(shares: Tensor, size: tuple[int, int]) -> Image.Image:
    """A map with values 0..1 in cividis, enlarged to ``size`` (height, width), bilinear as for the pointing game."""
    large = interpolate(shares[None, None].float(), size, mode="bilinear")[0, 0].clamp(0, 1).numpy()
    return Image.fromarray(matplotlib.colormaps["cividis"](large, bytes=True)[..., :3])


def to_html(sheet: Image.Image, alt: str) -> str:
    """A <figure> with the sheet inside and its alternative text."""
    buffer = io.BytesIO()
    sheet.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    alt = html.escape(alt, quote=True)
    return f'<figure><img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{data}"></figure>'


def _marked(image: Tensor, mask: Tensor, size: tuple[int, int]) -> Image.Image:
    small = F.resize(image, list(mask.shape), antialias=True)
    return Image.fromarray(overlay(small, mask)).resize((size[1], size[0]), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings: it knows more letters than Pillow's own."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


__all__ = ["contact_sheet", "heat", "to_html"]
