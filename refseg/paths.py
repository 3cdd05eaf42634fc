"""Where data, checkpoints and runs live, independent of the working directory.

``REFSEG_DATA`` moves the data folder (several users of one machine can share it). Only ``write_text`` touches the disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from refseg.errors import RefsegError

PROJECT = Path(__file__).resolve().parents[1]


def data_dir() -> Path:
    """The folder of the data sets: ``$REFSEG_DATA``, else ``data/`` of the checkout."""
    return Path(os.environ.get("REFSEG_DATA") or PROJECT / "data")


def checkpoints_dir() -> Path:
    """The shipped checkpoints, tracked in the repository."""
    return PROJECT / "data" / "checkpoints"


def results_dir() -> Path:
    """The measured results, tracked in the repository as JSON."""
    return PROJECT / "data" / "results"


def runs_dir() -> Path:
    """Where training writes unless told otherwise: ``runs/`` of the checkout, never tracked."""
    return PROJECT / "runs"


def write_text(path: Path, text: str) -> None:
    """Write a file all or not at all: beside its place first, then renamed.

    Raises:
        RefsegError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RefsegError(
            f"{path} could not be written ({error.strerror}): name a file in a folder that is there."
        ) from error
