"""Where data, checkpoints and runs are.

In a checkout they are in the checkout, whatever the working directory. A refseg installed by pip carries the
shipped checkpoints and writes nothing into its own folder: data and runs go to the working directory.
``REFSEG_DATA`` moves the data folder, so that several people on one machine can share it.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
_IN_WHEEL = Path(__file__).resolve().parent / "checkpoints"  # put there by setup.py


def data_dir() -> Path:
    """The folder of the data sets: ``$REFSEG_DATA``, else ``data/``."""
    return Path(os.environ.get("REFSEG_DATA") or _home() / "data")


def runs_dir() -> Path:
    """Where training writes by default: ``runs/``."""
    return _home() / "runs"


def checkpoints_dir() -> Path:
    """The shipped checkpoints: tracked in the repository, and inside of an installed package."""
    return _IN_WHEEL if _IN_WHEEL.is_dir() else PROJECT / "data" / "checkpoints"


def results_dir() -> Path:
    """The measured results, tracked in the repository as JSON; a wheel does not have them."""
    return PROJECT / "data" / "results"


def shipped(name: str) -> Path:
    """The folder of the shipped checkpoint with that name, whether it is there or not."""
    return checkpoints_dir() / name


def shipped_names() -> list[str]:
    """The names of the shipped checkpoints."""
    return sorted(path.parent.name for path in checkpoints_dir().glob("*/config.json"))


def _home() -> Path:
    return Path.cwd() if _IN_WHEEL.is_dir() else PROJECT
