"""Which samples a step sees: the order of the training set, and the loader that makes batches of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from refseg.datasets.collate import Collate
from refseg.datasets.wrappers import CachedFeatures, FeatureExtractor, Mirrored, SafeDataset, collate_readable
from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.tokenizer import WordVocabulary, split_words
from refseg.training.experiment import Experiment, OptimConfig


class ShuffledBatches(Sampler[list[int]]):
    """Index lists for the steps ``first_step`` .. ``steps``: all samples in a fresh order every epoch.

    Up to ``expressions_per_image`` samples of one image stay together: the backbone then sees the image once for all
    of them, and only the expression can distinguish them. The first ``curriculum_steps`` steps take short expressions
    only. The order is a function of (seed, step) alone, so that a resumed run sees what it would have seen. A batch may
    straddle two epochs: no sample is dropped. Of every batch, process ``rank`` of ``world`` takes its share, neighbours
    together.

    With ``mirror`` every epoch asks for mirror images of about half of the samples, see ``Mirrored``. Those that
    stay together are mirrored together, and the order is the same as without.

    Args:
        image_ids: of every sample, in the order of the data set.
        lengths: how many words each sample's expression has.
        config: seed, steps, batch size and the rest.
        mirror: the data set continues with as many mirror images.
        fraction: of the images, the first ones of the data set.

    Raises:
        RefsegError: the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        image_ids: Sequence[object],
        lengths: Sequence[int],
        config: OptimConfig,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        mirror: bool = False,
        fraction: float = 1.0,
    ):
        if config.batch_size % world:
            raise RefsegError(f"A batch of {config.batch_size} cannot be shared by {world} processes: use a multiple.")
        if config.batch_size // world % config.accumulate:
            raise RefsegError(
                f"{config.batch_size // world} samples of a batch per process cannot be worked through in "
                f"{config.accumulate} equal parts: change batch_size or accumulate."
            )
        self.config, self.first_step, self.rank, self.world = config, first_step, rank, world
        self.mirror = mirror
        images = list(dict.fromkeys(image_ids))
        taken = set(images[: max(1, round(fraction * len(images)))])
        every = [index for index in range(len(lengths)) if image_ids[index] in taken]
        self.first_mirror_image = len(lengths)
        short = [i for i in every if lengths[i] <= config.curriculum_words] if config.curriculum_steps else []
        self.groups = {"short": self._grouped(short, image_ids), "all": self._grouped(every, image_ids)}

    def _grouped(self, indices: Sequence[int], image_ids: Sequence[object]) -> list[list[int]]:
        """``indices`` in groups of one image, each of at most ``expressions_per_image``."""
        of_image: dict[object, list[int]] = {}
        for index in indices:
            of_image.setdefault(image_ids[index], []).append(index)
        size = self.config.expressions_per_image
        return [own[start : start + size] for own in of_image.values() for start in range(0, len(own), size)]

    def __len__(self) -> int:
        return self.config.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        curriculum = min(self.config.curriculum_steps, self.config.steps) if self.groups["short"] else 0
        yield from self._batches("short", min(self.first_step, curriculum), curriculum)
        done = max(self.first_step, curriculum) - curriculum
        yield from self._batches("all", done, self.config.steps - curriculum)

    def _batches(self, part: str, first: int, last: int) -> Iterator[list[int]]:
        """Batches number ``first`` to ``last`` - 1 of one part of the data."""
        size, count = self.config.batch_size, sum(map(len, self.groups[part]))
        epoch, order = -1, []
        for step in range(first, last):
            batch = []
            for position in range(step * size, (step + 1) * size):
                if position // count != epoch:
                    epoch = position // count
                    order = self._order(part, epoch)
                batch.append(order[position % count])
            share = size // self.world
            yield batch[self.rank * share : (self.rank + 1) * share]

    def _order(self, part: str, epoch: int) -> list[int]:
        groups = self.groups[part]
        generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + epoch)
        order = torch.randperm(len(groups), generator=generator).tolist()
        if self.mirror:
            mirrored = (torch.rand(len(groups), generator=generator) < 0.5).tolist()
            groups = [[i + self.first_mirror_image * flip for i in group] for group, flip in zip(groups, mirrored)]
        return [index for group in order for index in groups[group]]


def build_loader(
    dataset: Any,
    tokenizer: WordVocabulary,
    experiment: Experiment,
    model: ReferringModel,
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """The batches of process ``rank`` of ``world`` from ``first_step`` on; a batch without a sample is ``Unreadable``.

    The order of the wrappers is SafeDataset(CachedFeatures(Mirrored(dataset))): mirror images have features of their
    own, and whatever raises an error inside is reported. Expressions are replaced before, see ``build_data``.

    Args:
        dataset: the training set of ``build_data``.
        model: whose backbone computes the features that are cached.

    Raises:
        RefsegError: see ``ShuffledBatches``, and ``cache_features`` with a backbone that learns.
    """
    config = experiment.data
    lengths = [len(split_words(expression)) for expression in dataset.expressions]
    batches = ShuffledBatches(
        dataset.image_ids, lengths, experiment.optim, first_step, rank, world, config.mirror, config.train_fraction
    )
    if config.mirror:
        dataset = Mirrored(dataset)
    if config.cache_features:
        dataset = CachedFeatures(dataset, _frozen_backbone(model))
    return DataLoader(
        SafeDataset(dataset),
        batch_sampler=batches,
        collate_fn=partial(collate_readable, Collate(tokenizer)),
        num_workers=config.workers,
        generator=torch.Generator(),  # else every sitting would take a number from the stream that is resumed
    )


def _frozen_backbone(model: ReferringModel) -> FeatureExtractor:
    backbone = model.backbone
    if not backbone.frozen:
        raise RefsegError("cache_features needs a backbone that does not change: set frozen in its config, or drop it.")
    return lambda frames: backbone(frames.to(next(backbone.parameters()).device))
