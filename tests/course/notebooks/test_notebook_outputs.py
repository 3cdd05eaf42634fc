"""Every lesson is run again, offline and with one thread, and must give the outputs that are stored in it.

nbval compares them cell by cell. It runs in a process of its own, so that its kernels get their own environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from refseg_course.notebooks.execute import kernel_environment

ROOT = Path(__file__).resolve().parents[3]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = Path(__file__).with_name("sanitize.cfg")
CELL_SECONDS = 600


def nbval(path: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and report of a strict nbval run."""
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    limits = [f"--nbval-cell-timeout={CELL_SECONDS}", f"--timeout={CELL_SECONDS + 60}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *options, *limits, path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_gives_its_stored_outputs(path, drawn_refshapes, tmp_path):
    status, report = nbval(path, kernel_environment(tmp_path / "ipython"))
    assert status == 0, report


def cell(source: str, *printed: str):
    outputs = [new_output("stream", name="stdout", text=text) for text in printed]
    return new_code_cell(source, outputs=outputs, execution_count=1)


@pytest.mark.slow
def test_the_run_fails_where_it_should(tmp_path):
    """A number that differs, the network, a warning; and three cells that are right."""
    call = "socket.create_connection(('192.0.2.1', 80), timeout=3)"
    reach = f"import socket\ntry:\n    {call}\nexcept OSError as error:\n    print(error)"
    page = "from IPython.display import HTML, display\ndisplay(HTML('<img src=\"data:image/png;base64,AAAA\">'))"
    stored = new_output(
        "display_data",
        {"text/html": '<img src="data:image/png;base64,BBBB">', "text/plain": "<IPython.core.display.HTML object>"},
    )
    cells = [
        cell("print(0.5)", "0.25\n"),
        cell("import warnings; warnings.warn('old')"),
        cell("import torch; print(torch.get_num_threads())", "1\n"),
        cell(reach, "a lesson asks for the network: ('192.0.2.1', 80)\n"),
        new_code_cell(page, outputs=[stored], execution_count=1),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    status, report = nbval(path, kernel_environment(tmp_path / "ipython"))
    assert status == 1 and "2 failed, 3 passed" in report, report
    assert "Cell 0" in report and "Cell 1" in report
