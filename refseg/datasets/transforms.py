"""Sample in, sample out: fit an image into a square, normalise it, mirror it; and the way back for the scores.

The image, its mask, its object map and ``pixel_valid`` always change together. Letterbox and Normalize leave
``original_mask`` and ``original_size`` alone, because scores are taken there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import Compose
from torchvision.transforms.v2 import functional as F

from refseg.types import IMAGENET_MEAN, IMAGENET_STD, RefSample, size_of


class Letterbox:
    """The largest copy of the image, in its own proportions, that fits ``size`` x ``size``; zeros around it.

    The image is scaled with antialiasing and centred; its shorter side keeps at least one pixel. An image of the
    right size already is left as it is, bit for bit. How the mask is scaled: see ``resize_mask``.

    Sets ``pixel_valid``, so it must come once and first.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, sample: RefSample) -> RefSample:
        if sample.pixel_valid is not None:
            raise ValueError("The sample has been padded already: use one Letterbox, and only one.")
        inner, padding = fit(*size_of(sample.frames), self.size)
        frames, valid = letterbox(sample.frames, self.size)
        mask, objects = sample.mask, sample.objects
        if inner != tuple(mask.shape):
            mask = resize_mask(mask, inner)
            if objects is not None:
                objects = F.resize(objects[None], list(inner), F.InterpolationMode.NEAREST_EXACT)[0]
        if any(padding):
            mask = F.pad(mask[None], padding)[0]
            objects = None if objects is None else F.pad(objects[None], padding)[0]
        return replace(sample, frames=frames, mask=mask, pixel_valid=valid, objects=objects)


class Normalize:
    """Pixels 0..255 to floats of about zero mean and unit spread per channel; padding stays exactly zero."""

    def __call__(self, sample: RefSample) -> RefSample:
        return replace(sample, frames=normalize(sample.frames, sample.pixel_valid))


class HorizontalFlip:
    """The mirror image of all frames, with "left" and "right" exchanged in the expression: for training only.

    Nothing is drawn at random here. The original mask is mirrored too: the sample is then one of a mirrored image,
    and would be scored as such. ``annotations`` stay as they were, except for ``mirrored``: a mirror image is
    not the image it was made of, and a batch may hold both.

    Args:
        class_names: of the data set, if its samples have ``object_classes``: a class like "moving left" becomes that of
            the mirror image.
    """

    def __init__(self, class_names: Mapping[str, Sequence[str]] | None = None):
        self.class_names = class_names or {}

    def __call__(self, sample: RefSample) -> RefSample:
        valid, objects, classes = sample.pixel_valid, sample.objects, sample.object_classes
        return replace(
            sample,
            frames=sample.frames.flip(-1),
            mask=sample.mask.flip(-1),
            original_mask=sample.original_mask.flip(-1),
            pixel_valid=None if valid is None else valid.flip(-1),
            objects=None if objects is None else objects.flip(-1),
            object_classes=None if classes is None else self._mirrored_classes(classes),
            expression=swap_left_right(sample.expression),
            annotations=replace(sample.annotations, mirrored=not sample.annotations.mirrored),
        )

    def _mirrored_classes(self, classes: Tensor) -> Tensor:
        """[K+1,A] class numbers, each attribute's counted from 1."""
        classes = classes.clone()
        for column, names in enumerate(self.class_names.values()):
            number = {name: index for index, name in enumerate(names, start=1)}
            new = [0, *(number.get(swap_left_right(name), number[name]) for name in names)]
            classes[:, column] = torch.tensor(new)[classes[:, column]]
        return classes


def build_transform(size: int) -> Compose:
    """What every model of the kit is fed with: Letterbox to ``size`` pixels, then ImageNet's normalisation."""
    return Compose([Letterbox(size), Normalize()])


def letterbox(frames: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Frames [T,3,H,W] fitted into ``size`` x ``size`` with zeros around them, and [size,size] bool: what is real."""
    inner, padding = fit(*size_of(frames), size)
    if inner != tuple(frames.shape[-2:]):
        frames = _resize(frames, inner)
    valid = torch.ones(inner, dtype=torch.bool)
    if any(padding):
        frames, valid = F.pad(frames, padding), F.pad(valid[None], padding)[0]
    return frames, valid


def normalize(frames: Tensor, pixel_valid: Tensor | None) -> Tensor:
    """Pixels 0..255 [...,3,H,W] as floats of about zero mean and unit spread per channel; padding is zero."""
    own = frames.to(torch.float32, copy=True) if frames.is_floating_point() else frames
    frames = F.normalize(
        F.to_dtype(own, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True
    )
    return frames if pixel_valid is None else frames.masked_fill_(~pixel_valid, 0.0)


def fit(height: int, width: int, size: int) -> tuple[tuple[int, int], list[int]]:
    """(height, width) inside a square of ``size`` pixels, and the padding [left, top, right, bottom] around it."""
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    return (inner_height, inner_width), [left, top, size - inner_width - left, size - inner_height - top]


def within(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """``size`` (height, width), shrunk in proportion if it is larger than ``longest_side``."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """``mask`` bool [H,W] at ``size`` (height, width), so that no referent vanishes.

    The share of each new pixel that the referent covers is computed with antialiasing; a pixel belongs to the mask
    if it is covered more than half as much as the best covered one. For anything that fills a pixel this is the
    majority rule, which keeps areas. A hairline covers a third of every pixel it crosses and no pixel wholly: the
    majority rule would delete it and nearest-neighbour would tear it, here it stays in one piece.
    """
    covered = _resize(mask[None].float(), size)[0]
    return covered > covered.max() / 2


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[...,H,W] at ``size`` (height, width), antialiased.

    Torch (2.15, CPU, float) fills every row of a result one pixel wide with its first row; its transpose comes out
    right, so that is what is asked for.
    """
    if size[1] == 1:
        return F.resize(values.mT.contiguous(), [1, size[0]], antialias=True).mT
    return F.resize(values, list(size), antialias=True)


def undo_letterbox(mask_logits: Tensor, pixel_valid: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Logits at the size of the image on disk: cut the padding off, then scale (bilinear, half-pixel centres).

    Args:
        mask_logits: [H,W] or [1,H,W]; a map of another size than ``pixel_valid`` is first scaled to it.
        pixel_valid: [H,W] or [1,H,W] bool; its real pixels form one rectangle.
        original_size: (height, width) of the result, in pixels.

    Returns:
        [height,width] float32, on the device of the logits.
    """
    return scale(without_padding(at_input_size(mask_logits, pixel_valid), pixel_valid), original_size)


def at_input_size(mask_logits: Tensor, pixel_valid: Tensor) -> Tensor:
    """Logits [h,w] or [1,h,w] at the size of the network's input, padding included: [H,W] float32."""
    return scale(mask_logits.reshape(mask_logits.shape[-2:]).float(), size_of(pixel_valid))


def without_padding(values: Tensor, pixel_valid: Tensor) -> Tensor:
    """The rectangle of ``values`` [H,W] that shows the image."""
    valid = pixel_valid.reshape(pixel_valid.shape[-2:])
    rows, columns = valid.any(dim=1).nonzero(), valid.any(dim=0).nonzero()
    return values[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def scale(values: Tensor, size: tuple[int, int]) -> Tensor:
    """``values`` [H,W] at ``size``, bilinear with half-pixel centres."""
    if size_of(values) == tuple(size):
        return values
    return interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


_SIDE = re.compile(r"\b(left|right)(?=(?:most|wards?|hand(?:ed|er)?|side)?\b)", re.IGNORECASE)


def swap_left_right(expression: str) -> str:
    """``expression`` as it would be said of the mirror image; "bright" and "leftover" stay.

    Whole words are exchanged, all at once, also before -most, -ward(s), -hand(ed) and -side. What they mean is not
    looked at: "all right" becomes "all left", "the man who left" one "who right"; compounds like "topleft" stay.
    Swapping twice gives the expression back if its words are in small letters, in capitals, or capitalised.

    >>> swap_left_right("Leftmost cup, right of the bright left-hand plate")
    'Rightmost cup, left of the bright right-hand plate'
    """
    return _SIDE.sub(lambda found: _like(found[1], {"left": "right", "right": "left"}[found[1].lower()]), expression)


def _like(pattern: str, word: str) -> str:
    """``word`` in the case of ``pattern``."""
    if pattern.isupper():
        return word.upper()
    return word.capitalize() if pattern[0].isupper() else word
