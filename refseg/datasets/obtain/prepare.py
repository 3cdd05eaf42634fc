"""``refseg prepare NAME``: from nothing to a data set that is whole, counted, and where the loaders look for it.

A data set is a few pieces, each a folder or a file below the data folder. What is there is left alone. Archives come
from ``downloads/``, where people put what they obtained themselves, or from the addresses below, and are unpacked
beside their place and renamed when whole. Who is interrupted, by a full disk, a cut network or Ctrl-C, runs the same
command again. ``downloads/PIECE.json`` keeps what came from where, with its size and sha256.

Addresses, their state and licences are what public pages and issue threads told last (December 2025), see ``check``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from refseg.datasets.obtain.check import check_data, choose_known_split, splits_of
from refseg.datasets.obtain.check_clips import CLIP_SPLITS
from refseg.datasets.obtain.fetch import Unavailable, begun, cannot_write, fetch, sha256_of
from refseg.datasets.obtain.parquet import convert_parquet
from refseg.datasets.obtain.unpack import ENDINGS, BadArchive, holds, is_archive, put, unpack
from refseg.datasets.refer import BENCHMARKS
from refseg.errors import RefsegError
from refseg.paths import data_dir

Say = Callable[[str], None]


@dataclass(frozen=True)
class Piece:
    """A folder, or one file, of a data set.

    Args:
        what: for people.
        place: where it belongs below the data folder.
        licence: what is known of it.
        source: how the archive in ``downloads/`` is called, without its ending; of a single file its name.
        keys: the folder is there if something in it matches one of these; () for a single file.
        urls: tried in this order.
        by_hand: where people get it if no address gives it.
        elsewhere: other places below the data folder where loaders look.
        size, sha256: of the archive or the file, where known.
    """

    what: str
    place: str
    licence: str
    source: str
    keys: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    by_hand: str = ""
    elsewhere: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None

    @property
    def is_pictures(self) -> bool:
        """What ``--no-pictures`` leaves out."""
        return self.what.startswith("pictures")

    def found(self) -> Path | None:
        """Where it lies, or None."""
        places = [data_dir() / place for place in (self.place, *self.elsewhere)]
        return next((p for p in places if (holds(p, self.keys) if self.keys else p.is_file())), None)


_UNC = "bvisionweb1.cs.unc.edu/licheng/referit/data"
_REFER = "the zip states none; REFER's code is Apache-2.0, the annotations of COCO are CC BY 4.0"
_COCO = Piece(
    "pictures, 13 GB",
    "images/mscoco/images/train2014",
    "each photo has its own Flickr licence, which instances.json names",
    "train2014",
    ("COCO_train2014_*.jpg", "[0-9]" * 12 + ".jpg"),
    ("http://images.cocodataset.org/zips/train2014.zip",),
    elsewhere=tuple(folder for folder in BENCHMARKS["refcoco"].image_folders if folder != "."),
)


def _refer(stem: str, stamp: str, licence: str, by_hand: str) -> Piece:
    """UNC's archive: the web archive's copy, then the original host, which is dead since September 2022."""
    original = f"https://{_UNC}/{stem}.zip"
    urls = (f"https://web.archive.org/web/{stamp}/{original}", original)
    return Piece("annotations", stem, licence, stem, ("instances.json",), urls, by_hand)


def _parquet(repository: str) -> str:
    return f"or as parquet files: hf download jxu124/{repository} --repo-type dataset --local-dir F, then --parquet F"


_GOOGLE = "Google's expressions are CC BY 4.0; the zip states none; the annotations of COCO are CC BY 4.0"
_KAGGLE = "Kaggle lhhhhl/refcoco-and-refcoco"
_A2D = "for research; we saw no text of a licence"
_AUTHORS = "none stated; the authors' own page"
_PAGE = "https://kgavrilyuk.github.io/publication/actor_action/"
_TEXTS = "https://raw.githubusercontent.com/kgavrilyuk/kgavrilyuk.github.io/HEAD/actor_action"
_JHMDB = "http://jhmdb.is.tue.mpg.de (some users report its links dead)"
_MTTR_LIST = "jhmdb_sentences_samples_metadata.json"

PIECES: dict[str, tuple[Piece, ...]] = {
    "refcoco": (_refer("refcoco", "20220413011718", _REFER, f"{_KAGGLE}; {_parquet('refcoco')}"), _COCO),
    "refcoco+": (_refer("refcoco+", "20220413011656", _REFER, f"{_KAGGLE}; {_parquet('refcocoplus')}"), _COCO),
    "refcocog": (_refer("refcocog", "20220413012904", _GOOGLE, _parquet("refcocog")), _COCO),
    "referit": (
        _refer("refclef", "20220413011817", "the zip states none; REFER's code is Apache-2.0", ""),
        Piece(
            "pictures",
            "images/saiapr_tc-12",
            "IAPR TC-12 is said to be free of copyright restrictions; we have not seen the text",
            "saiapr_tc-12",
            ("*/images/*.jpg", "[0-9]*.jpg"),
            (f"https://web.archive.org/web/20220515000000/http://{_UNC}/images/saiapr_tc-12.zip",),
            "Google Drive 1R6Tm7tQTHCil6A_eOhjudK3rgaBxkD2t (named by SeqTR), or ImageCLEF's page of SIAPR TC-12",
            tuple(folder for folder in BENCHMARKS["referit"].image_folders if folder not in (".", "images")),
        ),
    ),
    "a2d": (
        Piece(
            "sentences",
            "a2d_sentences/text_annotations/a2d_annotation.txt",
            _AUTHORS,
            "a2d_annotation.txt",
            urls=(f"{_TEXTS}/a2d_annotation.txt",),
            by_hand=_PAGE,
            size=324464,
            sha256="cd7fe76bfded69e90a25cf06b1213dc39bb4262d74048a10e9d38d45db8d5e81",
        ),
        Piece(
            "list of videos without sentences",
            "a2d_sentences/text_annotations/a2d_missed_videos.txt",
            _AUTHORS,
            "a2d_missed_videos.txt",
            urls=(f"{_TEXTS}/a2d_missed_videos.txt",),
            by_hand=_PAGE,
            size=335,
            sha256="f2549383d07cfe7af64d31462a5dc4b9952bca8ec7e17e54956434887f6e17d1",
        ),
        Piece(
            "masks of the instances",
            "a2d_sentences/text_annotations/a2d_annotation_with_instances",
            _A2D,
            "a2d_annotation_with_instances",
            ("*/*.h5",),
            by_hand=f"Google Drive 14DNamenZsvZnb32NFBNkZCGene5D2oaE, linked on {_PAGE}",
        ),
        Piece(
            "pictures: the videos",
            "a2d_sentences/Release",
            _A2D,
            "A2D_main_1_0",
            ("videoset.csv",),
            ("https://web.eecs.umich.edu/~jjcorso/bigshare/A2D_main_1_0.tar.bz",),
            "https://web.eecs.umich.edu/~jjcorso/r/a2d",
        ),
    ),
    "jhmdb": (
        Piece(
            "sentences",
            "jhmdb_sentences/jhmdb_annotation.txt",
            _AUTHORS,
            "jhmdb_annotation.txt",
            urls=(f"{_TEXTS}/jhmdb_annotation.txt",),
            by_hand=_PAGE,
            size=76238,
            sha256="e7e5e8625b826d7823c90e8ea0297dbe8342a567e6c9c4529b8d0a9c18580999",
        ),
        Piece(
            "MTTR's list of frames",
            f"jhmdb_sentences/{_MTTR_LIST}",
            "Apache-2.0",
            _MTTR_LIST,
            urls=(f"https://raw.githubusercontent.com/mttr2021/MTTR/HEAD/datasets/jhmdb_sentences/{_MTTR_LIST}",),
            by_hand=f"github.com/mttr2021/MTTR, datasets/jhmdb_sentences/{_MTTR_LIST}",
            size=847857,
            sha256="7a4744a30ca20b432b9ba629f95965d7c64e84b54f438031c9916718199f2fd5",
        ),
        Piece(
            "masks of the person",
            "jhmdb_sentences/puppet_mask",
            _A2D,
            "puppet_mask",
            ("*/*/puppet_mask.mat",),
            by_hand=_JHMDB,
        ),
        Piece(
            "pictures: the frames",
            "jhmdb_sentences/Rename_Images",
            _A2D,
            "Rename_Images",
            ("*/*/*.png",),
            by_hand=_JHMDB,
        ),
    ),
}


def prepare(name: str, *, pictures: bool = True, parquet: Path | None = None, say: Say = print) -> bool:
    """Obtain what is missing of a data set, put it in place, count it; a second call does nothing.

    Args:
        name: a key of ``PIECES``.
        pictures: False leaves pictures, frames and videos out.
        parquet: a folder with parquet files to make the annotations of, see ``convert_parquet``.
        say: is told what happens, line by line.

    Returns:
        Whether everything is there and no count differs from a published one. What cannot be downloaded is told, with
        its licence and where to get it.

    Raises:
        RefsegError: no such data set; a cut network, no room, a hostile or damaged archive. Nothing is lost, the same
            call goes on.
    """
    if name not in PIECES:
        if name not in (*BENCHMARKS, *CLIP_SPLITS):
            choose_known_split(name, "train", None)  # says which there are
        raise RefsegError(f"{name} is drawn by the kit and has nothing to download.")
    if parquet is not None and not Path(parquet).is_dir():
        raise RefsegError(f"There is no folder {parquet} with parquet files.")
    pieces = [piece for piece in PIECES[name] if pictures or not piece.is_pictures]
    problems = []
    for piece in pieces:
        try:
            convert = parquet if piece.what == "annotations" else None
            _obtain(piece, name, convert, say)
        except (Unavailable, BadArchive) as error:
            problems.append(f"{piece.what}: {error}\n{_how_by_hand(piece)}")
    for problem in problems:
        say(f"[FAIL] {problem}")
    if problems:
        return False
    return _counted(name, pieces, pictures, say)


def downloads_dir() -> Path:
    """Where archives come to lie, those obtained by hand too."""
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
    if (there := piece.found()) is not None:
        say(f"{piece.what}: {there} is there.")
        return
    with _alone(piece, say):
        if piece.found() is not None:  # another process was faster
            say(f"{piece.what}: {piece.found()} is there by now.")
            return
        place = data_dir() / piece.place
        if parquet is not None:
            _from_parquet(name, Path(parquet), place)
        else:
            _from_download(piece, place, say)
        say(f"{piece.what}: {place} is made.")


@contextmanager
def _alone(piece: Piece, say: Say) -> Iterator[None]:
    """Only one process at a time works at a piece; the others wait. The system frees the lock of one that dies."""
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


def _from_parquet(name: str, source: Path, place: Path) -> None:
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        convert_parquet(name, source, partial)
        put(partial, place)
    except OSError as error:
        raise RefsegError(cannot_write(error, place.parent)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _from_download(piece: Piece, place: Path, say: Say) -> None:
    archive = _downloaded(piece)
    ours = archive is None or _note(piece).get("bytes") == archive.stat().st_size  # left by an unpacking cut short
    archive = archive or _download(piece, say)
    try:
        if piece.keys:
            unpack(archive, place, piece.keys)
        else:
            _copy(archive, place, piece)
    except BadArchive:
        if ours:  # so that the next run fetches it anew
            archive.unlink(missing_ok=True)
        raise
    if ours:
        archive.unlink()


def _downloaded(piece: Piece) -> Path | None:
    """What lies ready in ``downloads/``."""
    names = [piece.source + ending for ending in ENDINGS] if piece.keys else [piece.source]
    return next((path for name in names if (path := downloads_dir() / name).is_file()), None)


def _download(piece: Piece, say: Say) -> Path:
    """Fetch the piece from the first address that gives it, and note what it was."""
    failures = []
    noted = _note(piece)
    targets = {url: downloads_dir() / f"{piece.source}{_ending(url) if piece.keys else ''}" for url in piece.urls}
    for url, target in sorted(targets.items(), key=lambda pair: begun(pair[1]) != pair[0]):  # what has begun goes on
        say(f"{piece.what}: downloading {url}\n  licence: {piece.licence}")
        try:
            same = noted.get("sha256") if noted.get("url") == url else None  # as the last time
            found = fetch(url, target, piece.size, piece.sha256 or same)
            if piece.keys and not is_archive(target):
                with target.open("rb") as file:
                    begin = file.read(30)
                target.unlink()  # an error page, mostly
                raise Unavailable(f"What {url} gives is no archive, it begins with {begin!r}.")
        except Unavailable as error:
            failures.append(str(error))
            continue
        _note_file(piece).write_text(json.dumps(found, indent=1) + "\n")
        return target
    raise Unavailable(" ".join(failures) or "it has to be obtained by hand.")


def _ending(url: str) -> str:
    return max((ending for ending in ENDINGS if url.endswith(ending)), key=len, default=".zip")


def _note_file(piece: Piece) -> Path:
    return downloads_dir() / f"{piece.source}.json"


def _note(piece: Piece) -> dict[str, Any]:
    """What was downloaded the last time: {"url", "bytes", "sha256"}, or {}."""
    try:
        noted = json.loads(_note_file(piece).read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _copy(source: Path, place: Path, piece: Piece) -> None:
    """A single file into its place.

    Raises:
        BadArchive: it is not the published one.
    """
    if piece.sha256 not in (None, sha256_of(source)):
        raise BadArchive(f"{source} is not the published file: its sha256 is not {piece.sha256}.")
    partial = place.with_name(f".{place.name}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, partial)
        partial.replace(place)
    except OSError as error:
        raise RefsegError(cannot_write(error, place.parent)) from error
    finally:
        partial.unlink(missing_ok=True)


# ---- counts ----------------------------------------------------------------------------------------------------


def _counted(name: str, pieces: list[Piece], pictures: bool, say: Say) -> bool:
    """Compare with the published counts, unless that was done for these very files."""
    note, state = downloads_dir() / f"{name}.counted.json", _state(name, pieces)
    try:
        if json.loads(note.read_text()) == state:
            say(f"{name} is ready and was counted: refseg check-data {name} counts again.")
            return True
    except (OSError, ValueError):
        pass
    reports = [check_data(name, split, split_by=owner) for owner, split in _splits(name)]
    ok = all(report.ok if pictures else report.counts_ok for report in reports)
    for report in reports:
        say(str(report))
    if ok:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(state, indent=1) + "\n")
        except OSError:  # a folder that may only be read: it is counted again the next time
            pass
    return ok


def _splits(name: str) -> list[tuple[str | None, str]]:
    """(owner, split) of every split whose refs are there."""
    if name in CLIP_SPLITS:
        return [(None, split) for split in CLIP_SPLITS[name]]
    folder = data_dir() / BENCHMARKS[name].folder
    owners = [o for o in BENCHMARKS[name].splits if any((folder / f"refs({o}){e}").is_file() for e in (".p", ".json"))]
    return [(owner, split) for owner in owners or [None] for split in splits_of(name, owner)]


def _state(name: str, pieces: list[Piece]) -> dict[str, Any]:
    """What changes when somebody puts other files there."""
    paths = {piece.place: piece.found() for piece in pieces}
    if name in BENCHMARKS:
        paths |= {path.name: path for path in (data_dir() / BENCHMARKS[name].folder).glob("*.*")}
    stats = {place: os.stat(path) for place, path in paths.items() if path is not None}
    return {place: [stat.st_size, stat.st_mtime_ns] for place, stat in sorted(stats.items())}
