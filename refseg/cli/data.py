"""Commands about data sets: prepare, check-data, shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

DataSetName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]


@dataclass(kw_only=True)
class Place:
    """Where a data set is, for the commands that read one."""

    root: Path | None = None
    """Folder of the data set, if it is not in data/."""
    image_root: Path | None = None
    """Folder of its images, if they are elsewhere."""
    split_by: str | None = None
    """Owner of the split: unc, umd, google, berkeley."""


@dataclass
class Prepare:
    """Prepare a data set: draw ours, download and count others, and list what you must fetch yourself."""

    name: DataSetName = "refshapes"
    """Name of the data set, e.g. refshapes, refshapes_video or refcoco+; a wrong one lists them all."""
    pictures: bool = True
    """--no-pictures: only expressions and masks, because the images of RefCOCO are 13 GB."""
    parquet: Path | None = None
    """For refcoco, refcoco+ and refcocog: a folder of jxu124's parquet files to make the annotations from."""

    def run(self) -> None:
        """Draw one of ours; or obtain another one, exit status 1 if something is missing or differs."""
        from refseg.datasets.obtain.prepare import prepare

        if not prepare(self.name, pictures=self.pictures, parquet=self.parquet):
            raise SystemExit(1)


@dataclass
class CheckData(Place):
    """Compare the counts of a data set with the official ones; say which file is missing and where to get it."""

    name: DataSetName
    """Name of the data set; a wrong one lists them all."""
    split: str | None = None
    """One split, or all of them."""
    num_frames: int = 1
    """For clips: report those that are shorter than this window."""

    def run(self) -> None:
        """Print a report per split; exit status 1 if anything is missing or differs."""
        from refseg.datasets import dataset_info
        from refseg.datasets.obtain.check import check_data

        ok, info = True, dataset_info(self.name)
        for split in [self.split] if self.split else info.splits[info.owner(self.split_by)]:
            report = check_data(self.name, split, self.root, self.image_root, self.split_by, self.num_frames)
            print(report)
            ok = ok and report.ok
            if report.found is None:  # the files of one split are those of all
                break
        if not ok:
            raise SystemExit(1)


@dataclass
class Shard(Place):
    """Write the images of a data set into a few tar files, for storage that is slow with many; again: check them."""

    name: DataSetName
    """Name of a data set of images."""
    out: Path
    """Folder for the shards and the annotations; nothing else is needed: see --root of train and evaluate."""
    megabytes: int = 512
    """Size of a shard."""

    def run(self) -> None:
        """Write, or check; exit status 1 if a shard is damaged."""
        from refseg.datasets.shards.read import INDEX, ShardedImages
        from refseg.datasets.shards.write import splits_there, write_shards

        if not (self.out / INDEX).exists():
            datasets = splits_there(self.name, self.root, self.image_root, self.split_by)
            count = write_shards(datasets, self.out, self.megabytes)
            print(f"{count} shards are in {self.out}. Next: refseg train --root {self.out}")
            return
        images = ShardedImages(self.out)
        problems = list(images.check())
        for problem in problems:
            print(f"[FAIL] {problem}")
        if problems:
            raise SystemExit(1)
        print(f"{self.out} is whole: {len(images.shards)} shards with {len(images)} images.")
