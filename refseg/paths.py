"""Where data, checkpoints and runs live, independent of the working directory.

``REFSEG_DATA`` moves the data folder (several users of one machine can share it).
"""

from __future__ import annotations

import os
from pathlib import Path

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
