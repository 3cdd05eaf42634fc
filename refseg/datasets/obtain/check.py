"""``check-data``: is the benchmark on this disk the published one, are its pictures there, and where to get them.

Pictures are only looked for, never opened. For data sets of clips see ``check_clips``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from refseg.datasets.obtain.check_clips import CLIP_SPLITS, ClipReport, check_clips
from refseg.datasets.obtain.official import Sizes, official_sizes
from refseg.datasets.refer import BENCHMARKS, ReferDataset, choose_split
from refseg.errors import RefsegError
from refseg.paths import data_dir

# The state of the hosts is what public issue threads of lichengunc/refer told last (December 2025); not probed here.
_UNC = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
_COCO_PICTURES = (
    "pictures: http://images.cocodataset.org/zips/train2014.zip (13 GB, alive; only train2014 is needed, and "
    "train2017 holds the same pictures)"
)


def _archive(stem: str, stamp: str, *more: str) -> tuple[str, ...]:
    return (
        f"annotations: {_UNC}/{stem}.zip (the original host, dead since September 2022)",
        f"annotations: https://web.archive.org/web/{stamp}/{_UNC}/{stem}.zip (reported working in December 2025)",
        *more,
    )


_KAGGLE = "annotations: Kaggle lhhhhl/refcoco-and-refcoco (named in refer issue 23)"
WHERE = {
    "refcoco": _archive("refcoco", "20220413011718", _KAGGLE, _COCO_PICTURES),
    "refcoco+": _archive("refcoco+", "20220413011656", _KAGGLE, _COCO_PICTURES),
    "refcocog": _archive("refcocog", "20220413012904", _COCO_PICTURES),
    "referit": _archive(
        "refclef",
        "20220413011817",
        f"pictures: {_UNC}/images/saiapr_tc-12.zip (dead)",
        "pictures: https://web.archive.org/web/20220515000000/http://bvisionweb1.cs.unc.edu/licheng/referit/data/"
        "images/saiapr_tc-12.zip (slow, refer issue 15)",
    ),
    "refshapes": ("nowhere: the kit draws it on first use, build_dataset('refshapes', 'train')",),
}
_PICTURE_EXAMPLE = {
    "referit": "images/saiapr_tc-12/...",
    "refshapes": "refshapes/images/000000.png",
}


@dataclass
class DataReport:
    """What ``check_data`` found; ``print(report)`` is meant for people, ``report.ok`` for programs.

    ``found`` is None and ``problem`` a sentence if the annotations could not be read at all.
    """

    name: str
    split_by: str
    split: str
    root: Path
    official: Sizes
    found: Sizes | None = None
    missing: int = 0  # pictures that are not there
    first_missing: str = ""  # the sentence about the first of them
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Everything is there, and no number differs from a published one."""
        return self.counts_ok and self.missing == 0

    @property
    def counts_ok(self) -> bool:
        """No number differs from a published one, whether the pictures are there or not."""
        return self.found is not None and not self._wrong_counts()

    def _wrong_counts(self) -> list[str]:
        pairs = zip(Sizes._fields, self.found, self.official, strict=True)
        return [what for what, found, official in pairs if official not in (None, found)]

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.split_by}) {self.split} in {self.root}"]
        lines += [f"  [FAIL] {self.problem}"] if self.found is None else self._count_lines() + [self._picture_line()]
        if not self.ok:
            lines += ["  expected folders:", *(f"    {line}" for line in expected_tree(self.name, self.split_by))]
            lines += [f"  where to get it (refseg prepare {self.name} does what it can):"]
            lines += [f"    {line}" for line in WHERE[self.name]]
        return "\n".join(lines)

    def _count_lines(self) -> list[str]:
        wrong = self._wrong_counts()
        lines = []
        for what, found, official in zip(Sizes._fields, self.found, self.official, strict=True):
            verdict = "no official count" if official is None else f"official {official:>7}"
            mark = "      " if official is None else "[FAIL]" if what in wrong else "[OK]  "
            lines.append(f"  {mark} {what:<9} {found:>7}   {verdict}")
        return lines

    def _picture_line(self) -> str:
        if not self.missing:
            return f"  [OK]   all {self.found.images} pictures are there"
        return f"  [FAIL] {self.missing} of {self.found.images} pictures are missing. {self.first_missing}"


def check_data(
    name: str,
    split: str,
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    split_by: str | None = None,
    num_frames: int = 1,
) -> DataReport | ClipReport:
    """Count what is on disk and set it beside the published sizes.

    Args: as for ``ReferDataset``; ``num_frames`` as for ``check_clips``.

    Raises:
        RefsegError: there is no such data set or split. Missing and damaged files are reported, not raised.
    """
    if name in CLIP_SPLITS:
        return check_clips(name, split, root, image_root, num_frames)
    benchmark, split_by, _ = choose_known_split(name, split, split_by)
    folder = Path(root) if root is not None else data_dir() / benchmark.folder
    report = DataReport(name, split_by, split, folder, official_sizes(name, split_by, split))
    try:
        dataset = ReferDataset(name, split, root=root, image_root=image_root, split_by=split_by)
    except RefsegError as error:
        report.problem = str(error)
        return report
    image_ids = list(dict.fromkeys(dataset.image_ids))
    missing = [i for i in tqdm(image_ids, desc=f"{name}/{split} pictures", leave=False) if not dataset.find_image(i)]
    report.found = Sizes(len(image_ids), len(dataset.refs), len(dataset))
    report.missing = len(missing)
    report.first_missing = dataset.missing_image(missing[0]) if missing else ""
    return report


def splits_of(name: str, split_by: str | None = None) -> tuple[str, ...]:
    """The splits of a data set that ``check_data`` knows.

    Raises:
        RefsegError: there is no such data set, or nobody of that name has split it.
    """
    if name in CLIP_SPLITS:
        return CLIP_SPLITS[name]
    benchmark, owner, _ = choose_known_split(name, "train", split_by)  # every owner has a train
    return tuple(benchmark.splits[owner])


def choose_known_split(name: str, split: str, split_by: str | None) -> tuple:
    """``refer.choose_split``, whose list of data sets is completed by those of clips."""
    if name not in BENCHMARKS:
        raise RefsegError(f"There is no data set {name!r}: choose one of {', '.join([*BENCHMARKS, *CLIP_SPLITS])}.")
    return choose_split(name, split, split_by)


def expected_tree(name: str, split_by: str) -> list[str]:
    """The folder tree that needs no option, one line per file."""
    folder = BENCHMARKS[name].folder
    picture = _PICTURE_EXAMPLE.get(name, "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg")
    return [f"{data_dir()}/", f"  {folder}/instances.json", f"  {folder}/refs({split_by}).p (or .json)", f"  {picture}"]
