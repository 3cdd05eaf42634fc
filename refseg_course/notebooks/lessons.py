"""Where the lessons are, and what is in them. Needs no package, so that ``refseg catchup`` can say what is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from refseg.errors import RefsegError
from refseg.paths import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
STUDENT = PROJECT / "build" / "student"


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook."""

    id: str
    kind: str  # code or markdown
    source: str
    tags: tuple[str, ...]


def lesson_paths(numbers: list[str] | None = None) -> list[Path]:
    """The notebooks in their order, or those whose numbers are given."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    return [path for path in paths if not numbers or path.name[:2] in numbers]


def pages() -> dict[str, Path]:
    """The Markdown pages beside the lessons, by their path below ``notebooks/``."""
    found = (*NOTEBOOKS.glob("*.md"), *NOTEBOOKS.glob("teaching/*.md"))
    return {path.relative_to(NOTEBOOKS).as_posix(): path for path in found}


def lesson_path(lesson: int | str) -> Path:
    """The notebook with this number.

    Raises:
        RefsegError: there is none.
    """
    paths = {path.name[:2]: path for path in lesson_paths()}
    if not paths:
        raise RefsegError(
            f"There are no lessons in {NOTEBOOKS}: they are part of a checkout of refseg, not of a wheel."
        )
    if str(lesson).zfill(2) not in paths:
        raise RefsegError(f"There is no lesson {lesson}: choose one of {', '.join(paths)}.")
    return paths[str(lesson).zfill(2)]


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook.

    Raises:
        RefsegError: it cannot be read.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            Cell(c.get("id", ""), c["cell_type"], "".join(c["source"]), tuple(c["metadata"].get("tags", [])))
            for c in cells
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefsegError(
            f"{path} cannot be read as a notebook ({error}): move it away and run refseg catchup {path.name[:2]}."
        ) from error


def code_cells(path: Path) -> list[Cell]:
    """The code cells of a notebook.

    Raises:
        RefsegError: it cannot be read.
    """
    return [cell for cell in read_cells(path) if cell.kind == "code"]


def titles() -> dict[str, str]:
    """The H1 of every lesson, by the name of its file."""
    return {path.stem: read_cells(path)[0].source.splitlines()[0].removeprefix("# ") for path in lesson_paths()}
