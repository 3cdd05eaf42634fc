"""What every lesson took when it was last executed, and the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path

from refseg.files import write_text
from refseg.machine import describe_machine
from refseg.paths import results_dir
from refseg_course.notebooks.lessons import NOTEBOOKS, titles

PAGE = """\
# Measured times

Seconds for all cells of a lesson, the start of Python included, as `make notebooks` measured them.
RefShapes and RefShapes-Video were drawn before (a minute each, once).

| lesson | seconds | measured on |
|---|---|---|
{rows}| all | {total} | |
"""


def times_file() -> Path:
    """Where the seconds of every lesson are kept."""
    return results_dir() / "lesson_times.json"


def stored(path: Path) -> dict[str, dict]:
    """What was measured so far."""
    return json.loads(path.read_text()) if path.exists() else {}


def record_time(path: Path, seconds: float) -> None:
    """Keep what a lesson took, and write the page that shows it."""
    machine = describe_machine()
    measured_on = f"{machine['processor']}, {machine['cores']} cores, one thread"
    times = stored(times_file()) | {path.stem: {"seconds": round(seconds), "machine": measured_on}}
    write_text(times_file(), json.dumps(times, indent=1, sort_keys=True) + "\n")
    write_text(NOTEBOOKS / "times.md", times_page(times, titles()))


def times_page(times: dict[str, dict], titles: dict[str, str]) -> str:
    """The Markdown page of measured times, for the lessons that are there."""
    measured = {stem: times[stem] for stem in titles if stem in times}
    rows = [f"| [{titles[s]}]({s}.ipynb) | {t['seconds']} | {t['machine']} |\n" for s, t in measured.items()]
    return PAGE.format(rows="".join(rows), total=sum(t["seconds"] for t in measured.values()))
