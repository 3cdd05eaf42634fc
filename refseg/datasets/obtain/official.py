"""How large the benchmarks are, as published: a loader that finds another number has another benchmark.

Images and refs: the TensorFlow Datasets page ``ref_coco`` and DerrickWang005/CRIS.pytorch, which agree. Sentences:
FlagEval (RefCOCO), clip-refcoco (train of RefCOCO and RefCOCO+), the sums in JierunChen/Ref-L4, MCN issue 7,
varun-nagaraja/referring-expressions issue 2, and the files of Google's own release (RefCOCOg google val). ReferIt:
counted in the query files of ronghanghu/text_objseg, less the pictures that the UNC release lacks.
None stands for a number that no source we could read states. Clips: counted in the authors' own sentence files and in
the lists of samples of mttr2021/MTTR and Dedeep007/LoSh (before its samples were thinned out), which agree.
"""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """Distinct pictures, refs (objects with expressions) and sentences (= samples)."""

    images: int | None
    refs: int | None
    sentences: int | None


OFFICIAL: dict[tuple[str, str], dict[str, Sizes]] = {
    ("refcoco", "unc"): {
        "train": Sizes(16994, 42404, 120624),
        "val": Sizes(1500, 3811, 10834),
        "testA": Sizes(750, 1975, 5657),
        "testB": Sizes(750, 1810, 5095),
        "all": Sizes(19994, 50000, 142210),  # REFER's demo prints it; papers write 142,209
    },
    ("refcoco", "google"): {
        "train": Sizes(19213, 40000, None),
        "val": Sizes(4559, 5000, None),
        "test": Sizes(4527, 5000, None),
    },
    ("refcoco+", "unc"): {
        "train": Sizes(16992, 42278, 120191),
        "val": Sizes(1500, 3805, None),  # val, testA and testB together have 21373 sentences
        "testA": Sizes(750, 1975, None),
        "testB": Sizes(750, 1798, None),
        "all": Sizes(19992, 49856, 141564),
    },
    ("refcocog", "umd"): {
        "train": Sizes(21899, 42226, 80512),
        "val": Sizes(1300, 2573, 4896),
        "test": Sizes(2600, 5023, 9602),
        "all": Sizes(25799, 49822, 95010),
    },
    ("refcocog", "google"): {  # split by object, so train and val share pictures
        "train": Sizes(24698, 44822, 85474),
        "val": Sizes(4650, 5000, 9536),
        "all": Sizes(25799, 49822, 95010),
    },
    ("referit", "berkeley"): {
        "train": Sizes(None, None, 54127),
        "val": Sizes(None, None, 5842),
        "trainval": Sizes(None, None, 59969),
        "test": Sizes(None, None, 60103),
    },
}


def official_sizes(name: str, split_by: str, split: str) -> Sizes:
    """The published sizes; all None for a split of which nothing is published."""
    return OFFICIAL.get((name, split_by), {}).get(split, Sizes(None, None, None))


class ClipSizes(NamedTuple):
    """Distinct videos, sentences (one per video and instance), distinct annotated frames, and samples."""

    videos: int | None
    sentences: int | None
    frames: int | None
    samples: int | None


# A2D-Sentences: 6,655 sentences, one of which is about an instance "1 (copy)" that no mask has.
OFFICIAL_CLIPS: dict[str, dict[str, ClipSizes]] = {
    "a2d": {"train": ClipSizes(3017, 5359, 9518, 15747), "test": ClipSizes(737, 1295, 2342, 3800)},
    "jhmdb": {"test": ClipSizes(928, 928, 2784, 2784)},
}
