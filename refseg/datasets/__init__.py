"""Data sets: files on disk in, RefSample out; then transforms, and Collate makes a RefBatch of several samples.

dataset = build_dataset("refshapes", "train", build_transform(96))
loader = DataLoader(dataset, batch_size=8, collate_fn=Collate(tokenizer))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.clips import ClipDataset, open_clip
from refseg.datasets.collate import Collate
from refseg.datasets.images import read_image
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.obtain.check import DataReport, check_data
from refseg.datasets.obtain.official import OFFICIAL, official_sizes
from refseg.datasets.refer import BENCHMARKS, ReferDataset
from refseg.datasets.transforms import Compose, HorizontalFlip, Letterbox, Normalize, build_transform, undo_letterbox
from refseg.errors import RefsegError
from refseg.types import RefSample

CLIP_DATASETS = ("a2d", "jhmdb", "refshapes_video")  # names of data sets whose samples are clips, not pictures

__all__ = [
    "BENCHMARKS",
    "CLIP_DATASETS",
    "OFFICIAL",
    "A2DDataset",
    "Collate",
    "Compose",
    "DataReport",
    "HorizontalFlip",
    "JHMDBDataset",
    "Letterbox",
    "Normalize",
    "ReferDataset",
    "build_dataset",
    "build_transform",
    "check_data",
    "official_sizes",
    "open_clip",
    "read_image",
    "undo_letterbox",
]


def build_dataset(
    name: str,
    split: str,
    transform: Callable[[RefSample], RefSample] | None = None,
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    split_by: str | None = None,
    objects: bool = False,
    num_frames: int = 1,
    frame_stride: int = 1,
) -> ReferDataset | ClipDataset:
    """The data set of that name.

    RefShapes and RefShapes-Video are drawn on first use, and their pictures stay in memory once read.

    Args:
        name: a key of ``BENCHMARKS`` or one of ``CLIP_DATASETS``.
        num_frames, frame_stride: of the window around each annotated frame, see ``A2DDataset``; a picture is a clip of
            one frame whatever they are.
        split_by: of pictures only, who made the split.
        The rest: as for ``ReferDataset``.

    Raises:
        RefsegError: no such data set, an option that it does not have, and see ``ReferDataset``, ``A2DDataset`` and
            ``JHMDBDataset``.
    """
    if name in CLIP_DATASETS:
        if split_by is not None:
            raise RefsegError(f"{name} has one split and no split by {split_by!r}: leave split_by out.")
        window = {"num_frames": num_frames, "frame_stride": frame_stride}
        return _build_clips(name, split, root, transform=transform, image_root=image_root, objects=objects, **window)
    if name not in BENCHMARKS:
        raise RefsegError(f"There is no data set {name!r}: choose one of {', '.join([*BENCHMARKS, *CLIP_DATASETS])}.")
    if name == "refshapes" and root is None:
        from refseg.datasets.refshapes import ensure

        ensure()
    return ReferDataset(
        name,
        split,
        root=root,
        image_root=image_root,
        split_by=split_by,
        transform=transform,
        objects=objects,
        cache_images=name == "refshapes",
    )


def _build_clips(
    name: str, split: str, root: str | Path | None, objects: bool, **options: Any
) -> A2DDataset | JHMDBDataset:
    if name == "jhmdb":
        if objects:
            raise RefsegError("jhmdb does not know what every pixel shows: leave objects out.")
        return JHMDBDataset(root, split, **options)
    drawn = name == "refshapes_video"
    if drawn and root is None:
        from refseg.datasets.refshapes.video import ensure

        root = ensure()
    return A2DDataset(root, split, objects=objects, cache_images=drawn, name=name, **options)
