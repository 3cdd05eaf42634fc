"""``refseg catchup 6``: everything that lesson 06 needs, for those who join late or whose kernel has died.

The only things that a lesson needs from earlier ones are a few functions that the student wrote there. ``functions_of``
reads them from the student's notebooks beside the running one, and takes the course's where there is still a stub.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from refseg.errors import RefsegError
from refseg.files import write_text
from refseg_course import doctor
from refseg_course.doctor import Finding
from refseg_course.notebooks.lessons import STUDENT, Cell, code_cells, lesson_path, lesson_paths
from refseg_course.notebooks.student import write_student

USES_REFSHAPES = re.compile(r"""["']refshapes["']|datasets\.refshapes""")
USES_CLIPS = re.compile(r"""["']refshapes_video["']""")
BUILDS_ON = re.compile(r"functions_of\(([\d, ]+)\)")


def catchup(lesson: int | str, folder: Path = STUDENT) -> bool:
    """Make a lesson ready and print, line by line, what was found; True if all is well. It can be repeated.

    Args:
        lesson: its number.
        folder: where the student's notebooks are. A notebook with work in it stays as it is.

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

    The student's are read from the saved notebooks in the working folder. One line per lesson says whose they are.

    Raises:
        RefsegError: there is no such lesson, or one of the student's notebooks or cells is broken.
    """
    found: dict[str, Any] = {}
    for lesson in lessons:
        found |= _defined(lesson_path(lesson), Path.cwd())
    return SimpleNamespace(**found)


# ---------------------------------------------------------------------------------- what a lesson needs, as findings


def imports(path: Path, folder: Path) -> Iterator[Finding]:
    """Whatever the lesson imports is there."""
    for line in import_lines(code_cells(path)):
        exec(line, {})  # our own lesson
    yield Finding(True, f"all that lesson {path.name[:2]} imports is there")


def data(path: Path, folder: Path) -> Iterator[Finding]:
    """RefShapes and RefShapes-Video, drawn if the lesson uses them."""
    from refseg.datasets.refshapes import ensure, ensure_video

    source = "\n".join(cell.source for cell in code_cells(path))
    draws = (("RefShapes", USES_REFSHAPES, ensure), ("RefShapes-Video", USES_CLIPS, ensure_video))
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
    before = [other for other in lesson_paths() if other.name < path.name]
    if before:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"before_{path.name[:2]}.py"
        write_text(target, solved_source(before))
        yield Finding(True, f"{target.name} has the course's solutions of lessons 00 to {before[-1].name[:2]}")


def notebook(path: Path, folder: Path) -> Iterator[Finding]:
    """The student's version of the lesson."""
    written = write_student(path, folder)
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
    """The lessons whose functions this one takes by ``functions_of``, directly or through another, in order."""
    asked = {
        number for cell in code_cells(path) for group in BUILDS_ON.findall(cell.source) for number in group.split(",")
    }
    direct = {lesson_path(number.strip()) for number in asked if number.strip()} - {path}
    return sorted(direct.union(*(lessons_below(other) for other in direct)))


def import_lines(cells: list[Cell]) -> list[str]:
    """The import statements of the cells, each once; cells that are not valid Python (a magic) are skipped."""
    lines: dict[str, None] = {}
    for cell in cells:
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:
            continue
        lines |= {ast.unparse(node): None for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    return list(lines)


def defined_names(source: str) -> list[str]:
    """The functions and classes that a cell defines; none if it is not valid Python."""
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
    parts = []
    for owner, students in (("yours", True), ("the course's", False)):
        names = [name for source, whose in solutions if whose == students for name in defined_names(source)]
        parts += [f"{owner}: {', '.join(names)}"] if names else []
    return f"lesson {path.name[:2]}, " + "; ".join(parts)


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
                "Fix it there, save the notebook and run this again."
            ) from error
        wanted += defined_names(source)
    print(_whose(path, solutions))
    return {name: names[name] for name in wanted}
