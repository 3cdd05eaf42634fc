"""Unpacking an archive from a stranger: completely or not at all, and only into its folder."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from refseg.datasets.obtain.fetch import CHUNK, free_bytes, no_room
from refseg.errors import RefsegError, first_line
from refseg.files import filled, leads_out

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.bz", ".tbz2", ".tar.xz")
_DEPTH = 4  # up to this many folders may enclose what is looked for
# What damaged archives raise. OSError is bz2's word for it, RuntimeError stands for passwords and unknown compressions.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, RuntimeError, ValueError)


class BadArchive(RefsegError):
    """The archive is damaged, hostile, or holds something else."""


def is_archive(path: Path) -> bool:
    """Whether the file is a zip or tar archive at all; an error page sent in its place is not."""
    with suppress(*_DAMAGED):
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    return False


def unpack(archive: Path, place: Path, keys: Sequence[str]) -> None:
    """Make the folder ``place`` of what ``archive`` holds.

    The folder appears when everything is unpacked, as the one inside the archive in which a file matches one of
    ``keys``; folders that enclose it are dropped.

    Args:
        archive: zip, or tar of any compression.
        place: not there yet, or an empty folder.
        keys: patterns as for ``Path.glob``.

    Raises:
        BadArchive: damaged; a member that would leave the folder, a link or a device; or nothing that matches ``keys``.
        RefsegError: no room, or ``place`` is in the way.
    """
    with filled(place) as partial:
        around = partial / ".unpacked"
        around.mkdir()
        try:
            (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, around)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a disk that refuses
            raise BadArchive(f"{archive} is not a sound archive ({first_line(error)}): get it again.") from error
        folder = find_folder(around, keys)
        if folder is None:
            raise BadArchive(f"{archive} holds no folder with {' or '.join(keys)} in it: it is another archive.")
        for child in folder.iterdir():
            child.rename(partial / child.name)
        shutil.rmtree(around)


def find_folder(tree: Path, keys: Sequence[str]) -> Path | None:
    """The folder nearest to the top of ``tree``, itself included, in which something matches one of ``keys``."""
    level = [tree]
    for _ in range(_DEPTH):
        for folder in level:
            if holds(folder, keys):
                return folder
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    return None


def holds(folder: Path, keys: Sequence[str]) -> bool:
    """Whether there is such a folder and something in it matches one of ``keys``."""
    return folder.is_dir() and any(next(folder.glob(key), None) for key in keys)


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not _is_litter(member.filename)]
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            refuse_hostile(member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), path)
        needed = sum(member.file_size for member in members)
        if needed > free_bytes(folder):
            raise RefsegError(no_room(folder, needed))
        with tqdm(total=needed, unit="B", unit_scale=True, desc=f"unpacking {path.name}") as bar:
            for member in members:
                archive.extract(member, folder)  # checks the file's CRC, and gives no more bytes than announced
                bar.update(member.file_size)


def _unpack_tar(path: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise RefsegError("This Python cannot unpack tar archives safely: take 3.11.4 or newer.")
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"unpacking {path.name}")
    with path.open("rb") as file, bar:
        with tarfile.open(fileobj=file, mode="r:*") as archive:  # read once: bz2 unpacks slowly
            for member in archive:
                if not _is_litter(member.name):
                    refuse_hostile(member.name, member.isfile() or member.isdir(), path)
                    archive.extract(member, folder, filter="data")
                bar.update(file.tell() - bar.n)
            while archive.fileobj.read(CHUNK):  # the sum that shows damage stands at the very end
                pass


def refuse_hostile(name: str, plain: bool, path: Path) -> None:
    """Stricter than Python's own filters, which let links inside the folder pass and change names silently.

    Raises:
        BadArchive: a link, a device, or a name that leads out of the folder.
    """
    if leads_out(name):
        raise BadArchive(f"{path} holds {name!r}, which leads out of its folder: do not use this archive.")
    if not plain:
        raise BadArchive(f"{path} holds {name!r}, which is a link or a device, not a file: do not use this archive.")


def _is_litter(name: str) -> bool:
    """What macOS adds to archives."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name in (".DS_Store", "__MACOSX")
