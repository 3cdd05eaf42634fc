"""Checks of the course's exercises: quick, offline, and a wrong answer is answered with the mistake it looks like.

The module of a lesson holds one :class:`Exercise` per exercise, and the notebook calls it with the student's answer::

    from refseg_course.exercises import lesson_04 as check

    check.masked_softmax(masked_softmax)

An exercise is a table: a right answer, arguments to try it on, and the wrong answers that people give, each with a
message. The student's answer is compared with the right one and, where it differs, with every wrong one.
"""

from __future__ import annotations

import copy
import importlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg import __version__
from refseg.paths import PROJECT

LEAST_MISTAKES = 3  # that every exercise can name


class ExerciseError(AssertionError):
    """The answer is not right yet; the message says which mistake it looks like, never the solution."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback through the checks: the message, and what the answer raised."""
        raised = _own_traceback(self.__cause__) if self.__cause__ else []
        return [*raised, f"ExerciseError: {self}"]


def call(answer: Callable, *case: Any) -> Any:
    """The usual probe: the answer is a function, and what counts is what it returns."""
    return answer(*case)


def value(answer: Any) -> Any:
    """The probe of an exercise whose answer is a number or a tensor, not a function; its one case is ``()``."""
    return answer


def single_case() -> list[tuple]:
    """The cases of an exercise probed by ``value``."""
    return [()]


@dataclass(frozen=True)
class Exercise:
    """One exercise and its check.

    Args:
        title: a few words, as the notebook's heading has them.
        difficulty, importance: 1 to 5.
        minutes: how long it takes to solve.
        right: a right answer. It is kept where a student's autocompletion does not show it.
        cases: makes the arguments to try answers on, a list of tuples; the same ones every time.
        mistakes: (wrong answer, message) pairs, at least three. The message says what the mistake is and where to
            look, without the solution.
        verified: what the check has shown when it passes, printed after "OK".
        probe: (answer, *case) -> what is compared; an exercise on a module builds it here and copies weights into it.
            Tensors, numbers, strings, lists, tuples and dicts of them can be compared.
        tolerance: absolute and relative.

    Raises:
        ValueError: a mark outside 1 to 5, no minutes, or fewer than three mistakes.
    """

    title: str
    difficulty: int
    importance: int
    minutes: int
    right: InitVar[Any]
    cases: Callable[[], Sequence[tuple]]
    mistakes: Sequence[tuple[Any, str]]
    verified: str
    probe: Callable[..., Any] = call
    tolerance: float = 1e-5
    _tried: dict[int, list] = field(default_factory=dict, init=False, repr=False, compare=False)  # number of a mistake

    def __post_init__(self, right: Any):
        object.__setattr__(self, "_right", right)
        if not {self.difficulty, self.importance} <= {1, 2, 3, 4, 5} or self.minutes < 1:
            raise ValueError(f"{self.title}: difficulty and importance go from 1 to 5, minutes from 1.")
        if len(self.mistakes) < LEAST_MISTAKES:
            raise ValueError(f"{self.title}: an exercise names at least {LEAST_MISTAKES} mistakes.")

    @property
    def line(self) -> str:
        """What the notebook says about the exercise, word for word."""
        return f"difficulty {self.difficulty}/5, importance {self.importance}/5, {self.minutes} min"

    def __call__(self, answer: Any) -> None:
        """Print "OK" and what was verified.

        Raises:
            ExerciseError: the answer is wrong; the message names the likely mistake.
            NotImplementedError: the answer is still the stub.
        """
        if self.probe is call and not callable(answer):
            raise ExerciseError(f"{self.title}: give the check the function itself, not what it returns.")
        cases = list(self.cases())
        got = [self._outcome(answer, case, strict=True) for case in cases]
        problem = self._first_difference(got, [self._outcome(self._right, case) for case in cases])
        if problem is None:
            print(f"OK  {self.title}: {self.verified}")
            return
        index, difference = problem
        message = self._likely_mistake(got, cases) or f"with {_described(cases[index])} {difference}."
        raised = got[index] if isinstance(got[index], Exception) else None
        raise ExerciseError(f"{self.title}: {message}") from raised

    def _outcome(self, answer: Any, case: tuple, strict: bool = False) -> Any:
        """What the probe returns or raises on a copy of the arguments; ``strict`` refuses changes of that copy."""
        given = copy.deepcopy(case)
        try:
            outcome = self.probe(answer, *given)
        except NotImplementedError as stub:
            shown = [f"NotImplementedError: {stub}"]
            stub._render_traceback_ = lambda: shown  # one line in Jupyter, not the way through the checks
            raise
        except Exception as error:
            return error
        if strict and any(isinstance(old, Tensor) and not torch.equal(old, new) for old, new in zip(case, given)):
            raise ExerciseError(f"{self.title}: the function changes its argument in place; work on a new tensor.")
        return outcome

    def _first_difference(self, got: list, expected: list) -> tuple[int, str] | None:
        for index, pair in enumerate(zip(got, expected)):
            difference = compare(*pair, self.tolerance)
            if difference:
                return index, difference
        return None

    def _likely_mistake(self, got: list, cases: list[tuple]) -> str | None:
        """The message of the first wrong answer that does the same as this one in every case."""
        for number, (wrong, message) in enumerate(self.mistakes):
            if number not in self._tried:
                self._tried[number] = [self._outcome(wrong, case) for case in cases]
            if self._first_difference(got, self._tried[number]) is None:
                return message
        return None


def compare(got: Any, expected: Any, tolerance: float = 1e-5) -> str:
    """How ``got`` differs from ``expected``, as the end of a sentence, without the expected values; "" if it does not.

    Two exceptions are equal if they are of one type.
    """
    if isinstance(got, Exception) or isinstance(expected, Exception):
        return _compare_raised(got, expected)
    if got is None and expected is not None:
        return "it returns None: is the return missing?"
    if isinstance(expected, Mapping):
        return _compare_mappings(got, expected, tolerance)
    if isinstance(expected, (list, tuple)):
        return _compare_sequences(got, expected, tolerance)
    if isinstance(expected, (Tensor, np.ndarray)):
        return _compare_tensors(got, torch.as_tensor(expected).detach(), tolerance)
    if isinstance(expected, (bool, int, float)):
        return _compare_numbers(got, expected, tolerance)
    return "" if got == expected else f"it gives {got!r}, which is not right"


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, the same ones every time; torch's own random state stays as it was."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exercises_of(lesson: ModuleType) -> dict[str, Exercise]:
    """The exercises of a lesson's module by name, in their order."""
    return {name: item for name, item in vars(lesson).items() if isinstance(item, Exercise)}


def lessons() -> dict[str, ModuleType]:
    """The modules that hold exercises, by the number of their notebook: {"04": lesson_04, ...}."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("lesson_*.py"))
    return {name.removeprefix("lesson_"): importlib.import_module(f"{__name__}.{name}") for name in found}


def begin(written_for: str) -> None:
    """The first call of every notebook: one thread and seed 0, so that its numbers are the same on every machine.

    Args:
        written_for: the version of refseg that the notebook goes with; another one is reported, not refused.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"refseg {__version__}, one thread, seed 0")
    package, here = PROJECT / "refseg", Path.cwd().resolve()
    checkout = next((folder for folder in (here, *here.parents) if (folder / "refseg" / "__init__.py").exists()), None)
    if written_for != __version__:
        print(f"This notebook was written for refseg {written_for}: its numbers may differ from yours.")
    if checkout is not None and checkout / "refseg" != package:
        print(f"This notebook lies in {checkout} but refseg comes from {package.parent}: run `make lab` in the former.")


def _own_traceback(error: BaseException) -> list[str]:
    """The traceback of ``error`` from where it leaves this file, that is, from the student's code on."""
    step = error.__traceback__
    while step and step.tb_frame.f_code.co_filename == __file__:
        step = step.tb_next
    return traceback.format_exception(type(error), error, step)


def _compare_raised(got: Any, expected: Any) -> str:
    if type(got) is type(expected):
        return ""
    if isinstance(got, Exception):
        return f"it raises {type(got).__name__}: {got}"
    return f"it should raise a {type(expected).__name__}"


def _compare_mappings(got: Any, expected: Mapping, tolerance: float) -> str:
    if not isinstance(got, Mapping) or set(got) != set(expected):
        keys = sorted(map(str, got)) if isinstance(got, Mapping) else type(got).__name__
        return f"it returns {keys}, not a dict with the keys {sorted(map(str, expected))}"
    for key in expected:
        difference = compare(got[key], expected[key], tolerance)
        if difference:
            return f"under {key!r} {difference}"
    return ""


def _compare_sequences(got: Any, expected: Sequence, tolerance: float) -> str:
    if not isinstance(got, (list, tuple, Tensor)) or len(got) != len(expected):
        size = f"{len(got)} values" if isinstance(got, (list, tuple)) else f"a {type(got).__name__}"
        return f"it returns {size}, not {len(expected)}"
    for number, pair in enumerate(zip(got, expected), 1):
        difference = compare(*pair, tolerance)
        if difference:
            return f"in value {number} of {len(expected)} {difference}"
    return ""


def _compare_tensors(got: Any, expected: Tensor, tolerance: float) -> str:
    if not isinstance(got, (Tensor, np.ndarray)):
        return f"it returns a {type(got).__name__}, not a tensor"
    got = torch.as_tensor(got).detach()
    if got.shape != expected.shape:
        return f"it has shape {list(got.shape)}, not {list(expected.shape)}"
    if _kind(got) != _kind(expected):
        return f"it holds {_kind(got)} values, not {_kind(expected)} ones"
    got, expected = got.cpu().double(), expected.cpu().double()
    if bool((got.isnan() & ~expected.isnan()).any()):
        return "it holds NaN: a number was divided by zero, or a softmax had nothing to share out"
    wrong = ~torch.isclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return ""
    first = wrong.nonzero()[0].tolist()
    return f"{int(wrong.sum())} of {wrong.numel()} values are not right, the first at index {first}"


def _compare_numbers(got: Any, expected: bool | int | float, tolerance: float) -> str:
    if isinstance(got, (Tensor, np.ndarray, np.generic)) and math.prod(got.shape) == 1:
        got = got.item()
    if not isinstance(got, (bool, int, float)):
        return f"it returns a {type(got).__name__}, not a number"
    same = math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance) or (got != got and expected != expected)
    return "" if same else f"it gives {got:.6g}, which is not right"


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "whole-number"


def _described(case: tuple) -> str:
    """Arguments in a few words, tensors by shape."""
    words = [f"a tensor of shape {list(a.shape)}" if isinstance(a, Tensor) else _short(a) for a in case]
    return " and ".join(words) if words else "your answer"


def _short(argument: Any) -> str:
    text = repr(argument)
    return text if len(text) <= 40 else f"a {type(argument).__name__}"
