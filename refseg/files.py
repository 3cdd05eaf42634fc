"""Writing all or nothing: a file or a folder is completed beside its place and then renamed.

Whoever is stopped half-way, by Ctrl-C, a full disk or a kill, leaves what was there before. What a killed process
left unfinished is removed by the next one that writes to the same place.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from refseg.errors import RefsegError
from refseg.paths import data_dir


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Write a file: the block fills the temporary file it is given, which then takes the place of ``path``.

    The folder of ``path`` is made if it is missing. If the block raises an error, an older file stays as it was.

    >>> with written("notes.txt") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("complete or not there")

    Raises:
        RefsegError: the disk refuses, here or inside the block.
    """
    path = Path(path).absolute()
    with disk_refusals(path), _temporary(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)


@contextmanager
def filled(folder: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Write a folder: the block fills the temporary folder it is given, which then takes the place of ``folder``.

    Args:
        folder: not there yet, or empty.
        replace: ``folder`` may also hold an older version. It is called ``NAME.previous`` for the moment between
            two renames; :func:`last_complete` finds it if the process is killed there.

    Raises:
        RefsegError: ``folder`` is in use, or the disk refuses, here or inside the block.
    """
    folder = Path(folder).absolute()
    with disk_refusals(folder), _temporary(folder) as temporary:
        if not replace and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise RefsegError(f"{folder} is in the way and does not hold what belongs there: move it elsewhere.")
        temporary.mkdir(parents=True)
        yield temporary
        if not replace:
            if folder.exists():
                folder.rmdir()  # refused if it has been filled in the meantime
            temporary.rename(folder)
            return
        previous = _previous(folder)
        if folder.exists():  # otherwise ``previous`` is the last complete version, left there by a kill
            _remove(previous)
            folder.rename(previous)
        temporary.rename(folder)
        _remove(previous)


def last_complete(folder: Path) -> Path:
    """``folder``, or the older version that a kill between the two renames of :func:`filled` left beside it."""
    previous = _previous(folder)
    return previous if not folder.exists() and previous.exists() else folder


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file with Unix line ends, all or nothing.

    Raises:
        RefsegError: the disk refuses.
    """
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds, whoever wrote it.

    Raises:
        RefsegError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise RefsegError(f"{path} could not be read ({error.strerror}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise RefsegError(f"{path} is not valid JSON ({error}): download it again.") from error


@contextmanager
def disk_refusals(place: Path) -> Iterator[None]:
    """Inside, a disk that refuses to write to ``place`` is reported by :func:`cannot_write`.

    Raises:
        RefsegError: for any OSError.
    """
    try:
        yield
    except OSError as error:
        raise RefsegError(cannot_write(error, place)) from error


def cannot_write(error: OSError, place: Path) -> str:
    """The sentence for a disk that is full or does not allow writing to ``place``."""
    reason = error.strerror or str(error)
    if error.filename and not Path(error.filename).absolute().is_relative_to(place.absolute().parent):
        reason += f": {error.filename}"  # something that was being read
    in_data = place.absolute().is_relative_to(data_dir().absolute())
    other = "set REFSEG_DATA to another folder" if in_data else "name a folder that you may write to"
    return f"{place} could not be written ({reason}): make room on its disk, or {other}."


@contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A name beside ``place`` for this process alone; whatever has that name afterwards is removed."""
    mine = f".{place.name}.{platform.node()}-"  # of this machine: its disk may be shared with others
    for leftover in place.parent.glob(f"{glob.escape(mine)}*.partial"):
        number = leftover.name[len(mine) : -len(".partial")]
        if number == str(os.getpid()) or not (number.isdecimal() and psutil.pid_exists(int(number))):
            _remove(leftover)
    temporary = place.parent / f"{mine}{os.getpid()}.partial"
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _previous(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.previous"  # with_name does not accept Path(".")
