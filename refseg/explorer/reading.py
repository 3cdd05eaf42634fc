"""What a network makes of one expression in one picture or clip: everything that the explorer shows.

The numbers come from the network's own ``word_maps``, ``region_rows`` or ``region_words``, ``gates``, ``frame_weights``
and ``centre_maps``, whichever it has; the mask goes the way that scores are taken from, ``refseg.inference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.datasets import Collate, build_transform, undo_letterbox
from refseg.datasets.transforms import resize_mask
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WordGuesser
from refseg.evaluation.metrics import centre_auc, mask_iou
from refseg.evaluation.pointing import point_words
from refseg.explorer.wire import pack, pack_mask, unpack, unpack_mask
from refseg.inference import infer
from refseg.models.base import Explanation
from refseg.predict import Predictor
from refseg.types import MASK_THRESHOLD, Prediction, RefBatch, RefSample

SHOWN_SIDE = 480  # pixels: longest side of the pictures and masks that are shown
PROB_SIDE = 48  # and of the map of mask probabilities
MOST_REGIONS = 900  # of a grid whose region rows, R x R, are sent
NORMALISATIONS = ("positions", "words")  # per word over positions; per position over words


@dataclass(frozen=True)
class WordScore:
    """The pointing game for one word, see ``pointing.Pointing``."""

    hit: bool
    chance: float
    mass: float
    object_chance: float


@dataclass
class Level:
    """The maps of one level; padding is cut away, so that h x w regions cover the picture."""

    extent: tuple[float, float, float, float]  # left, top, right, bottom of the grid in parts of the picture
    maps: Tensor  # [L,h,w], each word's sums to one
    beta: Tensor | None = None  # [h,w,L], what each region reads of the words, sums to one
    alpha: Tensor | None = (
        None  # [h,w,h,w], where each region looks, query before key, sums to one; not every network's
    )
    memory: Tensor | None = None  # [h,w], gates of the fusion
    reset: Tensor | None = None


@dataclass
class Centre:
    """How near every pixel is to the centre that the sentence becomes, step by step; padding is cut away."""

    extent: tuple[float, float, float, float]
    similarity: Tensor  # [S,h,w], cosines; first around the sentence alone, last around what the mask is made of
    areas: list[float | None]  # of each step, see ``metrics.centre_auc``; None where the truth is not known
    among: list[float | None]  # the same among the pixels of objects; None where the data set does not know them


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
    cut: int  # words behind the last one that it reads
    frames: list[FrameReading]
    asking: str = "pair"  # what a word map is of: the word at every region, averaged; or "word", the word itself
    truth: Tensor | None = None  # [H,W] bool at the size shown, in the target frame
    iou: float | None = None  # at the size on disk, in the target frame
    points: dict[str, dict[str, list[WordScore | None]]] = field(default_factory=dict)  # level, normalisation, word
    looks: dict[str, Tensor] = field(default_factory=dict)  # level -> [T,h,w], where in time the target frame looks
    strikes: dict[tuple[int, ...], Strike] = field(default_factory=dict)  # by the positions struck out
    # By the position of a hidden word and the way it is guessed (``grounding.WAYS``): the best (word, probability).
    guesses: dict[int, dict[str, list[tuple[str, float]]]] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """JSON-able, short."""
        return {
            "expression": self.expression,
            "words": self.words,
            "unknown": self.unknown,
            "cut": self.cut,
            "iou": self.iou,
            "truth": None if self.truth is None else pack_mask(self.truth),
            "points": {
                level: {name: [score and vars(score) for score in scores] for name, scores in by_name.items()}
                for level, by_name in self.points.items()
            },
            "looks": {level: pack(x, 16) for level, x in self.looks.items()},
            "frames": [_frame_to_wire(frame) for frame in self.frames],
            "asking": self.asking,
            "strikes": {_key(struck): strike_to_wire(strike) for struck, strike in self.strikes.items()},
            **({"guesses": _guesses_to_wire(self.guesses)} if self.guesses else {}),
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Reading:
        """The way back; values are rounded, see ``wire.pack``."""
        plain = {name: wire[name] for name in ("expression", "words", "unknown", "cut", "iou")}
        return cls(
            **plain,
            asking=wire.get("asking", "pair"),
            truth=None if wire["truth"] is None else unpack_mask(wire["truth"]),
            points={
                level: {name: [score and WordScore(**score) for score in scores] for name, scores in by_name.items()}
                for level, by_name in wire["points"].items()
            },
            looks={level: unpack(x) for level, x in wire["looks"].items()},
            frames=[_frame_from_wire(frame) for frame in wire["frames"]],
            strikes={
                tuple(map(int, key.split(","))): Strike(
                    [unpack_mask(mask) for mask in strike["masks"]],
                    [unpack(prob) for prob in strike["probs"]],
                    strike["iou"],
                )
                for key, strike in wire["strikes"].items()
            },
            guesses={
                int(place): {way: [(word, share) for word, share in best] for way, best in by_way.items()}
                for place, by_way in wire.get("guesses", {}).items()
            },
        )

    def map(self, word: int, level: str, normalisation: str = "positions", frame: int = 0) -> Tensor:
        """The map of a word as it is shown, [h,w]: multiples of an even share, or shares among the words."""
        maps = self.frames[frame].levels[level].maps
        if normalisation == "words":
            return maps[word] / maps.sum(0).clamp(min=torch.finfo(maps.dtype).tiny)
        return maps[word] * maps[word].numel()


def strike_to_wire(strike: Strike) -> dict[str, Any]:
    """JSON-able."""
    return {
        "masks": [pack_mask(mask) for mask in strike.masks],
        "probs": [pack(prob) for prob in strike.probs],
        "iou": strike.iou,
    }


def _guesses_to_wire(guesses: dict[int, dict[str, list[tuple[str, float]]]]) -> dict[str, Any]:
    return {
        str(place): {way: [[word, round(share, 4)] for word, share in best] for way, best in by_way.items()}
        for place, by_way in guesses.items()
    }


def _key(struck: Sequence[int]) -> str:
    return ",".join(map(str, struck))


_LEVEL_PARTS = {"maps": (16, True), "alpha": (8, True), "beta": (16, False), "memory": (8, False), "reset": (8, False)}


def _frame_to_wire(frame: FrameReading) -> dict[str, Any]:
    levels = {}
    for name, level in frame.levels.items():
        parts = {part: getattr(level, part) for part in _LEVEL_PARTS}
        packed = {part: None if x is None else pack(x, *_LEVEL_PARTS[part]) for part, x in parts.items()}
        levels[name] = {"extent": list(level.extent), **packed}
    wire = {"mask": pack_mask(frame.mask), "prob": pack(frame.prob), "levels": levels}
    if centre := frame.centre:  # half of one plus the cosine: what is packed is not negative
        similarity = pack((1 + centre.similarity) / 2, 16)
        wire["centre"] = {"extent": list(centre.extent), "similarity": similarity}
        wire["centre"] |= {"areas": centre.areas, "among": centre.among}
    return wire


def _frame_from_wire(wire: dict[str, Any]) -> FrameReading:
    levels = {
        name: Level(
            tuple(level["extent"]),
            **{part: None if level[part] is None else unpack(level[part]) for part in _LEVEL_PARTS},
        )
        for name, level in wire["levels"].items()
    }
    centre = None
    if packed := wire.get("centre"):
        similarity = 2 * unpack(packed["similarity"]) - 1
        centre = Centre(tuple(packed["extent"]), similarity, packed["areas"], packed["among"])
    return FrameReading(unpack_mask(wire["mask"]), unpack(wire["prob"]), levels, centre)


# ---- reading ---------------------------------------------------------------------------------------------------


class Reader:
    """A network that reads expressions for the explorer.

    Args:
        predictor: the network, with its vocabulary and the size of its input.
        guesser: the same network with heads that name hidden words, if it has some.
    """

    def __init__(self, predictor: Predictor, guesser: WordGuesser | None = None):
        self.predictor, self.guesser = predictor, guesser
        self.model, self.tokenizer = predictor.model, predictor.loaded.tokenizer
        self.transform = build_transform(predictor.loaded.image_size)

    @torch.inference_mode()
    def read(self, sample: RefSample, known: bool, strikes: bool = False) -> Reading:
        """Everything about ``sample.expression``.

        Args:
            sample: as its data set read it, without a transform.
            known: its masks are the truth; else nothing is scored.
            strikes: also strike out every word in turn.

        Raises:
            RefsegError: an expression without words, a transformed sample, or a model that gives undefined values.
        """
        words = self.tokenizer.split(sample.expression)
        prepared = self._prepared(sample)
        read = words[: self.tokenizer.max_words]
        frames, iou = self._frames(prepared, known)
        reading = Reading(
            expression=sample.expression,
            words=read,
            unknown=[word for word in self.tokenizer.unknown(sample.expression) if word in read],
            cut=len(words) - len(read),
            frames=frames,
            asking="pair" if self._explained(self._batch(prepared, prepared.target_frame)).pairs else "word",
            truth=resize_mask(sample.original_mask, shown_size(sample)) if known else None,
            iou=iou,
            points=self._points(prepared, len(read)) if known else {},
            looks=self._looks(prepared),
            guesses=self._guesses(prepared, known) if self.guesser else {},
        )
        if strikes and len(read) > 1:
            reading.strikes = {(n,): self.strike(sample, (n,), known) for n in range(len(read))}
        return reading

    @torch.inference_mode()
    def strike(self, sample: RefSample, struck: Sequence[int], known: bool) -> Strike:
        """The masks without the words at the positions ``struck``; those behind them move up.

        Raises:
            RefsegError: no word is left.
        """
        words = self.tokenizer.split(sample.expression)[: self.tokenizer.max_words]
        left = [word for n, word in enumerate(words) if n not in set(struck)]
        if not left:
            raise RefsegError("Every word is struck out: leave at least one, press Esc to have them all back.")
        prepared = self._prepared(replace(sample, expression=" ".join(left)))
        masks, probs, iou = [], [], None
        for target in range(len(sample.frames)):
            mask, prob, scored = self._mask(self._batch(prepared, target), sample, known)
            masks.append(mask)
            probs.append(prob)
            iou = scored if target == sample.target_frame else iou
        return Strike(masks, probs, iou)

    def _prepared(self, sample: RefSample) -> RefSample:
        if sample.frames.dtype != torch.uint8:
            raise RefsegError("The sample went through a transform: give the explorer one of a data set without any.")
        return self.transform(sample)

    def _batch(self, prepared: RefSample, target: int) -> RefBatch:
        batch = Collate(self.tokenizer)([replace(prepared, target_frame=target)])
        return batch.to(self.predictor.device)

    def _frames(self, prepared: RefSample, known: bool) -> tuple[list[FrameReading], float | None]:
        frames, iou = [], None
        for target in range(len(prepared.frames)):
            batch = self._batch(prepared, target)
            mask, prob, scored = self._mask(batch, prepared, known)
            annotated = target == prepared.target_frame
            frames.append(FrameReading(mask, prob, self._levels(batch), self._centre(batch, known and annotated)))
            iou = scored if annotated else iou
        return frames, iou

    def _mask(self, batch: RefBatch, sample: RefSample, known: bool) -> tuple[Tensor, Tensor, float | None]:
        (logits,) = infer(self.model, batch)[0]
        pred_mask = (logits > MASK_THRESHOLD).cpu()
        known = known and int(batch.target_frame[0]) == sample.target_frame
        iou = mask_iou(pred_mask, sample.original_mask) if known else None
        everything = torch.ones_like(pred_mask)
        prob = undo_letterbox(logits.sigmoid().cpu(), everything, within(tuple(pred_mask.shape), PROB_SIDE))
        size = shown_size(sample)
        return (pred_mask if tuple(pred_mask.shape) == size else resize_mask(pred_mask, size)), prob, iou

    def _levels(self, batch: RefBatch) -> dict[str, Level]:
        """Maps, region rows and gates; {} for a network without attention over words."""
        prediction = self.model(batch)
        small = max(h * w for h, w in _grids(prediction)) <= MOST_REGIONS
        shown = self.model.explain(batch, prediction, region_rows=small)
        valid = batch.pixel_valid[0, 0].cpu()
        levels = {}
        for name, of_level in shown.word_maps.items():
            grid = tuple(of_level.shape[-2:])
            crop = Crop(valid, grid)
            level = levels[name] = Level(crop.extent, crop(of_level[0].cpu()))
            alpha, beta = shown.region_rows.get(name), shown.region_words.get(name)
            if alpha is not None:
                alpha = crop(alpha[0].cpu().unflatten(0, grid).unflatten(-1, grid))
                level.alpha = crop(alpha.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
            if beta is not None:
                level.beta = crop(beta[0].cpu().unflatten(1, grid)).movedim(0, -1)
            if name in shown.gates:  # one map each; the release has one per channel, of which we show the mean
                level.memory, level.reset = (crop(gate[0].mean(0).cpu()) for gate in shown.gates[name])
        return levels

    def _centre(self, batch: RefBatch, known: bool) -> Centre | None:
        """Of a network that has a centre."""
        centre_maps = self._explained(batch).centre_maps
        if centre_maps is None:
            return None
        (maps,) = centre_maps
        mask, valid, areas, among = batch.mask[0], batch.pixel_valid[0], [None] * len(maps), [None] * len(maps)
        if known:
            areas = centre_auc(maps, mask, valid)
        if known and batch.objects is not None:
            among = centre_auc(maps, mask, batch.objects[0] > 0)
        crop = Crop(valid[0].cpu(), tuple(maps.shape[-2:]))
        return Centre(crop.extent, crop(maps.cpu()), areas, among)

    def _explained(self, batch: RefBatch) -> Explanation:
        return self.model.explain(batch, self.model(batch))

    def _looks(self, prepared: RefSample) -> dict[str, Tensor]:
        if len(prepared.frames) == 1:
            return {}
        batch = self._batch(prepared, prepared.target_frame)
        valid = batch.pixel_valid[0, 0].cpu()
        weights = self._explained(batch).frame_weights
        return {level: Crop(valid, tuple(x.shape[-2:]))(x[0].mean(0).cpu()) for level, x in weights.items()}

    def _guesses(self, prepared: RefSample, known: bool) -> dict[int, dict[str, list[tuple[str, float]]]]:
        """Every word that may be hidden, hidden alone; the mask is the truth, or else what the network found."""
        batch = self._batch(prepared, prepared.target_frame)
        places = self.guesser.may_be_hidden(batch.token_ids[0]).nonzero().flatten().tolist()
        if not places:
            return {}
        if not known:
            logits = F.interpolate(self.model(batch).mask_logits, batch.mask.shape[-2:], mode="bilinear")
            batch = replace(batch, mask=(logits > MASK_THRESHOLD) & batch.pixel_valid)
        rows = batch.rows([0] * len(places))
        hidden = torch.zeros_like(rows.token_valid)
        hidden[range(len(places)), places] = True
        found = self.guesser.guess(rows, hidden)
        return {
            place: {way: self.guesser.best(rows[n]) for way, rows in found.items()} for n, place in enumerate(places)
        }

    def _points(self, prepared: RefSample, words: int) -> dict[str, dict[str, list[WordScore | None]]]:
        """Scores of both normalisations; what the words share falls out of the second, as in ``relative_word_maps``."""
        batch = self._batch(prepared, prepared.target_frame)
        maps = self._explained(batch).word_maps
        if prepared.objects is None or prepared.annotations.word_objects is None or not maps:
            return {}
        shares = {level: x / x.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) for level, x in maps.items()}
        found = {level: {name: [None] * words for name in NORMALISATIONS} for level in maps}
        for name, shown in zip(NORMALISATIONS, (maps, shares), strict=True):
            for one in point_words(self.model, batch, self.tokenizer, lambda model, batch, shown=shown: shown):
                score = one.score
                scored = WordScore(score.hit, score.chance, score.mass, score.object_chance)
                found[one.level][name][one.position] = scored
        return found


def _grids(prediction: Prediction) -> list[tuple[int, int]]:
    return [x.shape[-2:] for name, x in prediction.trace.items() if name.startswith("fused/")]


class Crop:
    """Cuts the regions of padding away.

    Args:
        valid: [H,W] bool of the network's input; True is one rectangle.
        grid: (h, w) of the maps.
    """

    def __init__(self, valid: Tensor, grid: tuple[int, int]):
        rows, self.rows, top, bottom = _kept(valid.any(1), grid[0])
        columns, self.columns, left, right = _kept(valid.any(0), grid[1])
        self.extent = (left, top, right, bottom)
        self.size = (rows, columns)

    def __call__(self, maps: Tensor) -> Tensor:
        """[...,h,w] without padding."""
        return maps[..., self.rows, self.columns]


def _kept(valid: Tensor, regions: int) -> tuple[int, slice, float, float]:
    """Of one side: how many regions stay and which, and where they begin and end in parts of the picture."""
    pixels = valid.nonzero().flatten()
    first, length, step = int(pixels[0]), len(pixels), len(valid) / regions
    start, stop = int(first / step), int(-(-(first + length) // step))
    return stop - start, slice(start, stop), (start * step - first) / length, (stop * step - first) / length


def within(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """``size`` (height, width), shrunk in proportion if it is larger than ``longest_side``."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shown_size(sample: RefSample) -> tuple[int, int]:
    """(height, width) at which the sample's picture and masks are shown."""
    return within(tuple(sample.original_size), SHOWN_SIDE)
