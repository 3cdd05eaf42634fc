"""``check-data`` for data sets of clips: counts beside the published ones, and every clip that is broken.

Of a folder of frames the headers are read, of a video file all packets, of masks the declared shapes; nothing is
decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from refseg.datasets.a2d import A2DDataset
from refseg.datasets.clips import ClipDataset, ClipRow
from refseg.datasets.jhmdb import JHMDBDataset
from refseg.datasets.obtain.official import OFFICIAL_CLIPS, ClipSizes
from refseg.errors import RefsegError
from refseg.paths import data_dir

CLIP_SPLITS = {"a2d": ("train", "test"), "jhmdb": ("test",), "refshapes_video": ("train", "val", "test")}
_FOLDERS = {"a2d": "a2d_sentences", "jhmdb": "jhmdb_sentences", "refshapes_video": "refshapes_video"}

# What the projects' own pages and READMEs name; not probed here.
WHERE_CLIPS = {
    "a2d": (
        "videos: https://web.eecs.umich.edu/~jjcorso/r/a2d (A2D_main_1_0.tar.bz)",
        "sentences and masks: https://kgavrilyuk.github.io/publication/actor_action/",
    ),
    "jhmdb": (
        "frames and puppet masks: http://jhmdb.is.tue.mpg.de (some users report the links dead)",
        "sentences: https://kgavrilyuk.github.io/publication/actor_action/",
        "list of frames: github.com/mttr2021/MTTR, datasets/jhmdb_sentences/jhmdb_sentences_samples_metadata.json",
    ),
    "refshapes_video": ("nowhere: the kit draws it, refseg prepare refshapes_video",),
}
_TREES = {
    "a2d": (
        "a2d_sentences/Release/videoset.csv",
        "a2d_sentences/Release/clips320H/VIDEO.mp4 (or Release/frames/VIDEO/00001.png, ...)",
        "a2d_sentences/text_annotations/a2d_annotation.txt",
        "a2d_sentences/text_annotations/a2d_missed_videos.txt",
        "a2d_sentences/text_annotations/a2d_annotation_with_instances/VIDEO/00040.h5",
    ),
    "jhmdb": (
        "jhmdb_sentences/jhmdb_annotation.txt",
        "jhmdb_sentences/jhmdb_sentences_samples_metadata.json",
        "jhmdb_sentences/Rename_Images/ACTION/VIDEO/00001.png",
        "jhmdb_sentences/puppet_mask/ACTION/VIDEO/puppet_mask.mat",
    ),
    "refshapes_video": (
        "refshapes_video/Release/videoset.csv",
        "refshapes_video/Release/frames/VIDEO/00001.png, ...",
        "refshapes_video/text_annotations/a2d_annotation.txt",
        "refshapes_video/text_annotations/a2d_annotation_with_instances/VIDEO/00003.h5",
    ),
}


@dataclass
class ClipReport:
    """What ``check_clips`` found; ``print(report)`` is meant for people, ``report.ok`` for programs.

    ``found`` is None and ``problem`` a sentence if the texts could not be read at all.
    """

    name: str
    split: str
    root: Path
    official: ClipSizes
    found: ClipSizes | None = None
    missing: int = 0  # clips that are not there
    first_missing: str = ""  # the sentence about the first of them
    broken_clips: int = 0
    broken: list[str] = field(default_factory=list)  # one sentence for everything that is wrong
    notes: list[str] = field(default_factory=list)  # what is no fault but worth knowing
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Everything is there and sound, and no number differs from a published one."""
        return self.counts_ok and not self.missing

    @property
    def counts_ok(self) -> bool:
        """Texts and masks are sound and no number differs from a published one, whether the clips are there or not."""
        return self.found is not None and not self.broken and not self._wrong_counts()

    def _wrong_counts(self) -> list[str]:
        pairs = zip(ClipSizes._fields, self.found, self.official, strict=True)
        return [what for what, found, official in pairs if official not in (None, found)]

    def __str__(self) -> str:
        lines = [f"{self.name} {self.split} in {self.root}"]
        lines += [f"  [FAIL] {self.problem}"] if self.found is None else self._count_lines() + self._clip_lines()
        if not self.ok:
            lines += ["  expected folders:", f"    {data_dir()}/", *(f"      {line}" for line in _TREES[self.name])]
            lines += [f"  where to get it (refseg prepare {self.name} does what it can):"]
            lines += [f"    {line}" for line in WHERE_CLIPS[self.name]]
        return "\n".join(lines)

    def _count_lines(self) -> list[str]:
        wrong = self._wrong_counts()
        lines = []
        for what, found, official in zip(ClipSizes._fields, self.found, self.official, strict=True):
            verdict = "no official count" if official is None else f"official {official:>7}"
            mark = "      " if official is None else "[FAIL]" if what in wrong else "[OK]  "
            lines.append(f"  {mark} {what:<9} {found:>7}   {verdict}")
        return lines

    def _clip_lines(self) -> list[str]:
        lines = []
        if self.missing:
            lines.append(f"  [FAIL] {self.missing} of {self.found.videos} clips are missing. {self.first_missing}")
        if self.broken:
            lines.append(f"  [FAIL] {self.broken_clips} clips are broken, {len(self.broken)} things to mend:")
        lines += [f"         {sentence}" for sentence in self.broken]
        if not lines:
            lines.append(f"  [OK]   all {self.found.videos} clips are there and whole")
        return lines + [f"         {note}" for note in self.notes]


def check_clips(
    name: str, split: str, root: str | Path | None = None, image_root: str | Path | None = None, num_frames: int = 1
) -> ClipReport:
    """Count what is on disk and set it beside the published sizes; look at every clip and every file of masks.

    Args:
        name: "a2d", "jhmdb" or "refshapes_video".
        split: as for the data set.
        root: as for the data set.
        image_root: as for the data set.
        num_frames: clips shorter than this window are noted.

    Raises:
        RefsegError: there is no such data set or split. Missing and damaged files are reported, not raised.
    """
    if split not in CLIP_SPLITS[name]:
        raise RefsegError(f"{name} has no split {split!r}: choose one of {', '.join(CLIP_SPLITS[name])}.")
    folder = Path(root) if root is not None else data_dir() / _FOLDERS[name]
    report = ClipReport(name, split, folder, OFFICIAL_CLIPS.get(name, {}).get(split, ClipSizes(*[None] * 4)))
    try:
        if name == "jhmdb":
            dataset = _LenientJHMDB(folder, split, num_frames=num_frames, image_root=image_root)
        else:
            dataset = _LenientA2D(folder, split, num_frames=num_frames, image_root=image_root, name=name)
    except RefsegError as error:
        report.problem = str(error)
        return report
    report.broken, report.notes = list(dataset.broken), [f"left out: {what}" for what in dataset.left_out]
    of_video: dict[str, list[ClipRow]] = {}
    for row in dataset.rows:
        of_video.setdefault(row.video, []).append(row)
    for video, rows in tqdm(of_video.items(), desc=f"{name}/{split} clips", leave=False):
        _look_at(dataset, video, rows, report)
    report.found = ClipSizes(
        len(of_video), len(dataset.sentences), len(set(dataset.image_ids)), len(set(dataset.sample_ids))
    )
    return report


def _look_at(dataset: ClipDataset, video: str, rows: list[ClipRow], report: ClipReport) -> None:
    if dataset.find_clip(video) is None:
        report.missing += 1
        report.first_missing = report.first_missing or dataset.missing_clip(video)
        return
    broken, notes = dataset.examine(video, rows)
    report.broken_clips += bool(broken)
    report.broken += broken
    report.notes += notes


class _Lenient:
    """Collects what is wrong with texts and masks instead of stopping at it."""

    def __init__(self, *args, **options):
        self.broken: list[str] = []
        super().__init__(*args, **options)

    def _broken(self, sentence: str) -> None:
        self.broken.append(sentence)


class _LenientA2D(_Lenient, A2DDataset):
    pass


class _LenientJHMDB(_Lenient, JHMDBDataset):
    pass
