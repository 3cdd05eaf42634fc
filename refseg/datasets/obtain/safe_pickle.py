"""Reading a pickle of plain lists, dicts, strings and numbers, and nothing else.

A pickle may name any function of the machine and have it called. The refs files of the benchmarks need none, so
none is allowed: such a file is refused before anything of it runs.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from refseg.errors import RefsegError


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_plain_pickle(path: str | Path) -> Any:
    """What the pickle at ``path`` holds, protocol 0 to 5, written by Python 2 or 3.

    Byte strings of Python 2 are read as UTF-8 and, where they are not, all of them as Latin-1.

    Raises:
        RefsegError: the file wants code to be imported, or is damaged.
    """
    data = _with_plain_newlines(Path(path).read_bytes())
    try:
        try:
            return _NoGlobals(io.BytesIO(data), encoding="utf-8").load()
        except UnicodeDecodeError:
            return _NoGlobals(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # damaged opcodes raise nearly anything: EOFError, IndexError, KeyError, ValueError...
        raise RefsegError(
            f"{path} is not a plain pickle ({error}): fetch the original again in binary mode, "
            f"or save the list as {Path(path).with_suffix('.json').name} instead."
        ) from error


def _with_plain_newlines(data: bytes) -> bytes:
    """A protocol 0 list whose line ends a transfer in text mode has changed, as it was before."""
    converted = data.startswith(b"(lp") and data.count(b"\r\n") == data.count(b"\n")
    return data.replace(b"\r\n", b"\n") if converted else data
