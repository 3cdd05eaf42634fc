"""Joining late: what a lesson needs is made once, a student's work is never touched, functions pass between lessons."""

from __future__ import annotations

import runpy

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from refseg.errors import RefsegError
from refseg_course import catchup as module
from refseg_course.catchup import catchup, functions_of, lessons_below
from refseg_course.notebooks.lessons import lesson_path

STUB = 'raise NotImplementedError("Your turn")'


def solution(name: str, source: str):
    return new_code_cell(source, id=name, metadata={"tags": ["solution"]})


def write(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), folder / name)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Three lessons: 02 takes a function of 01, and 00 stands alone. The working folder is the student's."""
    folder = tmp_path / "course"
    write(folder, "00_alone.ipynb", new_code_cell("print(0)"))
    imports = new_code_cell("import math\nfrom math import tau as turn\nraise SystemExit('only imports are run')")
    double = solution("double", "def double(x):\n    # --- solution\n    return 2 * x")
    half_turn = solution("half", "def half_turn():\n    # --- solution\n    return turn / 2")
    write(folder, "01_parts.ipynb", imports, double, half_turn)
    use = "from refseg_course.catchup import functions_of\nmine = functions_of(1)\n\n\n"
    use += "def four(x):\n    # --- solution\n    "
    write(folder, "02_whole.ipynb", solution("four", use + "return mine.double(mine.double(x))"))
    monkeypatch.setattr("refseg_course.notebooks.lessons.NOTEBOOKS", folder)
    (tmp_path / "student").mkdir()
    monkeypatch.chdir(tmp_path / "student")
    return folder


def student(tmp_path, *cells):
    write(tmp_path / "student", "01_parts.ipynb", *cells)


def test_without_notebooks_of_the_student_the_course_speaks(course, capsys):
    parts = functions_of(1)
    assert parts.double(7) == 14 and parts.half_turn() == pytest.approx(torch.pi)
    assert capsys.readouterr().out == "lesson 01, the course's: double, half_turn\n"
    assert vars(parts).keys() == {"double", "half_turn"}


def test_what_the_student_wrote_is_taken_and_a_stub_is_not(course, tmp_path, capsys):
    magic = new_code_cell("%matplotlib inline\nimport nothing")
    own_import = new_code_cell("import operator")
    mine = solution("double", "def double(x):\n    return operator.add(x, x) + 0.5")
    student(tmp_path, magic, own_import, mine, solution("half", f"def half_turn():\n    {STUB}"))
    parts = functions_of("01")
    assert parts.double(7) == 14.5 and parts.half_turn() == pytest.approx(torch.pi)
    assert capsys.readouterr().out == "lesson 01, yours: double; the course's: half_turn\n"


def test_functions_pass_through_two_lessons(course, tmp_path, capsys):
    student(tmp_path, solution("double", "def double(x):\n    return 3 * x"))
    assert functions_of(2).four(7) == 63
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["lesson 01, yours: double; the course's: half_turn", "lesson 02, the course's: four"]


def test_a_broken_cell_is_named(course, tmp_path):
    for source, error in (("def double(x:\n  return", "SyntaxError"), ("double = nothing", "NameError")):
        student(tmp_path, solution("double", source))
        with pytest.raises(RefsegError, match=f"01_parts.ipynb the cell that begins .*double.* raises {error}.*save"):
            functions_of(1)


def test_a_broken_notebook_is_named(course, tmp_path):
    (tmp_path / "student" / "01_parts.ipynb").write_text("{half a file")
    with pytest.raises(RefsegError, match="01_parts.ipynb cannot be read as a notebook"):
        functions_of(1)


def test_an_unknown_lesson_lists_the_known_ones(course, tmp_path, monkeypatch):
    with pytest.raises(RefsegError, match="no lesson 7: choose one of 00, 01, 02"):
        catchup(7, tmp_path)
    monkeypatch.setattr("refseg_course.notebooks.lessons.NOTEBOOKS", tmp_path / "nowhere")
    with pytest.raises(RefsegError, match="part of a checkout"):
        functions_of(1)


def test_which_lessons_build_on_others():
    below = {path.name[:2]: [other.name[:2] for other in lessons_below(path)] for path in map(lesson_path, range(7))}
    assert below.pop("05") == ["02", "03"] and below.pop("06") == ["02", "03", "05"]
    assert set(map(tuple, below.values())) == {()}


def test_a_lesson_that_stands_alone(course, tmp_path, capsys):
    assert catchup(0, tmp_path / "a b")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[:-1] if not line.startswith("[OK]")] == []
    assert "[OK]   lesson 00 builds on no function of an earlier one" in lines
    assert "[OK]   lesson 00 uses no data set" in lines
    assert (
        lines[-1].startswith("Open it: ") and "-m jupyterlab '" in lines[-1] and lines[-1].endswith("00_alone.ipynb'")
    )
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == ["00_alone.ipynb"]


def test_a_lesson_gets_the_data_it_uses_and_no_other(course, tmp_path, monkeypatch, capsys):
    from refseg.datasets import refshapes

    drawn = []
    monkeypatch.setattr(refshapes, "ensure", lambda: drawn.append("images"))
    monkeypatch.setattr(refshapes, "ensure_video", lambda: drawn.append("clips"))
    write(course, "00_alone.ipynb", new_code_cell('name = "refshapes_video"'))
    assert catchup(0, tmp_path / "student") and drawn == ["clips"]
    assert "RefShapes-Video is drawn" in capsys.readouterr().out
    write(course, "00_alone.ipynb", new_code_cell("name = 'refshapes'"))
    assert catchup(0, tmp_path / "student") and drawn == ["clips", "images"]


def test_the_second_time_changes_nothing(course, tmp_path, capsys):
    folder = tmp_path / "student"
    assert catchup(2, folder)
    first, files = capsys.readouterr().out, {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "lesson 01, the course's: double, half_turn" in first and "02_whole.ipynb is ready" in first
    assert files.keys() == {"02_whole.ipynb", "before_02.py"} and b"return mine" not in files["02_whole.ipynb"]
    assert catchup(2, folder) and capsys.readouterr().out == first
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    work = files["02_whole.ipynb"].replace(b"Your turn", b"My turn")
    (folder / "02_whole.ipynb").write_bytes(work)
    assert catchup(2, folder) and "has work of yours in it and stays" in capsys.readouterr().out
    assert (folder / "02_whole.ipynb").read_bytes() == work


def test_the_solved_exercises_are_a_module(course, tmp_path):
    catchup(2, tmp_path / "student")
    names = runpy.run_path(str(tmp_path / "student" / "before_02.py"))
    assert names["double"](7) == 14 and names["half_turn"]() == pytest.approx(torch.pi)
    assert "solution" not in (tmp_path / "student" / "before_02.py").read_text()


def test_what_fails_is_reported_and_the_rest_is_done(course, tmp_path, monkeypatch, capsys):
    write(course, "01_parts.ipynb", new_code_cell("import no_such_package"))
    (tmp_path / "student" / "01_parts.ipynb").write_text("{half a file")
    assert not catchup(1, tmp_path / "student")
    out = capsys.readouterr().out
    assert "[FAIL] imports: ModuleNotFoundError: No module named 'no_such_package'" in out
    assert "has work of yours in it" in out and "Open it" not in out


def test_the_real_lesson_06(tiny_refshapes, tmp_path, capsys):
    assert catchup("06", tmp_path)
    out = capsys.readouterr().out
    assert "RefShapes is drawn" in out and out.count("[OK]   lesson 0") == 3
    names = runpy.run_path(str(tmp_path / "before_06.py"))
    assert names["spatial_coordinates"].__code__.co_filename.endswith("before_06.py")  # not the package's
    assert names["MyCMSA"](3, 5, 7)(torch.ones(1, 3, 2, 4), torch.ones(1, 2, 5), torch.ones(1, 2).bool()).shape[1] == 16


def test_the_command(refseg, monkeypatch):
    called = []
    monkeypatch.setattr(module, "catchup", lambda lesson: called.append(lesson) or len(called) == 1)
    assert refseg("catchup", "06")[0] == 0 and refseg("catchup", "6")[0] == 1
    assert called == [6, 6]
