"""What all data sets of clips share: windows of frames around the annotated ones."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from refseg.datasets.base import Counts, DatasetInfo, Findings, MissingFile, ReferringDataset
from refseg.datasets.clip_files import Clip, open_clip
from refseg.errors import RefsegError
from refseg.types import Annotations, RefSample, size_of


@dataclass(frozen=True)
class ClipRow:
    """One sample: an expression, and the annotated frame that shows the instance it refers to."""

    video: str
    frame: int  # from 1, as in the names of the files
    instance: int
    expression: str
    sample_id: str

    @property
    def image_id(self) -> str:
        """The annotated frame."""
        return f"{self.video}/{self.frame}"

    @property
    def referent_id(self) -> str:
        """What the expression refers to, in that frame."""
        return f"{self.image_id}/{self.instance}"


class ClipDataset(ReferringDataset):
    """What A2D-Sentences and J-HMDB-Sentences have in common.

    A sample's frames [T,3,H,W] are those of ``window``: fewer than ``num_frames`` at either end of a clip.

    Args:
        info: the entry in ``DATASETS``.
        split: one of its splits.
        root: the folder that holds the annotations, or the one above it; default ``info.root``.
        image_root: the folder of the clips, if they are not in ``root``.
        num_frames: odd; the window has the annotated frame in its middle and is shorter at the ends of a clip.
        frame_stride: distance of the frames in the window.
        transform: RefSample -> RefSample, applied last.
        sample_list: a list of samples as MTTR publishes it, see the subclass.
        objects: also say what every pixel shows, see ``ReferDataset``; not every data set knows.
        cache_images: keep all decoded frames in memory; default: for data sets that the kit draws.
        strict: False collects what is wrong with the annotations in ``problems`` instead of stopping at the first.

    Raises:
        RefsegError: a missing, damaged or contradictory file. Indexing raises it for a clip that is missing or broken,
            for an annotated frame outside of its clip, and for masks that are missing, broken or of another size.
    """

    sentences: dict[Any, str]  # (video, instance) or video -> sentence
    annotation_file: str  # the root is the folder that holds it
    knows_objects = False  # whether it can be asked for ``objects``

    def __init__(
        self,
        info: DatasetInfo,
        split: str,
        *,
        root: str | Path | None = None,
        image_root: str | Path | None = None,
        num_frames: int = 1,
        frame_stride: int = 1,
        transform: Callable[[RefSample], RefSample] | None = None,
        sample_list: str | Path | None = None,
        objects: bool = False,
        cache_images: bool | None = None,
        strict: bool = True,
    ):
        check_window(num_frames, frame_stride)
        if objects and not self.knows_objects:
            raise RefsegError(f"{info.name} does not know what every pixel shows: leave objects out.")
        if image_root is not None and not Path(image_root).is_dir():
            raise RefsegError(f"The image_root {image_root} is not a folder: give the one that holds the clips.")
        self.name, self.split, self.transform, self.strict = info.name, split, transform, strict
        self.root = info.find_root(root, self.annotation_file)
        self.num_frames, self.frame_stride = num_frames, frame_stride
        self.keep_all = info.draw is not None if cache_images is None else cache_images
        self.problems: list[str] = []
        self.left_out: list[str] = []  # sentences that lead to no sample
        self._cache: dict[tuple[str, int], Tensor] = {}
        self._lengths: dict[str, int] = {}
        self._read(None if image_root is None else Path(image_root), sample_list, objects)

    def _take(self, rows: Sequence[ClipRow], where: Path) -> None:
        """The samples, once they are known."""
        if not rows:
            raise RefsegError(f"{where} leads to no sample of {self.name}/{self.split}: download it again.")
        self.rows = list(rows)
        self.expressions = [row.expression for row in rows]
        self.sample_ids = [row.sample_id for row in rows]
        self.image_ids = [row.image_id for row in rows]
        self.referent_ids = [row.referent_id for row in rows]
        if len(set(self.sample_ids)) < len(rows):
            ((twice, _),) = Counter(self.sample_ids).most_common(1)
            self._wrong(f"{where} holds the sample {twice} twice: download it again.")

    def _wrong(self, sentence: str) -> None:
        """Something is wrong with the annotations."""
        if self.strict:
            raise RefsegError(sentence)
        self.problems.append(sentence)

    def __getitem__(self, index: int) -> RefSample:
        row = self.rows[index]
        frames, target = self._frames(row)
        size = size_of(frames)
        mask = self._mask(row, size)
        sample = RefSample(
            frames=frames,
            target_frame=target,
            mask=mask,
            expression=row.expression,
            sample_id=row.sample_id,
            source=f"{self.name}/{self.split}",
            original_size=size,
            original_mask=mask,
            annotations=Annotations(
                image_id=row.image_id,
                ann_id=row.referent_id,
                video_id=row.video,
                frame=row.frame,
                instance_id=row.instance,
            ),
        )
        sample = self._annotated(sample, row)
        return self.transform(sample) if self.transform else sample

    def _frames(self, row: ClipRow) -> tuple[Tensor, int]:
        """The window [T,3,H,W] around the annotated frame, and which of the T that is."""
        if row.video in self._lengths:
            indices, target = window(self._lengths[row.video], row.frame - 1, self.num_frames, self.frame_stride)
            if all((row.video, index) in self._cache for index in indices):
                return torch.stack([self._cache[row.video, index] for index in indices]), target
        with self.open(row.video) as clip:
            length = self._usable(clip, row.video)
            self._check_frame(row, length, clip)
            indices, target = window(length, row.frame - 1, self.num_frames, self.frame_stride)
            frames = [clip.frame(index) for index in indices]
        if self.keep_all:
            self._lengths[row.video] = length
            self._cache.update({(row.video, index): frame for index, frame in zip(indices, frames)})
        return torch.stack(frames), target  # a copy: a caller who writes into it does not reach the cache

    def _check_frame(self, row: ClipRow, length: int, clip: Clip) -> None:
        if not 1 <= row.frame <= length:
            raise RefsegError(
                f"Frame {row.frame} of {row.video} is annotated but lies outside of its clip {clip.path}, of which "
                f"{length} frames can be used: download the clip again."
            )

    def open(self, video: str) -> Clip:
        """The clip of that video.

        Raises:
            RefsegError: it is not there or broken.
        """
        return open_clip(self.find_clip(video))

    def counts(self) -> Counts:
        """Distinct videos, sentences, distinct annotated frames, and samples."""
        videos, frames = {row.video for row in self.rows}, set(self.image_ids)
        samples = len(set(self.sample_ids))
        return {"videos": len(videos), "sentences": len(self.sentences), "frames": len(frames), "samples": samples}

    def check(self) -> Findings:
        """Look at every clip and its masks: of a folder of frames at the headers, of a video file at all packets, of
        masks at the declared shapes. Nothing is decoded."""
        of_video: dict[str, list[ClipRow]] = {}
        for row in self.rows:
            of_video.setdefault(row.video, []).append(row)
        findings = Findings(len(of_video), sound="are there and whole")
        findings.broken += self.problems
        findings.notes += [f"left out: {what}" for what in self.left_out]
        for video, rows in tqdm(of_video.items(), desc=f"{self.name}/{self.split} clips", leave=False):
            self._examine(video, rows, findings)
        findings.broken = list(dict.fromkeys(findings.broken))
        return findings

    def _examine(self, video: str, rows: Sequence[ClipRow], findings: Findings) -> None:
        try:
            with self.open(video) as clip:
                clip.check()
                length = self._usable(clip, video)
                if length < len(clip):
                    findings.notes.append(
                        f"{video}: only the first {length} of {len(clip)} frames have a mask and are used."
                    )
                if length < (self.num_frames - 1) * self.frame_stride + 1:
                    findings.notes.append(f"{video}: {length} frames, shorter than the window, padded.")
                for row in {row.frame: row for row in rows}.values():
                    try:
                        self._check_frame(row, length, clip)
                        self._check_mask(row, clip.size)
                    except RefsegError as error:
                        findings.broken.append(str(error))
        except MissingFile as error:
            findings.missing.append(str(error))
        except RefsegError as error:
            findings.broken.append(str(error))

    def _usable(self, clip: Clip, video: str) -> int:
        """How many frames from the first on can be used."""
        return len(clip)

    def _annotated(self, sample: RefSample, row: ClipRow) -> RefSample:
        """The sample with what else is known of it: more ``annotations``, ``objects`` and ``object_classes``."""
        return sample

    @abstractmethod
    def _read(self, image_root: Path | None, sample_list: str | Path | None, objects: bool) -> None:
        """Read the annotations: sets ``sentences`` and calls ``_take``."""

    @abstractmethod
    def find_clip(self, video: str) -> Path:
        """Where the frames of that video lie; only looked for, not opened.

        Raises:
            MissingFile: nowhere.
        """

    @abstractmethod
    def _mask(self, row: ClipRow, size: tuple[int, int]) -> Tensor:
        """The true mask, bool [H,W], of ``size``."""

    @abstractmethod
    def _check_mask(self, row: ClipRow, size: tuple[int, int]) -> None:
        """Raise what ``_mask`` would raise, as far as that can be known without reading pixels."""


def check_window(num_frames: int, frame_stride: int) -> None:
    """Refuse a window without a middle.

    Raises:
        RefsegError: ``num_frames`` is even, or one of the two is below 1.
    """
    if num_frames < 1 or num_frames % 2 == 0 or frame_stride < 1:
        raise RefsegError(
            f"A window of {num_frames} frames at a stride of {frame_stride} has no middle: num_frames must be odd, "
            f"and both at least 1."
        )


def window(length: int, centre: int, num_frames: int, stride: int) -> tuple[list[int], int]:
    """The frames at ``centre`` + ``stride`` * (-k..k) that lie within the clip, and which of them is ``centre``.

    >>> window(10, 1, num_frames=5, stride=1)
    ([0, 1, 2, 3], 1)
    """
    half = num_frames // 2
    indices = [centre + stride * step for step in range(-half, half + 1)]
    indices = [index for index in indices if 0 <= index < length]
    return indices, indices.index(centre)
