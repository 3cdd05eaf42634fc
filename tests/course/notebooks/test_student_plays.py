"""A student who does only the exercises: the stubs of five lessons are filled in, and only the checks are run."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from refseg_course.notebooks.lessons import lesson_paths
from refseg_course.notebooks.student import STUB, build_student

PLAYED = ("02", "03", "04", "05", "06")
NEEDED = {"06": "import math\n"}  # what the exercises of a lesson use that another of its cells imports


@pytest.fixture
def student(tmp_path, monkeypatch) -> Path:
    """The student's version of the course with the stubs of PLAYED filled in; it is the working folder."""
    folder = tmp_path / "student"
    build_student(folder)
    for path in lesson_paths(list(PLAYED)):
        solved = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
        played = nbformat.read(folder / path.name, as_version=4)
        for cell in played.cells:
            if "solution" in cell.metadata.get("tags", []):
                assert STUB in cell.source
                cell.source = solved[cell.id]
        nbformat.write(played, folder / path.name)
    monkeypatch.chdir(folder)
    return folder


def do_the_exercises(folder: Path, number: str) -> None:
    """Run the first code cell of a lesson, its exercises and their checks, in one go."""
    (path,) = folder.glob(f"{number}_*.ipynb")
    first, *rest = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    names: dict = {"__name__": path.stem}
    exec(NEEDED.get(number, "") + first.source, names)
    for cell in rest:
        if "solution" in cell.metadata.get("tags", []) or re.search(r"\bcheck\.\w+\(", cell.source):
            exec(cell.source, names)


def test_exercises_alone_lead_to_a_cmsa_of_ones_own(student, capsys):
    said = []
    for number in PLAYED:
        do_the_exercises(student, number)
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith(("OK  ", "lesson 0"))])
    assert all(len(lines) >= 4 for lines in said)
    assert [line for lines in said for line in lines if "the course's" in line] == []
    assert any(line.startswith("OK  A CMSA of your own: ") for line in said[3])
    assert said[4][-1].startswith("OK  All of it, your own: Eq. 1 to 6 in values and every gradient")


def test_a_mistake_in_lesson_03_is_found_and_named_at_the_end_of_lesson_06(student):
    """So the last check runs what the student has written, not the package."""
    (path,) = student.glob("03_*.ipynb")
    text, end = path.read_text(encoding="utf-8"), "(y_min + y_max) / 2, *sizes])"
    assert text.count(end) == 1
    path.write_text(text.replace(end, end + "[[1, 0, 3, 2, 5, 4, 7, 6]]"), encoding="utf-8")
    with pytest.raises(AssertionError, match="All of it, your own: It looks as if x and y are exchanged"):
        do_the_exercises(student, "06")
