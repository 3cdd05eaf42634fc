"""``refseg catchup 6``: everything that lesson 06 needs, for who joins late or whose kernel has died.

Lessons need nothing of each other but a few functions that the student has written before. ``functions_of`` hands those
on: out of the student's notebooks beside the running one, and from the course where there is still a stub.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from refseg.errors import RefsegError
from refseg.paths import PROJECT
from refseg_course import build, doctor
from refseg_course.doctor import Finding

NOTEBOOKS = PROJECT / "notebooks"
STUDENT = PROJECT / "build" / "student"
USES_REFSHAPES = re.compile(r"""["']refshapes["']|datasets\.refshapes""")
USES_CLIPS = re.compile(r"""["']refshapes_video["']""")
BUILDS_ON = re.compile(r"functions_of\(([\d, ]+)\)")


@dataclass(frozen=True)
class Cell:
    """A code cell of a notebook."""

    id: str
    source: str
    tags: tuple[str, ...]


def catchup(lesson: int | str, folder: Path = STUDENT) -> bool:
    """Make a lesson ready and print, line by line, what was found; True if all is well. Doing it again does no harm.

    Args:
        lesson: its number.
        folder: of the student's notebooks. One that is there already stays as it is.

    Raises:
        RefsegError: there is no such lesson.
    """
    path, ok = lesson_path(lesson), True
    for check in (imports, data, shipped_files, earlier_functions, notebook):
        for finding in _found(check, path, folder):
            print(finding, flush=True)
            ok = ok and finding.ok
    if ok:
        print(f"Open it: {shlex.quote(sys.executable)} -m jupyterlab {shlex.quote(str(folder / path.name))}")
    return ok


def functions_of(*lessons: int | str) -> SimpleNamespace:
    """What the exercises of these lessons define, by name: the student's own, and the course's where a stub is left.

    The student's are read from the notebooks in the working folder, as they were saved last. For each lesson one line
    says whose functions these are.

    Raises:
        RefsegError: there is no such lesson, or a notebook or a cell of the student's is broken.
    """
    found: dict[str, Any] = {}
    for lesson in lessons:
        found |= _defined(lesson_path(lesson), Path.cwd())
    return SimpleNamespace(**found)


def lesson_path(lesson: int | str) -> Path:
    """The notebook of the course with this number.

    Raises:
        RefsegError: there is none.
    """
    paths = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not paths:
        raise RefsegError(
            f"There are no lessons in {NOTEBOOKS}: they are part of a checkout of refseg, not of a wheel."
        )
    if str(lesson).zfill(2) not in paths:
        raise RefsegError(f"There is no lesson {lesson}: choose one of {', '.join(paths)}.")
    return paths[str(lesson).zfill(2)]


def code_cells(path: Path) -> list[Cell]:
    """The code cells of a notebook.

    Raises:
        RefsegError: it cannot be read.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        return [Cell(c.get("id", ""), "".join(c["source"]), tuple(c["metadata"].get("tags", []))) for c in code]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefsegError(
            f"{path} cannot be read as a notebook ({error}): move it away and run refseg catchup {path.name[:2]}."
        ) from error


# ---------------------------------------------------------------------------------- what a lesson needs, as findings


def imports(path: Path, folder: Path) -> Iterator[Finding]:
    """Whatever the lesson imports is there."""
    for line in import_lines(code_cells(path)):
        exec(line, {})  # our own lesson
    yield Finding(True, f"all that lesson {path.name[:2]} imports is there")


def data(path: Path, folder: Path) -> Iterator[Finding]:
    """RefShapes and RefShapes-Video, drawn if the lesson uses them."""
    from refseg.datasets.refshapes import ensure, video

    source = "\n".join(cell.source for cell in code_cells(path))
    draws = (("RefShapes", USES_REFSHAPES, ensure), ("RefShapes-Video", USES_CLIPS, video.ensure))
    needed = [(name, draw) for name, uses, draw in draws if uses.search(source)]
    for name, draw in needed:
        draw()
        yield Finding(True, f"{name} is drawn")
    if not needed:
        yield Finding(True, f"lesson {path.name[:2]} uses no data set")


def shipped_files(path: Path, folder: Path) -> Iterator[Finding]:
    """The shipped checkpoints are those that were shipped."""
    yield from doctor.checkpoints()


def earlier_functions(path: Path, folder: Path) -> Iterator[Finding]:
    """Whose functions of earlier lessons this one builds on, and a file with the course's own solutions of them all."""
    needed = lessons_below(path)
    if not needed:
        yield Finding(True, f"lesson {path.name[:2]} builds on no function of an earlier one")
    for lesson in needed:
        yield Finding(True, _whose(lesson, _solutions(lesson, folder)))
    before = [other for other in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")) if other.name < path.name]
    if before:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"before_{path.name[:2]}.py"
        target.write_text(solved_source(before), encoding="utf-8")
        yield Finding(True, f"{target.name} has the course's solutions of lessons 00 to {before[-1].name[:2]}")


def notebook(path: Path, folder: Path) -> Iterator[Finding]:
    """The student's version of the lesson."""
    written = build.write_student(path, folder)
    state = "is ready" if written else "has work of yours in it and stays as it is"
    yield Finding(True, f"{path.name} {state}")


def _found(check: Callable[[Path, Path], Iterator[Finding]], path: Path, folder: Path) -> Iterator[Finding]:
    try:
        yield from check(path, folder)
    except RefsegError as error:
        yield Finding(False, str(error), f"what it says, then refseg catchup {path.name[:2]}")
    except Exception as error:
        what = f"{check.__name__.replace('_', ' ')}: {type(error).__name__}: {error}"
        yield Finding(False, what, f"refseg doctor, then refseg catchup {path.name[:2]}")


# ----------------------------------------------------------------------------------------- functions between lessons


def lessons_below(path: Path) -> list[Path]:
    """The lessons that one asks ``functions_of`` for, and those that they ask for, in their order."""
    asked = {
        number for cell in code_cells(path) for group in BUILDS_ON.findall(cell.source) for number in group.split(",")
    }
    direct = {lesson_path(number.strip()) for number in asked if number.strip()}
    return sorted(direct.union(*(lessons_below(other) for other in direct)))


def import_lines(cells: list[Cell]) -> list[str]:
    """The import statements of the cells, each once; a cell that is no Python (a magic, half a line) is passed over."""
    lines: dict[str, None] = {}
    for cell in cells:
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:
            continue
        lines |= {ast.unparse(node): None for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    return list(lines)


def defined_names(source: str) -> list[str]:
    """The functions and classes that a cell defines; none if it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def solved_source(paths: list[Path]) -> str:
    """A Python file of all exercises of these lessons, solved as the course solves them."""
    cells = {path: code_cells(path) for path in paths}
    parts = ['"""The exercises of earlier lessons, solved; written by refseg catchup."""']
    parts.append("\n".join(import_lines([cell for found in cells.values() for cell in found])))
    for path, found in cells.items():
        parts.append(f"# {'-' * 90} {path.stem}")
        parts += [re.sub(r"^ *# --- solution\n", "", c.source, flags=re.M) for c in found if "solution" in c.tags]
    return "\n\n\n".join(parts) + "\n"


def _solutions(path: Path, folder: Path) -> list[tuple[str, bool]]:
    """(source, whether it is the student's) of every exercise of a lesson; ``folder`` holds the student's notebooks."""
    own: dict[str, str] = {}
    if (folder / path.name).is_file():
        own = {cell.id: cell.source for cell in code_cells(folder / path.name)}
    chosen = []
    for cell in code_cells(path):
        if "solution" in cell.tags:
            written = own.get(cell.id, "")
            students = bool(written.strip()) and "raise NotImplementedError" not in written
            chosen.append((written if students else cell.source, students))
    return chosen


def _whose(path: Path, solutions: list[tuple[str, bool]]) -> str:
    told = []
    for owner, students in (("yours", True), ("the course's", False)):
        names = [name for source, whose in solutions if whose == students for name in defined_names(source)]
        told += [f"{owner}: {', '.join(names)}"] if names else []
    return f"lesson {path.name[:2]}, " + "; ".join(told)


def _defined(path: Path, folder: Path) -> dict[str, Any]:
    """Run the imports and the exercises of a lesson; what they define."""
    own = folder / path.name
    cells = code_cells(path) + (code_cells(own) if own.is_file() else [])
    names: dict[str, Any] = {"__name__": path.stem}
    solutions, wanted = _solutions(path, folder), []
    for line in import_lines(cells):
        exec(line, names)
    for source, students in solutions:
        try:
            exec(compile(source, f"<{path.stem}>", "exec"), names)
        except RefsegError:
            raise
        except Exception as error:
            if not students:
                raise
            first = source.strip().splitlines()[0]
            raise RefsegError(
                f"In your {path.name} the cell that begins with {first!r} raises {type(error).__name__}: {error}. "
                "Mend it there, save the notebook and run this again."
            ) from error
        wanted += defined_names(source)
    print(_whose(path, solutions))
    return {name: names[name] for name in wanted}
