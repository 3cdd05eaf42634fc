"""The course's commands. ``refseg`` finds them by the entry point ``refseg.commands``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from refseg.files import alone_in
from refseg.paths import runs_dir
from refseg_course.wheelhouse import CPU_INDEX


def tour(out: Path | None = None, minutes: float = 2.0) -> None:
    """See everything once: draw RefShapes, train for two minutes, evaluate, and write a report for the browser.

    Args:
        out: Folder of the run and its report.html. Default: runs/tour.
        minutes: How long to train.
    """
    from refseg_course.tour import run_tour

    run_tour(out or runs_dir() / "tour", minutes)


def doctor(markdown: bool = False) -> None:
    """Check that everything is there that the lessons need; each [FAIL] comes with the command that fixes it.

    Args:
        markdown: Print the report as Markdown, to paste into a bug report.
    """
    from refseg_course.doctor import main as examine

    if not examine(markdown):
        raise SystemExit(1)


def wheelhouse(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    platform: str | None = None,
    python_version: str | None = None,
    index_url: str | None = None,
    torch_index: str = CPU_INDEX,
) -> None:
    """Fill a folder from which the kit installs without a network: made once, carried to many laptops.

    Args:
        folder: A new folder; or a wheelhouse, to go on with or to extend to another kind of laptop.
        platform: windows, macos or linux, if the laptops have another system than this machine; or pip's own name,
            win_amd64.
        python_version: Python of the laptops, such as 3.12, if it is not the one running here.
        index_url: A package index in place of PyPI.
        torch_index: Where torch for Linux comes from: by default without CUDA; pypi takes it from PyPI, several
            gigabytes more.
    """
    from refseg_course.wheelhouse import Target, make_wheelhouse

    target = Target(platform, python_version)
    with alone_in(folder):
        size = make_wheelhouse(folder, target, index_url, torch_index)
    print(f"{folder} is complete, {size / 1e9:.1f} GB, for {target}.")
    print("Pass on the whole folder; INSTALL.txt in it says how to install.")


def catchup(lesson: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="LESSON")]) -> None:
    """Make one lesson ready if you join late: data, shipped files, your notebook, and functions of earlier lessons.

    Args:
        lesson: Number of the lesson.
    """
    from refseg_course.catchup import catchup

    if not catchup(lesson):
        raise SystemExit(1)


COMMANDS = {"tour": tour, "doctor": doctor, "catchup": catchup, "wheelhouse": wheelhouse}
