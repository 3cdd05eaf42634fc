"""The table of data sets, and ``build_dataset``. To add one: a reader, and ``DATASETS["mine"] = DatasetInfo(...)``.

Published sizes. Images and refs: the TensorFlow Datasets page ``ref_coco`` and DerrickWang005/CRIS.pytorch, which
agree. Sentences: FlagEval (RefCOCO), clip-refcoco (train of RefCOCO and RefCOCO+), the sums in JierunChen/Ref-L4, MCN
issue 7, varun-nagaraja/referring-expressions issue 2, and the files of Google's own release (RefCOCOg google val).
ReferIt: counted in the query files of ronghanghu/text_objseg, less the images that the UNC release lacks. Clips:
counted in the authors' own sentence files and in the lists of samples of mttr2021/MTTR and Dedeep007/LoSh (before its
samples were thinned out), which agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.base import Counts, DatasetInfo, ReferringDataset
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.obtain import sources
from refseg.datasets.refer import ReferDataset
from refseg.errors import RefsegError
from refseg.types import RefSample


def _counts(images: int | None = None, refs: int | None = None, sentences: int | None = None) -> Counts:
    """Of the REFER layout: distinct images, refs (objects with expressions), sentences (= samples); None: unknown."""
    counts = {"images": images, "refs": refs, "sentences": sentences}
    return {what: count for what, count in counts.items() if count is not None}


def _clips(videos: int, sentences: int, frames: int, samples: int) -> Counts:
    """Distinct videos, sentences (one per video and instance), distinct annotated frames, and samples."""
    return {"videos": videos, "sentences": sentences, "frames": frames, "samples": samples}


def _refer_tree(folder: str, image: str) -> tuple[str, ...]:
    return (f"{folder}/instances.json", f"{folder}/refs({{owner}}).p (or .json)", image)


def _draw_refshapes() -> Path:
    from refseg.datasets.refshapes import ensure

    return ensure()


def _draw_refshapes_video() -> Path:
    from refseg.datasets.refshapes.video import ensure

    return ensure()


_COCO_IMAGE = "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
_COCO_SPLITS = {"train": "train", "validation": "val", "test": "testA", "testB": "testB"}

DATASETS: dict[str, DatasetInfo] = {
    "refcoco": DatasetInfo(
        "refcoco",
        ReferDataset,
        splits={
            "unc": {
                "train": _counts(16994, 42404, 120624),
                "val": _counts(1500, 3811, 10834),
                "testA": _counts(750, 1975, 5657),
                "testB": _counts(750, 1810, 5095),
            },
            "google": {
                "train": _counts(19213, 40000),
                "val": _counts(4559, 5000),
                "test": _counts(4527, 5000),
            },
        },
        totals={"unc": _counts(19994, 50000, 142210)},  # REFER's demo prints it; papers write 142,209
        image_folders=sources.COCO_FOLDERS,
        tree=_refer_tree("refcoco", _COCO_IMAGE),
        pieces=sources.REFCOCO,
        parquet=_COCO_SPLITS,
    ),
    "refcoco+": DatasetInfo(
        "refcoco+",
        ReferDataset,
        splits={
            "unc": {
                "train": _counts(16992, 42278, 120191),
                "val": _counts(1500, 3805),  # val, testA and testB together have 21373 sentences
                "testA": _counts(750, 1975),
                "testB": _counts(750, 1798),
            }
        },
        totals={"unc": _counts(19992, 49856, 141564)},
        image_folders=sources.COCO_FOLDERS,
        tree=_refer_tree("refcoco+", _COCO_IMAGE),
        pieces=sources.REFCOCO_PLUS,
        parquet=_COCO_SPLITS,
    ),
    "refcocog": DatasetInfo(
        "refcocog",
        ReferDataset,
        splits={
            "umd": {
                "train": _counts(21899, 42226, 80512),
                "val": _counts(1300, 2573, 4896),
                "test": _counts(2600, 5023, 9602),
            },
            # Split by object, so train and val share images.
            "google": {"train": _counts(24698, 44822, 85474), "val": _counts(4650, 5000, 9536)},
        },
        totals={owner: _counts(25799, 49822, 95010) for owner in ("umd", "google")},
        image_folders=sources.COCO_FOLDERS,
        tree=_refer_tree("refcocog", _COCO_IMAGE),
        pieces=sources.REFCOCOG,
        parquet={"train": "train", "validation": "val", "test": "test"},
    ),
    "referit": DatasetInfo(
        "referit",
        ReferDataset,
        splits={
            "berkeley": {
                "train": _counts(sentences=54127),
                "val": _counts(sentences=5842),
                "test": _counts(sentences=60103),
                "trainval": _counts(sentences=59969),
            },
            "unc": {split: {} for split in ("train", "val", "testA", "testB", "testC")},
        },
        labels={
            "trainval": ("train", "val"),
            # The test images of the unc split overlap: "testAB" belongs to testA and to testB, as REFER reads it.
            "testA": ("testA", "testAB", "testAC"),
            "testB": ("testB", "testAB", "testBC"),
            "testC": ("testC", "testAC", "testBC"),
        },
        folder="refclef",
        image_folders=sources.SAIAPR_FOLDERS,
        tree=_refer_tree("refclef", "images/saiapr_tc-12/..."),
        pieces=sources.REFERIT,
    ),
    "refshapes": DatasetInfo(
        "refshapes",
        ReferDataset,
        splits={"refseg": {split: {} for split in ("train", "val", "testA", "testB", "testC")}},
        tree=_refer_tree("refshapes", "refshapes/images/000000.png"),
        draw=_draw_refshapes,
    ),
    "a2d": DatasetInfo(
        "a2d",
        A2DDataset,
        # 6,655 sentences, one of which is about an instance "1 (copy)" that no mask has.
        splits={"gavrilyuk": {"train": _clips(3017, 5359, 9518, 15747), "test": _clips(737, 1295, 2342, 3800)}},
        folder="a2d_sentences",
        is_clips=True,
        tree=(
            "a2d_sentences/Release/videoset.csv",
            "a2d_sentences/Release/clips320H/VIDEO.mp4 (or Release/frames/VIDEO/00001.png, ...)",
            "a2d_sentences/text_annotations/a2d_annotation.txt",
            "a2d_sentences/text_annotations/a2d_missed_videos.txt",
            "a2d_sentences/text_annotations/a2d_annotation_with_instances/VIDEO/00040.h5",
        ),
        pieces=sources.A2D,
    ),
    "jhmdb": DatasetInfo(
        "jhmdb",
        JHMDBDataset,
        splits={"gavrilyuk": {"test": _clips(928, 928, 2784, 2784)}},
        folder="jhmdb_sentences",
        is_clips=True,
        tree=(
            "jhmdb_sentences/jhmdb_annotation.txt",
            f"jhmdb_sentences/{sources.MTTR_LIST}",
            "jhmdb_sentences/Rename_Images/ACTION/VIDEO/00001.png",
            "jhmdb_sentences/puppet_mask/ACTION/VIDEO/puppet_mask.mat",
        ),
        pieces=sources.JHMDB,
    ),
    "refshapes_video": DatasetInfo(
        "refshapes_video",
        A2DDataset,
        splits={"refseg": {"train": {}, "val": {}, "test": {}}},
        is_clips=True,
        tree=(
            "refshapes_video/Release/videoset.csv",
            "refshapes_video/Release/frames/VIDEO/00001.png, ...",
            "refshapes_video/text_annotations/a2d_annotation.txt",
            "refshapes_video/text_annotations/a2d_annotation_with_instances/VIDEO/00003.h5",
        ),
        draw=_draw_refshapes_video,
    ),
}


def dataset_info(name: str) -> DatasetInfo:
    """The entry of that name.

    Raises:
        RefsegError: there is none; the sentence lists those there are.
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
