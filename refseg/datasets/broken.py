"""Samples that cannot be read, a truncated JPEG for instance: told in one sentence, whichever process met them.

An error that a DataLoader's worker raises reaches the training as a page of traceback, and the epoch ends there. So a
worker hands on the sentence in place of the sample, and the training decides: stop, or go on without the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from refseg.datasets.collate import Collate
from refseg.errors import RefsegError
from refseg.types import RefBatch, RefSample


@dataclass
class Broken:
    """What stands where a sample should be, or a batch of which no sample could be read."""

    sentences: list[str]


class SafeDataset(Dataset):
    """A data set that gives a ``Broken`` in place of a sample which raises a ``RefsegError``."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> RefSample | Broken:
        try:
            return self.dataset[index]
        except RefsegError as error:
            return Broken([str(error)])


class CollateReadable:
    """As ``Collate``, of those samples that could be read; why the others could not is in the batch's ``broken``."""

    def __init__(self, collate: Collate):
        self.collate = collate

    def __call__(self, samples: Sequence[RefSample | Broken]) -> RefBatch | Broken:
        """The batch, in the order of ``samples``; a ``Broken`` if none could be read."""
        sentences = [text for sample in samples if isinstance(sample, Broken) for text in sample.sentences]
        readable = [sample for sample in samples if not isinstance(sample, Broken)]
        return replace(self.collate(readable), broken=sentences) if readable else Broken(sentences)
