"""RefShapes and RefShapes-Video, drawn by the package ``refshapes`` on first use."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import refshapes
import refshapes.video
from refseg.errors import RefsegError
from refseg.files import filled, read_json
from refseg.paths import data_dir

IMAGES, CLIPS = refshapes.IMAGES, refshapes.video.CLIPS


def ensure(root: Path | None = None, images: dict[str, int] | None = None, seed: int = refshapes.SEED) -> Path:
    """The folder of RefShapes; drawn first if it is not there or was drawn by another version.

    Args:
        root: default ``data_dir()/refshapes``.
        images, seed: see ``refshapes.draw``; default IMAGES.

    Raises:
        RefsegError: the folder holds something that is not RefShapes, or cannot be written.
    """
    choices = {"images": images or IMAGES, "seed": seed}
    holds = "images/", "instances.json", "refs(refseg).json"
    return _drawn(root, "refshapes", holds, refshapes.draw, refshapes.VERSION, choices)


def ensure_video(
    root: Path | None = None, clips: dict[str, int] | None = None, seed: int = refshapes.video.SEED
) -> Path:
    """The folder of RefShapes-Video, as :func:`ensure` gives that of RefShapes.

    Args:
        root: default ``data_dir()/refshapes_video``.
        clips, seed: see ``refshapes.video.draw``; default CLIPS.

    Raises:
        RefsegError: see :func:`ensure`.
    """
    choices = {"clips": clips or CLIPS, "seed": seed}
    holds = "Release/", "text_annotations/"
    return _drawn(root, "refshapes_video", holds, refshapes.video.draw, refshapes.video.VERSION, choices)


class _AlreadyDrawn(Exception):
    """Another process was faster."""


def _drawn(
    root: Path | None,
    name: str,
    holds: Sequence[str],
    draw: Callable[..., None],
    version: int,
    choices: dict[str, Any],
) -> Path:
    """``root``, drawn first unless its marker file says that the same was drawn; all or nothing."""
    root = Path(root or data_dir() / name)
    marker_name, marker = f"{name}.json", {"version": version, **choices}

    def is_drawn() -> bool:
        try:
            return read_json(root / marker_name) == marker
        except RefsegError:
            return False

    if is_drawn():
        return root
    with suppress(_AlreadyDrawn), filled(root, older=(marker_name, *holds)) as partial_root:
        draw(partial_root, **choices)
        (partial_root / marker_name).write_text(json.dumps(marker))  # written last
        if is_drawn():
            raise _AlreadyDrawn
    return root
