"""What the explorer's user has chosen: one small object, without a browser and without a network.

The JavaScript module changes it in the browser in the same way; Python and the browser exchange it as a dict. A file of
it, with a few words and numbers beside it, is what a student hands in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.errors import RefsegError
from refseg.files import write_text

LAYERS = {  # what the map shows
    "word": "where a word looks",
    "region": "where a region looks, or what it reads",
    "mask": "probability of the mask",
    "centre": "similarity to the centre",
    "memory": "memory gate",
    "reset": "reset gate",
    "frames": "where in time the target frame looks",
}
NORMALISATIONS = {"positions": "per word over positions", "words": "per position over words"}
LONGEST_EXPRESSION = 1000  # characters
LARGEST_FILE = 1_000_000  # bytes
FORMAT = "refseg-explorer/1"


@dataclass(frozen=True)
class ExplorerState:
    """Everything that can be chosen. Every method gives a new state; what is out of range is left as it was."""

    scene: int = 0  # which picture or clip
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
    step: int = 0  # of the centre; 0 is the sentence alone

    @property
    def comparing(self) -> bool:
        """Whether there are two readings."""
        return bool(self.second_expression)

    def step_level(self, levels: Sequence[str], step: int) -> ExplorerState:
        """``]`` and ``[``: the next deeper level, or the one before."""
        place = levels.index(self.level) + step if self.level in levels else 0
        return replace(self, level=levels[min(max(place, 0), len(levels) - 1)])

    def step_centre(self, steps: int, step: int) -> ExplorerState:
        """``]`` and ``[`` on the layer "centre": after the next look at the picture, or before the last one."""
        return replace(self, step=min(max(self.step + step, 0), steps - 1))

    def choose_word(self, word: int) -> ExplorerState:
        """A click on a word: its map."""
        return replace(self, word=word, layer="word")

    def move(self, rows: int, columns: int, grid: tuple[int, int]) -> ExplorerState:
        """An arrow key: the cell moves and stays inside the grid; without one it begins in the middle."""
        row, column = self.cell or (grid[0] // 2 - rows, grid[1] // 2 - columns)
        return replace(self, cell=(min(max(row + rows, 0), grid[0] - 1), min(max(column + columns, 0), grid[1] - 1)))

    def point(self, row: int, column: int) -> ExplorerState:
        """The pointer over a region; a locked cell stays."""
        return self if self.locked else replace(self, cell=(row, column))

    def lock(self) -> ExplorerState:
        """A click or Enter: the cell stays, or is free again."""
        return replace(self, locked=not self.locked and self.cell is not None)

    def strike(self, word: int, words: int) -> ExplorerState:
        """``a`` or shift-click: the word goes or comes back; the last one of ``words`` words cannot go."""
        struck = set(self.struck) ^ {word}
        return self if len(struck) >= words else replace(self, struck=tuple(sorted(struck)))

    def hide(self) -> ExplorerState:
        """``h``: the chosen word is hidden and guessed, or is back."""
        return replace(self, guessing=not self.guessing)

    def clear(self) -> ExplorerState:
        """Esc: no lock and all words back."""
        return replace(self, locked=False, struck=(), guessing=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as the browser has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, given: Any) -> ExplorerState:
        """The way back, with every value looked at.

        Raises:
            RefsegError: a field is missing, unknown or has a value that cannot be.
        """
        given = _LATER | given if isinstance(given, dict) else given
        if not isinstance(given, Mapping) or set(given) != set(_SOUND):
            missing = sorted(set(_SOUND) - set(given)) if isinstance(given, Mapping) else []
            what = f"it lacks {missing[0]!r}" if missing else "its fields are not those of a state"
            raise RefsegError(f"This is no state of the explorer, {what}: save it again.")
        for name, sound in _SOUND.items():
            if not sound(given[name]):
                raise RefsegError(f"The state of the explorer has a wrong {name!r}: save it again.")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**values)


def _count(value: Any, most: int = 10_000) -> bool:
    return type(value) is int and 0 <= value < most


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_EXPRESSION


def _cell(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_count, value)))


def _places(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value)) and value == sorted(set(value)) and len(value) < 1000


_SOUND: dict[str, Callable[[Any], bool]] = {
    "scene": _count,
    "expression": _text,
    "model": _count,
    "second_expression": _text,
    "second_model": _count,
    "layer": lambda value: isinstance(value, str) and value in LAYERS,
    "level": lambda value: _text(value) and len(value) < 20,
    "normalisation": lambda value: isinstance(value, str) and value in NORMALISATIONS,
    "word": _count,
    "second_word": _count,
    "cell": _cell,
    "locked": lambda value: isinstance(value, bool),
    "struck": _places,
    "frame": _count,
    "guessing": lambda value: isinstance(value, bool),
    "step": _count,
}
_LATER = {"guessing": False, "step": 0}  # what findings mean that are older than these fields


# ---- a file of it ----------------------------------------------------------------------------------------------


def save(path: str | Path, state: ExplorerState, sample: Mapping[str, str], seen: Mapping[str, Any], note: str) -> None:
    """Write a finding: the state, of which sample, what was to be seen, and what its finder says.

    Args:
        sample: "source" and "sample_id".
        seen: JSON-able numbers and words, for who reads the file and has no network at hand.

    Raises:
        RefsegError: the file cannot be written.
    """
    finding = {"format": FORMAT, "refseg": __version__, "sample": dict(sample), "state": state.to_dict()}
    text = json.dumps(finding | {"seen": dict(seen), "note": note}, indent=1, ensure_ascii=False) + "\n"
    write_text(Path(path), text)


def load(path: str | Path) -> tuple[ExplorerState, dict[str, str]]:
    """The state in a file of ``save``, and of which sample it is: "source" and "sample_id".

    Raises:
        RefsegError: no such file, or not one of ours.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RefsegError(f"{path} is too large for a saved finding: name the file that the explorer wrote.")
        finding = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no sound JSON"
        raise RefsegError(f"{path} cannot be read ({reason}): name the file that the explorer wrote.") from error
    if not isinstance(finding, dict) or finding.get("format") != FORMAT:
        raise RefsegError(f"{path} is no finding of this version of the explorer: name a file that it wrote.")
    sample = finding.get("sample")
    if not isinstance(sample, dict) or not all(_text(sample.get(name)) for name in ("source", "sample_id")):
        raise RefsegError(f"{path} does not say of which sample it is: save the finding again.")
    try:
        state = ExplorerState.from_dict(finding.get("state"))
    except RefsegError as error:
        raise RefsegError(f"{path} cannot be used. {error}") from error
    return state, {"source": sample["source"], "sample_id": sample["sample_id"]}
