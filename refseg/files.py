"""Writing all or nothing: a file or a folder is completed beside its place and then renamed.

Whoever is stopped half-way, by Ctrl-C, a full disk or a kill, leaves what was there before. What a killed process
left unfinished is removed by the next one that writes to the same place.

What is the user's stays: a folder is replaced only if it holds nothing but an older version of the same, a file only
if it is a regular one and no input of the running command. Links stay: what they point to is written.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from refseg.errors import RefsegError
from refseg.paths import data_dir

LITTER = {".DS_Store", "Thumbs.db", "desktop.ini", ".lock"}  # of systems, and of ``alone_in``: nobody misses it
WEEK = 7 * 24 * 3600  # seconds; nothing is written for that long
_inputs: list[Path] = []  # of the running command


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Write a file: the block fills the temporary file it is given, which then takes the place of ``path``.

    The folder of ``path`` is made if it is missing. If the block raises an error, an older file stays as it was.

    >>> with written("notes.txt") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("complete or not there")

    Raises:
        RefsegError: ``path`` is a device, a pipe, a folder, write-protected, or an input of the running command; or
            the disk refuses, here or inside the block.
    """
    place = Path(os.path.realpath(path))
    with disk_refusals(place), _temporary(place) as temporary:
        refuse_target(Path(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(place)


@contextmanager
def filled(folder: str | Path, *, older: Sequence[str] = ()) -> Iterator[Path]:
    """Write a folder: the block fills the temporary folder it is given, which then takes the place of ``folder``.

    Args:
        folder: not there yet, or empty, or an older version of the same. That has another name for the moment between
            two renames; :func:`last_complete` finds it if the process is killed there.
        older: the names an older version may hold, "images/" of a folder; the first of them is always there. By
            default no older version is replaced.

    Raises:
        RefsegError: ``folder`` holds anything else, or the disk refuses, here or inside the block.
    """
    folder = Path(os.path.realpath(folder))
    previous = _previous(folder)
    with disk_refusals(folder), _temporary(folder) as temporary:
        refuse_others(folder, older)
        temporary.mkdir(parents=True)
        yield temporary
        refuse_others(folder, older)  # somebody may have filled it in the meantime
        if folder.exists():  # otherwise ``previous`` is the last complete version, left there by a kill
            _drop(previous, older)
            folder.rename(previous)
        temporary.rename(folder)
        _drop(previous, older)


def last_complete(folder: Path) -> Path:
    """``folder``, or the older version that a kill between the two renames of :func:`filled` left beside it."""
    real = Path(os.path.realpath(folder))
    before = real.with_name(f"{real.name}.previous")  # as it was called once
    return next((place for place in (folder, _previous(real), before) if place.exists()), folder)


def refuse_others(folder: Path, older: Sequence[str] = ()) -> None:
    """Make sure that ``folder`` is not there, empty, or an older version of what is to be written, see :func:`filled`.

    Raises:
        RefsegError: it holds something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RefsegError(f"{folder} is in the way and is not a folder: name another one, or move it.")
    there = {path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in LITTER}
    others = sorted(there - set(older))
    if others or there and older[0] not in there:
        what = f"holds {', '.join(others[:3])}, which was not written there by refseg" if others else "is not whole"
        raise RefsegError(f"{folder} is in the way: it {what}. Name another folder, or move it.")


@contextmanager
def inputs(places: Iterable[Path]) -> Iterator[None]:
    """Inside, :func:`written` replaces no file among ``places`` and none in those that are folders."""
    _inputs.extend(places)
    try:
        yield
    finally:
        _inputs.clear()


def refuse_target(path: Path) -> None:
    """Make sure that a file can be written to ``path`` without harm.

    Raises:
        RefsegError: there is a device, a pipe, a folder, or a file that is write-protected or that the running command
            reads, by whatever name or link.
    """
    if not path.exists():
        return
    place = Path(os.path.realpath(path))
    stream = path.is_symlink() and path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout may be any file
    if stream or not path.is_file():
        raise RefsegError(f"{path} is a folder, a device or a pipe: name a file to write to.")
    if not os.access(path, os.W_OK):
        raise RefsegError(f"{path} is write-protected: name another file to write to.")
    if any(given.samefile(part) for given in _inputs for part in (place, *place.parents)):
        raise RefsegError(f"{path} is among the files that this command reads: name another file to write to.")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same folder. The system frees the lock of one that dies.

    Raises:
        RefsegError: another process is, or the disk refuses.
    """
    with disk_refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RefsegError(f"Another process is writing to {folder}: wait for it, or name another folder.") from None
        except NotImplementedError:  # a network disk that has no locks
            pass
    try:
        yield
    finally:
        lock.release()


def leads_out(name: str) -> bool:
    """Whether a name from outside, on any system, would lead out of the folder it is to lie in."""
    absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) is not None
    return absolute or ".." in re.split(r"[/\\]", name) or "\0" in name


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
    node = platform.node()  # this machine: its disk may be shared with others
    name = re.escape(place.name)
    form = re.compile(rf"\.{name}\.(?:(.+)-)?(\d+)\.partial|{name}\.partial-(\d+)")
    for other in os.listdir(place.parent) if place.parent.is_dir() else ():
        if found := form.fullmatch(other):
            leftover, number = place.parent / other, int(found[2] or found[3])
            running = number != os.getpid() and psutil.pid_exists(number)
            if found[1] in (None, node) and not running or leftover.lstat().st_mtime < time.time() - WEEK:
                _remove(leftover)
    temporary = place.parent / f".{place.name}.{node}-{os.getpid()}.partial"
    try:
        yield temporary
    finally:
        _remove(temporary)


def _drop(folder: Path, older: Sequence[str]) -> None:
    """Remove an older version and nothing else: a folder that holds more stays."""
    if folder.is_dir():
        for name in (*older, *LITTER):
            _remove(folder / name)
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")
