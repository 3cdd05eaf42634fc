"""What the explorer's user has chosen, as data: Python and the browser exchange it as a dict.

How a click or a key changes it is up to the JavaScript modules alone. A file of it, with a few words and
numbers beside it, is what a student hands in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.errors import RefsegError
from refseg.files import write_text

LAYERS = {  # what the map shows
    "word": "Word",  # where a word looks
    "region": "Region",  # where a region looks, or what it reads
    "mask": "Mask",  # probability of the mask
    "centre": "Centre",  # similarity to the centre
    "memory": "Memory gate",
    "reset": "Reset gate",
    "frames": "Frames",  # where in time the target frame looks
}
WAYS = {  # how a hidden word is guessed, see ``hidden_words.WAYS``
    "picture and mask": "Words, image and mask",
    "picture": "Words and image",
    "words alone": "Words alone",
}
NORMALISATIONS = {"positions": "per word over positions", "words": "per position over words"}
LONGEST_EXPRESSION = 1000  # characters
LARGEST_FILE = 1_000_000  # bytes
FORMAT = "refseg-explorer/1"


@dataclass(frozen=True)
class ExplorerState:
    """Everything that can be chosen."""

    scene: int = 0  # which image or clip
    expression: str = ""
    model: int = 0
    second_expression: str = ""  # "" compares with nothing
    second_model: int = 0
    layer: str = "word"
    level: str = "c3"
    normalisation: str = "positions"
    word: int = 0  # positions in the expressions
    second_word: int = 0
    cell: tuple[int, int] | None = None  # row and column of a region
    locked: bool = False  # the cell no longer follows the pointer
    struck: tuple[int, ...] = ()  # positions of words of the expression, in order
    frame: int = 0
    guessing: bool = False  # the chosen word is hidden, and what is guessed in its place is shown
    step: int = 0  # of the centre; 0 is the sentence vector alone

    @property
    def comparing(self) -> bool:
        """Whether there are two readings."""
        return bool(self.second_expression)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as the browser has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, given: Any) -> ExplorerState:
        """The inverse of ``to_dict``; every value is checked.

        Raises:
            RefsegError: a field is missing or unknown, or has an impossible value.
        """
        given = {**_LATER, **given} if isinstance(given, Mapping) else {}
        if set(given) != set(_CHECKS):
            raise RefsegError(f"This is not a state of the explorer, with {', '.join(_CHECKS)}: save it again.")
        for name, check in _CHECKS.items():
            if not check(given[name]):
                raise RefsegError(f"The state of the explorer has a wrong {name!r}: save it again.")
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
        return cls(**values)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10_000


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_EXPRESSION


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(names: Mapping[str, str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


def _cell(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_count, value)))


def _positions(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value)) and value == sorted(set(value)) and len(value) < 1000


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("scene", "model", "second_model", "word", "second_word", "frame", "step"), _count),
    **dict.fromkeys(("expression", "second_expression"), _text),
    **dict.fromkeys(("locked", "guessing"), _flag),
    "layer": _one_of(LAYERS),
    "level": lambda value: _text(value) and len(value) < 20,
    "normalisation": _one_of(NORMALISATIONS),
    "cell": _cell,
    "struck": _positions,
}
_LATER = {"guessing": False, "step": 0}  # defaults for findings saved before these fields


# ---- a file of it ----------------------------------------------------------------------------------------------


def save(path: str | Path, state: ExplorerState, sample: Mapping[str, str], seen: Mapping[str, Any], note: str) -> None:
    """Write a finding: the state, the sample it belongs to, what was on show, and a note.

    Args:
        sample: "source" and "sample_id".
        seen: JSON-able numbers and words, for readers without the network.

    Raises:
        RefsegError: the file cannot be written.
    """
    finding = {"format": FORMAT, "refseg": __version__, "sample": dict(sample), "state": state.to_dict()}
    write_text(path, json.dumps(finding | {"seen": dict(seen), "note": note}, indent=1, ensure_ascii=False) + "\n")


def load(path: str | Path) -> tuple[ExplorerState, dict[str, str]]:
    """The state in a file of ``save``, and its sample: "source" and "sample_id".

    Raises:
        RefsegError: there is no such file, or the explorer did not write it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RefsegError(f"{path} is too large for a saved finding: name the file that the explorer wrote.")
        finding = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid JSON"
        raise RefsegError(f"{path} cannot be read ({reason}): name the file that the explorer wrote.") from error
    if not isinstance(finding, dict) or finding.get("format") != FORMAT:
        raise RefsegError(f"{path} is not a finding of this version of the explorer: name a file that it wrote.")
    sample = finding.get("sample")
    if not isinstance(sample, dict) or not all(_text(sample.get(name)) for name in ("source", "sample_id")):
        raise RefsegError(f"{path} does not say which sample it belongs to: save the finding again.")
    try:
        state = ExplorerState.from_dict(finding.get("state"))
    except RefsegError as error:
        raise RefsegError(f"{path} cannot be used. {error}") from error
    return state, {"source": sample["source"], "sample_id": sample["sample_id"]}
