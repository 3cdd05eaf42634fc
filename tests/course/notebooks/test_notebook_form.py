"""What every lesson must have, and what nbval does not notice: cells never run, figures without words, old errors."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from markdown_pages import broken_links, outside_code
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import refseg
from refseg_course.catchup import import_lines
from refseg_course.exercises import exercises_of, lessons
from refseg_course.notebooks.lessons import Cell

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))

HEADER = (
    "Question",
    "Objectives",
    "Prerequisites",
    "Time",
    "Device",
    "What can go wrong",
)  # in bold, in the first cell
FOOTER = ("## Summary", "## Quiz", "## Next")  # in this order, the last in the last cell
MAX_BYTES = 1_000_000
MAX_LINES, MEDIAN_LINES, IMPORT_LINES = 25, 6, 10  # of a code cell, blank lines and comments left out
MAX_IGNORED = 3  # cells whose output is not compared, those that print source not counted
SHORTEST_ALT = 20  # characters; "a plot" is no alternative text
TAGS = {"solution", "hint", "expected", "raises-exception", "nbval-ignore-output"}
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|Users|tmp|wo" + r"rk|ro" + r"ot)/|[A-Z]:\\\\?Users")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(notebook: NotebookNode, ignored: bool = False) -> str:
    """All that the outputs say in words; ``ignored`` adds cells whose outputs are not compared."""
    said = []
    for cell in code_cells(notebook):
        if ignored or "nbval-ignore-output" not in tags(cell):
            for output in cell.outputs:
                data = output.get("data", {})
                page = re.sub(r"base64,[A-Za-z0-9+/=]+", "", "".join(data.get("text/html", "")))
                said += ["".join(output.get("text", "")), "".join(data.get("text/plain", "")), page]
    return "\n".join(said)


# Each rule takes (notebook, path) and yields what is wrong.


def title_and_header(notebook: NotebookNode, path: Path) -> Iterator[str]:
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith(f"# {path.name[:2]} "):
        yield f"the first cell does not begin with the title '# {path.name[:2]} ...'"
    if len(re.findall(r"^# ", outside_code(prose(notebook)), re.MULTILINE)) != 1:
        yield "there is not exactly one H1"
    for label in HEADER:
        if not re.search(rf"\*\*{label}[.:]?\*\*", first.source):
            yield f"the first cell has no **{label}**"
    if "times.md" not in first.source:
        yield "the first cell does not link to times.md for the measured time"


def footer(notebook: NotebookNode, path: Path) -> Iterator[str]:
    headings = re.findall(r"^## .*$", prose(notebook), re.MULTILINE)
    if headings[-3:] != list(FOOTER):
        yield f"it does not end with {', '.join(FOOTER)}"
    if FOOTER[-1] not in notebook.cells[-1].source:
        yield "the last cell does not say what is next"


def executed(notebook: NotebookNode, path: Path) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"it was not run from top to bottom in a fresh kernel: counts are {counts}"
    if any(not cell.source.strip() for cell in notebook.cells):
        yield "there is an empty cell"


def errors(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code_cells(notebook):
        kinds = [output.output_type for output in cell.outputs]
        if ("error" in kinds) != ("raises-exception" in tags(cell)):
            yield f"an error and the tag raises-exception do not go together: {cell.source!r}"
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"a cell writes to stderr: {cell.source!r}"


def size(notebook: NotebookNode, path: Path) -> Iterator[str]:
    if len(nbformat.writes(notebook).encode()) > MAX_BYTES:
        yield "it is larger than 1 MB"


def places(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for text in [*(cell.source for cell in notebook.cells), printed(notebook, ignored=True)]:
        found = MACHINE_PATH.search(text)
        if found:
            yield f"a path of one machine: {text[max(0, found.start() - 20) : found.end() + 20]!r}"


def figures(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if any(kind.startswith("image/") for kind in data):
                yield f"a figure without alternative text, use show(figure, alt): {cell.source!r}"
            images = re.findall(r"<img\b[^>]*>", "".join(data.get("text/html", "")))
            alts = [re.search(r'\balt="([^"]*)"', image) for image in images]
            if any(alt is None or len(alt.group(1)) < SHORTEST_ALT for alt in alts):
                yield f"a figure whose alternative text says too little: {cell.source!r}"
    if re.search(r"!\[\s*\]\(", prose(notebook)):
        yield "a picture in the text has no alternative text"


def effective_lines(cell: NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]


def cell_lengths(notebook: NotebookNode, path: Path) -> Iterator[str]:
    lengths = [len(effective_lines(cell)) for cell in code_cells(notebook)]
    if max(lengths) > MAX_LINES:
        yield f"a code cell has {max(lengths)} lines, at most {MAX_LINES} can be taken in"
    if statistics.median(lengths) > MEDIAN_LINES:
        yield f"half of the code cells have {statistics.median(lengths)} lines or more, 2 to {MEDIAN_LINES} are right"


def imports(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        spans = [n.end_lineno - n.lineno + 1 for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        if sum(spans) > IMPORT_LINES:
            yield f"{sum(spans)} lines of imports in one cell"


def imported_names_exist(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for line in import_lines([Cell(c.id, "code", c.source, ()) for c in code_cells(notebook)]):
        try:
            exec(line, {})
        except ImportError as error:
            yield f"{line}: {error}"


def start(notebook: NotebookNode, path: Path) -> Iterator[str]:
    if f'begin("{refseg.__version__}")' not in code_cells(notebook)[0].source:
        yield f'the first code cell does not call begin("{refseg.__version__}")'


def plain_python(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code_cells(notebook):
        if re.search(r"^\s*[!%]", cell.source, re.MULTILINE):
            yield f"a shell command or magic: {cell.source!r}"
        if re.search(r"^\s*#\s*(NBVAL|PYTEST)_", cell.source, re.MULTILINE):
            yield f"a comment steers nbval, use a tag: {cell.source!r}"


def known_tags(notebook: NotebookNode, path: Path) -> Iterator[str]:
    used = [tag for cell in notebook.cells for tag in tags(cell)]
    if not set(used) <= TAGS:
        yield f"unknown tags {sorted(set(used) - TAGS)}"
    ignored = [cell for cell in code_cells(notebook) if "nbval-ignore-output" in tags(cell) and not prints_source(cell)]
    if len(ignored) > MAX_IGNORED:
        yield f"the outputs of more than {MAX_IGNORED} cells are not compared"


def prints_source(cell: NotebookNode) -> bool:
    return "getsource" in cell.source


def printed_source(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The package's source is shown, not compared: a changed docstring must not break a lesson."""
    for cell in code_cells(notebook):
        if prints_source(cell) and "nbval-ignore-output" not in tags(cell):
            yield f"a cell prints source and has no tag nbval-ignore-output: {cell.source!r}"


def exercises(notebook: NotebookNode, path: Path) -> Iterator[str]:
    number = path.name[:2]
    if number not in lessons():
        yield f"refseg_course.exercises has no lesson_{number}"
        return
    code = "\n".join(cell.source for cell in code_cells(notebook))
    for name, exercise in exercises_of(lessons()[number]).items():
        if f"check.{name}(" not in code:
            yield f"the exercise {name} is never checked"
        if exercise.title not in prose(notebook) or exercise.line not in prose(notebook):
            yield f"the text lacks {exercise.title!r} or its line {exercise.line!r}"
    if sum("solution" in tags(cell) for cell in code_cells(notebook)) < 2:
        yield "fewer than two cells are tagged solution"
    if not any("hint" in tags(cell) for cell in notebook.cells):
        yield "no hint"


def stated_numbers(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Every decimal number of the text stands in an output that is compared."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)", "", outside_code(prose(notebook)), flags=re.DOTALL)
    known = set(re.findall(r"\d+\.\d+", printed(notebook))) | {refseg.__version__.rsplit(".", 1)[0]}
    for stated in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text):
        if stated not in known:
            yield f"the text says {stated}, no output does"


def links(notebook: NotebookNode, path: Path) -> Iterator[str]:
    yield from (f"a link to {target}, which is not there" for target in broken_links(path, prose(notebook)))


RULES: list[Callable[[NotebookNode, Path], Iterator[str]]] = [
    title_and_header,
    footer,
    executed,
    errors,
    size,
    places,
    figures,
    cell_lengths,
    imports,
    imported_names_exist,
    start,
    plain_python,
    known_tags,
    printed_source,
    exercises,
    stated_numbers,
    links,
]


def test_every_lesson_follows_the_rules():
    wrong = {}
    for path in LESSONS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        found = {f"{path.name}, {rule.__name__}": list(rule(notebook, path)) for rule in RULES}
        wrong |= {rule: problems for rule, problems in found.items() if problems}
    assert wrong == {}


def test_the_files_are_numbered_and_listed():
    assert [path.name for path in LESSONS if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)] == []
    assert [path.name[:2] for path in LESSONS] == [f"{number:02}" for number in range(len(LESSONS))]
    index = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in LESSONS if f"]({path.name})" not in index] == []


# ---- the rules are tried on a lesson made up here, sound and then broken in every way ----------------------------

PATH = NOTEBOOKS / "77_made_up.ipynb"


def sound() -> NotebookNode:
    header = "# 77 Made up\n" + "\n".join(f"**{label}.** words" for label in HEADER) + " [times](times.md)"
    figure = new_output("display_data", {"text/html": '<img alt="A line that falls from 0.50 to 0.25.">'})
    cells = [
        new_markdown_cell(header),
        new_code_cell(f'from refseg_course.exercises import begin\nbegin("{refseg.__version__}")'),
        new_markdown_cell("The loss falls to 0.25, `0.77` is code and $0.88$ a formula.\n```\n# 0.99\n```"),
        new_code_cell("show(figure, alt)", outputs=[figure]),
        new_code_cell("def f(): ...", metadata={"tags": ["solution"]}),
        new_code_cell("check.shares(f)"),
        new_code_cell("def g(): ...", metadata={"tags": ["solution"]}),
        new_markdown_cell("Look at the axis.", metadata={"tags": ["hint"]}),
        new_markdown_cell("Exercise: shares, difficulty 2/5, importance 3/5, 10 min"),
        new_markdown_cell("## Summary\n\n## Quiz\n\n## Next\n[the index](README.md)"),
    ]
    for number, cell in enumerate(cells_of(cells), 1):
        cell.execution_count = number
    return new_notebook(cells=cells)


def cells_of(cells: list[NotebookNode]) -> list[NotebookNode]:
    return [cell for cell in cells if cell.cell_type == "code"]


@pytest.fixture(autouse=True)
def made_up_exercise(monkeypatch):
    from types import ModuleType

    import refseg_course.exercises as package

    lesson = ModuleType("lesson_77")
    lesson.shares = package.Exercise(
        "shares", 2, 3, 10, right=1, cases=package.single_case, mistakes=[(0, "No.")] * 3, verified="yes"
    )
    monkeypatch.setitem(globals(), "lessons", lambda real=lessons: {**real(), "77": lesson})


def test_a_sound_lesson_passes():
    assert {rule.__name__: found for rule in RULES if (found := list(rule(sound(), PATH)))} == {}


def change(cell: int, **fields) -> Callable[[NotebookNode], None]:
    def apply(notebook: NotebookNode) -> None:
        notebook.cells[cell].update(nbformat.from_dict(fields))

    return apply


def add(cell: NotebookNode) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells.insert(3, cell)


def error_output() -> NotebookNode:
    return new_output("error", ename="KeyError", evalue="x", traceback=[])


BROKEN = {
    "no title": (title_and_header, change(0, source="## Made up")),
    "two titles": (title_and_header, add(new_markdown_cell("# Again"))),
    "no device": (title_and_header, change(0, source=sound().cells[0].source.replace("**Device.**", ""))),
    "no times": (title_and_header, change(0, source=sound().cells[0].source.replace("times.md", ""))),
    "no quiz": (footer, change(-1, source="## Summary\n## Next")),
    "a cell after the footer": (footer, lambda notebook: notebook.cells.append(new_markdown_cell("Bye."))),
    "never run": (executed, change(3, execution_count=None)),
    "run in another order": (executed, change(3, execution_count=9)),
    "an empty cell": (executed, add(new_markdown_cell(" "))),
    "an error": (errors, change(5, outputs=[error_output()])),
    "a tag without an error": (errors, change(5, metadata={"tags": ["raises-exception"]})),
    "a warning": (errors, change(5, outputs=[new_output("stream", name="stderr", text="old")])),
    "too big": (size, change(2, source="x" * 1_000_001)),
    "a path in the output": (places, change(5, outputs=[new_output("stream", text="/ho" + "me/me/x", name="stdout")])),
    "a path in a cell": (places, change(5, source="open('/tm" + "p/x')")),
    "a bare figure": (figures, change(3, outputs=[new_output("display_data", {"image/png": "AAAA"})])),
    "no alt": (figures, change(3, outputs=[new_output("display_data", {"text/html": "<img src='x'>"})])),
    "a short alt": (figures, change(3, outputs=[new_output("display_data", {"text/html": '<img alt="a plot">'})])),
    "a picture without words": (figures, change(2, source="![](x.png)")),
    "a long cell": (cell_lengths, change(5, source="x\n" * 26)),
    "long cells": (cell_lengths, lambda n: [cell.update(source="x\n" * 7) for cell in code_cells(n)]),
    "many imports": (imports, change(5, source="import os\n" * 11)),
    "an import of nothing": (imported_names_exist, change(5, source="from math import tauu")),
    "another version": (start, change(1, source='begin("0.0.0")')),
    "a shell command": (plain_python, change(5, source="!ls")),
    "a magic": (plain_python, change(5, source="x = 1\n%pip install y")),
    "a comment for nbval": (plain_python, change(5, source="# NBVAL_SKIP")),
    "an unknown tag": (known_tags, change(5, metadata={"tags": ["skip"]})),
    "source that is compared": (printed_source, change(5, source="print(inspect.getsource(f))")),
    "an exercise without check": (exercises, change(5, source="f()")),
    "another difficulty": (exercises, change(8, source="shares, difficulty 3/5, importance 3/5, 10 min")),
    "one solution": (exercises, change(6, metadata={})),
    "no hint": (exercises, change(7, metadata={})),
    "a number from nowhere": (stated_numbers, change(2, source="It falls to 0.26.")),
    "a dead link": (links, change(2, source="[x](nowhere.md)")),
    "a dead anchor": (links, change(2, source="[x](README.md#no-such-heading)")),
}


def test_a_broken_lesson_is_found():
    missed = []
    for name, (rule, breaking) in BROKEN.items():
        notebook = sound()
        breaking(notebook)
        missed += [] if list(rule(notebook, PATH)) else [name]
    assert missed == []
    assert {rule for rule, _ in BROKEN.values()} == set(RULES)


def test_a_number_that_is_not_compared_is_no_evidence():
    notebook = sound()
    notebook.cells[3].metadata["tags"] = ["nbval-ignore-output"]
    assert list(stated_numbers(notebook, PATH)) == ["the text says 0.25, no output does"]
