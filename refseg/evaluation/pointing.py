"""Do word maps point at what the words are true of?

Some data sets (RefShapes) know for every content word which objects it is true of. The pointing game (Zhang et al.,
"Top-Down Neural Attention by Excitation Backprop", IJCV 2018) asks whether the maximum of a word's map lies on one of
them. Two chance levels stand beside it: the share of the image that these objects cover, and their share of all
objects. A map that finds objects and does not know the word beats the first and not the second.

Two kinds of maps can be scored: the attention weights as they are, and what is the word's own in them
(:func:`relative`): where a place draws the attention of all words alike, the first show that place for every word.

Everything is counted at the size of the network's input, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from refseg.errors import RefsegError
from refseg.models.blocks.attention import masked_mean
from refseg.types import RefBatch


@dataclass(frozen=True)
class Pointing:
    """How one map does against the pixels that its word is true of."""

    hit: bool  # its maximum lies on them
    chance: float  # their share of the image: how often a blind guess hits
    mass: float  # share of the map's weight that lies on them
    on_object: bool  # its maximum lies on any object
    object_chance: float  # their share of the pixels of all objects: how often a guess hits that sees but does not read


@dataclass(frozen=True)
class WordPointing:
    """One content word of one sample at one level."""

    sample_id: str
    position: int  # of the word in the expression
    word: str
    kind: str  # what the word speaks of, as the data set says: "colour", ...
    level: str
    score: Pointing


def point(word_map: Tensor, true_pixels: Tensor, object_pixels: Tensor, pixel_valid: Tensor | None = None) -> Pointing:
    """The pointing game for one map.

    Args:
        word_map: [h,w], not negative; enlarged to the image (bilinear).
        true_pixels: [H,W] bool, the objects that the word is true of.
        object_pixels: [H,W] bool, all objects.
        pixel_valid: [H,W] bool, False where padded; None means all real.

    Raises:
        RefsegError: no pixel is true of the word, or the map is zero everywhere.
    """
    valid = torch.ones_like(true_pixels) if pixel_valid is None else pixel_valid
    enlarged = interpolate(word_map[None, None].float(), true_pixels.shape, mode="bilinear")[0, 0] * valid
    true_pixels, object_pixels = true_pixels & valid, object_pixels & valid
    if not (true_pixels.any() and enlarged.sum() > 0):
        raise RefsegError("A map without weight or a word without pixels has no pointing score: leave it out.")
    peak = enlarged.argmax()
    return Pointing(
        hit=bool(true_pixels.flatten()[peak]),
        chance=float(true_pixels.sum() / valid.sum()),
        mass=float(enlarged[true_pixels].sum() / enlarged.sum()),
        on_object=bool(object_pixels.flatten()[peak]),
        object_chance=float(true_pixels.sum() / object_pixels.sum()),
    )


def relative(maps: dict[str, Tensor], token_valid: Tensor) -> dict[str, Tensor]:
    """Each word's map divided by the mean map of the words of its expression: {level: [B,L,h,w]}.

    Above one where the word puts more weight than its neighbours do, however little that is.

    Args:
        maps: {level: [B,L,h,w]}, the ``word_maps`` of a model's ``explain``.
        token_valid: [B,L] bool, of the batch.
    """
    valid = token_valid[:, :, None, None]
    shared = {level: masked_mean(x, valid, dim=1)[:, None] for level, x in maps.items()}
    return {level: x / shared[level].clamp(min=torch.finfo(x.dtype).tiny) for level, x in maps.items()}


@torch.inference_mode()
def point_words(maps: dict[str, Tensor], batch: RefBatch, tokenizer: Any) -> list[WordPointing]:
    """The pointing game for every content word of a batch, at every level.

    Args:
        maps: of the batch, the ``word_maps`` of the model's ``explain``, or :func:`relative` to each other.
        batch: of a data set that knows its objects and what each word is true of (RefShapes, ``objects=True``).
        tokenizer: that made the batch.

    Raises:
        RefsegError: the batch does not know that, or the model has no attention over words.
    """
    if batch.objects is None or any(known.word_objects is None for known in batch.annotations):
        raise RefsegError("The batch does not say what its words are true of: use RefShapes with objects=True.")
    if not maps:
        raise RefsegError("This model has no word maps, so that nothing can be scored: use one with attention.")
    objects, valid, found = batch.objects.cpu()[:, 0], batch.pixel_valid.cpu()[:, 0], []
    for b, known in enumerate(batch.annotations):
        words = tokenizer.split(batch.expressions[b])[: tokenizer.max_words]
        ids, facts = known.object_ids or [], zip(words, known.word_kinds or (), known.word_objects or ())
        for position, (word, kind, true_of) in enumerate(facts):
            if not true_of:
                continue
            numbers = torch.tensor([ids.index(i) + 1 for i in true_of])
            true_pixels, object_pixels = torch.isin(objects[b].long(), numbers), objects[b] > 0
            for level, x in maps.items():
                score = point(x[b, position].cpu(), true_pixels, object_pixels, valid[b])
                found.append(WordPointing(batch.sample_ids[b], position, word, kind or "", level, score))
    return found
