"""``refseg prepare NAME``: from nothing to a data set that is complete, counted, and where the readers look for it.

A data set is a few pieces, each a folder or a file below the data folder. Existing ones are kept. Archives come from
``downloads/``, where people put what they obtained themselves, or from the addresses in ``published.toml``; they are
unpacked beside their place and renamed when complete. After an interruption by a full disk, a broken network or Ctrl-C,
run the same command again. ``downloads/PIECE.json`` keeps what came from where, with its size and sha256.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from refseg.datasets.base import DatasetInfo, Piece
from refseg.datasets.obtain.check import check_data
from refseg.datasets.obtain.fetch import Unavailable, begun, fetch, read_note, sha256_of
from refseg.datasets.obtain.parquet import convert_parquet
from refseg.datasets.obtain.unpack import ENDINGS, BadArchive, holds, is_archive, unpack
from refseg.datasets.registry import dataset_info
from refseg.errors import RefsegError
from refseg.files import filled, write_text, written
from refseg.paths import data_dir

Say = Callable[[str], None]


def prepare(name: str, *, images: bool = True, parquet: Path | None = None, say: Say = print) -> bool:
    """Draw a data set, or obtain what is missing of it, put it in place, and count it; a second call only counts.

    Args:
        name: a key of ``DATASETS``.
        images: False leaves out images, frames and videos.
        parquet: a folder with parquet files to make the annotations of, see ``convert_parquet``.
        say: is given one line after the other about what happens.

    Returns:
        Whether everything is there and no count differs from a published one. What cannot be downloaded is named, with
        its licence and where to get it.

    Raises:
        RefsegError: no such data set, or nothing is known of where to get it; a network that broke, no room, a hostile
            or damaged archive. Nothing is lost, the same call continues.
    """
    info = dataset_info(name)
    if info.draw is not None:
        say(f"{name} is in {info.draw()}.")
        return True
    if not info.pieces:
        raise RefsegError(f"Nothing is known of where to get {name}: put its files into {info.root}.")
    if parquet is not None and not Path(parquet).is_dir():
        raise RefsegError(f"There is no folder {parquet} with parquet files.")
    pieces = [piece for piece in info.pieces if images or not piece.is_images]
    problems = []
    for piece in pieces:
        try:
            _obtain(piece, name, parquet if piece.what == "annotations" else None, say)
        except (Unavailable, BadArchive) as error:
            problems.append(f"{piece.what}: {error}\n{_how_by_hand(piece)}")
    for problem in problems:
        say(f"[FAIL] {problem}")
    return not problems and _counted(info, images, say)


def found(piece: Piece) -> Path | None:
    """Where a piece is, or None."""
    places = [data_dir() / place for place in (piece.place, *piece.elsewhere)]
    return next((p for p in places if (holds(p, piece.keys) if piece.keys else p.is_file())), None)


def downloads_dir() -> Path:
    """Where archives are kept, those obtained by hand too."""
    return data_dir() / "downloads"


def _how_by_hand(piece: Piece) -> str:
    kind = "as .zip or .tar.*" if piece.keys else "as it is"
    lines = [f"       Put it into {downloads_dir()} as {piece.source} ({kind}), and run the same command again."]
    lines += [f"       Where people get it: {piece.by_hand}."] if piece.by_hand else []
    return "\n".join([*lines, f"       Licence: {piece.licence}."])


# ---- one piece -------------------------------------------------------------------------------------------------


def _obtain(piece: Piece, name: str, parquet: Path | None, say: Say) -> None:
    """Put the piece into its place, unless it is there.

    Raises:
        Unavailable: it has to be obtained by hand.
        RefsegError: see :func:`prepare`.
    """
    if (there := found(piece)) is not None:
        say(f"{piece.what}: {there} is there.")
        return
    with _alone(piece, say):
        if found(piece) is not None:  # another process was faster
            say(f"{piece.what}: {found(piece)} is already there.")
            return
        place = data_dir() / piece.place
        if parquet is not None:
            with filled(place) as partial:
                convert_parquet(name, Path(parquet), partial)
        else:
            _from_download(piece, place, say)
        say(f"{piece.what}: {place} is made.")


@contextmanager
def _alone(piece: Piece, say: Say) -> Iterator[None]:
    """Only one process at a time obtains a piece; the others wait. The system frees the lock of one that dies."""
    folder = downloads_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{piece.source}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another refseg prepare is at work at {piece.what} in {data_dir()}: waiting for it.")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise RefsegError(f"{folder} could not be written ({error}): set REFSEG_DATA to another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _from_download(piece: Piece, place: Path, say: Say) -> None:
    names = [piece.source + ending for ending in ENDINGS] if piece.keys else [piece.source]
    archive = next((path for name in names if (path := downloads_dir() / name).is_file()), None)
    # Ours: downloaded now, or left by an unpacking cut short.
    ours = archive is None or read_note(_note_file(piece)).get("bytes") == archive.stat().st_size
    archive = archive or _download(piece, say)
    try:
        if piece.keys:
            unpack(archive, place, piece.keys)
        elif piece.sha256 not in (None, sha256_of(archive)):
            raise BadArchive(f"{archive} is not the published file: its sha256 is not {piece.sha256}.")
        else:
            with written(place) as partial:
                shutil.copyfile(archive, partial)
    except BadArchive:
        if ours:  # so that the next run downloads it again
            archive.unlink(missing_ok=True)
        raise
    if ours:
        archive.unlink()


def _download(piece: Piece, say: Say) -> Path:
    """Fetch the piece from the first address that gives it, and note what it was."""
    failures = []
    noted = read_note(_note_file(piece))
    endings = {url: max((e for e in ENDINGS if url.endswith(e)), key=len, default=".zip") for url in piece.urls}
    targets = {url: downloads_dir() / f"{piece.source}{endings[url] if piece.keys else ''}" for url in piece.urls}
    for url, target in sorted(targets.items(), key=lambda pair: begun(pair[1]) != pair[0]):  # a part first
        say(f"{piece.what}: downloading {url}\n  licence: {piece.licence}")
        try:
            same = noted.get("sha256") if noted.get("url") == url else None  # as the last time
            got = fetch(url, target, piece.size, piece.sha256 or same)
            if piece.keys and not is_archive(target):
                with target.open("rb") as file:
                    begin = file.read(30)
                target.unlink()  # an error page, mostly
                raise Unavailable(f"What {url} gives is not an archive, it begins with {begin!r}.")
        except Unavailable as error:
            failures.append(str(error))
            continue
        write_text(_note_file(piece), json.dumps(got, indent=1) + "\n")
        return target
    raise Unavailable(" ".join(failures) or "it has to be obtained by hand.")


def _note_file(piece: Piece) -> Path:
    return downloads_dir() / f"{piece.source}.json"


# ---- counts ----------------------------------------------------------------------------------------------------


def _counted(info: DatasetInfo, images: bool, say: Say) -> bool:
    """Compare what is there with the published counts."""
    # Of the REFER layout not every owner's refs file has to be there.
    files = {owner: [info.root / f"refs({owner}){ending}" for ending in (".p", ".json")] for owner in info.splits}
    owners = [owner for owner in info.splits if any(path.is_file() for path in files[owner])] or [info.owner()]
    reports = [check_data(info.name, split, split_by=owner) for owner in owners for split in info.splits[owner]]
    for report in reports:
        say(str(report))
    return all(report.ok if images else report.counts_ok for report in reports)
