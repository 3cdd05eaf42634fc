"""Commands about data sets and other people's files: prepare, check-data, shard, and the two conversions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

DataSetName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
CheckpointFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]


def prepare(name: DataSetName = "refshapes", pictures: bool = True, parquet: Path | None = None) -> None:
    """Prepare a data set: draw ours, download and count others, and list what you must fetch yourself.

    Args:
        name: Name of the data set; a wrong one lists them all.
        pictures: --no-pictures: only expressions and masks, because the images of RefCOCO are 13 GB.
        parquet: A folder of parquet files to make the annotations from, laid out as those of jxu124/refcoco.
    """
    from refseg.datasets.obtain.prepare import prepare

    if not prepare(name, images=pictures, parquet=parquet):
        raise SystemExit(1)


def check_data(
    name: DataSetName,
    split: str | None = None,
    root: Path | None = None,
    image_root: Path | None = None,
    split_by: str | None = None,
    num_frames: int = 1,
) -> None:
    """Compare the counts of a data set with the official ones; say which file is missing and where to get it.

    Args:
        name: Name of the data set; a wrong one lists them all.
        split: One split, or all of them.
        root: Folder of the data set, if it is not in data/.
        image_root: Folder of its images, if they are elsewhere.
        split_by: Owner of the split: unc, umd, google, berkeley.
        num_frames: For clips: report those that are shorter than this window.
    """
    from refseg.datasets import dataset_info
    from refseg.datasets.obtain.check import check_data

    ok, info = True, dataset_info(name)
    for one in [split] if split else info.splits[info.owner(split_by)]:
        report = check_data(name, one, root, image_root, split_by, num_frames)
        print(report)
        ok = ok and report.ok
        if report.found is None:  # the files of one split are those of all
            break
    if not ok:
        raise SystemExit(1)


def shard(
    name: DataSetName,
    out: Path,
    root: Path | None = None,
    image_root: Path | None = None,
    split_by: str | None = None,
    megabytes: int = 512,
) -> None:
    """Write the images of a data set into a few tar files, for storage that is slow with many; again: check them.

    Args:
        name: Name of a data set in the REFER layout; a wrong one lists them all.
        out: Folder for the shards and the annotations; nothing else is needed: see --root of train and evaluate.
        root: Folder of the data set, if it is not in data/.
        image_root: Folder of its images, if they are elsewhere.
        split_by: Owner of the split: unc, umd, google, berkeley.
        megabytes: Size of a shard.
    """
    from refseg.datasets.shards.read import INDEX, ShardedImages
    from refseg.datasets.shards.write import splits_there, write_shards

    if not (out / INDEX).exists():
        count = write_shards(splits_there(name, root, image_root, split_by), out, megabytes)
        print(f"{count} shards are in {out}. Next: refseg train --root {out}")
        return
    images = ShardedImages(out)
    problems = list(images.check())
    for problem in problems:
        print(f"[FAIL] {problem}")
    if problems:
        raise SystemExit(1)
    print(f"{out} is whole: {len(images.shards)} shards with {len(images)} images.")


def convert_cmsa_release(checkpoint: CheckpointFile, out: Path, vocabulary: Path) -> None:
    """Turn a TensorFlow checkpoint of the authors' CMSA release into one of ours; TensorFlow is not needed.

    Args:
        checkpoint: The name that its .index and .data files begin with.
        out: Folder of the new checkpoint.
        vocabulary: The release's vocabulary file that it was trained with, e.g. vocabulary_Gref.txt.
    """
    from refseg.convert.cmsa import convert_cmsa_release

    _report(convert_cmsa_release(checkpoint, vocabulary, out), "variables", out)


def convert_magnet_release(checkpoint: CheckpointFile, out: Path, vocabulary: str = "bert-base-uncased") -> None:
    """Turn a checkpoint of the authors' MagNet release into one of ours; nothing in it is run.

    Args:
        checkpoint: The released file.
        out: Folder of the new checkpoint.
        vocabulary: The word pieces: a vocab.txt, a folder, or a model of the Hugging Face hub, downloaded once.
    """
    from refseg.convert.magnet import convert_magnet_release

    _report(convert_magnet_release(checkpoint, vocabulary, out), "tensors", out)


def _report(conversion, what: str, out: Path) -> None:
    print(f"{conversion.converted} {what} are now the network in {out}.")
    if conversion.unused:
        print(f"Not used: {', '.join(conversion.unused)}", file=sys.stderr)
