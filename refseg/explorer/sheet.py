"""The explorer for paper and for where no JavaScript runs: an image, a sentence and a table of numbers."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from refseg.explorer.reading import Centre, Reading
from refseg.explorer.state import NORMALISATIONS, WAYS, ExplorerState
from refseg.viz import INK, QUIET, overlay, where

SIDE = 150  # pixels, of a panel
COLUMNS = 5


def describe(reading: Reading, now: ExplorerState) -> str:
    """What is on show in a state, in words and numbers."""
    frame, word = reading.frames[now.frame], reading.words[now.word]
    iou = "no ground truth" if reading.iou is None else f"IoU {reading.iou:.2f}"
    parts = [f"“{reading.expression}”: the mask covers {where(frame.mask)}, {iou}."]
    if now.level in frame.levels:
        largest, row, column = _largest(reading, now, now.word)
        h, w = frame.levels[now.level].maps.shape[-2:]
        parts.append(
            f"“{word}” at level {now.level}, {NORMALISATIONS[now.normalisation]}: largest weight {largest}, in row "
            f"{row}, column {column} of {h} x {w}."
        )
    if now.layer == "centre" and frame.centre:
        parts.append(_describe_centre(frame.centre, now.step))
    if now.guessing and now.word in reading.guesses:
        first = {way: best[0] for way, best in reading.guesses[now.word].items()}
        guessed = ", ".join(f"“{guess}” {share:.0%} ({WAYS[way].lower()})" for way, (guess, share) in first.items())
        parts.append(f"“{word}” is hidden; guessed in its place: {guessed}.")
    if strike := reading.strikes.get(now.struck):
        gone = " ".join(reading.words[n] for n in now.struck)
        parts.append(f"Without “{gone}”: " + ("no ground truth." if strike.iou is None else f"IoU {strike.iou:.2f}."))
    return " ".join(parts)


def _describe_centre(centre: Centre, step: int) -> str:
    shown, area, among, last = centre.similarity[step], centre.areas[step], centre.among[step], len(centre.areas) - 1
    after = f"after look {step} of {last}" if step else "of the sentence alone"
    text = f"Cosine with the centre {after}: from {shown.min():.2f} to {shown.max():.2f} over all pixels"
    text += "" if area is None else f", AUC {area:.3f}"
    return text + ("." if among is None else f", among objects {among:.3f}.")


def _largest(reading: Reading, now: ExplorerState, word: int) -> tuple[str, int, int]:
    """The largest value of a word's map, and its row and column from 1."""
    weights = reading.map(word, now.level, now.normalisation, now.frame)
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    largest = f"{weights.max():.0%} of all words'" if now.normalisation == "words" else f"{weights.max():.1f} × even"
    return largest, row + 1, column + 1


def figure(image: Tensor, reading: Reading, now: ExplorerState, kind: str = "PNG") -> str:
    """A <figure> with the contact sheet, the sentence and the table of a state.

    Args:
        image: [3,H,W] uint8, the frame on show.
        kind: "PNG", or "WEBP" where many sheets share a file.
    """
    weights = "each word's weights at all regions" + (", mean over the query regions" if reading.pairs else "")
    caption = f"Level {now.level}; {weights}; {NORMALISATIONS[now.normalisation]}; one scale for all words."
    alt = f"The image with its mask, and a map of each word: {', '.join(reading.words)}."
    sheet = contact_sheet(image, reading, now, caption=caption)
    return to_html(sheet, alt, describe(reading, now), word_table(reading, now), kind)


def contact_sheet(
    image: Tensor,
    reading: Reading,
    now: ExplorerState,
    *,
    caption: str = "",
    words: Sequence[int] | None = None,
    side: int = SIDE,
) -> Image.Image:
    """The image with the mask of a state, and a map per word, all on one scale.

    Args:
        image: [3,H,W] uint8, the frame on show, of the proportions of the masks.
        caption: a line below.
        words: positions of those whose maps are drawn, default all.
        side: longest side of a panel in pixels.
    """
    frame, strike = reading.frames[now.frame], reading.strikes.get(now.struck)
    mask = strike.masks[now.frame] if strike else frame.mask
    height, width = mask.shape
    size = (round(side * height / max(height, width)), round(side * width / max(height, width)))
    panels = [(_marked(image, mask, size), "image and mask")]
    if now.level in frame.levels:
        maps = [reading.map(n, now.level, now.normalisation, now.frame) for n in range(len(reading.words))]
        largest = max(float(x.max()) for x in maps)
        drawn = range(len(maps)) if words is None else words
        panels += [(heat(maps[n] / largest, size), reading.words[n]) for n in drawn]
    return _arranged(panels, size[0], side, caption)


def _arranged(panels: Sequence[tuple[Image.Image, str]], height: int, side: int, caption: str) -> Image.Image:
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = textwrap.wrap(caption, 24 * columns)
    below = 10 + 17 * len(lines) if lines else 0
    sheet = Image.new("RGB", (columns * (side + 12) + 12, rows * (height + 32) + 10 + below), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (panel, name) in enumerate(panels):
        left, top = 12 + number % columns * (side + 12), 10 + number // columns * (height + 32)
        draw.text((left, top), textwrap.shorten(name, 22), INK, _font(13))
        sheet.paste(panel, (left, top + 18))
    for number, line in enumerate(lines):
        draw.text((12, rows * (height + 32) + 12 + 17 * number), line, QUIET, _font(12))
    return sheet


def word_table(reading: Reading, now: ExplorerState) -> str:
    """A <table>: each word's largest weight and where it lies, whether it points, and the IoU without the word."""
    if now.level not in reading.frames[now.frame].levels:
        return ""
    points = reading.points.get(now.level, {}).get(now.normalisation, [])
    ious = [reading.strikes[n,].iou if (n,) in reading.strikes else None for n in range(len(reading.words))]
    columns = {"word": [word + " (not in the vocabulary)" * (word in reading.unknown) for word in reading.words]}
    weights = [_largest(reading, now, n) for n in range(len(reading.words))]
    columns["largest weight"] = [largest for largest, _, _ in weights]
    columns["in row, column"] = [f"{row}, {column}" for _, row, column in weights]
    if any(points):
        columns["points at it"] = ["" if score is None else "hit" if score.hit else "miss" for score in points]
    if any(iou is not None for iou in ious):
        columns["IoU without it"] = ["" if iou is None else f"{iou:.2f}" for iou in ious]
    return f"<table>{_line('th', columns)}{''.join(_line('td', row) for row in zip(*columns.values()))}</table>"


def _line(tag: str, cells: Iterable[str]) -> str:
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
        sheet.quantize(256, method=Image.Quantize.FASTOCTREE).save(buffer, kind, optimize=True)
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
    """The font shipped with matplotlib: it has more letters than Pillow's own."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
