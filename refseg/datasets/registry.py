"""The table of data sets, and ``build_dataset``. To add one: a reader, and ``DATASETS["mine"] = DatasetInfo(...)``."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.base import DatasetInfo, Piece, ReferringDataset
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.refer import ReferDataset
from refseg.datasets.refshapes import ensure, ensure_video
from refseg.errors import RefsegError
from refseg.types import RefSample

_PUBLISHED = tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))


def _published(name: str, reader: Callable[..., ReferringDataset], *, coco: bool = False, **more: Any) -> DatasetInfo:
    """What ``published.toml`` says of a data set; with ``coco`` its images are COCO's."""
    fields = [*_PUBLISHED[name]["pieces"], *(_PUBLISHED["coco"]["pieces"] if coco else [])]
    pieces = [Piece(**piece) for piece in fields]
    more |= {"pieces": pieces, "image_folders": list(dict.fromkeys((*pieces[-1].elsewhere, "images", ".")))}
    return DatasetInfo(name, reader, **(_PUBLISHED[name] | more))


_INFOS = (
    _published("refcoco", ReferDataset, coco=True),
    _published("refcoco+", ReferDataset, coco=True),
    _published("refcocog", ReferDataset, coco=True),
    _published("referit", ReferDataset),
    DatasetInfo(
        "refshapes",
        ReferDataset,
        splits={"refseg": {split: {} for split in ("train", "val", "testA", "testB", "testC")}},
        tree=("refshapes/instances.json", "refshapes/refs(refseg).json", "refshapes/images/000001.png"),
        draw=ensure,
    ),
    _published("a2d", A2DDataset, is_clips=True),
    _published("jhmdb", JHMDBDataset, is_clips=True),
    DatasetInfo(
        "refshapes_video",
        A2DDataset,
        splits={"refseg": {split: {} for split in ("train", "val", "test")}},
        is_clips=True,
        tree=("refshapes_video/Release/frames/VIDEO/00001.png, ...", "refshapes_video/text_annotations/..."),
        draw=ensure_video,
    ),
)
DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _INFOS}


def dataset_info(name: str) -> DatasetInfo:
    """The entry of that name.

    Raises:
        RefsegError: there is none; the message lists those there are.
    """
    if name not in DATASETS:
        raise RefsegError(f"There is no data set {name!r}: choose one of {', '.join(DATASETS)}.")
    return DATASETS[name]


def build_dataset(
    name: str,
    split: str,
    transform: Callable[[RefSample], RefSample] | None = None,
    *,
    split_by: str | None = None,
    num_frames: int = 1,
    frame_stride: int = 1,
    **options: Any,
) -> ReferringDataset:
    """A split of a data set. RefShapes and RefShapes-Video are drawn on first use, and their images stay in memory.

    >>> from refseg import build_dataset
    >>> sample = build_dataset("refshapes", "val")[0]
    >>> sample.frames.shape[:2] == (1, 3), sample.mask.dtype
    (True, torch.bool)

    Args:
        name: a key of ``DATASETS``.
        split: e.g. "train", "val", "testA".
        transform: RefSample -> RefSample, applied last.
        split_by: who made the split; default: the first owner in ``DATASETS[name].splits``.
        num_frames, frame_stride: of the window around each annotated frame of a clip, see ``ClipDataset``; an image is
            a clip of one frame whatever they are.
        options: of the reader: ``root``, ``image_root``, ``objects``, ..., see ``ReferDataset``, ``A2DDataset`` and
            ``JHMDBDataset``. None stands for the default.

    Raises:
        RefsegError: no such data set, split or option; and whatever the reader raises.
    """
    info = dataset_info(name)
    owner = info.choose_split(split, split_by)
    options = {option: value for option, value in options.items() if value is not None}
    if info.is_clips:
        options |= {"num_frames": num_frames, "frame_stride": frame_stride}
    refused = [option for option, value in options.items() if value is not False and not info.takes(option)]
    if refused:
        raise RefsegError(f"{name} does not have {', '.join(refused)}: leave it out.")
    if info.takes("split_by"):
        options["split_by"] = owner
    if info.draw is not None and "root" not in options:
        info.draw()
    options = {option: value for option, value in options.items() if info.takes(option)}
    return info.reader(info, split, transform=transform, **options)
