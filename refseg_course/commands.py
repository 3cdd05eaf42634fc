"""The course's commands of ``refseg``: the command line finds them by the entry point ``refseg.commands``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from refseg.paths import runs_dir
from refseg_course.wheelhouse import CPU_INDEX


@dataclass
class Tour:
    """See everything once: draw RefShapes, train for two minutes, evaluate, and write a report for the browser."""

    out: Path = runs_dir() / "tour"
    """Folder of the run and its report.html."""
    minutes: float = 2.0
    """How long to train."""

    def run(self) -> None:
        """Run the tour."""
        from refseg_course.tour import run_tour

        run_tour(self.out, self.minutes)


@dataclass
class Doctor:
    """Check that everything is there that the lessons need; each [FAIL] comes with the command that fixes it."""

    markdown: bool = False
    """Print the report as Markdown, to paste into a bug report."""

    def run(self) -> None:
        """Print the report; exit status 1 if anything has to be fixed."""
        from refseg_course.doctor import main as examine

        if not examine(self.markdown):
            raise SystemExit(1)


@dataclass
class Wheelhouse:
    """Fill a folder from which the kit installs without a network: made once, carried to many laptops."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A new folder; or a wheelhouse, to go on with or to extend to another kind of laptop."""
    platform: str | None = None
    """windows, macos or linux, if the laptops have another system than this machine; or pip's own name, win_amd64."""
    python_version: str | None = None
    """Python of the laptops, such as 3.12, if it is not the one running here."""
    index_url: str | None = None
    """A package index in place of PyPI."""
    torch_index: str = CPU_INDEX
    """Where torch for Linux comes from: by default without CUDA; pypi takes it from PyPI, several gigabytes more."""

    def run(self) -> None:
        """Fill it and say its size."""
        from refseg_course.wheelhouse import Target, make_wheelhouse

        target = Target(self.platform, self.python_version)
        size = make_wheelhouse(self.folder, target, self.index_url, self.torch_index)
        print(f"{self.folder} is complete, {size / 1e9:.1f} GB, for {target}.")
        print("Hand on the whole folder; INSTALL.txt in it says how to install.")


@dataclass
class Catchup:
    """Make one lesson ready if you join late: data, shipped files, your notebook, and functions of earlier lessons."""

    lesson: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="LESSON")]
    """Number of the lesson."""

    def run(self) -> None:
        """Prepare and report; exit status 1 if anything has to be fixed."""
        from refseg_course.catchup import catchup

        if not catchup(self.lesson):
            raise SystemExit(1)


COMMANDS = (Tour, Doctor, Catchup, Wheelhouse)
