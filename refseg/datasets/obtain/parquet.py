"""RefCOCO, RefCOCO+ and RefCOCOg from parquet files: the annotations without the images, in one small download.

The layout is that of the data sets jxu124/refcoco, refcocoplus and refcocog on the Hugging Face hub: one row per ref
with the columns of REFER's pickles, and ``raw_anns`` and ``raw_image_info``, which are the annotation and the image
record of instances.json as JSON text. What is written is the REFER layout, so ``refer.ReferDataset`` reads it like the
original. It holds only the objects that are referred to, and no names of categories.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from refseg.datasets.base import DatasetInfo
from refseg.datasets.registry import DATASETS, dataset_info
from refseg.errors import RefsegError, require

_OF_REF = ("sent_ids", "file_name", "ann_id", "ref_id", "image_id", "sentences", "category_id")
_FILE = re.compile(r"(\w+)-(\d{5})-of-(\d{5})(?:-\w+)?\.parquet")
_ROWS = 1000  # converted at a time


def convert_parquet(name: str, source: Path, folder: Path) -> None:
    """Write ``instances.json`` and ``refs(OWNER).json`` of what the parquet files in ``source`` hold.

    Args:
        name: "refcoco", "refcoco+" or "refcocog", whose owners here are unc, unc and umd.
        source: a folder; the files may lie below it, and are called SPLIT-00000-of-00001.parquet.
        folder: an existing one.

    Raises:
        RefsegError: pyarrow is not installed; no such files, a split or a part of one is missing, or what they hold
            is of another layout or contradicts itself.
    """
    info = dataset_info(name)
    if not info.parquet:
        known = ", ".join(other for other, of_other in DATASETS.items() if of_other.parquet)
        raise RefsegError(f"{name} is not known as parquet files but only: {known}.")
    refs: list[dict] = []
    records: dict[str, dict[Any, dict]] = {"annotations": {}, "images": {}}
    for split, paths in _files_of(info, source).items():
        for path in paths:
            for row in _rows(path):
                refs.append(_ref(row, split, path))
                _keep(records["annotations"], row["raw_anns"], row["ann_id"], path)
                _keep(records["images"], row["raw_image_info"], row["image_id"], path)
    instances = {"info": {"description": f"referred objects of {name}, from parquet files"}}
    instances |= {what: list(found.values()) for what, found in records.items()}
    (folder / f"refs({info.owner()}).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances))


def _files_of(info: DatasetInfo, source: Path) -> dict[str, list[Path]]:
    """The files of every split, by our name of it."""
    found: dict[str, dict[int, Path]] = {split: {} for split in info.parquet.values()}
    wanted: dict[str, int] = {}
    for path in sorted(source.rglob("*.parquet")):
        parts = _FILE.fullmatch(path.name)
        if parts is None or parts[1] not in info.parquet:
            continue
        split, number = info.parquet[parts[1]], int(parts[2])
        if number in found[split]:  # the hub's history holds several states of one file
            other = found[split][number].name
            raise RefsegError(f"{path.name} and {other} are the same part of {info.name}: keep the newer one.")
        found[split][number], wanted[split] = path, int(parts[3])
    lacking = [split for split, paths in found.items() if len(paths) != wanted.get(split, 1)]
    if lacking:
        names = ", ".join(f"{split}-00000-of-00001.parquet" for split in info.parquet)
        raise RefsegError(
            f"{source} lacks parquet files of {info.name} {', '.join(lacking)}: get all of {names}, or all parts that "
            "their names count."
        )
    return {split: list(paths.values()) for split, paths in found.items()}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows as dicts of plain Python values."""
    parquet = require(
        "pyarrow.parquet", "Parquet files are read by pyarrow, which is not installed: pip install pyarrow."
    )
    columns = [*_OF_REF, "split", "raw_anns", "raw_image_info"]
    try:
        file = parquet.ParquetFile(path)
        if lacking := set(columns) - set(file.schema_arrow.names):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        with tqdm(total=file.metadata.num_rows, desc=path.name, unit="ref") as bar:
            for batch in file.iter_batches(_ROWS, columns=columns):
                yield from batch.to_pylist()
                bar.update(len(batch))
    except Exception as error:  # a damaged file raises nearly anything
        raise _other_layout(path, error) from error


def _ref(row: dict[str, Any], split: str, path: Path) -> dict[str, Any]:
    """The ref as REFER's pickles hold it; its split is that of its file, for the files call testA "test"."""
    said = {"validation": "val", "test": split if split == "testA" else "test"}.get(row["split"], row["split"])
    if said != split:
        raise RefsegError(f"{path} is {split} but holds a ref of {row['split']!r}: get it again.")
    return {key: row[key] for key in _OF_REF} | {"split": split}


def _keep(found: dict[Any, dict], text: Any, number: Any, path: Path) -> None:
    """Add a record given as JSON text; a second one of the same number must be the same."""
    try:
        record = json.loads(text)
        if record["id"] != number or found.setdefault(number, record) != record:
            raise ValueError(f"two different records of {number}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _other_layout(path, error) from error


def _other_layout(path: Path, error: Exception) -> RefsegError:
    why = " ".join(str(error).split())[:200]
    return RefsegError(f"{path} is not laid out as the files of jxu124/refcoco ({why or type(error).__name__}).")
