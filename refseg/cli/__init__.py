"""The command line: ``refseg COMMAND``, and ``refseg --help`` lists the commands.

A command is a dataclass: its fields are the options, its docstring is the help, ``run`` does the work. Everything heavy
is imported in ``run``, so that the help appears at once.
"""

from __future__ import annotations

import sys
import tomllib
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_

import tyro

from refseg.cli.convert import ConvertCmsaRelease, ConvertMagnetRelease
from refseg.cli.data import CheckData, Prepare, Shard
from refseg.cli.models import Evaluate, Explore, Predict, Score, Train
from refseg.errors import RefsegError
from refseg.paths import PROJECT

# Those that a researcher needs come first.
OWN = (Predict, Explore, Train, Evaluate, Score, Prepare, CheckData, Shard, ConvertCmsaRelease, ConvertMagnetRelease)


def commands() -> tuple[type, ...]:
    """All commands: ours, and those that other packages offer (the course does).

    A package offers commands by an entry point of the group ``refseg.commands``: a tuple of dataclasses like these.
    """
    group, project = "refseg.commands", PROJECT / "pyproject.toml"
    offered = list(entry_points(group=group))
    if not offered and project.is_file():  # a checkout that is not installed: what installing it would offer
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"][group]
        offered = [EntryPoint(name, value, group) for name, value in declared.items()]
    return (*OWN, *(command for entry in offered for command in entry.load()))


def main() -> None:
    """Parse, run, and turn a RefsegError into one line on stderr and exit status 2."""
    command = tyro.cli(
        reduce(or_, commands()), prog="refseg", description="Learn, explore and reproduce referring segmentation."
    )
    try:
        command.run()
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("refseg: stopped; the same command continues.", file=sys.stderr)
        raise SystemExit(130) from None
