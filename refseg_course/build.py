"""Executes the lessons in place, and builds the version without solutions that students work in.

    python -m refseg_course.build execute [04 05 ...]   runs lessons top to bottom, stores their outputs and times
    python -m refseg_course.build student [FOLDER]      writes build/student, or FOLDER; edited notebooks stay
    python -m refseg_course.build slow [04 05 ...]      measures lessons on about half of one core, for the teacher

The notebooks with solutions are the only source. In them a code cell tagged ``solution`` holds a line
``# --- solution``: from there to the end of its block the student finds ``raise NotImplementedError``. A Markdown
cell tagged ``hint`` is folded. The output of a cell tagged ``expected`` is shown above the cell, as what to aim at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from refseg.datasets.refshapes import ensure, video
from refseg.machine import describe_machine
from refseg.paths import PROJECT, results_dir

NOTEBOOKS = PROJECT / "notebooks"
STUDENT = PROJECT / "build" / "student"
CELL_SECONDS = 600
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MARK = re.compile(r"^(\s*)# --- solution\s*$")
STUB = 'raise NotImplementedError("Your turn: write this part, then run the check below.")'

# Runs in the kernel before the first cell. The kernel's own connections are not made through this module.
OFFLINE = """
def _offline():
    import socket

    def connect(self, address, really=socket.socket.connect):
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a lesson asks for the network: {address}")
        return really(self, address)

    socket.socket.connect = connect


_offline()
del _offline
"""


def lesson_paths(numbers: list[str] | None = None) -> list[Path]:
    """The notebooks in their order, or those whose number is named."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    return [path for path in paths if not numbers or path.name[:2] in numbers]


def kernel_environment(folder: Path) -> dict[str, str]:
    """Environment of a kernel that computes with one thread, imports this checkout and cannot reach the network.

    Args:
        folder: an empty one, for the kernel's start-up script.
    """
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-offline.py").write_text(OFFLINE)
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    paths = {"IPYTHONDIR": str(folder), "PYTHONPATH": str(PROJECT), "MPLCONFIGDIR": str(folder / "matplotlib")}
    return {**os.environ, **one_thread, **paths, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "NO_COLOR": "1"}


def run(notebook: NotebookNode, folder: Path, *, allow_errors: bool = False) -> float:
    """Run all cells in ``folder`` and store their outputs in ``notebook``; returns the seconds, start included."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            allow_errors=allow_errors,
            record_timing=False,
            coalesce_streams=True,  # else one print may be stored in two pieces, by chance
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=kernel_environment(Path(scratch)))
    return time.perf_counter() - started


def execute(path: Path) -> float:
    """Run one lesson and write it back with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; the file stays as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    seconds = run(notebook, NOTEBOOKS)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
    nbformat.write(notebook, path)
    return seconds


# ------------------------------------------------------------------------------------------------ measured times


def times_file() -> Path:
    """Where the seconds of every lesson are kept."""
    return results_dir() / "lesson_times.json"


def record_time(path: Path, seconds: float) -> None:
    """Keep what a lesson took, and write the page that shows it."""
    times = json.loads(times_file().read_text()) if times_file().exists() else {}
    machine = describe_machine()
    measured_on = f"{machine['processor']}, {machine['cores']} cores, one thread"
    times[path.stem] = {"seconds": round(seconds), "machine": measured_on}
    times_file().write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
    (NOTEBOOKS / "times.md").write_text(times_page(times, {path.stem: title(path) for path in lesson_paths()}))


def times_page(times: dict[str, dict], titles: dict[str, str]) -> str:
    """The Markdown page of measured times, for the lessons that are there."""
    rows = [
        f"| [{name}]({stem}.ipynb) | {times[stem]['seconds']} | {times[stem]['machine']} |"
        for stem, name in titles.items()
        if stem in times
    ]
    total = sum(times[stem]["seconds"] for stem in titles if stem in times)
    return "\n".join(
        [
            "# Measured times",
            "",
            "Seconds for all cells of a lesson, the start of Python included, as `make notebooks` measured them.",
            "RefShapes and RefShapes-Video were drawn before (a minute each, once).",
            "",
            "| lesson | seconds | measured on |",
            "|---|---|---|",
            *rows,
            f"| all | {total} | |",
            "",
        ]
    )


def title(path: Path) -> str:
    """The H1 of a notebook."""
    first = nbformat.read(path, as_version=4).cells[0].source
    return first.splitlines()[0].removeprefix("# ")


# ------------------------------------------------------------------------------------------------ a slow laptop


SLOW_PAGE = NOTEBOOKS / "teaching" / "slow_laptop.md"
NOT_MEASURED = "Nothing has been measured yet: it takes a machine with nothing else to do."
DRAWING = "refshapes"  # stands among the lessons: most of them need it, and a class meets it first
DRAW = "import sys, pathlib; from refseg.datasets.refshapes import ensure; ensure(pathlib.Path(sys.argv[1], 'r'))"


def slow_file() -> Path:
    """Where the seconds on a slow machine are kept."""
    return results_dir() / "lesson_times_slow.json"


@contextmanager
def half_a_core() -> Iterator[None]:
    """Everything started inside runs on one core, beside a loop that takes half of it. Linux only."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # what is started from here on inherits it, the loop too
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()
        os.sched_setaffinity(0, cores)


def measure_slow(name: str) -> dict:
    """Seconds of one lesson, or of drawing RefShapes, and the share of a core that it really got.

    The share is the processor's seconds over the clock's: other work on the machine makes it smaller, and then says so.
    """
    import resource  # not on Windows

    path = next((path for path in lesson_paths() if path.stem == name), None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if path is None:
        with tempfile.TemporaryDirectory() as scratch:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
            subprocess.run([sys.executable, "-c", DRAW, scratch], env=environment, check=True)
    else:
        run(nbformat.read(path, as_version=4), NOTEBOOKS)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    machine = describe_machine()
    return {
        "seconds": round(seconds),
        "share": round(busy / seconds, 2),
        "machine": f"{machine['processor']}, one core, one thread",
        "date": date.today().isoformat(),
    }


def record_slow(name: str, measured: dict) -> None:
    """Keep what was measured, and write the page that shows it."""
    times = json.loads(slow_file().read_text()) if slow_file().exists() else {}
    times[name] = measured
    slow_file().write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
    usual = json.loads(times_file().read_text()) if times_file().exists() else {}
    SLOW_PAGE.write_text(slow_page(times, usual, {path.stem: title(path) for path in lesson_paths()}))


def slow_page(times: dict[str, dict], usual: dict[str, dict], titles: dict[str, str]) -> str:
    """The Markdown page for the teacher, for what was measured."""
    rows = []
    for name, called in {DRAWING: "RefShapes is drawn, once", **titles}.items():
        if name in times:
            link = called if name == DRAWING else f"[{called}](../{name}.ipynb)"
            free = usual.get(name, {}).get("seconds", "")
            cells = (link, free, *(times[name][key] for key in ("seconds", "share", "machine", "date")))
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    table = [
        "| | usual seconds | slow seconds | share of the core | measured on | date |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(
        [
            "# On a slow laptop",
            "",
            "Seconds for all cells, the start of Python included, as `python -m refseg_course.build slow` measured",
            "them,",
            "with one thread on one core, and beside it on the same core a loop that does nothing but take half of it.",
            "The share says how much of the core the lesson got, the processor's seconds over the clock's. No browser",
            "with JupyterLab was running; memory and disk were not slowed. The first column repeats the",
            "[usual times](../times.md).",
            "",
            *(table if rows else [NOT_MEASURED]),
            "",
        ]
    )


# ------------------------------------------------------------------------------------------- the student's version


def student_version(notebook: NotebookNode) -> NotebookNode:
    """A copy with stubs in place of solutions, hints folded, nothing run, and pictures of what to aim at."""
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
    kept, indent, blank = [], None, 0  # indent of the block that is being left out, blank lines behind its last one
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
    for page in (*NOTEBOOKS.glob("*.md"), *NOTEBOOKS.glob("teaching/*.md")):  # the pages link to one another
        copied = folder / page.relative_to(NOTEBOOKS)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, copied)
    return sorted(folder.glob("*.ipynb"))


def write_student(path: Path, folder: Path = STUDENT) -> bool:
    """Write the student's version of one lesson into ``folder``; False if one lies there in which code was written."""
    version, target = student_version(nbformat.read(path, as_version=4)), folder / path.name
    if target.exists() and has_work(target, version):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(version, target)
    return True


def has_work(target: Path, version: NotebookNode) -> bool:
    """Whether the notebook at ``target`` has other cells than ``version``; one that cannot be read may have."""
    try:
        there = nbformat.read(target, as_version=4)
    except Exception:  # half a file, or no notebook: not ours to throw away
        return True
    return [cell.source for cell in there.cells] != [cell.source for cell in version.cells]


def unexpected_errors(notebook: NotebookNode) -> list[str]:
    """What went wrong in an executed student's version, but for the stubs and what is meant to fail."""
    return [
        f"{output.ename}: {output.evalue} in:\n{cell.source}"
        for cell in notebook.cells
        if cell.cell_type == "code" and "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "error" and output.ename != NotImplementedError.__name__
    ]


def draw_data() -> None:
    """RefShapes and RefShapes-Video, if they are not there."""
    ensure()
    video.ensure()


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    if arguments[:1] == ["execute"]:
        draw_data()  # else the first lesson would show how RefShapes is drawn, and be the only one that does
        for path in lesson_paths(arguments[1:]):
            print(f"{path.name} ...", end=" ", flush=True)
            seconds = execute(path)
            record_time(path, seconds)
            print(f"{seconds:.0f} s")
    elif arguments[:1] == ["slow"]:
        draw_data()
        with half_a_core():
            for name in [DRAWING, *(path.stem for path in lesson_paths(arguments[1:]))]:
                print(f"{name} ...", end=" ", flush=True)
                measured = measure_slow(name)
                record_slow(name, measured)
                print(f"{measured['seconds']} s with {measured['share']} of a core")
    elif arguments[:1] == ["student"]:
        built = build_student(*map(Path, arguments[1:]))
        print(f"{len(built)} notebooks without solutions are in {built[0].parent if built else STUDENT}.")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
