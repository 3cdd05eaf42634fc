"""pip, run for the laptops of a wheelhouse, with one clear message where it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from refseg.errors import RefsegError
from refseg_course.wheelhouse.target import Target

SCRATCH = "unfinished"  # a folder in the wheelhouse itself: the system's place for temporary files is often small

# pip chooses wheels for the platform it is given, but evaluates environment markers ("only on Windows") for the
# machine it runs on. Without this, Linux would put CUDA for torch into a wheelhouse for Windows, and omit what only
# Windows needs.
PIP_FOR_ANOTHER_MACHINE = """
import json, sys
from pip._vendor.packaging import markers
changes, here = json.loads(sys.argv.pop(1)), markers.default_environment
markers.default_environment = lambda: {**here(), **changes}
from pip._internal.cli.main import main
sys.exit(main())
"""

NO_ROOM = re.compile(r"No space left on device|not enough space on the disk|Disk quota exceeded", re.IGNORECASE)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Max retries|ProxyError|SSLError|"
    r"Connection (?:refused|reset|aborted|broken)|IncompleteRead|Network is unreachable"
)


def run_pip(words: list[str], folder: Path, target: Target) -> None:
    """Run pip for ``target`` and show what it prints.

    Args:
        folder: the wheelhouse; pip's temporary files go there too.

    Raises:
        RefsegError: it fails; the message says why and, where that is known, how to fix it.
    """
    environment = dict(os.environ, TMPDIR=str(folder / SCRATCH), TEMP=str(folder / SCRATCH), PIP_NO_INPUT="1")
    if "--no-index" in words:  # only the folder: no index or folder from this machine's settings
        environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    start = ["-c", PIP_FOR_ANOTHER_MACHINE, json.dumps(target.markers)] if target.markers else ["-m", "pip"]
    complaints = []
    command = [sys.executable, *start, *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as pip:
        for line in pip.stderr:
            complaints.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    if pip.returncode:
        raise RefsegError(why("".join(complaints), folder, target))


def why(complaints: str, folder: Path, target: Target) -> str:
    """pip's complaints as one message."""
    if NO_ROOM.search(complaints):
        return no_room(folder)
    if "No module named pip" in complaints:
        return f"This Python has no pip: {sys.executable} -m ensurepip installs it."
    if NO_NETWORK.search(complaints):
        return "The package index cannot be reached: connect to the network, then run the same command to continue."
    missing = re.search(r"No matching distribution found for (.*)", complaints)
    if missing:
        return (
            f"There is no wheel for {missing.group(1).strip()} on {target}: try another --python-version or platform."
        )
    errors = re.findall(r"^ERROR: (.*)$", complaints, re.MULTILINE) or complaints.strip().splitlines()[-1:]
    return f"pip failed: {errors[0] if errors else 'it gives no reason'}"


def no_room(folder: Path) -> str:
    """The message for a full disk."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free / 2**30
    return f"No room: {free:.1f} GiB are left on the disk of {folder}. Free some, then run the command again."
