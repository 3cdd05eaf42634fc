"""What a data set is to the rest of the package: what its reader offers, and its entry in the table ``DATASETS``."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from refseg.errors import RefsegError
from refseg.paths import data_dir
from refseg.types import RefSample

Counts = Mapping[str, int]  # {"images": 1500, "refs": 3811, "sentences": 10834}, see ReferringDataset.counts


class MissingFile(RefsegError):
    """An image or a clip is not there: which one, and where it was looked for."""


@dataclass
class Findings:
    """What is wrong with the files of a data set, one message per fault."""

    looked_at: int = 0  # images or clips
    missing: list[str] = field(default_factory=list)  # a message per image or clip
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # not faults, but worth knowing
    sound: str = "are there"  # what is known of the images or clips if nothing is wrong


class ReferringDataset(Dataset, ABC):
    """One split: a sample per expression (and annotated frame), always in the same order, nothing drawn at random.

    A reader sets the three lists, one entry per sample, without opening images, and ``class_names`` if it was asked
    for ``objects``. Its problems are RefsegErrors of one sentence: what is wrong, where, and how to fix it.
    """

    expressions: list[str]
    image_ids: list[Any]  # equal for samples of one image, or of one annotated frame of a clip
    referent_ids: list[Any]  # equal for samples of one referent
    class_names: dict[str, tuple[str, ...]] = {}  # attribute -> names of its classes 1, 2, ... in ``object_classes``

    def __len__(self) -> int:
        return len(self.expressions)

    @abstractmethod
    def __getitem__(self, index: int) -> RefSample: ...

    def counts(self) -> Counts:
        """How large the split is, in the words in which its size is published."""
        images, referents = len(set(self.image_ids)), len(set(self.referent_ids))
        return {"images": images, "referents": referents, "samples": len(self)}

    def check(self) -> Findings:
        """Look for what is missing or broken; here by reading a sample of every image."""
        first = {image_id: index for index, image_id in reversed(list(enumerate(self.image_ids)))}
        findings = Findings(len(first), sound="can be read")
        for index in sorted(first.values()):
            try:
                self[index]
            except RefsegError as error:
                findings.broken.append(str(error))
        return findings


@dataclass(frozen=True)
class Piece:
    """A folder, or one file, of a data set: where it belongs and where it comes from.

    Args:
        what: for people.
        place: where it belongs below the data folder.
        licence: what is known of it.
        source: what the archive in ``downloads/`` is called, without its ending; of a single file its name.
        keys: the folder is there if something in it matches one of these; () for a single file.
        urls: tried in this order.
        by_hand: where people get it if no address gives it.
        elsewhere: other places below the data folder where loaders look.
        size, sha256: of the archive or the file, where known.
        is_images: images, frames or videos, which ``refseg prepare --no-pictures`` leaves out.
    """

    what: str
    place: str
    licence: str
    source: str
    keys: Sequence[str] = ()
    urls: Sequence[str] = ()
    by_hand: str = ""
    elsewhere: Sequence[str] = ()
    size: int | None = None
    sha256: str | None = None
    is_images: bool = False


@dataclass(frozen=True)
class DatasetInfo:
    """A data set in one place: commands, checks, counts and help texts follow from it.

    Args:
        name: its key in ``DATASETS``.
        reader: called as ``reader(info, split, transform=..., ...)`` with those options of ``build_dataset`` that it
            has and somebody uses; gives a ``ReferringDataset``.
        splits: who made the splits -> split -> its published counts, {} where none are. The first owner is the default.
        folder: below the data folder; by default the name.
        is_clips: samples are clips, not images.
        totals: the published counts over all splits of an owner, which can share images.
        labels: of the REFER layout: which values of ref["split"] make up a split, if not its name.
        image_folders: of the REFER layout: tried in this order, below the image root.
        tree: the files that are expected below the data folder, for people; "{owner}" stands for the splits' owner.
        draw: draws the data set and returns its folder; None if it is obtained.
        pieces: what it is obtained from.
        parquet: of a set that is also published as parquet files: their splits -> ours.
    """

    name: str
    reader: Callable[..., ReferringDataset]
    splits: Mapping[str, Mapping[str, Counts]]
    folder: str = ""
    is_clips: bool = False
    totals: Mapping[str, Counts] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    image_folders: Sequence[str] = ("images", ".")
    tree: Sequence[str] = ()
    draw: Callable[[], Path] | None = None
    pieces: Sequence[Piece] = ()
    parquet: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Its default folder."""
        return data_dir() / (self.folder or self.name)

    def find_root(self, root: str | Path | None, file: str) -> Path:
        """The folder that holds ``file``: ``root`` itself, by default ``self.root``, or the data set's folder in it.

        Raises:
            RefsegError: neither does.
        """
        given = Path(root) if root is not None else self.root
        for folder in (given, given / self.root.name):
            if (folder / file).is_file():
                return folder
        raise RefsegError(
            f"There is no {file} of {self.name} in {given}: run `refseg check-data {self.name}` to see where to get it."
        )

    def owner(self, split_by: str | None = None) -> str:
        """Who made the splits: ``split_by``, by default the one that papers mean.

        Raises:
            RefsegError: no such owner.
        """
        owner = split_by or next(iter(self.splits))
        if owner not in self.splits:
            raise RefsegError(f"{self.name} has no split by {owner!r}: choose one of {', '.join(self.splits)}.")
        return owner

    def choose_split(self, split: str, split_by: str | None = None) -> str:
        """The owner of ``split``.

        Raises:
            RefsegError: there is no such owner or split; the message lists those there are.
        """
        owner = self.owner(split_by)
        if split not in self.splits[owner]:
            known = ", ".join(self.splits[owner])
            raise RefsegError(f"{self.name} ({owner}) has no split {split!r}: choose one of {known}.")
        return owner

    def takes(self, option: str) -> bool:
        """Whether the reader has that option."""
        return option in inspect.signature(self.reader).parameters
