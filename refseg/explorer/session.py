"""What an explorer computes, without its widget: networks, images, and what each network reads in each image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refseg.checkpoint import Checkpoint
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WordGuesser
from refseg.explorer.reading import Reader, Reading, Strike
from refseg.explorer.scene import Scene
from refseg.explorer.state import LONGEST_EXPRESSION, ExplorerState
from refseg.files import read_json
from refseg.hub import locate
from refseg.predict import Predictor

POINTING = "pointing.json"  # in a checkpoint's folder: what its maps are worth, by benchmarks/pointing.py

Model = str | Path | Checkpoint | Predictor


class Session:
    """Several networks and several images; every reading is computed once.

    Args:
        models: the networks, loaded when they are first needed; a shipped one also by its name.
        scenes: the images, maybe with readings.
    """

    def __init__(self, models: Sequence[Model], scenes: Sequence[Scene]):
        self.models, self.scenes = [_located(model) for model in models], list(scenes)
        self.typed: list[tuple[int, int, str]] = []  # scene, network, expression of what was read here
        self._readers: dict[int, Reader] = {}

    def read(self, scene: int, model: int, expression: str) -> Reading:
        """What a network makes of an expression.

        Raises:
            RefsegError: an expression without words, or a model that gives undefined values.
        """
        readings, key = self.scenes[scene].readings, (scene, model, expression)
        if key in self.typed:  # the last is the one that was used last
            self.typed.append(self.typed.pop(self.typed.index(key)))
        if (model, expression) not in readings:
            if len(expression) > LONGEST_EXPRESSION:
                raise RefsegError(
                    f"The expression has {len(expression)} characters: shorten it to {LONGEST_EXPRESSION} or fewer."
                )
            sample, known = self.scenes[scene].find(expression)
            readings[model, expression] = self.reader(model).read(sample, known)
            self.typed.append(key)
        return readings[model, expression]

    def strike(self, scene: int, model: int, expression: str, struck: Iterable[int]) -> Strike:
        """The answer without the words at some positions of an expression that has been read.

        Raises:
            RefsegError: no word is left.
        """
        strikes, key = self.scenes[scene].readings[model, expression].strikes, tuple(struck)
        if key not in strikes:
            sample, known = self.scenes[scene].find(expression)
            strikes[key] = self.reader(model).strike(sample, key, known)
        return strikes[key]

    def strike_each(self) -> None:
        """Strike out every word of every reading once."""
        for number, scene in enumerate(self.scenes):
            for (model, expression), reading in scene.readings.items():
                for word in range(len(reading.words)) if len(reading.words) > 1 else []:
                    self.strike(number, model, expression, (word,))

    def reader(self, model: int) -> Reader:
        """A network, with the heads that guess hidden words if they are in its folder."""
        if model not in self._readers:
            given = self.models[model]
            predictor = given if isinstance(given, Predictor) else Predictor(given, "cpu")
            in_folder = isinstance(given, str | Path)
            guesser = WordGuesser.of(Path(given), predictor.checkpoint) if in_folder else None
            self._readers[model] = Reader(predictor, guesser)
        return self._readers[model]

    def about(self) -> list[dict[str, Any]]:
        """Name of every network, and how well its word maps point where that was measured."""
        return [{"name": _name(model), "pointing": _pointing(model)} for model in self.models]

    @staticmethod
    def needed(state: ExplorerState) -> list[tuple[int, int, str]]:
        """Image, network and expression of every reading that a state shows."""
        shown = [(state.model, state.expression)]
        shown += [(state.second_model, state.second_expression)] * state.comparing
        return [(state.scene, *one) for one in dict.fromkeys(shown)]

    def check(self, state: ExplorerState) -> None:
        """Read what a state names.

        Raises:
            RefsegError: the state does not fit these networks and images.
        """
        model = max(state.model, state.second_model)
        if state.scene >= len(self.scenes) or model >= len(self.models):
            raise RefsegError(
                f"The state is of image {state.scene} and network {model}; this explorer has {len(self.scenes)} and "
                f"{len(self.models)}, counted from 0."
            )
        reading, *_ = [self.read(*key) for key in self.needed(state)]
        frame = reading.frames[min(state.frame, len(reading.frames) - 1)]
        wrong = ""
        if max(state.word, *state.struck, 0) >= len(reading.words):
            wrong = f"a word that {state.expression!r} does not have"
        elif state.frame >= len(reading.frames):
            wrong = f"frame {state.frame}: there are {len(reading.frames)}, counted from 0"
        elif frame.levels and state.level not in frame.levels:
            wrong = f"level {state.level!r}: there are {', '.join(frame.levels)}"
        elif frame.centre and state.step >= len(frame.centre.areas):
            wrong = f"step {state.step} of the centre: the last one is {len(frame.centre.areas) - 1}"
        if wrong:
            raise RefsegError(f"The state names {wrong}.")

    def opening(self, scene: int, begin: ExplorerState | None = None) -> ExplorerState:
        """The first state of an image: annotated frame, a word that is scored, region in the middle of the mask."""
        if begin is None:
            model, expression = next(iter(self.scenes[scene].readings))
            begin = ExplorerState(scene=scene, model=model, expression=expression)
        readings, frame = self.scenes[scene].readings, self.scenes[scene].first.target_frame
        reading = readings[begin.model, begin.expression]
        second = readings.get((begin.second_model, begin.second_expression))
        words = {"word": scored_word(reading), "second_word": scored_word(second) if second else 0}
        level, centre = next(iter(reading.frames[frame].levels), "c3"), reading.frames[frame].centre
        step = len(centre.areas) - 1 if centre else 0  # what the mask is made of
        return replace(begin, frame=frame, level=level, step=step, cell=_middle(reading, frame, level), **words)


def scored_word(reading: Reading) -> int:
    """The first word that is true of something, else the first."""
    scores = next(iter(reading.points.values()), {}).get("positions", [])
    return next((n for n, score in enumerate(scores) if score), 0)


def _middle(reading: Reading, frame: int, level: str) -> tuple[int, int] | None:
    """The region in the middle of the predicted mask, or of the image."""
    shown = reading.frames[frame]
    if level not in shown.levels:
        return None
    left, top, right, bottom = shown.levels[level].extent
    h, w = shown.levels[level].maps.shape[-2:]
    y, x = 0.5, 0.5
    if shown.mask.any():
        rows, columns = shown.mask.nonzero().float().add(0.5).mean(0).tolist()
        y, x = rows / shown.mask.shape[0], columns / shown.mask.shape[1]
    row, column = int((y - top) / (bottom - top) * h), int((x - left) / (right - left) * w)
    return min(max(row, 0), h - 1), min(max(column, 0), w - 1)


def _located(model: Model) -> Model:
    return isinstance(model, str | Path) and locate(model) or model


def _name(model: Model) -> str:
    return Path(model).resolve().name if isinstance(model, str | Path) else "loaded network"


def _pointing(model: Model) -> dict[str, Any] | None:
    path = Path(model) / POINTING if isinstance(model, str | Path) else None
    return read_json(path) if path and path.is_file() else None
