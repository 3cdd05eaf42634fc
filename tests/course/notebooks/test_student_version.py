"""The student's version: stubs where the solutions were, folded hints, and nothing fails but the stubs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from stub_flow import needed_but_undefined

from refseg_course.notebooks.student import STUB, build_student, stub, student_version, write_student
from refseg_course.notebooks.times import times_page

LESSONS = sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("*.ipynb"))

FUNCTION = '''def shares(x):
    """Each entry divided by the sum."""
    # --- solution
    total = x.sum()

    return x / total'''

CLASS = """class Half:
    def first(self):
        # --- solution
        if self.x:
            return 1
        return 2

    def given(self):
        return 3

    def second(self):
        x = 4
        # --- solution
        return x"""


def lesson() -> nbformat.NotebookNode:
    page = '<figure><img alt="A &quot;line&quot;" style="x" src="data:image/png;base64,AAAA"></figure>'
    shown = [
        new_output("display_data", {"text/html": page, "text/plain": "<HTML>"}),
        new_output("stream", text="sum 1.000\n", name="stdout"),
    ]
    return new_notebook(
        cells=[
            new_code_cell(FUNCTION, metadata={"tags": ["solution"]}, execution_count=1),
            new_markdown_cell("Look at the axis.", metadata={"tags": ["hint"]}),
            new_code_cell("show(shares(x))", metadata={"tags": ["expected"]}, outputs=shown, execution_count=2),
        ]
    )


def test_a_stub_keeps_the_signature_and_the_docstring():
    source = stub(FUNCTION)
    assert "total" not in source and source.startswith('def shares(x):\n    """Each entry')
    names = {}
    exec(source, names)
    with pytest.raises(NotImplementedError, match="Your turn"):
        names["shares"](1)


def test_a_stub_of_two_methods_leaves_the_third():
    source = stub(CLASS)
    names = {}
    exec(source, names)
    half = names["Half"]()
    assert half.given() == 3 and "return 2" not in source and "return x" not in source and "x = 4" in source
    for method in (half.first, half.second):
        with pytest.raises(NotImplementedError):
            method()
    assert "\n\n    def given" in source


def test_a_stub_of_plain_lines():
    assert stub("N = 3\n# --- solution\nR = 4\n\nif R:\n    pass").splitlines() == ["N = 3", STUB]


def test_a_solution_must_say_where_it_begins():
    with pytest.raises(ValueError, match="no line '# --- solution'"):
        stub("x = 1")


def test_the_version_of_a_lesson():
    source = lesson()
    before = nbformat.writes(source)
    solution, hint, expected, shown = student_version(source).cells
    assert nbformat.writes(source) == before, "the lesson itself was changed"
    assert STUB in solution.source and solution.execution_count is None
    assert hint.source.startswith("<details>") and "\n\nLook at the axis.\n\n" in hint.source
    assert expected.cell_type == "markdown" and "```text\nsum 1.000\n```" in expected.source
    assert "![A &quot;line&quot;](attachment:expected-1.png)" in expected.source
    assert expected.attachments == {"expected-1.png": {"image/png": "AAAA"}} and "<HTML>" not in expected.source
    assert shown.outputs == [] and shown.source == "show(shares(x))"
    nbformat.validate(student_version(source))


def test_a_lesson_changes_only_where_it_is_tagged():
    """No solution is left, and every other cell of code is the one that `test_notebook_outputs` runs."""
    for path in LESSONS:
        source = nbformat.read(path, as_version=4)
        version = student_version(source)
        nbformat.validate(version)
        found = [cell for cell in version.cells if not cell.id.endswith("-expected")]
        assert len(found) == len(source.cells)
        for old, new in zip(source.cells, found):
            tags = old.metadata.get("tags", [])
            where = f"{path.name}, cell {old.id}"
            assert "# --- solution" not in new.source and new.get("outputs", []) == [], where
            assert (STUB in new.source) == ("solution" in tags), where
            assert (old.source == new.source) == (not {"solution", "hint"} & set(tags)), where


def test_only_a_stub_can_fail():
    """No cell needs what a cell that a stub stops would have defined: the only error is NotImplementedError."""
    found = {}
    for path in LESSONS:
        source = nbformat.read(path, as_version=4)
        version = {cell.id: cell.source for cell in student_version(source).cells}
        cells = [
            c for c in source.cells if c.cell_type == "code" and "raises-exception" not in c.metadata.get("tags", [])
        ]
        problems = needed_but_undefined([(cell.source, version[cell.id]) for cell in cells])
        found |= {path.name: problems} if problems else {}
    assert found == {}


def test_what_a_stub_leaves_undefined_is_found():
    solution = "def f(x):\n    # --- solution\n    return x"
    stubbed = (solution, stub(solution))
    plain = ("N = 1\n# --- solution\nR = 2", stub("N = 1\n# --- solution\nR = 2"))
    for cells, expected in [
        (["check.f(f)", "y = f(1)", "z = 1"], []),
        (["y = f(1)", "print(y)"], ["y: print(y)"]),
        (["y = f(1)\nz = 2", "print(z)"], ["z: print(z)"]),
        (["y = f(1)", "print(f(y))"], ["y: print(f(y))"]),
        (["y = 1", "y = f(y)", "y = 2", "print(y)"], []),
        (["def g():\n    return f(1)", "y = g()", "print(y)"], ["y: print(y)"]),
        (["g = f", "rows = [g(x) for x in range(3)]", "print(rows)"], ["rows: print(rows)"]),
        (["class A:\n    def run(self):\n        return f(1)", "a = A()", "print(a)"], ["a: print(a)"]),
        (["def f(x):\n    return x", "y = f(1)", "print(y)"], []),
        (["show(lambda x: f(x))", "z = 1", "print(z)"], []),
    ]:
        assert needed_but_undefined([stubbed, *((cell, cell) for cell in cells)]) == expected, cells
    assert needed_but_undefined([plain, ("print(N)", "print(N)"), ("print(R)", "print(R)")]) == ["R: print(R)"]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one lesson and one page."""
    source = tmp_path / "notebooks"
    source.mkdir()
    nbformat.write(lesson(), source / "77_made_up.ipynb")
    (source / "glossary.md").write_text("# Glossary\n")
    monkeypatch.setattr("refseg_course.notebooks.lessons.NOTEBOOKS", source)
    return source


def test_the_folder_is_built(course, tmp_path):
    built = tmp_path / "a b" / "student"
    assert build_student(built) == [built / "77_made_up.ipynb"]
    assert sorted(path.name for path in built.iterdir()) == ["77_made_up.ipynb", "glossary.md"]


def test_a_second_build_leaves_a_students_work_alone(course, tmp_path, capsys):
    (path,) = build_student(tmp_path / "student")
    (tmp_path / "student" / "notes.txt").write_text("mine")
    untouched = nbformat.read(path, as_version=4)
    untouched.cells[0].execution_count = 7  # run, not written in
    nbformat.write(untouched, path)
    assert build_student(tmp_path / "student") == [path] and capsys.readouterr().out == ""
    assert nbformat.read(path, as_version=4).cells[0].execution_count is None
    work = nbformat.read(path, as_version=4)
    work.cells[0].source = work.cells[0].source.replace(STUB, "return x / x.sum()")
    nbformat.write(work, path)
    written = path.read_bytes()
    assert build_student(tmp_path / "student") == [path]
    assert path.read_bytes() == written and "77_made_up.ipynb holds work of yours" in capsys.readouterr().out
    path.write_text("{half a file")
    assert not write_student(course / "77_made_up.ipynb", tmp_path / "student")
    assert path.read_text() == "{half a file" and (tmp_path / "student" / "notes.txt").exists()


def test_the_page_of_times():
    times = {"04_x": {"seconds": 7, "machine": "Abacus"}, "05_gone": {"seconds": 11, "machine": "Abacus"}}
    page = times_page(times, {"04_x": "04 X", "06_new": "06 New"})
    assert "| [04 X](04_x.ipynb) | 7 | Abacus |" in page and "| all | 7 | |" in page and "05" not in page
