"""What a run reports: ``log.jsonl``, one line per logged step and per validation, and the samples it could not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from refseg.datasets.wrappers import Unreadable
from refseg.errors import RefsegError
from refseg.files import disk_refusals, write_text
from refseg.types import RefBatch


class Log:
    """Writes JSON lines. On resuming it cuts off what was logged after the checkpoint: those steps come again.

    Args:
        path: the file.
        first_step: that of the checkpoint.
        active: False in all processes but the first, which then write nothing.

    Raises:
        RefsegError: the file is not a log, or the disk refuses.
    """

    def __init__(self, path: Path, first_step: int, active: bool = True):
        self.path, self.active = path, active
        if active:
            _refuse_other_file(path)
            write_text(path, "".join(json.dumps(row) + "\n" for row in read_log(path) if row["step"] <= first_step))

    def write(self, **line: Any) -> None:
        """Add a line.

        Raises:
            RefsegError: the disk refuses.
        """
        if self.active:
            with disk_refusals(self.path), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _refuse_other_file(path: Path) -> None:
    """Every line of a run's log begins with its step; the last one may be cut short.

    Raises:
        RefsegError: there is a file that begins otherwise.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    if not all(b'{"step": '.startswith(line[:9]) for line in lines):
        raise RefsegError(f"{path} is not the log of a training: name another folder with --out, or move it.")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``; a last line that a kill cut short is omitted, and a missing file has none.

    Raises:
        RefsegError: a line is not one of a run's log.
    """
    lines: list[dict[str, Any]] = []
    for text in Path(path).read_bytes().splitlines() if Path(path).is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            number = len(lines) + 1
            raise RefsegError(f"{path} is not the log of a training (line {number} has no step): move it away.")
        lines.append(line)
    return lines


class UnreadableLog:
    """The samples that could not be read: ends the run at the first one, or counts them all and names each once."""

    def __init__(self, skip: bool):
        self.skip, self.count = skip, 0
        self.known: set[str] = set()
        self.new: list[str] = []  # not yet reported

    def readable(self, batch: RefBatch | Unreadable) -> RefBatch:
        """The batch of what could be read.

        Raises:
            RefsegError: something could not be read and that ends the run, or nothing could.
        """
        reasons = batch.reasons if isinstance(batch, Unreadable) else batch.unreadable
        if reasons and not self.skip:
            raise RefsegError(f"{reasons[0]} Or train without such samples: --skip-unreadable.")
        if isinstance(batch, Unreadable):
            raise RefsegError(f"Not one sample of a batch could be read. {reasons[0]}")
        self.count += len(reasons)
        self.new += [reason for reason in dict.fromkeys(reasons) if reason not in self.known]
        self.known.update(reasons)
        return batch

    def report(self) -> dict[str, Any]:
        """For the log: how many since the last report in all processes, and the new ones by name; {} if none."""
        if not self.skip:
            return {}
        found = gather_object([(self.count, self.new)])
        self.count, self.new = 0, []
        count = sum(of_process for of_process, _ in found)
        names = list(dict.fromkeys(name for _, of_process in found for name in of_process))
        return {"unreadable": count, "unreadable_samples": names} if count else {}
