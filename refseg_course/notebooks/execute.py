"""Run a lesson from top to bottom, offline and with one thread, and store its outputs."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from refseg.datasets.refshapes import ensure, ensure_video
from refseg.paths import PROJECT
from refseg_course.notebooks.lessons import NOTEBOOKS

CELL_SECONDS = 600
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

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


def run(notebook: NotebookNode, folder: Path) -> float:
    """Run all cells in ``folder`` and store their outputs in ``notebook``; returns the seconds, start included."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
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


def draw_data() -> None:
    """RefShapes and RefShapes-Video, if they are not there."""
    ensure()
    ensure_video()
