"""What lessons and benchmarks measure of words: where they point, their worth to the mask, and guessing hidden ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from refseg.datasets import Collate
from refseg.datasets.wrappers import Samples
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WAYS, WordGuesser
from refseg.evaluation.metrics import mask_iou
from refseg.evaluation.pointing import Pointing, WordPointing, point_words, relative
from refseg.inference import device_of, in_eval_mode, predict_masks
from refseg.models.base import ReferringModel
from refseg.types import RefBatch, RefSample

OTHER = "other"  # the kind of words that are true of nothing by themselves
Meanings = dict[str, dict[str, str]]  # by kind of word, what each word of it means: "disc" means "circle"


# ---- words and regions -----------------------------------------------------------------------------------------------


def mutual_information(weights: Tensor) -> Tensor:
    """How far ``weights`` are from a product of word weights and region weights, in nats.

    It is 0 for a product: then knowing the word says nothing about the region. It is at most the log of the smaller
    of the two counts, reached when each word has a region of its own.

    Args:
        weights: [...,L,R], none negative; each [L,R] is divided by its sum. All zeros give 0.

    Returns:
        [...], computed in float64, returned in the type of ``weights``
    """
    joint = weights.double() / weights.double().sum((-2, -1), keepdim=True).clamp(min=1e-300)
    words, regions = joint.sum(-1), joint.sum(-2)
    information = torch.xlogy(joint, joint).sum((-2, -1))
    information = information - torch.xlogy(words, words).sum(-1) - torch.xlogy(regions, regions).sum(-1)
    return information.clamp(min=0).to(weights.dtype)


# ---- the pointing game over a data set --------------------------------------------------------------------------


MapsOf = Callable[[ReferringModel, RefBatch], dict[str, Tensor]]


def word_maps(model: ReferringModel, batch: RefBatch) -> dict[str, Tensor]:
    """The attention weights of each query word, averaged over the query regions: {level: [B,L,h,w]}."""
    return model.explain(batch, model(batch)).word_maps


def relative_word_maps(model: ReferringModel, batch: RefBatch) -> dict[str, Tensor]:
    """The maps of :func:`word_maps`, each divided by the mean map of its expression, see ``pointing.relative``."""
    return relative(word_maps(model, batch), batch.token_valid)


def pointing_scores(
    model: ReferringModel,
    dataset: Samples,
    tokenizer: Any,
    *,
    maps_of: MapsOf = word_maps,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, dict[str, dict[str, float]]]:
    """The pointing game over a data set.

    Args:
        model: that explains itself with word maps; moved to ``device``, in eval mode while this runs.
        dataset: as for ``point_words``, with a transform; or a ``Subset`` of it.
        tokenizer: as for ``Collate``.
        maps_of: what to score, ``word_maps`` or ``relative_word_maps``.
        device: default is that of the model.
        progress: a bar on stderr.

    Returns:
        {level: {kind of word: {"N", "pointing", "chance", "mass", "on_object", "object_chance"}}}, see
        :class:`Pointing`; means over the N words, "all" last.

    Raises:
        RefsegError: see :func:`point_words`; no content word in the data set.
    """
    device = device_of(model) if device is None else torch.device(device)
    loader = DataLoader(dataset, batch_size, shuffle=False, collate_fn=Collate(tokenizer))
    found: list[WordPointing] = []
    with in_eval_mode(model.to(device)), tqdm(total=len(dataset), unit="sample", disable=not progress) as bar:
        for batch in loader:
            batch = batch.to(device)
            with torch.inference_mode():
                found += point_words(maps_of(model, batch), batch, tokenizer)
            bar.update(len(batch))
    return summarise(found)


def summarise(found: Sequence[WordPointing]) -> dict[str, dict[str, dict[str, float]]]:
    """Means by level and kind of word, as ``pointing_scores`` returns them.

    Raises:
        RefsegError: there is nothing to average.
    """
    if not found:
        raise RefsegError("No word was scored: the data set has no word that is true of an object.")
    scores: dict[str, dict[str, list[Pointing]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(found, key=lambda one: one.kind):
        scores[one.level][one.kind].append(one.score)
    for by_kind in scores.values():
        by_kind["all"] = [score for of_kind in by_kind.values() for score in of_kind]
    return {level: {kind: _means(x) for kind, x in by_kind.items()} for level, by_kind in sorted(scores.items())}


def _means(scores: Sequence[Pointing]) -> dict[str, float]:
    names = {"pointing": "hit", **{name: name for name in ("chance", "mass", "on_object", "object_chance")}}
    means = {name: sum(getattr(score, field) for score in scores) / len(scores) for name, field in names.items()}
    return {"N": len(scores), **means}


# ---- word ablation -----------------------------------------------------------------------------------------------


def word_ablations(model: ReferringModel, sample: RefSample, tokenizer: Any) -> tuple[float, list[tuple[str, float]]]:
    """IoU with the whole expression, and (word, IoU without it) for every word in turn.

    A word that is removed leaves no gap: those after it move up.

    Args:
        model: in eval mode.
        sample: that went through ``build_transform``.

    Raises:
        RefsegError: the expression has one word only.
    """
    words = tokenizer.split(sample.expression)[: tokenizer.max_words]
    if len(words) < 2:
        raise RefsegError(f"Nothing is left of {sample.expression!r} without its only word: take a longer expression.")
    shortened = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words))]
    samples = [replace(sample, expression=text) for text in [" ".join(words), *shortened]]
    batch = Collate(tokenizer)(samples).to(device_of(model))
    whole, *without = (mask_iou(mask, sample.original_mask) for mask in predict_masks(model, batch))
    return whole, list(zip(words, without, strict=True))


def ablation_scores(
    model: ReferringModel, dataset: Samples, tokenizer: Any, *, progress: bool = True
) -> dict[str, dict[str, float]]:
    """What a word is worth to the mask, by kind of word.

    Expressions of one word are left out.

    Args:
        dataset: that knows the kinds of its words (RefShapes), with a transform.

    Returns:
        {kind: {"N", "mIoU", "mIoU without"}}: means over the N words of the kind, each with its expression as it is and
        without it; the kind of words that are true of nothing by themselves is ``OTHER``, the last
    """
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with in_eval_mode(model):
        for index in tqdm(range(len(dataset)), unit="sample", disable=not progress):
            sample = dataset[index]
            if len(tokenizer.split(sample.expression)) < 2:
                continue
            whole, without = word_ablations(model, sample, tokenizer)
            for kind, (_, iou) in zip(sample.annotations.word_kinds or (), without):
                pairs[kind or OTHER].append((whole, iou))
    return {kind: _mean_pair(pairs[kind]) for kind in sorted(pairs, key=lambda kind: (kind == OTHER, kind))}


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    whole, without = (sum(values) / len(pairs) for values in zip(*pairs))
    return {"N": len(pairs), "mIoU": whole, "mIoU without": without}


# ---- how often hidden words come back ----------------------------------------------------------------------------


@dataclass
class Tally:
    """How often a hidden word came back, by group: first of all words, and first among the words of its kind."""

    asked: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    right_of_kind: Counter = field(default_factory=Counter)

    def shares(self, of_kind: bool = False) -> dict[str, float]:
        """By group."""
        right = self.right_of_kind if of_kind else self.right
        return {group: right[group] / count for group, count in sorted(self.asked.items())}


class Hole(NamedTuple):
    """A word that can be hidden."""

    position: int
    word: str
    kind: str
    group: str  # such as "shape of the referent"


def recover(guesser: WordGuesser, dataset: Samples, meanings: Meanings, samples: int | None = None) -> dict[str, Tally]:
    """Hide every word of some kinds, one at a time, and let it be guessed; synonyms count as right.

    Args:
        dataset: that knows what its words are true of (RefShapes), prepared for the network.
        meanings: the kinds.
        samples: use about this many expressions, spread over the data set; None uses all.

    Returns:
        one tally for each way
    """
    step = max(1, len(dataset) // samples) if samples else 1
    chosen = Subset(dataset, range(0, len(dataset), step))
    words, tallies = guesser.tokenizer.words, {way: Tally() for way in WAYS}
    ids = {kind: torch.tensor([i for i, word in enumerate(words) if word in of]) for kind, of in meanings.items()}
    for batch in DataLoader(chosen, batch_size=32, collate_fn=Collate(guesser.tokenizer)):
        for rows, hidden, holes in hidden_words(batch, meanings):
            for way, probabilities in guesser.guess(rows, hidden).items():
                for hole, row in zip(holes, probabilities, strict=True):
                    means, of_kind = meanings[hole.kind], ids[hole.kind]
                    best, best_of_kind = words[int(row.argmax())], words[int(of_kind[row[of_kind].argmax()])]
                    tallies[way].asked[hole.group] += 1
                    tallies[way].right[hole.group] += means.get(best) == means[hole.word]
                    tallies[way].right_of_kind[hole.group] += means[best_of_kind] == means[hole.word]
    return tallies


def hidden_words(batch: RefBatch, meanings: Meanings) -> Iterator[tuple[RefBatch, Tensor, list[Hole]]]:
    """The batch as often as its richest expression has words to hide, each time with those that have one left.

    Yields:
        the samples, hidden [B,L] with one True per row, and what is hidden
    """
    holes = [list(_holes(batch, row, meanings)) for row in range(len(batch))]
    for turn in range(max(map(len, holes))):
        rows = [row for row, found in enumerate(holes) if turn < len(found)]
        chosen = [holes[row][turn] for row in rows]
        hidden = torch.zeros(len(rows), batch.token_ids.shape[1], dtype=torch.bool)
        hidden[range(len(rows)), [hole.position for hole in chosen]] = True
        yield batch.rows(rows), hidden, chosen


def _holes(batch: RefBatch, row: int, meanings: Meanings) -> Iterator[Hole]:
    known = batch.annotations[row]
    for position, (word, true_of) in enumerate(zip(batch.expressions[row].split(), known.word_objects or ())):
        for kind in meanings:
            if word in meanings[kind] and true_of:
                of = "the referent" if known.ann_id in true_of else "another"
                yield Hole(position, word, kind, f"{kind} of {of}")
