"""A benchmark's images in a few large files, for storage that is slow at many small ones: ``refseg shard NAME``.

    FOLDER/instances.json, refs(unc).json   as always, see ``refer``
    FOLDER/pictures-00000.tar, ...          98304.jpg, 98304.json, 98307.jpg, ...
    FOLDER/shards.json                      where in them each image lies, with its checksum; written last

The tars are in WebDataset's layout: an image, its bytes as they were, and a JSON with its record, refs and masks.
The library of that name can stream them. Our loader reads them at any place instead (``ReferDataset(root=FOLDER)``), so
that order, resuming and scores are those of single files, and an image is checked against its sum whenever it is read.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tqdm.auto import tqdm

from refseg.datasets.obtain.unpack import BadArchive, refuse_hostile
from refseg.errors import RefsegError
from refseg.files import read_json

INDEX = "shards.json"
FORMAT = 1


class ShardedImages:
    """The images of a folder of shards, by their id.

    Args:
        folder: as ``write_shards`` leaves it.

    Raises:
        RefsegError: its ``shards.json`` is missing, damaged or leads out of the folder.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            index = read_json(self.folder / INDEX)
            self.shards: list[str] = index["shards"]
            self._places: dict[str, list[Any]] = index["pictures"]  # id -> [shard, first byte, bytes, crc32, ending]
            sound = index["format"] == FORMAT and all(map(_is_place, self._places.values()))
            sound = sound and max((place[0] for place in self._places.values()), default=-1) < len(self.shards)
        except (KeyError, TypeError, AttributeError) as error:
            raise RefsegError(f"{self.folder / INDEX} is damaged ({error!r}): write the shards again.") from error
        if not sound or not all(re.fullmatch(r"[\w-]+\.tar", str(name)) for name in self.shards):
            raise RefsegError(f"{self.folder / INDEX} is not the index of shards in this folder: write them again.")
        self._files: dict[tuple[int, int], BinaryIO] = {}

    def __contains__(self, image_id: int | str) -> bool:
        return str(image_id) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}}

    def path(self, image_id: int | str) -> Path:
        """The shard in which an image lies."""
        return self.folder / self.shards[self._places[str(image_id)][0]]

    def ending(self, image_id: int | str) -> str:
        """Of an image's file, as "jpg"."""
        return self._places[str(image_id)][4]

    def read(self, image_id: int | str) -> bytes:
        """The bytes of an image's file.

        Raises:
            RefsegError: the shard is missing, cut short or damaged there.
        """
        shard, start, size, checksum, _ = self._places[str(image_id)]
        path = self.path(image_id)
        try:
            file = self._file(shard, path)
            file.seek(start)
            data = file.read(size)
        except OSError as error:
            raise RefsegError(
                f"The shard {path} cannot be read ({error.strerror or error}): download it again."
            ) from error
        if len(data) < size:
            raise RefsegError(f"The shard {path} is cut short, image {image_id} lies after its end: download it again.")
        if zlib.crc32(data) != checksum:
            raise RefsegError(f"The shard {path} is damaged at image {image_id}: download it again.")
        return data

    def check(self) -> Iterator[str]:
        """Read every shard from end to end; a message for each one that is not as it was written."""
        for number, name in enumerate(tqdm(self.shards, desc="checking shards", unit="shard")):
            wanted = {f"{key}.{place[4]}": place[3] for key, place in self._places.items() if place[0] == number}
            try:
                found = dict(_checksums(self.folder / name))
            except RefsegError as error:
                yield str(error)
                continue
            wrong = [member for member, checksum in wanted.items() if found.get(member) != checksum]
            if wrong:
                where = f"at {wrong[0]} ({len(wrong)} images)"
                yield f"The shard {self.folder / name} is damaged {where}: download it again."

    def _file(self, shard: int, path: Path) -> BinaryIO:
        key = (os.getpid(), shard)  # processes that share an open file would move each other's place in it
        if key not in self._files:
            self._files[key] = path.open("rb", buffering=0)
        return self._files[key]


def _checksums(path: Path) -> Iterator[tuple[str, int]]:
    """(name, crc32) of every member of a tar.

    Raises:
        RefsegError: it is missing, cut short or damaged, or holds a link or a name that leads out of its folder.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                refuse_hostile(member.name, member.isfile(), path)
                content = archive.extractfile(member)
                data = content.read() if content else b""
                if len(data) < member.size:
                    raise BadArchive(f"The shard {path} is cut short at {member.name}: download it again.")
                yield member.name, zlib.crc32(data)
    except tarfile.TarError as error:
        raise BadArchive(f"The shard {path} is cut short or damaged ({error}): download it again.") from error
    except OSError as error:
        raise RefsegError(f"The shard {path} cannot be read ({error.strerror or error}): download it again.") from error


def _is_place(place: Any) -> bool:
    numbers = place[:4] if isinstance(place, list) and len(place) == 5 else [-1]
    return all(type(number) is int and number >= 0 for number in numbers) and bool(re.fullmatch(r"\w{1,8}", place[4]))
