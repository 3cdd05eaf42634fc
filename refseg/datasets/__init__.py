"""Data sets: files on disk in, RefSample out; then transforms, and Collate makes a RefBatch of several samples.

dataset = build_dataset("refshapes", "train", build_transform(96))
loader = DataLoader(dataset, batch_size=8, collate_fn=Collate(tokenizer))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.check import DataReport, check_data
from refseg.datasets.collate import Collate
from refseg.datasets.images import read_image
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.official import OFFICIAL, official_sizes
from refseg.datasets.refer import BENCHMARKS, ReferDataset
from refseg.datasets.transforms import Compose, HorizontalFlip, Letterbox, Normalize, build_transform, undo_letterbox
from refseg.datasets.video import open_clip
from refseg.types import RefSample

__all__ = [
    "BENCHMARKS",
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
) -> ReferDataset:
    """The data set of that name; RefShapes is drawn on first use and its pictures stay in memory once read.

    Args: as for ``ReferDataset``.

    Raises:
        RefsegError: see ``ReferDataset``.
    """
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
