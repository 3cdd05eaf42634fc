"""Data sets: files on disk in, RefSample out; then transforms, and Collate makes a RefBatch of several samples.

dataset = build_dataset("refshapes", "train", build_transform(96))
loader = DataLoader(dataset, batch_size=8, collate_fn=Collate(tokenizer))
"""

from refseg.datasets.base import DatasetInfo, ReferringDataset
from refseg.datasets.clip_files import open_clip
from refseg.datasets.collate import Collate
from refseg.datasets.images import read_image
from refseg.datasets.registry import DATASETS, build_dataset, dataset_info
from refseg.datasets.transforms import Compose, HorizontalFlip, Letterbox, Normalize, build_transform, undo_letterbox

__all__ = [
    "DATASETS",
    "Collate",
    "Compose",
    "DatasetInfo",
    "HorizontalFlip",
    "Letterbox",
    "Normalize",
    "ReferringDataset",
    "build_dataset",
    "build_transform",
    "dataset_info",
    "open_clip",
    "read_image",
    "undo_letterbox",
]
