"""The command line: ``refseg COMMAND``, and ``refseg --help`` lists the commands.

A command is a function: its parameters are the options, its docstring is the help. Everything heavy is imported inside,
so that the help appears at once.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import tyro

from refseg import __version__
from refseg.cli import data, models
from refseg.errors import RefsegError
from refseg.files import disk_refusals, inputs, refuse_target
from refseg.paths import PROJECT, checkpoints_dir, data_dir, shipped

OUTPUTS = ("out", "json", "folder")  # the options that name what a command writes; all others may name what it reads

COMMANDS: dict[str, Callable[..., None]] = {  # those that a researcher needs come first
    "predict": models.predict,
    "explore": models.explore,
    "train": models.train,
    "evaluate": models.evaluate,
    "score": models.score,
    "prepare": data.prepare,
    "check-data": data.check_data,
    "shard": data.shard,
    "convert-cmsa-release": data.convert_cmsa_release,
    "convert-magnet-release": data.convert_magnet_release,
}


def commands() -> dict[str, Callable[..., None]]:
    """All commands: ours, and those that other packages offer (the course does).

    A package offers commands by an entry point of the group ``refseg.commands``: a dict like ``COMMANDS``.
    """
    group, project = "refseg.commands", PROJECT / "pyproject.toml"
    offered = list(entry_points(group=group))
    if not offered and project.is_file():  # a checkout that is not installed: what installing it would offer
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"][group]
        offered = [EntryPoint(name, value, group) for name, value in declared.items()]
    found = dict(COMMANDS)
    for entry in offered:
        found |= entry.load()
    return {name: _guarded(command) for name, command in found.items()}


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, but none of its outputs can be one of its inputs, nor a shipped checkpoint."""

    @wraps(command)
    def guarded(**options: Any) -> None:
        read = [checkpoints_dir(), *_read_by(options)]
        targets = {name: Path(options[name]) for name in OUTPUTS if options.get(name) is not None}
        with inputs(read):
            for name, target in targets.items():
                with disk_refusals(target):
                    if name == "json" or not target.is_dir():
                        refuse_target(target)  # now, and not after hours of work
        # A folder of results in a folder that is read is checked by who fills it, and a second run goes on with it.
        around = [place for target in targets.values() for place in (target.resolve(), *target.resolve().parents)]
        with inputs(place for place in read if place.resolve() not in around):
            command(**options)

    return guarded


def _read_by(options: dict[str, Any]) -> list[Path]:
    """What is there under the names that a command is given: a path, a data set, or a shipped checkpoint."""
    from refseg.checkpoint import CONFIG, WEIGHTS

    given = [option for name, option in options.items() if name not in OUTPUTS and isinstance(option, str | Path)]
    named = [place for option in given for place in (Path(option), data_dir() / option, shipped(str(option)))]
    there = [place for place in named if _is_there(place)]
    # Scores may lie in a checkpoint's folder and be written again; what makes it a checkpoint may not.
    own = {place: [place / name for name in (CONFIG, WEIGHTS) if (place / name).is_file()] for place in there}
    return [file for place in there for file in (own[place] if len(own[place]) == 2 else [place])]


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # an expression is no path
        return False


def main() -> None:
    """Parse, run, and turn a RefsegError into one line on stderr and exit status 2."""
    if sys.argv[1:] == ["--version"]:
        print(f"refseg {__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands(), prog="refseg", description="Learn, explore and reproduce referring segmentation."
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("refseg: stopped; the same command continues.", file=sys.stderr)
        raise SystemExit(130) from None
