"""The files of the A2D-Sentences layout: texts with commas, and masks in HDF5."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.datasets.clip_files import plain_name
from refseg.datasets.images import MAX_PIXELS
from refseg.errors import RefsegError

SUBSETS = {"train": 0, "test": 1, "val": 2}  # val is ours: A2D has none
MAX_INSTANCES = 255  # what an object map of bytes can tell apart; A2D has 16 at most


def videos_of_split(path: Path, split: str | None) -> list[str]:
    """The videos of one split, or of all, in the order of videoset.csv.

    Raises:
        RefsegError: no such file or split, or a row that is not one of A2D's nine columns.
    """
    if not path.is_file():
        raise RefsegError(f"There is no {path}: run `refseg check-data a2d` to see where to get it.")
    subsets: dict[str, int] = {}
    for line, row in _csv_rows(path):
        if not row:
            continue
        if len(row) != 9 or row[8].strip() not in ("0", "1", "2"):
            raise RefsegError(
                f"Line {line} of {path} is not a row of nine columns that ends with 0, 1 or 2: download the file "
                f"again, which has no header."
            )
        subsets[plain_name(row[0], f"Line {line} of {path}")] = int(row[8])
    if split is None:
        return list(subsets)
    there = [name for name, subset in SUBSETS.items() if subset in subsets.values()]
    if split not in there:
        raise RefsegError(f"{path} holds no split {split!r} but only: {', '.join(there) or 'nothing'}.")
    return [video for video, subset in subsets.items() if subset == SUBSETS[split]]


def read_rows(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, columns) of every row below the header.

    Raises:
        RefsegError: another header, or a row with more or fewer columns.
    """
    rows = _csv_rows(path)
    if next(rows, (1, []))[1] != list(header):
        raise RefsegError(f"{path} does not begin with the header {','.join(header)}: download it again.")
    for line, row in rows:
        if row and len(row) != len(header):
            raise RefsegError(
                f"Line {line} of {path} has {len(row)} columns, not {len(header)}: download the file again."
            )
        if row:
            yield line, row


def videos_without_sentences(path: Path) -> set[str]:
    """The videos that have no sentences; the file may be absent."""
    return {row[0].strip() for _, row in _csv_rows(path) if row} if path.is_file() else set()


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            yield from ((reader.line_num, row) for row in reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RefsegError(f"{path} is not a readable text ({error}): download it again.") from error


@contextmanager
def open_masks(path: Path) -> Iterator[tuple[list[int], tuple[int, int], Callable[[int], Tensor]]]:
    """The instances that the h5 file holds, (height, width) of their masks, and ``read(n)`` -> the n-th, bool [H,W].

    MATLAB wrote these files: ``reMask`` is (N,W,H), and (W,H) where N is 1. An instance listed twice counts once, with
    its first mask, as in MTTR.

    Raises:
        RefsegError: the file is missing, no HDF5, lacks a part, or declares sizes that no annotation has.
    """
    import h5py  # takes a moment to load and is needed for clips only

    if not path.is_file():
        raise RefsegError(f"There is no file of masks {path}: download {path.parent.parent.name} again.")
    try:
        with h5py.File(path, "r") as file:
            instances = _instance_ids(_stored(file, "instance"))
            masks = _stored(file, "reMask")
            shape = (1, *masks.shape) if masks.ndim == 2 else masks.shape
            if len(shape) != 3 or shape[0] != len(instances) or not 0 < shape[1] * shape[2] <= MAX_PIXELS:
                raise ValueError(f"{len(instances)} instances but reMask of shape {masks.shape}")

            def read(n: int) -> Tensor:
                values = masks[()] if masks.ndim == 2 else masks[n]
                return torch.from_numpy(np.ascontiguousarray(values.T != 0))

            yield instances, (shape[2], shape[1]), read
    except RefsegError:
        raise
    except Exception as error:  # damaged files raise nearly anything: OSError, KeyError, RuntimeError, ValueError
        raise RefsegError(f"{path} is not a readable file of masks ({error}): download it again.") from error


def _stored(file: Any, name: str) -> Any:
    """A dataset whose numbers are in this file itself; HDF5 could also lead to any other file of the machine."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"it holds no {name}")
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external or stored.dtype.kind not in "buif":
        raise ValueError(f"its {name} is not a table of numbers")
    if math.prod(map(max, zip(stored.shape, stored.chunks or stored.shape))) > MAX_INSTANCES * MAX_PIXELS // 8:
        raise ValueError(f"its {name} declares the absurd shape {stored.shape}")
    return stored


def _instance_ids(stored: Any) -> list[int]:
    if not 0 < stored.size <= MAX_INSTANCES:
        raise ValueError(f"it lists {stored.size} instances")
    values = np.asarray(stored[()], dtype=np.float64).reshape(-1)
    if not (np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 1e9)).all():
        raise ValueError("its instances are not whole numbers")
    return [int(value) for value in values]
