"""The student's version: stubs where the solutions were, hints folded, and nothing that fails but the stubs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

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


def test_a_stub_keeps_the_signature_and_the_docstring(build):
    source = build.stub(FUNCTION)
    assert "total" not in source and source.startswith('def shares(x):\n    """Each entry')
    names = {}
    exec(source, names)
    with pytest.raises(NotImplementedError, match="Your turn"):
        names["shares"](1)


def test_a_stub_of_two_methods_leaves_the_third(build):
    source = build.stub(CLASS)
    names = {}
    exec(source, names)
    half = names["Half"]()
    assert half.given() == 3 and "return 2" not in source and "return x" not in source and "x = 4" in source
    for method in (half.first, half.second):
        with pytest.raises(NotImplementedError):
            method()
    assert "\n\n    def given" in source


def test_a_stub_of_plain_lines(build):
    assert build.stub("N = 3\n# --- solution\nR = 4\n\nif R:\n    pass").splitlines() == ["N = 3", build.STUB]


def test_a_solution_must_say_where_it_begins(build):
    with pytest.raises(ValueError, match="no line '# --- solution'"):
        build.stub("x = 1")


def test_the_version_of_a_lesson(build):
    source = lesson()
    before = nbformat.writes(source)
    solution, hint, expected, shown = build.student_version(source).cells
    assert nbformat.writes(source) == before, "the lesson itself was changed"
    assert build.STUB in solution.source and solution.execution_count is None
    assert hint.source.startswith("<details>") and "\n\nLook at the axis.\n\n" in hint.source
    assert expected.cell_type == "markdown" and "```text\nsum 1.000\n```" in expected.source
    assert "![A &quot;line&quot;](attachment:expected-1.png)" in expected.source
    assert expected.attachments == {"expected-1.png": {"image/png": "AAAA"}} and "<HTML>" not in expected.source
    assert shown.outputs == [] and shown.source == "show(shares(x))"
    nbformat.validate(build.student_version(source))


def test_only_stubs_and_tagged_cells_may_fail(build):
    def failing(name, *tags):
        output = new_output("error", ename=name, evalue="x", traceback=[])
        return new_code_cell(name, outputs=[output], metadata={"tags": list(tags)})

    cells = [failing("NotImplementedError"), failing("KeyError", "raises-exception"), failing("NameError")]
    assert [text.split(":")[0] for text in build.unexpected_errors(new_notebook(cells=cells))] == ["NameError"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_nothing_of_the_solutions_is_left(path, build):
    source = nbformat.read(path, as_version=4)
    version = build.student_version(source)
    for cell in version.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
            assert "# --- solution" not in cell.source and cell.outputs == []
    nbformat.validate(version)


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_version_runs_up_to_its_stubs(path, build, drawn_refshapes, tmp_path):
    version = build.student_version(nbformat.read(path, as_version=4))
    (tmp_path / "notebooks").mkdir()
    build.run(version, tmp_path / "notebooks", allow_errors=True)
    assert build.unexpected_errors(version) == []
    names = [o.ename for cell in version.cells if cell.cell_type == "code" for o in cell.outputs if "ename" in o]
    assert "NotImplementedError" in names, "no stub was met: a solution is still in its cell"


@pytest.fixture
def course(build, tmp_path, monkeypatch):
    """A course of one lesson and one page."""
    source = tmp_path / "notebooks"
    source.mkdir()
    nbformat.write(lesson(), source / "77_made_up.ipynb")
    (source / "glossary.md").write_text("# Glossary\n")
    monkeypatch.setattr(build, "NOTEBOOKS", source)
    return source


def test_the_folder_is_built(build, course, tmp_path):
    built = tmp_path / "a b" / "student"
    assert build.build_student(built) == [built / "77_made_up.ipynb"]
    assert sorted(path.name for path in built.iterdir()) == ["77_made_up.ipynb", "glossary.md"]


def test_a_second_build_leaves_a_students_work_alone(build, course, tmp_path, capsys):
    (path,) = build.build_student(tmp_path / "student")
    (tmp_path / "student" / "notes.txt").write_text("mine")
    untouched = nbformat.read(path, as_version=4)
    untouched.cells[0].execution_count = 7  # run, not written in
    nbformat.write(untouched, path)
    assert build.build_student(tmp_path / "student") == [path] and capsys.readouterr().out == ""
    assert nbformat.read(path, as_version=4).cells[0].execution_count is None
    work = nbformat.read(path, as_version=4)
    work.cells[0].source = work.cells[0].source.replace(build.STUB, "return x / x.sum()")
    nbformat.write(work, path)
    written = path.read_bytes()
    assert build.build_student(tmp_path / "student") == [path]
    assert path.read_bytes() == written and "77_made_up.ipynb holds work of yours" in capsys.readouterr().out
    path.write_text("{half a file")
    assert not build.write_student(course / "77_made_up.ipynb", tmp_path / "student")
    assert path.read_text() == "{half a file" and (tmp_path / "student" / "notes.txt").exists()


def test_the_page_of_times(build):
    times = {"04_x": {"seconds": 7, "machine": "Abacus"}, "05_gone": {"seconds": 11, "machine": "Abacus"}}
    page = build.times_page(times, {"04_x": "04 X", "06_new": "06 New"})
    assert "| [04 X](04_x.ipynb) | 7 | Abacus |" in page and "| all | 7 | |" in page and "05" not in page
