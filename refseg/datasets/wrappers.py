"""Data sets made of another one: samples as they are or changed, in the same or another order.

All of them offer what the data set inside offers: ``expressions``, ``image_ids``, ``referent_ids``, ``class_names``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from refseg.datasets.base import ReferringDataset
from refseg.datasets.collate import Collate, image_key
from refseg.datasets.transforms import HorizontalFlip, swap_left_right
from refseg.errors import RefsegError
from refseg.types import RefBatch, RefSample

NEUTRAL = "□"  # a sign no expression uses: every word vocabulary reads it as <unk>


class Wrapper(Dataset):
    """Sample i is sample ``indices[i]`` of ``dataset``; by default every one, in the same order."""

    def __init__(self, dataset: Any, indices: Sequence[int] | None = None):
        self.dataset = dataset
        self.indices = range(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> RefSample:
        return self.dataset[self.indices[index]]

    @property
    def expressions(self) -> list[str]:
        """One per sample."""
        return [self.dataset.expressions[index] for index in self.indices]

    @property
    def image_ids(self) -> list[Any]:
        """One per sample."""
        return [self.dataset.image_ids[index] for index in self.indices]

    @property
    def referent_ids(self) -> list[Any]:
        """One per sample."""
        return [self.dataset.referent_ids[index] for index in self.indices]

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Attributes and classes of the objects."""
        return self.dataset.class_names


# ---- samples that cannot be read -------------------------------------------------------------------------------


Samples = ReferringDataset | Wrapper | Subset[RefSample]  # RefSamples by number


@dataclass
class Unreadable:
    """In place of a sample that could not be read, or of a batch with no readable sample: why, one message each.

    An error that a DataLoader's worker raises would end the epoch with a page of traceback. So a worker passes the
    message on, and the training decides: stop, or continue without the sample.
    """

    reasons: list[str]


class SafeDataset(Wrapper):
    """A data set that gives an ``Unreadable`` in place of a sample that raises a ``RefsegError``."""

    def __getitem__(self, index: int) -> RefSample | Unreadable:
        try:
            return self.dataset[index]
        except RefsegError as error:
            return Unreadable([str(error)])


def collate_readable(collate: Collate, samples: Sequence[RefSample | Unreadable]) -> RefBatch | Unreadable:
    """The batch of the samples that could be read, in their order; why the others could not is in its ``unreadable``.

    Give it to a DataLoader as ``partial(collate_readable, Collate(tokenizer))``.
    """
    reasons = [reason for sample in samples if isinstance(sample, Unreadable) for reason in sample.reasons]
    readable = [sample for sample in samples if not isinstance(sample, Unreadable)]
    return replace(collate(readable), unreadable=reasons) if readable else Unreadable(reasons)


# ---- features of a frozen backbone -----------------------------------------------------------------------------

FeatureExtractor = Callable[[Tensor], dict[str, Tensor]]  # frames [T,3,H,W] -> {level: [T,C,h,w]}


class CachedFeatures(Wrapper):
    """A data set whose samples carry ``features`` in place of pixels: a frozen backbone sees every image once.

    Samples and features are kept in memory from the first time they are asked for, features in half precision: 180 kB
    for a clip of three frames of 64 x 64 pixels with the lessons' backbone. ``frames`` keep their shape, all zero.

    Args:
        dataset: gives RefSamples that went through ``build_transform``, the same ones every time.
        extract: the backbone.
    """

    def __init__(self, dataset: Any, extract: FeatureExtractor):
        super().__init__(dataset)
        self.extract = extract
        self._samples: dict[int, RefSample] = {}
        self._features: dict[str, dict[str, Tensor]] = {}  # by image: its samples share them

    def __getitem__(self, index: int) -> RefSample:
        if index not in self._samples:
            sample = self.dataset[index]
            image = image_key(sample)
            if image not in self._features:
                with torch.no_grad():
                    self._features[image] = {level: x.half().cpu() for level, x in self.extract(sample.frames).items()}
            no_pixels = sample.frames.new_zeros(()).expand_as(sample.frames)
            self._samples[index] = replace(sample, frames=no_pixels, features=self._features[image])
        return self._samples[index]


# ---- mirror images ---------------------------------------------------------------------------------------------


class Mirrored(Wrapper):
    """A data set, and after its last sample the mirror image of each: ``len(dataset) + i`` is sample i mirrored."""

    def __init__(self, dataset: Any):
        super().__init__(dataset, [*range(len(dataset)), *range(len(dataset))])
        self.flip = HorizontalFlip(dataset.class_names)

    @property
    def expressions(self) -> list[str]:
        """Those of the data set, then those of the mirror images."""
        return [*self.dataset.expressions, *map(swap_left_right, self.dataset.expressions)]

    def __getitem__(self, index: int) -> RefSample:
        sample = self.dataset[self.indices[index]]
        return sample if index < len(self.dataset) else self.flip(sample)


# ---- controls: how much of a score needs the expression? -------------------------------------------------------


class ReplacedExpressions(Wrapper):
    """A data set with other expressions; images and masks stay.

    Args:
        dataset: with ``expressions``, ``image_ids`` and ``referent_ids``, or a ``Subset`` of one.
        replacement: :func:`blank_expressions`, :func:`other_expressions` or another function from the whole data set to
            {number of the sample: its expression}; samples that are not in it are left out.

    Raises:
        RefsegError: no sample is left.
    """

    def __init__(self, dataset: Any, replacement: Callable[[Any], dict[int, str]]):
        whole, indices = dataset, range(len(dataset))
        if isinstance(dataset, Subset):
            whole, indices = dataset.dataset, dataset.indices
        replaced = replacement(whole)
        super().__init__(whole, [index for index in indices if index in replaced])
        self._expressions = [replaced[index] for index in self.indices]
        if not self.indices:
            raise RefsegError("No sample has another expression: no image holds a second referent.")

    @property
    def expressions(self) -> list[str]:
        """The expressions that the samples get."""
        return self._expressions

    def __getitem__(self, index: int) -> RefSample:
        sample = self.dataset[self.indices[index]]
        unknown = replace(sample.annotations, word_objects=None, word_kinds=None)  # these were of the other words
        return replace(sample, expression=self._expressions[index], annotations=unknown)


def blank_expressions(dataset: Any) -> dict[int, str]:
    """Every sample gets the same expression of one word that the model has never seen."""
    return {index: NEUTRAL for index in range(len(dataset))}


def other_expressions(dataset: Any) -> dict[int, str]:
    """Every sample gets an expression of the next referent in the same image, by the order of the data set.

    Of several expressions of that referent, a sample's k-th gets the k-th. Samples whose image holds no second
    referent, or only one that is called the same, are left out.
    """
    spoken: dict[Any, dict[Any, list[str]]] = {}  # image -> referent -> expressions
    places = []
    for image, referent, expression in zip(dataset.image_ids, dataset.referent_ids, dataset.expressions, strict=True):
        texts = spoken.setdefault(image, {}).setdefault(referent, [])
        places.append((image, referent, len(texts)))
        texts.append(expression)
    chosen = {}
    for index, (image, referent, position) in enumerate(places):
        referents = list(spoken[image])
        own = referents.index(referent)
        others = [spoken[image][other] for other in referents[own + 1 :] + referents[:own]]
        candidates = [texts[position % len(texts)] for texts in others]
        different = [text for text in candidates if text != dataset.expressions[index]]
        if different:
            chosen[index] = different[0]
    return chosen
