"""Downloading one large file so that nothing is lost and nothing half-written is mistaken for complete.

``FILE.part`` holds what has come so far, ``FILE.part.json`` of which file on the server it is a part. A connection that
breaks is continued where it broke, by the next run too; FILE itself appears when every byte is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError

from tqdm.auto import tqdm

from refseg import __version__
from refseg.errors import RefsegError
from refseg.files import disk_refusals, read_json, write_text

PAUSES = (1, 3, 9, 27)  # seconds before an address is asked again; whenever bytes have come the count starts over
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


class Unavailable(RefsegError):
    """This address does not give the file; another one may."""


class _Lost(Exception):
    """The connection failed, the same address may be asked again. ``answered``: the server exists but failed."""

    def __init__(self, why: str, answered: bool = True):
        super().__init__(why)
        self.answered = answered


def fetch(url: str, target: Path, size: int | None = None, sha256: str | None = None) -> dict[str, Any]:
    """Download ``url`` to ``target``, continuing what an earlier call left.

    Args:
        url: http or https; redirections to these are followed.
        target: its folder is made; beside it are ``.part`` and ``.part.json`` until it is complete.
        size: bytes, if known.
        sha256: as hexadecimal digits, if known.

    Returns:
        {"url", "bytes", "sha256"} of what came.

    Raises:
        Unavailable: the address does not give the file: no such server, 404, another size or other bytes than known.
        RefsegError: cut off half-way, or no room; what has come stays, and the same call continues.
    """
    part, about = (target.with_name(target.name + ending) for ending in (".part", ".part.json"))
    with disk_refusals(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if read_note(about).get("url") != url:
            _remove(part, about)
        _until_whole(url, part, about, size)
        found = {"url": url, "bytes": part.stat().st_size, "sha256": sha256_of(part)}
        if sha256 is not None and found["sha256"] != sha256:
            _remove(part, about)
            raise Unavailable(f"What {url} gives is not the file expected: its sha256 is {found['sha256']}.")
        part.replace(target)
        _remove(about)
    return found


def begun(target: Path) -> str | None:
    """The address from which a part of ``target`` was downloaded already, or None."""
    return read_note(target.with_name(target.name + ".part.json")).get("url")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_room(folder: Path, needed: int) -> str:
    """The message for a disk that has less than ``needed`` bytes."""
    return (
        f"No room: {free_bytes(folder) / 1e9:.1f} GB are left on the disk of {folder} and {needed / 1e9:.1f} GB are "
        "needed. Make room, or set REFSEG_DATA to another folder; then run the same command, it continues."
    )


def free_bytes(folder: Path) -> int:
    """Bytes that are left on the disk of a folder, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


# ---- one file --------------------------------------------------------------------------------------------------


def _until_whole(url: str, part: Path, about: Path, size: int | None) -> None:
    """Ask until ``part`` is whole.

    Raises:
        Unavailable, RefsegError: see :func:`fetch`.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            return _transfer(url, part, about, size)
        except _Lost as lost:
            have = _size(part)
            failures = 1 if have > before else failures + 1
            # A server that never answered is probably gone: one more try, then another address.
            if failures <= (len(PAUSES) if lost.answered or have else 1):
                time.sleep(PAUSES[failures - 1])
                continue
            if not have:
                raise Unavailable(f"{url} cannot be reached ({lost}).") from lost
            total = read_note(about).get("total")
            of = f" of {total / 1e6:,.1f}" if total else ""
            raise RefsegError(
                f"The download of {url} was cut off ({lost}) after {have / 1e6:,.1f}{of} MB: check the network, then "
                "run the same command, it continues."
            ) from lost


def _transfer(url: str, part: Path, about: Path, size: int | None) -> None:
    """One request for the bytes that are missing, written after those that are there.

    Raises:
        _Lost: it ended too early.
        Unavailable: the server has no such file, or one of another size.
    """
    have, known = _size(part), read_note(about)
    if have and have == known.get("total"):
        return
    with _ask(url, have, known.get("version")) as response:
        start, total = _announced(response, have)
        if response.status == 416:  # nothing comes after what we have: all is there, or it is not a part of this file
            if total == have:
                return
            _remove(part, about)
            raise _Lost("the file on the server has changed")
        if start not in (0, have):
            _remove(part, about)
            raise _Lost("the server sent another part than it was asked for")
        if size is not None and total not in (None, size):
            raise Unavailable(f"{url} is a file of {total:,} bytes, not of the {size:,} known.")
        if total is not None and total - start > free_bytes(part.parent):
            raise RefsegError(no_room(part.parent, total - start))
        write_text(about, json.dumps({"url": url, "total": total, "version": _version(response)}))
        _write(response, part, start, total)
    if total is not None and _size(part) < total:
        raise _Lost("the connection broke")
    if size is not None and _size(part) != size:
        _remove(part, about)
        raise Unavailable(f"{url} gave another file than the one of {size:,} bytes.")


def _ask(url: str, have: int, version: str | None) -> HTTPResponse:
    """The answer to a request for everything after the first ``have`` bytes."""
    headers = {"User-Agent": f"refseg/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:  # if the file has changed since, the server sends all of it
            headers["If-Range"] = version
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and have:
            return cast(HTTPResponse, error)  # it has all that is asked of an answer
        error.close()
        if error.code >= 500 or error.code in (408, 425, 429):  # overloaded, or a temporary failure
            raise _Lost(f"the server answers {error.code}") from error
        raise Unavailable(f"{url} answers {error.code} {error.reason}.".replace("\n", " ")) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _Lost(str(getattr(error, "reason", error)) or type(error).__name__, answered=False) from error


def _opener() -> urllib.request.OpenerDirector:
    """urllib's own, for http and https only: a redirection must not lead to a file of this machine."""
    opener = urllib.request.OpenerDirector()
    for name in ("Proxy", "Unknown", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect"):
        opener.add_handler(getattr(urllib.request, name + "Handler")())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener


def _announced(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """(first byte of the answer, bytes of the whole file if the server says so)."""
    if response.status in (206, 416):
        found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if found is None:
            return -1, None
        return int(found[1] or have), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _version(response: HTTPResponse) -> str | None:
    """What distinguishes this state of the file from a later one; a weak ETag does not."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _write(response: HTTPResponse, part: Path, start: int, total: int | None) -> None:
    with (
        part.open("r+b" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.name.removesuffix(".part")) as bar,
    ):
        file.seek(start)
        while chunk := _next_bytes(response):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _next_bytes(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException, ValueError) as error:
        raise _Lost(str(error) or type(error).__name__) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; {} if there is none, or a broken one."""
    try:
        content = read_json(path)
    except RefsegError:
        return {}
    return content if isinstance(content, dict) else {}


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
