"""What a network makes of one expression in one image or clip: everything that the explorer shows.

Every frame, as the target, costs one forward pass: the mask comes from ``inference.infer``, as scores do, and the maps,
gates and centres from ``model.explain`` of the same prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.datasets import Collate, build_transform, undo_letterbox
from refseg.datasets.transforms import resize_mask, within
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WordGuesser
from refseg.evaluation.metrics import centre_auc, mask_iou
from refseg.evaluation.pointing import Pointing, point_words, relative
from refseg.inference import infer
from refseg.models.base import Explanation
from refseg.predict import Predictor
from refseg.types import MASK_THRESHOLD, Prediction, RefBatch, RefSample, size_of

SHOWN_SIDE = 480  # pixels: longest side of the images and masks that are shown
PROB_SIDE = 48  # and of the map of mask probabilities
MOST_PIXELS = 240 * 240  # of an input whose region rows, R x R, are sent: at stride 8 these are 900 regions


ATTENTION = {"bits": 16, "log": True}  # how tensors travel to the browser, see ``wire.pack``
FINE = {"bits": 16}

Points = dict[str, dict[str, list[Pointing | None]]]  # of the words, by level and normalisation
# By the position of a hidden word and the way it is guessed (``hidden_words.WAYS``): the best (word, probability).
Guesses = dict[int, dict[str, list[tuple[str, float]]]]


@dataclass
class Level:
    """The maps of one level; padding is cut away, so that h x w regions cover the image."""

    extent: tuple[float, float, float, float]  # left, top, right, bottom of the grid in parts of the image
    maps: Tensor = field(metadata=ATTENTION)  # [L,h,w], each word's sums to one
    # What each region reads of the words, [h,w,L], and where it looks, [h,w,h,w], query before key; both sum to one.
    beta: Tensor | None = field(default=None, metadata=FINE)
    alpha: Tensor | None = field(default=None, metadata={"bits": 8, "log": True})
    memory: Tensor | None = None  # [h,w], gates of the fusion, mean over channels
    reset: Tensor | None = None


@dataclass
class Centre:
    """How near every pixel is to the centre that the sentence vector becomes, step by step; padding is cut away."""

    extent: tuple[float, float, float, float]
    # Cosines [S,h,w]; first around the sentence alone, last around what the mask is made of.
    similarity: Tensor = field(metadata=FINE)
    areas: list[float | None]  # of each step, see ``metrics.centre_auc``; None without the ground truth
    among: list[float | None]  # the same among the pixels of objects; None if the data set does not know them


@dataclass
class FrameReading:
    """One frame, as the target of the network."""

    mask: Tensor  # [H,W] bool, the prediction at the size shown
    prob: Tensor  # [h,w], probability of the mask, small
    levels: dict[str, Level]
    centre: Centre | None = None


@dataclass
class Strike:
    """The answer to the expression without some of its words."""

    masks: list[Tensor]  # one per frame, [H,W] bool
    probs: list[Tensor]
    iou: float | None


@dataclass
class Reading:
    """One expression, read by one network."""

    expression: str
    words: list[str]  # the L words that the network read
    unknown: list[str]  # those that its vocabulary lacks
    cut: int  # number of words after the last one that it reads
    frames: list[FrameReading]
    pairs: bool = True  # a map is of the word at every region, averaged; else of the word itself
    truth: Tensor | None = None  # [H,W] bool at the size shown, in the target frame
    iou: float | None = None  # at the size on disk, in the target frame
    points: Points = field(default_factory=dict)
    # By level, where in time the target frame looks, [T,h,w].
    looks: dict[str, Tensor] = field(default_factory=dict, metadata=FINE)
    strikes: dict[tuple[int, ...], Strike] = field(default_factory=dict)  # by the positions struck out
    guesses: Guesses = field(default_factory=dict)

    def map(self, word: int, level: str, normalisation: str = "positions", frame: int = 0) -> Tensor:
        """The map of a word as it is shown, [h,w]: multiples of an even share, or shares among the words."""
        maps = self.frames[frame].levels[level].maps
        if normalisation == "words":
            return maps[word] / maps.sum(0).clamp(min=torch.finfo(maps.dtype).tiny)
        return maps[word] * maps[word].numel()


class Reader:
    """A network that reads expressions for the explorer.

    Args:
        predictor: the network, with its vocabulary and the size of its input.
        guesser: the same network with heads that name hidden words, if it has some.
    """

    def __init__(self, predictor: Predictor, guesser: WordGuesser | None = None):
        self.predictor, self.guesser = predictor, guesser
        self.model, self.tokenizer = predictor.model, predictor.checkpoint.tokenizer
        self.transform = build_transform(predictor.checkpoint.image_size)

    @torch.inference_mode()
    def read(self, sample: RefSample, known: bool, strikes: bool = False) -> Reading:
        """Everything about ``sample.expression``.

        Args:
            sample: as its data set read it, without a transform.
            known: its masks are the ground truth; else nothing is scored.
            strikes: also strike out every word in turn.

        Raises:
            RefsegError: an expression without words, a transformed sample, or a model that gives undefined values.
        """
        words = self.tokenizer.split(sample.expression)
        read = words[: self.tokenizer.max_words]
        reading = Reading(
            expression=sample.expression,
            words=read,
            unknown=[word for word in dict.fromkeys(self.tokenizer.unknown(sample.expression)) if word in read],
            cut=len(words) - len(read),
            frames=[],
            truth=resize_mask(sample.original_mask, shown_size(sample)) if known else None,
        )
        prepared = self._prepared(sample)
        for target in range(len(prepared.frames)):
            self._read_frame(reading, prepared, target, known)
        if strikes and len(read) > 1:
            reading.strikes = {(n,): self.strike(sample, (n,), known) for n in range(len(read))}
        return reading

    @torch.inference_mode()
    def strike(self, sample: RefSample, struck: Iterable[int], known: bool) -> Strike:
        """The masks without the words at the positions ``struck``; those after them move up.

        Raises:
            RefsegError: no word is left.
        """
        words = self.tokenizer.split(sample.expression)[: self.tokenizer.max_words]
        left = [word for n, word in enumerate(words) if n not in set(struck)]
        if not left:
            raise RefsegError("Every word is struck out: leave at least one, or press Esc to bring them all back.")
        prepared = self._prepared(replace(sample, expression=" ".join(left)))
        logits = [self._infer(prepared, target)[1] for target in range(len(prepared.frames))]
        masks, probs = zip(*map(shown_mask, logits))
        return Strike(list(masks), list(probs), iou_of(logits[prepared.target_frame], prepared) if known else None)

    def _prepared(self, sample: RefSample) -> RefSample:
        if sample.frames.dtype != torch.uint8:
            raise RefsegError("The sample was transformed: give the explorer one of a data set without a transform.")
        return self.transform(sample)

    def _infer(self, prepared: RefSample, target: int) -> tuple[RefBatch, Tensor, Prediction]:
        """The batch with that target frame, logits [height,width] at the size on disk, and the prediction."""
        batch = Collate(self.tokenizer)([replace(prepared, target_frame=target)]).to(self.predictor.device)
        (logits,), prediction = infer(self.model, batch)
        return batch, logits.cpu(), prediction

    def _read_frame(self, reading: Reading, prepared: RefSample, target: int, known: bool) -> None:
        batch, logits, prediction = self._infer(prepared, target)
        small = batch.pixel_valid[0].numel() <= MOST_PIXELS
        explained = self.model.explain(batch, prediction, region_rows=small)
        annotated = target == prepared.target_frame
        centre = centre_of(explained, batch, known and annotated)
        reading.frames.append(FrameReading(*shown_mask(logits), levels_of(explained, batch), centre))
        if not annotated:
            return
        reading.pairs = explained.pairs
        if known:
            reading.iou = iou_of(logits, prepared)
            reading.points = self._points(explained.word_maps, batch, len(reading.words))
        if len(prepared.frames) > 1:
            valid = batch.pixel_valid[0, 0].cpu()
            for level, weights in explained.frame_weights.items():
                reading.looks[level] = Crop(valid, weights.shape[-2:])(weights[0].mean(0).cpu())
        if self.guesser:
            reading.guesses = self._guesses(self.guesser, batch, None if known else prediction)

    def _guesses(self, guesser: WordGuesser, batch: RefBatch, prediction: Prediction | None) -> Guesses:
        """Every word that may be hidden, hidden alone; the mask is the ground truth or that of ``prediction``."""
        places = guesser.may_be_hidden(batch.token_ids[0]).nonzero().flatten().tolist()
        if not places:
            return {}
        if prediction is not None:
            logits = F.interpolate(prediction.mask_logits, batch.mask.shape[-2:], mode="bilinear")
            batch = replace(batch, mask=(logits > MASK_THRESHOLD) & batch.pixel_valid)
        rows = batch.rows([0] * len(places))
        hidden = torch.zeros_like(rows.token_valid)
        hidden[range(len(places)), places] = True
        found = guesser.guess(rows, hidden)
        return {place: {way: guesser.best(rows[n]) for way, rows in found.items()} for n, place in enumerate(places)}

    def _points(self, maps: dict[str, Tensor], batch: RefBatch, words: int) -> Points:
        """Scores of both normalisations, where the data set knows what each word is true of."""
        if not maps or batch.objects is None or batch.annotations[0].word_objects is None:
            return {}
        found: Points = {}
        for name, scored in (("positions", maps), ("words", relative(maps, batch.token_valid))):
            for one in point_words(scored, batch, self.tokenizer):
                found.setdefault(one.level, {}).setdefault(name, [None] * words)[one.position] = one.score
        return found


# ---- parts of a reading ----------------------------------------------------------------------------------------


def shown_mask(logits: Tensor) -> tuple[Tensor, Tensor]:
    """From logits [height,width] at the size on disk: the mask as it is shown, and its probability, small."""
    mask, size = logits > MASK_THRESHOLD, within(size_of(logits), SHOWN_SIDE)
    prob = undo_letterbox(logits.sigmoid(), torch.ones_like(mask), within(size_of(logits), PROB_SIDE))
    return (mask if tuple(mask.shape) == size else resize_mask(mask, size)), prob


def iou_of(logits: Tensor, sample: RefSample) -> float:
    """IoU with the ground truth at the size on disk."""
    return mask_iou(logits > MASK_THRESHOLD, sample.original_mask)


def levels_of(explained: Explanation, batch: RefBatch) -> dict[str, Level]:
    """Maps, region rows and gates; {} for a network without attention over words."""
    valid, levels = batch.pixel_valid[0, 0].cpu(), {}
    for name, maps in explained.word_maps.items():
        grid = maps.shape[-2:]
        crop = Crop(valid, grid)
        level = levels[name] = Level(crop.extent, crop(maps[0].cpu()))
        if name in explained.region_rows:
            alpha = crop(explained.region_rows[name][0].cpu().unflatten(0, grid).unflatten(-1, grid))
            level.alpha = crop(alpha.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
        if name in explained.region_words:
            level.beta = crop(explained.region_words[name][0].cpu().unflatten(1, grid)).movedim(0, -1)
        if name in explained.gates:  # one map each; the release has one per channel
            level.memory, level.reset = (crop(gate[0].mean(0).cpu()) for gate in explained.gates[name])
    return levels


def centre_of(explained: Explanation, batch: RefBatch, known: bool) -> Centre | None:
    """The maps of a network that has a centre, scored if the mask of the batch is the ground truth."""
    if explained.centre_maps is None:
        return None
    maps, valid = explained.centre_maps[0], batch.pixel_valid[0]
    crop = Crop(valid[0].cpu(), maps.shape[-2:])
    centre = Centre(crop.extent, crop(maps.cpu()), [None] * len(maps), [None] * len(maps))
    if known:
        centre.areas = centre_auc(maps, batch.mask[0], valid)
        if batch.objects is not None:
            centre.among = centre_auc(maps, batch.mask[0], batch.objects[0] > 0)
    return centre


class Crop:
    """Cuts the regions of padding away.

    Args:
        valid: [H,W] bool of the network's input; True is one rectangle.
        grid: (h, w) of the maps.
    """

    def __init__(self, valid: Tensor, grid: Sequence[int]):
        self.rows, top, bottom = _kept(valid.any(1), grid[0])
        self.columns, left, right = _kept(valid.any(0), grid[1])
        self.extent = (left, top, right, bottom)

    def __call__(self, maps: Tensor) -> Tensor:
        """[...,h,w] without padding."""
        return maps[..., self.rows, self.columns]


def _kept(valid: Tensor, regions: int) -> tuple[slice, float, float]:
    """Of one side: which regions stay, and where they begin and end in parts of the image."""
    pixels = valid.nonzero().flatten()
    first, length, step = int(pixels[0]), len(pixels), len(valid) / regions
    start, stop = int(first / step), int(-(-(first + length) // step))
    return slice(start, stop), (start * step - first) / length, (stop * step - first) / length


def shown_size(sample: RefSample) -> tuple[int, int]:
    """(height, width) at which the sample's frames and masks are shown."""
    return within(sample.original_size, SHOWN_SIDE)
