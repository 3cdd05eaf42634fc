"""The table of data sets, and ``build_dataset``. To add one: a reader, and ``DATASETS["mine"] = DatasetInfo(...)``.

Published sizes. Images and refs: the TensorFlow Datasets page ``ref_coco`` and DerrickWang005/CRIS.pytorch, which
agree. Sentences: FlagEval (RefCOCO), clip-refcoco (train of RefCOCO and RefCOCO+), the sums in JierunChen/Ref-L4, MCN
issue 7, varun-nagaraja/referring-expressions issue 2, and the files of Google's own release (RefCOCOg google val).
ReferIt: counted in the query files of ronghanghu/text_objseg, less the images that the UNC release lacks. Clips:
counted in the authors' own sentence files and in the lists of samples of mttr2021/MTTR and Dedeep007/LoSh (before its
samples were thinned out), which agree.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.base import Counts, DatasetInfo, Piece, ReferringDataset
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.refer import ReferDataset
from refseg.errors import RefsegError
from refseg.types import RefSample

REFER_COUNTS = (
    "images",
    "refs",
    "sentences",
)  # distinct images, refs (objects with expressions), sentences (= samples)
CLIP_COUNTS = ("videos", "sentences", "frames", "samples")  # distinct videos, sentences, annotated frames; samples


def _counts(names: tuple[str, ...], **splits: tuple[int | None, ...]) -> dict[str, Counts]:
    """Published counts by split; None where no source that we could read states a number."""
    named = {split: zip(names, counts) for split, counts in splits.items()}
    return {split: {name: count for name, count in pairs if count is not None} for split, pairs in named.items()}


def _pieces(*names: str) -> tuple[Piece, ...]:
    """From ``sources.toml``."""
    sources = tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8"))
    return tuple(_piece(stored) for name in names for stored in sources[name])


def _piece(stored: dict[str, Any]) -> Piece:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Piece(**fields)


def _refer(name: str, *, folder: str = "", image: str = "", images: str = "coco_images", **fields: Any) -> DatasetInfo:
    """A published data set in the REFER layout; ``images`` names the piece that holds its images."""
    pieces = _pieces(*dict.fromkeys((name, images)))
    folders = tuple(dict.fromkeys((*pieces[-1].elsewhere, "images", ".")))
    tree = _refer_tree(folder or name, image or "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg")
    return DatasetInfo(name, ReferDataset, folder=folder, tree=tree, image_folders=folders, pieces=pieces, **fields)


def _refer_tree(folder: str, image: str) -> tuple[str, ...]:
    return (f"{folder}/instances.json", f"{folder}/refs({{owner}}).p (or .json)", image)


def _draw_refshapes() -> Path:
    from refseg.datasets.refshapes import ensure

    return ensure()


def _draw_refshapes_video() -> Path:
    from refseg.datasets.refshapes.video import ensure

    return ensure()


_COCO_PARQUET = {"train": "train", "validation": "val", "test": "testA", "testB": "testB"}

_INFOS = (
    _refer(
        "refcoco",
        splits={
            "unc": _counts(
                REFER_COUNTS,
                train=(16994, 42404, 120624),
                val=(1500, 3811, 10834),
                testA=(750, 1975, 5657),
                testB=(750, 1810, 5095),
            ),
            "google": _counts(REFER_COUNTS, train=(19213, 40000), val=(4559, 5000), test=(4527, 5000)),
        },
        totals=_counts(REFER_COUNTS, unc=(19994, 50000, 142210)),  # REFER's demo prints it; papers write 142,209
        parquet=_COCO_PARQUET,
    ),
    _refer(
        "refcoco+",  # val, testA and testB together have 21373 sentences
        splits={
            "unc": _counts(
                REFER_COUNTS, train=(16992, 42278, 120191), val=(1500, 3805), testA=(750, 1975), testB=(750, 1798)
            )
        },
        totals=_counts(REFER_COUNTS, unc=(19992, 49856, 141564)),
        parquet=_COCO_PARQUET,
    ),
    _refer(
        "refcocog",
        splits={
            "umd": _counts(REFER_COUNTS, train=(21899, 42226, 80512), val=(1300, 2573, 4896), test=(2600, 5023, 9602)),
            # Split by object, so train and val share images.
            "google": _counts(REFER_COUNTS, train=(24698, 44822, 85474), val=(4650, 5000, 9536)),
        },
        totals=_counts(REFER_COUNTS, umd=(25799, 49822, 95010), google=(25799, 49822, 95010)),
        parquet={"train": "train", "validation": "val", "test": "test"},
    ),
    _refer(
        "referit",
        folder="refclef",
        image="images/saiapr_tc-12/...",
        images="referit",
        splits={
            "berkeley": _counts(("sentences",), train=(54127,), val=(5842,), test=(60103,), trainval=(59969,)),
            "unc": _counts((), train=(), val=(), testA=(), testB=(), testC=()),
        },
        labels={
            "trainval": ("train", "val"),
            # The test images of the unc split overlap: "testAB" belongs to testA and to testB, as REFER reads it.
            "testA": ("testA", "testAB", "testAC"),
            "testB": ("testB", "testAB", "testBC"),
            "testC": ("testC", "testAC", "testBC"),
        },
    ),
    DatasetInfo(
        "refshapes",
        ReferDataset,
        tree=_refer_tree("refshapes", "refshapes/images/000000.png"),
        splits={"refseg": _counts((), train=(), val=(), testA=(), testB=(), testC=())},
        draw=_draw_refshapes,
    ),
    DatasetInfo(
        "a2d",
        A2DDataset,
        # 6,655 sentences, one of which is about an instance "1 (copy)" that no mask has.
        splits={"gavrilyuk": _counts(CLIP_COUNTS, train=(3017, 5359, 9518, 15747), test=(737, 1295, 2342, 3800))},
        folder="a2d_sentences",
        is_clips=True,
        tree=(
            "a2d_sentences/Release/videoset.csv",
            "a2d_sentences/Release/clips320H/VIDEO.mp4 (or Release/frames/VIDEO/00001.png, ...)",
            "a2d_sentences/text_annotations/a2d_annotation.txt",
            "a2d_sentences/text_annotations/a2d_missed_videos.txt",
            "a2d_sentences/text_annotations/a2d_annotation_with_instances/VIDEO/00040.h5",
        ),
        pieces=_pieces("a2d"),
    ),
    DatasetInfo(
        "jhmdb",
        JHMDBDataset,
        splits={"gavrilyuk": _counts(CLIP_COUNTS, test=(928, 928, 2784, 2784))},
        folder="jhmdb_sentences",
        is_clips=True,
        tree=(
            "jhmdb_sentences/jhmdb_annotation.txt",
            "jhmdb_sentences/jhmdb_sentences_samples_metadata.json",
            "jhmdb_sentences/Rename_Images/ACTION/VIDEO/00001.png",
            "jhmdb_sentences/puppet_mask/ACTION/VIDEO/puppet_mask.mat",
        ),
        pieces=_pieces("jhmdb"),
    ),
    DatasetInfo(
        "refshapes_video",
        A2DDataset,
        splits={"refseg": _counts((), train=(), val=(), test=())},
        is_clips=True,
        tree=("refshapes_video/Release/frames/VIDEO/00001.png, ...", "refshapes_video/text_annotations/..."),
        draw=_draw_refshapes_video,
    ),
)
DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _INFOS}


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
