"""The word-region explorer: hover a region and see which words, choose a word and see where, strike one out.

All maps are sent to the browser once; there one JavaScript module (explorer.js) does the rest. The kernel is asked only
for what has to be computed: another expression, or a mask without some of the words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets
from PIL.Image import Image
from torch import Tensor

from refseg.checkpoint import Checkpoint
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WordGuesser
from refseg.explorer import page, state
from refseg.explorer.reading import Centre, Reader, Reading, Strike, strike_to_wire
from refseg.explorer.scene import Scene, scene_of
from refseg.explorer.sheet import contact_sheet, to_html, word_table
from refseg.explorer.state import LONGEST_EXPRESSION, NORMALISATIONS, ExplorerState
from refseg.paths import checkpoints_dir, results_dir
from refseg.predict import Predictor
from refseg.types import RefSample
from refseg.viz import where

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples.json"
SHIPPED = "cmsa_refshapes_taught_maps"  # its maps were taught to point, those of cmsa_refshapes are attention sinks
POINTING = {"cmsa_refshapes": "pointing.json", SHIPPED: "pointing_taught_maps.json"}  # what the maps are worth
NOTES = {
    "cmsa_refshapes": "The weights gather in attention sinks at the border.",
    SHIPPED: "They were taught to, with a truth that only a drawn benchmark has.",
}
KEPT_READINGS = 4  # of typed expressions, in the browser

Model = str | Path | Checkpoint | Predictor


class Explorer(anywidget.AnyWidget):
    """Look at what a network makes of an expression.

    ``Explorer()`` opens on shipped examples, computed before. In a notebook the last line of a cell shows it.

    Args:
        model: a checkpoint's folder, or one loaded already; None is the shipped one. If heads for hidden words lie in
            the folder (``grounding``), words can be hidden and guessed.
        sample: a sample of a data set, as read (for pointing scores RefShapes with ``objects=True``); or a picture file
            or [3,H,W] uint8 with an ``expression``. A sample with several frames is a clip.
        expression: what to find in a picture that is no sample.
        compare: a second expression beside the first, in the same picture.
        other_model: a second network; it reads ``compare``, or else the same expression.

    Raises:
        RefsegError: no such checkpoint or picture, an expression without words, or a model that gives undefined values.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    content = traitlets.Dict().tag(sync=True)  # pictures, readings and names of the networks, sent once
    fresh = traitlets.List().tag(sync=True)  # readings of what was typed since
    view = traitlets.Dict().tag(sync=True)  # the state, see ExplorerState

    def __init__(
        self,
        model: Model | None = None,
        sample: RefSample | str | Path | Tensor | None = None,
        expression: str | None = None,
        *,
        compare: str | None = None,
        other_model: Model | None = None,
    ):
        if sample is None and (expression or compare or other_model or model):
            raise RefsegError("There is nothing to look at: give a sample, or a picture and an expression.")
        models = [model if model is not None else checkpoints_dir() / SHIPPED]
        models += [] if other_model is None else [other_model]
        scenes = shipped_examples() if sample is None else [scene_of(sample, expression)]
        self._set_up(models, scenes)
        begin = ExplorerState(expression=self.scenes[0].first.expression)
        if compare or other_model is not None:
            second = compare or begin.expression
            begin = replace(begin, second_expression=second, second_model=len(models) - 1)
        self._open(begin)

    @classmethod
    def of_scenes(cls, model: Model | None, scenes: Sequence[Scene]) -> Explorer:
        """An explorer of several pictures, each with the expressions of its samples."""
        explorer = cls.__new__(cls)
        explorer._set_up([model if model is not None else checkpoints_dir() / SHIPPED], list(scenes))
        explorer._open(ExplorerState(expression=explorer.scenes[0].first.expression))
        return explorer

    def _set_up(self, models: list[Model], scenes: list[Scene]) -> None:
        self.scenes = scenes
        self._models, self._readers = models, [None] * len(models)
        self._newest: dict[Any, int] = {}  # the latest request for each place of a view
        self._worker = ThreadPoolExecutor(1, "refseg-explorer")
        self._typed: list[tuple[int, int, str]] = []

    def _open(self, begin: ExplorerState) -> None:
        for number, scene in enumerate(self.scenes):
            if not scene.readings:
                self.read(scene.first.expression, scene=number)
        self._read_both(begin)
        begin = self._opened(begin)
        if begin.comparing:
            second = self.scenes[0].readings[begin.second_model, begin.second_expression]
            begin = replace(begin, second_word=_telling_word(second))
        super().__init__(content=self._content(), view=begin.to_dict())
        self.on_msg(self._on_message)
        self._still = ipywidgets.HTML()
        self._framed = ipywidgets.VBox([self._still, self])

    def _opened(self, begin: ExplorerState) -> ExplorerState:
        """With the frame, level, word and region that a picture opens on."""
        scene = self.scenes[begin.scene]
        reading = scene.readings[begin.model, begin.expression]
        begin = replace(begin, level=next(iter(reading.frames[0].levels), "c3"), frame=scene.first.target_frame)
        if centre := reading.frames[begin.frame].centre:
            begin = replace(begin, step=len(centre.areas) - 1)  # what the mask is made of
        return replace(begin, word=_telling_word(reading), cell=_middle(reading, begin))

    def _beginning(self, scene: int) -> ExplorerState:
        """What a picture opens on when it is chosen."""
        model, expression = next(iter(self.scenes[scene].readings))
        return self._opened(ExplorerState(scene=scene, model=model, expression=expression))

    def _content(self, live: bool = True) -> dict[str, Any]:
        about = [{"name": _name(m), "worth": _worth(m), "note": NOTES.get(_name(m), "")} for m in self._models]
        return {"live": live, "models": about, "scenes": [scene.to_wire() for scene in self.scenes]}

    # ---- what is shown --------------------------------------------------------------------------------------------

    @property
    def state(self) -> ExplorerState:
        """What is chosen; assign another one to change the view."""
        return ExplorerState.from_dict(dict(self.view))

    @state.setter
    def state(self, wanted: ExplorerState) -> None:
        if not wanted.scene < len(self.scenes) or not max(wanted.model, wanted.second_model) < len(self._models):
            raise RefsegError(
                f"The state is of picture {wanted.scene} and network {max(wanted.model, wanted.second_model)}; this "
                f"explorer has {len(self.scenes)} and {len(self._models)}, counted from 0."
            )
        self._read_both(wanted)
        reading = self.scenes[wanted.scene].readings[wanted.model, wanted.expression]
        levels = list(reading.frames[0].levels)
        if wanted.word >= len(reading.words) or any(n >= len(reading.words) for n in wanted.struck):
            raise RefsegError(
                f"The state names a word behind the last of {wanted.expression!r}: choose one of its words."
            )
        if wanted.frame >= len(reading.frames) or (levels and wanted.level not in levels):
            raise RefsegError(f"The state names a frame or level that is not there: levels are {', '.join(levels)}.")
        centre = reading.frames[wanted.frame].centre
        last = len(centre.areas) - 1 if centre else wanted.step
        if wanted.step > last:
            raise RefsegError(f"The state names step {wanted.step} of the centre: the last one is {last}.")
        self.view = wanted.to_dict()

    @property
    def scene(self) -> Scene:
        """The picture or clip on show."""
        return self.scenes[self.state.scene]

    @property
    def reading(self) -> Reading:
        """What the network read in the expression on show."""
        return self.scene.readings[self.state.model, self.state.expression]

    @property
    def second_reading(self) -> Reading | None:
        """What it is compared with."""
        return self.scene.readings.get((self.state.second_model, self.state.second_expression))

    # ---- what is computed -----------------------------------------------------------------------------------------

    def read(self, expression: str, model: int = 0, scene: int | None = None) -> Reading:
        """Run a network on an expression, unless it has been done; the view stays as it is.

        Raises:
            RefsegError: an expression without words, or a model that gives undefined values.
        """
        number = self.state.scene if scene is None else scene
        readings = self.scenes[number].readings
        if (model, expression) not in readings:
            if len(expression) > LONGEST_EXPRESSION:
                raise RefsegError(f"The expression has {len(expression)} letters: {LONGEST_EXPRESSION} are enough.")
            sample, known = self.scenes[number].find(expression)
            readings[model, expression] = self._reader(model).read(sample, known)
            self._typed.append((number, model, expression))
        return readings[model, expression]

    def strike(self, *words: str | int) -> Strike:
        """Strike words of the expression out, by name or position, and show the mask without them.

        Raises:
            RefsegError: a word that is not there, or no word is left.
        """
        reading = self.reading
        struck = sorted({self._position(word, reading) for word in words})
        strike = self._strike(self.state.scene, self.state.model, reading.expression, tuple(struck))
        self.view = replace(self.state, struck=tuple(struck)).to_dict()
        return strike

    def show(self, expression: str | None = None, *, word: str | int | None = None, **changes: Any) -> Explorer:
        """Change the view: another expression, a word by name or position, or fields of ``ExplorerState``.

        Raises:
            RefsegError: a word that is not there; and see ``read``.
        """
        wanted = self.state
        if expression is not None and expression != wanted.expression:
            self.read(expression, wanted.model)
            wanted = replace(wanted, expression=expression, word=0, struck=())
        if word is not None:
            reading = self.scenes[wanted.scene].readings[wanted.model, wanted.expression]
            wanted = replace(wanted, word=self._position(word, reading), layer="word")
        self.state = replace(wanted, **changes)
        return self

    def _strike(self, scene: int, model: int, expression: str, struck: tuple[int, ...]) -> Strike:
        strikes = self.scenes[scene].readings[model, expression].strikes
        if struck not in strikes:
            sample, known = self.scenes[scene].find(expression)
            strikes[struck] = self._reader(model).strike(sample, struck, known)
        return strikes[struck]

    def _position(self, word: str | int, reading: Reading) -> int:
        if isinstance(word, int) and 0 <= word < len(reading.words):
            return word
        if word not in reading.words:
            raise RefsegError(
                f"{word!r} is no word of {reading.expression!r}: choose one of {', '.join(reading.words)}."
            )
        return reading.words.index(word)

    def _reader(self, model: int) -> Reader:
        if self._readers[model] is None:
            given = self._models[model]
            predictor = given if isinstance(given, Predictor) else Predictor(given, "cpu")
            in_folder = isinstance(given, str | Path)
            self._readers[model] = Reader(predictor, WordGuesser.of(given, predictor.loaded) if in_folder else None)
        return self._readers[model]

    def _read_both(self, wanted: ExplorerState) -> None:
        self.read(wanted.expression, wanted.model, wanted.scene)
        if wanted.comparing:
            self.read(wanted.second_expression, wanted.second_model, wanted.scene)
        if self._trait_values.get("content"):
            self._send_typed(wanted)

    def _send_typed(self, wanted: ExplorerState) -> None:
        """Give the browser the readings that it needs and does not have yet."""
        needed = [(wanted.scene, wanted.model, wanted.expression)]
        needed += [(wanted.scene, wanted.second_model, wanted.second_expression)] * wanted.comparing
        sent = {(s, r["model"], r["expression"]) for s, x in enumerate(self.content["scenes"]) for r in x["readings"]}
        kept = [key for key in self._typed if key not in sent and key not in needed][-KEPT_READINGS + len(needed) :]
        keys = kept + [key for key in dict.fromkeys(needed) if key not in sent]
        if keys != [(x["scene"], x["model"], x["expression"]) for x in self.fresh]:
            self.fresh = [
                {"scene": scene, "model": model, **self.scenes[scene].readings[model, expression].to_wire()}
                for scene, model, expression in keys
            ]

    # ---- what the browser asks ------------------------------------------------------------------------------------

    def _on_message(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """A newer request for the same place overtakes an older one, which is then not computed, or not answered."""
        if not isinstance(message, Mapping) or message.get("ask") not in ("read", "strike"):
            return
        place = (message["ask"], message.get("client"), message.get("slot"))
        self._newest[place] = message.get("number")
        self._worker.submit(self._answer, place, dict(message))

    def _answer(self, place: tuple, message: dict[str, Any]) -> None:
        if self._newest[place] != message.get("number"):
            return
        answer: dict[str, Any] = {"error": None}
        try:
            answer |= self._answer_strike(message) if message["ask"] == "strike" else self._answer_read(message)
        except RefsegError as error:
            answer["error"] = str(error)
        except Exception as error:  # whatever the network raises belongs on the screen, not into a log nobody sees
            answer["error"] = f"The network failed with {type(error).__name__}: {error}"
        if self._newest[place] == message.get("number"):
            self.send(answer | {name: message.get(name) for name in ("ask", "client", "slot", "number")})

    def _answer_read(self, message: dict[str, Any]) -> dict[str, Any]:
        scene, model, expression = (message[name] for name in ("scene", "model", "expression"))
        self.read(expression, model, scene)
        second = message["slot"] == 1
        now = replace(self.state, scene=scene)
        asked = {"second_expression": expression, "second_model": model} if second else {}
        self._send_typed(replace(now, **asked) if second else replace(now, expression=expression, model=model))
        return {"model": model, "expression": expression}

    def _answer_strike(self, message: dict[str, Any]) -> dict[str, Any]:
        scene, model, expression = (message[name] for name in ("scene", "model", "expression"))
        struck = tuple(message["struck"])
        strike = self._strike(scene, model, expression, struck)
        return {"scene": scene, "model": model, "expression": expression, "struck": list(struck)} | {
            "strike": strike_to_wire(strike)
        }

    # ---- files ----------------------------------------------------------------------------------------------------

    def export_html(self, path: str | Path, title: str = "") -> Path:
        """Write one page that needs nothing else: no network, no kernel; words can be struck out one at a time.

        Raises:
            RefsegError: the file cannot be written.
        """
        content = self.still_content()
        return page.write(Path(path), content, dict(self.view), title, stills=self.still_sheets())

    def still_content(self) -> dict[str, Any]:
        """The content of a page: every word of every reading has been struck out once."""
        for scene in self.scenes:
            for (model, expression), reading in scene.readings.items():
                missing = [(n,) for n in range(len(reading.words)) if (n,) not in reading.strikes]
                sample, known = scene.find(expression)
                for struck in missing if len(reading.words) > 1 else []:
                    reading.strikes[struck] = self._reader(model).strike(sample, struck, known)
        return self._content(live=False)

    def save_state(self, path: str | Path, note: str = "") -> Path:
        """Write what is on show, and a note, as JSON: a finding to hand in.

        Raises:
            RefsegError: the file cannot be written.
        """
        sample, now = self.scene.first, self.state
        seen = {"iou": self.reading.iou, "sentence": self.sentence(), "words": self.reading.words}
        if now.struck:
            strike = self._strike(now.scene, now.model, now.expression, now.struck)
            seen |= {"struck": [self.reading.words[n] for n in now.struck], "iou without them": strike.iou}
        state.save(path, now, {"source": sample.source, "sample_id": sample.sample_id}, seen, note)
        return Path(path)

    def load_state(self, path: str | Path) -> None:
        """Show what is in a file of ``save_state``.

        Raises:
            RefsegError: no such file, not one of ours, or of another picture.
        """
        wanted, sample = state.load(path)
        here = self.scenes[wanted.scene].first if wanted.scene < len(self.scenes) else None
        if here is None or (here.source, here.sample_id) != (sample["source"], sample["sample_id"]):
            raise RefsegError(
                f"{path} is of sample {sample['sample_id']!r} of {sample['source']!r}, which this explorer does not "
                "show: open it with that sample."
            )
        self.state = wanted

    # ---- without a browser ----------------------------------------------------------------------------------------

    def plain(self) -> Any:
        """The same in plain ipywidgets, for where JavaScript modules are blocked."""
        from refseg.explorer.plain import plain_explorer

        return plain_explorer(self)

    def sentence(self, now: ExplorerState | None = None) -> str:
        """What is on show, or would be in another state, in words and numbers."""
        now = now or self.state
        reading = self.scenes[now.scene].readings[now.model, now.expression]
        iou = "truth not known" if reading.iou is None else f"IoU {reading.iou:.2f}"
        told = [f"“{reading.expression}”: the mask covers {where(reading.frames[now.frame].mask)}, {iou}."]
        if now.level in reading.frames[now.frame].levels:
            shown = reading.map(now.word, now.level, now.normalisation, now.frame)
            row, column = divmod(int(shown.argmax()), shown.shape[1])
            largest = (
                f"{shown.max():.0%} of all words'" if now.normalisation == "words" else f"{shown.max():.1f} × even"
            )
            told.append(
                f"“{reading.words[now.word]}” at level {now.level}, {NORMALISATIONS[now.normalisation]}: largest "
                f"weight {largest}, in row {row + 1}, column {column + 1} of {shown.shape[0]} x {shown.shape[1]}."
            )
        if now.layer == "centre" and (centre := reading.frames[now.frame].centre):
            told.append(_gathering(centre, now.step))
        if now.guessing and now.word in reading.guesses:
            first = {way: best[0] for way, best in reading.guesses[now.word].items()}
            guessed = ", ".join(f"“{word}” {share:.0%} ({way})" for way, (word, share) in first.items())
            told.append(f"“{reading.words[now.word]}” is hidden; guessed in its place: {guessed}.")
        if strike := reading.strikes.get(now.struck):
            gone = " ".join(reading.words[n] for n in now.struck)
            told.append(f"Without “{gone}” " + ("truth not known." if strike.iou is None else f"IoU {strike.iou:.2f}."))
        return " ".join(told)

    def contact_sheet(self, now: ExplorerState | None = None, kind: str = "PNG") -> str:
        """A <figure> for print and for where no JavaScript runs: the picture, the maps of all words, their numbers.

        Args:
            now: another state than the one on show.
            kind: "PNG", or "WEBP" where many sheets share a file.
        """
        now = now or self.state
        reading = self.scenes[now.scene].readings[now.model, now.expression]
        asked = "each word's weights at all regions"
        asked += ", mean over the query regions" if reading.asking == "pair" else ""
        caption = f"Level {now.level}; {asked}; {NORMALISATIONS[now.normalisation]}; one scale for all words."
        sheet = self.sheet(now, caption=caption)
        alt = f"The picture with its mask, and a map of each word: {', '.join(reading.words)}."
        table = word_table(reading, now.level, now.normalisation, now.frame)
        return to_html(sheet, alt, self.sentence(now), table, kind)

    def sheet(self, now: ExplorerState, **options: Any) -> Image:
        """The picture with the mask that is on show, and maps of words; ``options`` as in ``contact_sheet``."""
        scene = self.scenes[now.scene]
        reading = scene.readings[now.model, now.expression]
        strike = reading.strikes.get(now.struck)
        mask = strike.masks[now.frame] if strike else None
        image = scene.first.frames[now.frame]
        return contact_sheet(image, reading, now.level, now.normalisation, frame=now.frame, mask=mask, **options)

    def still_sheets(self) -> str:
        """The contact sheets of all pictures, for a page whose scripts do not run."""
        begin = self.state
        states = [begin if n == begin.scene else self._beginning(n) for n in range(len(self.scenes))]
        return "\n".join(self.contact_sheet(now, "WEBP") for now in states)

    def __repr__(self) -> str:
        return f"Explorer: {self.sentence()}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        sheet = self.contact_sheet()
        self._still.value = f"{_LATE}<div class='rx-late'><p>{_WITHOUT_MODULE}</p>{sheet}</div>"
        data, metadata = super()._repr_mimebundle_(**kwargs)
        data |= self._framed._repr_mimebundle_(**kwargs)
        return data | {"text/plain": repr(self), "text/html": sheet}, metadata


# The sheet stands beside the explorer in ipywidgets' own HTML and is seen only if no explorer has come after a while:
# where anywidget is not installed beside JupyterLab, or is blocked, it is all there is.
_LATE = """<style>
.rx-late { max-height: 0; overflow: hidden; animation: rx-late 0s 3s forwards; }
@keyframes rx-late { to { max-height: none; } }
.widget-vbox:has(.rx) .rx-late { display: none; }
</style>"""
_WITHOUT_MODULE = (
    "The explorer's JavaScript did not load; here is a still sheet. To choose words and to strike them out with "
    "ordinary widgets, run <code>explorer.plain()</code>."
)


def shipped_examples() -> list[Scene]:
    """The examples that ``Explorer()`` opens on, read before by the shipped checkpoint."""
    return [Scene.from_wire(wire) for wire in json.loads(EXAMPLES.read_text(encoding="utf-8"))]


def _telling_word(reading: Reading) -> int:
    """The first word that is true of something, else the first."""
    for by_name in reading.points.values():
        scored = [n for n, score in enumerate(by_name["positions"]) if score]
        return scored[0] if scored else 0
    return 0


def _gathering(centre: Centre, step: int) -> str:
    """How far the pixels have gathered around a centre."""
    shown, area, among, last = centre.similarity[step], centre.areas[step], centre.among[step], len(centre.areas) - 1
    after = f"after look {step} of {last}" if step else "of the sentence alone"
    told = f"Cosine with the centre {after}: from {shown.min():.2f} to {shown.max():.2f} over all pixels"
    told += "" if area is None else f", AUC {area:.3f}"
    return told + ("." if among is None else f", among objects {among:.3f}.")


def _middle(reading: Reading, now: ExplorerState) -> tuple[int, int] | None:
    """The region in the middle of the predicted mask, or of the picture."""
    frame = reading.frames[min(now.frame, len(reading.frames) - 1)]
    if now.level not in frame.levels:
        return None
    level = frame.levels[now.level]
    h, w = level.maps.shape[-2:]
    left, top, right, bottom = level.extent
    height, width = frame.mask.shape
    y, x = 0.5, 0.5
    if frame.mask.any():
        rows, columns = frame.mask.nonzero().float().add(0.5).mean(0).tolist()
        y, x = rows / height, columns / width
    row, column = int((y - top) / (bottom - top) * h), int((x - left) / (right - left) * w)
    return min(max(row, 0), h - 1), min(max(column, 0), w - 1)


def _name(model: Model) -> str:
    return Path(model).resolve().name if isinstance(model, str | Path) else "loaded network"


def _worth(model: Model) -> dict[str, Any] | None:
    """What the word maps of a shipped checkpoint are worth over all of val, as measured; None for another network."""
    folder = Path(model).resolve() if isinstance(model, str | Path) else None
    if folder is None or folder.name not in POINTING or folder.parent != checkpoints_dir().resolve():
        return None
    try:
        scores = json.loads((results_dir() / POINTING[folder.name]).read_text())["pointing"]["val"]
    except (OSError, ValueError, KeyError):
        return None
    names = {"positions": "attention", "words": "relative to the other words"}
    columns = ("N", "pointing", "chance", "object_chance")
    return {
        name: {level: {c: kinds["all"][c] for c in columns} for level, kinds in scores[stored].items()}
        for name, stored in names.items()
        if stored in scores
    }
