"""The student's version of a lesson: stubs in place of solutions, folded hints, and what to aim at."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from refseg.files import write_text
from refseg_course.notebooks.lessons import STUDENT, lesson_paths, pages

MARK = re.compile(r"^(\s*)# --- solution\s*$")
STUB = 'raise NotImplementedError("Your turn: write this part, then run the check below.")'


def student_version(notebook: NotebookNode) -> NotebookNode:
    """A copy with stubs in place of solutions, hints folded, nothing run, and images of what to aim at."""
    cells = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "expected" in tags:
            cells.append(expected_cell(cell))
        copy = nbformat.from_dict(cell)
        if "hint" in tags:
            copy.source = f"<details><summary>A hint</summary>\n\n{cell.source}\n\n</details>"
        if "solution" in tags:
            copy.source = stub(cell.source)
        if cell.cell_type == "code":
            copy.outputs, copy.execution_count = [], None
        cells.append(copy)
    return nbformat.from_dict({**notebook, "cells": cells})


def stub(source: str) -> str:
    """The cell with every block from ``# --- solution`` on replaced by ``raise NotImplementedError``.

    Raises:
        ValueError: there is no such line.
    """
    kept, indent, blank = [], None, 0  # indent of the block being cut, blank lines after its last line
    for line in source.splitlines():
        mark = MARK.match(line)
        if mark:
            indent, blank = mark.group(1), 0
            kept.append(indent + STUB)
        elif indent is None:
            kept.append(line)
        elif not line.strip():
            blank += 1
        elif len(line) - len(line.lstrip()) < len(indent):
            kept += [""] * blank + [line]
            indent = None
        else:
            blank = 0
    if not any(STUB in line for line in kept):
        raise ValueError(f"A cell tagged solution has no line '# --- solution':\n{source}")
    return "\n".join(kept)


def expected_cell(cell: NotebookNode) -> NotebookNode:
    """The outputs of a cell as Markdown: figures as attachments with their alternative text, the rest as text."""
    parts, attachments = ["**What the next cell should show:**"], {}
    for output in cell.outputs:
        data = output.get("data", {})
        page = "".join(data.get("text/html", ""))
        for alt, png in re.findall(r'<img alt="([^"]*)"[^>]*base64,([^"]+)"', page):
            name = f"expected-{len(attachments) + 1}.png"
            attachments[name] = {"image/png": png}
            parts.append(f"![{alt}](attachment:{name})")
        text = "".join(output.get("text", "") or ("" if page else data.get("text/plain", "")))
        if text:
            parts.append(f"```text\n{text.rstrip()}\n```")
    result = new_markdown_cell("\n\n".join(parts), id=f"{cell.id[:40]}-expected")
    if attachments:
        result.attachments = attachments
    return result


def build_student(folder: Path = STUDENT) -> list[Path]:
    """Write the student's version of every lesson, and the pages they link to, into ``folder``; work in it stays."""
    for path in lesson_paths():
        if not write_student(path, folder):
            print(f"{path.name} holds work of yours and stays as it is; move it away to get a fresh one.")
    for name, page in pages().items():  # the lessons link to them
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, folder / name)
    return sorted(folder.glob("*.ipynb"))


def write_student(path: Path, folder: Path = STUDENT) -> bool:
    """Write the student's version of one lesson into ``folder``; False if there is one in which code was written."""
    version, target = student_version(nbformat.read(path, as_version=4)), folder / path.name
    if target.exists() and has_work(target, version):
        return False
    write_text(target, nbformat.writes(version) + "\n")
    return True


def has_work(target: Path, version: NotebookNode) -> bool:
    """Whether the notebook at ``target`` has other cells than ``version``; one that cannot be read may have."""
    try:
        there = nbformat.read(target, as_version=4)
    except Exception:  # half a file, or no notebook: not ours to throw away
        return True
    return [cell.source for cell in there.cells] != [cell.source for cell in version.cells]
