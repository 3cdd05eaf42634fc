"""``check-data``: is the data set on this disk the published one, is everything there, and where to get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from refseg.datasets.base import Counts, DatasetInfo, Findings
from refseg.datasets.registry import dataset_info
from refseg.errors import RefsegError
from refseg.paths import data_dir


@dataclass
class DataReport:
    """What ``check_data`` found; ``print(report)`` is meant for people, ``report.ok`` for programs.

    ``found`` is None and ``problem`` the message if the annotations could not be read at all.
    """

    info: DatasetInfo
    split_by: str
    split: str
    root: Path
    found: Counts | None = None
    findings: Findings = field(default_factory=Findings)
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Everything is there and sound, and no number differs from a published one."""
        return self.counts_ok and not self.findings.missing

    @property
    def counts_ok(self) -> bool:
        """Annotations are sound and no number differs from a published one, whether the images are there or not."""
        return self.found is not None and not self.findings.broken and not self._wrong_counts()

    @property
    def official(self) -> Counts:
        """The published counts, as far as there are any."""
        return self.info.splits[self.split_by][self.split]

    def _wrong_counts(self) -> list[str]:
        found = self.found or {}
        return [what for what, count in self.official.items() if found.get(what) != count]

    def __str__(self) -> str:
        info = self.info
        lines = [f"{info.name} ({self.split_by}) {self.split} in {self.root}"]
        lines += [f"  [FAIL] {self.problem}"] if self.found is None else self._count_lines() + self._finding_lines()
        if not self.ok and info.tree:
            lines += ["  expected folders:", f"    {data_dir()}/"]
            lines += [f"      {line.format(owner=self.split_by)}" for line in info.tree]
        if not self.ok and (info.draw or info.pieces):
            what = "draws it" if info.draw else "does what it can"
            lines += [f"  where to get it (refseg prepare {info.name} {what}):"]
            for piece in info.pieces:
                lines += [f"    {piece.what}: {where}" for where in (*piece.urls, piece.by_hand) if where]
        return "\n".join(lines)

    def _count_lines(self) -> list[str]:
        wrong, lines = self._wrong_counts(), []
        for what, found in (self.found or {}).items():
            official = self.official.get(what)
            verdict = "no official count" if official is None else f"official {official:>7}"
            mark = "      " if official is None else "[FAIL]" if what in wrong else "[OK]  "
            lines.append(f"  {mark} {what:<9} {found:>7}   {verdict}")
        return lines

    def _finding_lines(self) -> list[str]:
        findings, noun = self.findings, "clips" if self.info.is_clips else "images"
        lines = []
        if findings.missing:
            count = f"{len(findings.missing)} of {findings.looked_at} {noun}"
            lines.append(f"  [FAIL] {count} are missing. {findings.missing[0]}")
        if findings.broken:
            lines.append(f"  [FAIL] {len(findings.broken)} things to fix:")
        lines += [f"         {sentence}" for sentence in findings.broken]
        if not lines:
            lines.append(f"  [OK]   all {findings.looked_at} {noun} {findings.sound}")
        return lines + [f"         {note}" for note in findings.notes]


def check_data(
    name: str,
    split: str,
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    split_by: str | None = None,
    num_frames: int = 1,
) -> DataReport:
    """Count what is on disk and compare it with the published sizes; look for what is missing or broken.

    Args: as for ``build_dataset``; clips shorter than a window of ``num_frames`` are noted.

    Raises:
        RefsegError: there is no such data set or split. Missing and damaged files are reported, not raised.
    """
    info = dataset_info(name)
    owner = info.choose_split(split, split_by)
    report = DataReport(info, owner, split, info.root if root is None else Path(root))
    options = {"root": root, "image_root": image_root, "split_by": owner, "num_frames": num_frames, "strict": False}
    options = {name: value for name, value in options.items() if value is not None and info.takes(name)}
    try:
        dataset = info.reader(info, split, **options)
    except RefsegError as error:
        report.problem = str(error)
        return report
    report.found, report.findings = dataset.counts(), dataset.check()
    return report
