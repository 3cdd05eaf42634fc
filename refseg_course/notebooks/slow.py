"""What a lesson takes on a slow laptop, imitated by half of one core, and the teacher's page that shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import nbformat

from refseg.files import write_text
from refseg.machine import describe_machine
from refseg.paths import PROJECT, results_dir
from refseg_course.notebooks.execute import run
from refseg_course.notebooks.lessons import NOTEBOOKS, titles
from refseg_course.notebooks.times import stored, times_file

SLOW_PAGE = NOTEBOOKS / "teaching" / "slow_laptop.md"
DRAWING = "refshapes"  # listed with the lessons: most of them need it, and a class meets it first
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

    The share is processor time over elapsed time: other work on the machine makes it smaller.
    """
    import resource  # not on Windows

    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if name == DRAWING:
        with tempfile.TemporaryDirectory() as scratch:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
            subprocess.run([sys.executable, "-c", DRAW, scratch], env=environment, check=True)
    else:
        run(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4), NOTEBOOKS)
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
    times = stored(slow_file()) | {name: measured}
    write_text(slow_file(), json.dumps(times, indent=1, sort_keys=True) + "\n")
    write_slow_page()


def write_slow_page() -> None:
    """Write the page from what was measured, here and on usual machines."""
    write_text(SLOW_PAGE, slow_page(stored(slow_file()), stored(times_file()), titles()))


def slow_page(times: dict[str, dict], usual: dict[str, dict], titles: dict[str, str]) -> str:
    """The Markdown page for the teacher, for what was measured."""
    rows = []
    for name, called in {DRAWING: "RefShapes is drawn, once", **titles}.items():
        if name in times:
            link = called if name == DRAWING else f"[{called}](../{name}.ipynb)"
            free = usual.get(name, {}).get("seconds", "")
            cells = (link, free, *(times[name][key] for key in ("seconds", "share", "machine", "date")))
            rows.append("| " + " | ".join(map(str, cells)) + " |\n")
    return PAGE.format(table=TABLE_HEAD + "".join(rows) if rows else NOT_MEASURED)


PAGE = """\
# On a slow laptop

Seconds for all cells, the start of Python included, as `python -m refseg_course.notebooks slow` measured them: one
thread on one core, shared with a loop that does nothing but take half of it. The share says how much of the core the
lesson got, processor time over elapsed time. No browser with JupyterLab was running; memory and disk were not slowed.
The first column repeats the [usual times](../times.md).

{table}"""
TABLE_HEAD = """\
| | usual seconds | slow seconds | share of the core | measured on | date |
|---|---|---|---|---|---|
"""
NOT_MEASURED = "Nothing has been measured yet: it takes a machine with nothing else to do.\n"
