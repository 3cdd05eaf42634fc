"""Draw a benchmark once: into a folder of its own, complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from refseg.errors import RefsegError


def draw_once(
    root: Path, marker_name: str, marker: dict, write: Callable[[Path], None], title: str, megabytes: int
) -> Path:
    """``root``, drawn first if its marker file is not there or says something else.

    Args:
        root: folder of the benchmark.
        marker_name: the file that is written last: a folder without it is not complete.
        marker: what was drawn (version, seed, how many), as JSON holds it.
        write: draws everything into a folder that is not there yet.
        title: name of the benchmark, for messages.
        megabytes: the room that it needs.

    Raises:
        RefsegError: the folder holds something else, or cannot be written.
    """
    if _read_marker(root / marker_name) == marker:
        return root
    if root.exists() and any(root.iterdir()) and not (root / marker_name).exists():
        raise RefsegError(f"{root} is in the way of {title} and not ours: move it, or set REFSEG_DATA elsewhere.")
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    try:
        write(partial)
        (partial / marker_name).write_text(json.dumps(marker))
        if _read_marker(root / marker_name) == marker:  # another process was faster
            return root
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    except OSError as error:
        raise RefsegError(
            f"{title} could not be written to {root} ({error.strerror}): it needs {megabytes} MB; "
            "make room, or set REFSEG_DATA to another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _read_marker(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
