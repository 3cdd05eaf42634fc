"""Reads TensorFlow's checkpoints (format V2: ``NAME.index`` and ``NAME.data-00000-of-00001``) without TensorFlow.

The index is a sorted table as in LevelDB: blocks of keys and values, a block that lists the blocks, a footer that says
where it lies. A key is the name of a variable, its value a small protocol buffer: type, shape, and where in which data
file the numbers are. Nothing in the files is run, every offset and size is checked against the file before it is
used, and the checksums are compared.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from refseg.errors import RefsegError

FOOTER = 48  # bytes: two handles, zeros, the magic number
MAGIC = 0xDB4775248B80FB57
TRAILER = 5  # bytes after each block: how it is compressed, its checksum
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's numbers of its types: those that weights have
LANE = 1024  # bytes, see crc32c


@dataclass
class Variable:
    """Where one variable lies."""

    dtype: int  # TensorFlow's number
    shape: tuple[int, ...]
    shard: int  # which data file
    offset: int  # bytes
    size: int  # bytes
    checksum: int  # masked crc32c
    sliced: bool  # stored in parts


class _Damaged(ValueError):
    """What is wrong with the file, as part of a sentence."""


class TensorFlowCheckpoint:
    """The variables of a checkpoint, read one at a time.

    Args:
        path: the name that all its files begin with, e.g. "snapshots/model.ckpt-700000", or its ``.index``.

    Raises:
        RefsegError: there is no such checkpoint, it is of the older format V1, or its index is damaged.
    """

    def __init__(self, path: Path):
        self.name = Path(str(path).removesuffix(".index"))
        self.index = Path(f"{self.name}.index")
        if not self.index.is_file():
            old = " (the file itself may be of the older format V1: save it again in V2)" if self.name.is_file() else ""
            raise RefsegError(
                f"There is no TensorFlow checkpoint {self.name}: {self.index.name} must be there, with "
                f"{self.name.name}.data-00000-of-00001 beside it{old}."
            )
        try:
            entries = dict(table_entries(self.index.read_bytes()))
            self.shards, big_endian = _header(entries.pop(b"", b""))
            if big_endian:
                raise _Damaged("its numbers are big-endian")
            self.variables = {name.decode(): _variable(entry) for name, entry in entries.items()}
        except (_Damaged, UnicodeDecodeError) as error:
            raise RefsegError(
                f"{self.index} is not a sound index of a TensorFlow checkpoint ({error}): copy it again."
            ) from error

    def read(self, name: str) -> np.ndarray:
        """The numbers of a variable, in its shape.

        Raises:
            RefsegError: no such variable, a type that weights do not have, a damaged or missing data file.
        """
        if name not in self.variables:
            raise RefsegError(f"The checkpoint {self.name} has no variable {name!r}: is it of another network?")
        variable = self.variables[name]
        data = Path(f"{self.name}.data-{variable.shard:05d}-of-{self.shards:05d}")
        try:
            return self._numbers(variable, data)
        except (_Damaged, OSError) as error:
            raise RefsegError(f"{name} cannot be read from {data} ({error}): copy the checkpoint again.") from error

    def _numbers(self, variable: Variable, data: Path) -> np.ndarray:
        if variable.sliced or variable.dtype not in TYPES:
            raise _Damaged("it is stored in parts or not of a type that weights have")
        dtype = np.dtype(TYPES[variable.dtype])
        if variable.size != dtype.itemsize * prod(variable.shape):
            raise _Damaged("its size does not fit its shape")
        if variable.offset + variable.size > data.stat().st_size:
            raise _Damaged("the file ends before it")
        with data.open("rb") as file:
            file.seek(variable.offset)
            numbers = file.read(variable.size)
        if masked(crc32c(numbers)) != variable.checksum:
            raise _Damaged("its checksum differs")
        return np.frombuffer(numbers, dtype).reshape(variable.shape)


def table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in order."""
    if len(table) < FOOTER or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise _Damaged("it does not end as such files do")
    footer = table[-FOOTER:]
    _, at = _handle(footer, 0)  # of a block about blocks, which TensorFlow leaves empty
    index, _ = _handle(footer, at)
    for _, where in _block_entries(_block(table, index)):
        yield from _block_entries(_block(table, _handle(where, 0)[0]))


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block, and where the reading stopped."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(table: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    if offset + size + TRAILER > len(table) - FOOTER:
        raise _Damaged("a block lies beyond its end")
    block = table[offset : offset + size]
    compressed, checksum = struct.unpack("<BI", table[offset + size : offset + size + TRAILER])
    if masked(crc32c(table[offset : offset + size + 1])) != checksum:
        raise _Damaged("the checksum of a block differs")
    if compressed:
        raise _Damaged("its blocks are compressed, which TensorFlow does not do")
    return block


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A key is stored as how much of the one before it stays, and the rest. The block ends with places to start at."""
    starts = struct.unpack("<I", block[-4:])[0] if len(block) >= 4 else -1
    end = len(block) - 4 * (starts + 1)
    if starts < 0 or end < 0:
        raise _Damaged("a block is too short")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + added + size > end:
            raise _Damaged("an entry does not fit its block")
        key = key[:shared] + block[at : at + added]
        yield key, block[at + added : at + added + size]
        at += added + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in steps of seven bits, the lowest first, and where the reading stopped."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Damaged("a number is cut off")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise _Damaged("a number is too long")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: number, and an integer or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message) + 1), at)
            if at + size > len(message):
                raise _Damaged("an entry is cut off")
            value, at = message[at : at + size], at + size
            value = value if kind == 2 else int.from_bytes(value, "little")
        yield tag >> 3, value


def _header(entry: bytes) -> tuple[int, bool]:
    """BundleHeaderProto: the number of data files, and whether numbers are big-endian."""
    fields = dict(_fields(entry))
    return _number(fields, 1), bool(_number(fields, 2))


def _variable(entry: bytes) -> Variable:
    """BundleEntryProto."""
    fields = dict(_fields(entry))
    dimensions = [
        dict(_fields(_message(dimension))) for n, dimension in _fields(_message(fields.get(2, b""))) if n == 2
    ]
    shape = tuple(_number(dimension, 1) for dimension in dimensions)
    dtype, shard, offset, size, checksum = (_number(fields, number) for number in (1, 3, 4, 5, 6))
    return Variable(dtype, shape, shard, offset, size, checksum, 7 in fields)


def _number(fields: dict[int, int | bytes], number: int) -> int:
    value = fields.get(number, 0)  # zero is not written
    if not isinstance(value, int):
        raise _Damaged("an entry has bytes where a number belongs")
    return value


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _Damaged("an entry has a number where a message belongs")
    return value


def masked(crc: int) -> int:
    """A checksum as it is stored, so that no checksum is taken of itself."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum, a few hundred megabytes in seconds.

    The data are cut into lanes that numpy takes a byte at a time, all lanes at once. The checksum is linear: that of
    the whole follows from those of the lanes, each moved on by the length of the next.
    """
    table, moves = _table(), _moves()
    register, head = 0xFFFFFFFF, len(data) % LANE
    for byte in data[:head]:
        register = int(table[(register ^ byte) & 255]) ^ register >> 8
    for value in _registers(np.frombuffer(data, np.uint8)[head:].reshape(-1, LANE)).tolist():
        moved = 0
        for part, move in enumerate(moves):
            moved ^= move[register >> 8 * part & 255]
        register = moved ^ value
    return register ^ 0xFFFFFFFF


def _registers(lanes: np.ndarray, start: int | np.ndarray = 0) -> np.ndarray:
    registers = np.zeros(len(lanes), np.uint32) ^ np.uint32(start)
    for column in np.ascontiguousarray(lanes.T):
        registers = _table()[(registers ^ column) & 255] ^ registers >> 8
    return registers


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


@cache
def _moves() -> list[list[int]]:
    """What LANE zero bytes make of a register, by each of its four bytes."""
    zeros, bytes_ = np.zeros((256, LANE), np.uint8), np.arange(256, dtype=np.uint32)
    return [_registers(zeros, bytes_ << np.uint32(8 * part)).tolist() for part in range(4)]
