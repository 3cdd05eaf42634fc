"""The word-region explorer: hover over a region to see which words, choose a word to see where, strike one out.

All maps are sent to the browser once, where the modules in ``js`` do the rest. The kernel is asked only for what has to
be computed: another expression, or a mask without some of the words.
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

from refseg.datasets.images import ImageLike
from refseg.errors import RefsegError
from refseg.explorer import page, sheet
from refseg.explorer.plain import PlainExplorer
from refseg.explorer.reading import Reading, Strike
from refseg.explorer.scene import Scene, scene_of
from refseg.explorer.session import Model, Session
from refseg.explorer.state import ExplorerState, load, save
from refseg.explorer.wire import to_wire
from refseg.files import write_text
from refseg.types import RefSample

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples.json"
SHIPPED = "cmsa_refshapes_taught_maps"  # its maps were trained to point, those of cmsa_refshapes are attention sinks
KEPT_READINGS = 4  # of typed expressions, in the browser


class Explorer(anywidget.AnyWidget):
    """Look at what a network makes of an expression.

    ``Explorer()`` opens on shipped examples, computed in advance. The last line of a notebook cell shows it.

    Args:
        model: a checkpoint as for ``Predictor``, or a predictor; default is a shipped one. If the folder has heads for
            hidden words (Mask Grounding), words can be hidden and guessed.
        sample: a sample of a data set, as read (for pointing scores RefShapes with ``objects=True``); or an image
            as for ``Predictor.predict``, with an ``expression``. A sample with several frames is a clip.
        expression: what to find in an image that is not a sample.
        compare: a second expression beside the first, in the same image.
        other_model: a second network; it reads ``compare``, or else the same expression.
        scenes: several images instead of a sample, each with the expressions of its samples.

    Raises:
        RefsegError: no such checkpoint or image, an expression without words, or a model that gives undefined values.
    """

    _esm = page.script()
    _css = HERE / "explorer.css"
    content = traitlets.Dict().tag(sync=True)  # images, readings and names of the networks, sent once
    fresh = traitlets.List().tag(sync=True)  # readings of what was typed since
    view = traitlets.Dict().tag(sync=True)  # the state, see ExplorerState

    def __init__(
        self,
        model: Model | None = None,
        sample: RefSample | ImageLike | None = None,
        expression: str | None = None,
        *,
        compare: str | None = None,
        other_model: Model | None = None,
        scenes: Sequence[Scene] | None = None,
    ):
        if sample is None and scenes is None and (expression or compare or other_model or model):
            raise RefsegError("There is nothing to look at: give a sample, or an image and an expression.")
        if scenes is None:
            scenes = shipped_examples() if sample is None else [scene_of(sample, expression)]
        models = [model or SHIPPED] + ([other_model] if other_model else [])
        self.session = Session(models, scenes)
        begin = ExplorerState(expression=scenes[0].first.expression)
        if compare or other_model:
            begin = replace(begin, second_expression=compare or begin.expression, second_model=len(models) - 1)
        for key in self.session.needed(begin):
            self.session.read(*key)
        for number, scene in enumerate(scenes):
            if not scene.readings:
                self.session.read(number, 0, scene.first.expression)
        super().__init__(content=self._content(live=True), view=self.session.opening(0, begin).to_dict())
        self.session.typed.clear()  # the content has them
        self._newest: dict[Any, Any] = {}  # the latest request for each place of a view
        self._worker = ThreadPoolExecutor(1, "refseg-explorer")
        self.on_msg(self._on_message)
        self._still = ipywidgets.HTML()
        self._framed = ipywidgets.VBox([self._still, self])

    # ---- what is shown --------------------------------------------------------------------------------------------

    @property
    def state(self) -> ExplorerState:
        """What is chosen; assign another one to change the view."""
        return ExplorerState.from_dict(dict(self.view))

    @state.setter
    def state(self, wanted: ExplorerState) -> None:
        self.session.check(wanted)
        self._send_typed()
        self.view = wanted.to_dict()

    @property
    def scenes(self) -> list[Scene]:
        """All images and clips."""
        return self.session.scenes

    @property
    def scene(self) -> Scene:
        """The image or clip on show."""
        return self.scenes[self.state.scene]

    @property
    def reading(self) -> Reading:
        """What the network read in the expression on show."""
        return self.scene.readings[self.state.model, self.state.expression]

    # ---- what is computed -----------------------------------------------------------------------------------------

    def read(self, expression: str, model: int = 0, scene: int | None = None) -> Reading:
        """Run a network on an expression, unless that has been done; the view stays as it is.

        Raises:
            RefsegError: an expression without words, or a model that gives undefined values.
        """
        return self.session.read(self.state.scene if scene is None else scene, model, expression)

    def strike(self, *words: str | int) -> Strike:
        """Strike words out of the expression, by name or position, and show the mask without them.

        Raises:
            RefsegError: a word that is not there, or no word is left.
        """
        now = self.state
        struck = tuple(sorted({self._position(word, self.reading) for word in words}))
        strike = self.session.strike(now.scene, now.model, now.expression, struck)
        self.view = replace(now, struck=struck).to_dict()
        return strike

    def show(self, expression: str | None = None, *, word: str | int | None = None, **changes: Any) -> Explorer:
        """Change the view: another expression, a word by name or position, or fields of ``ExplorerState``.

        Raises:
            RefsegError: a word that is not there; and see ``read``.
        """
        wanted = self.state
        if expression is not None and expression != wanted.expression:
            wanted = replace(wanted, expression=expression, word=0, struck=())
        if word is not None:
            reading = self.read(wanted.expression, wanted.model)
            wanted = replace(wanted, word=self._position(word, reading), layer="word")
        self.state = replace(wanted, **changes)
        return self

    def _position(self, word: str | int, reading: Reading) -> int:
        if isinstance(word, int) and 0 <= word < len(reading.words):
            return word
        if word not in reading.words:
            words = ", ".join(reading.words)
            raise RefsegError(f"{word!r} is not a word of {reading.expression!r}: choose one of {words}.")
        return reading.words.index(word)

    # ---- what the browser is sent, and asks ------------------------------------------------------------------------

    def _content(self, live: bool) -> dict[str, Any]:
        scenes = [scene.to_wire() for scene in self.scenes]
        return {**page.constants(), "live": live, "models": self.session.about(), "scenes": scenes}

    def _send_typed(self) -> None:
        """Give the browser what was read last, so that it has all that it shows."""
        keys = self.session.typed[-KEPT_READINGS:]
        if keys != [(x["scene"], x["model"], x["expression"]) for x in self.fresh]:
            read = {key: to_wire(self.session.read(*key)) for key in keys}
            self.fresh = [{"scene": key[0], "model": key[1], **reading} for key, reading in read.items()]

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
        answer = {**message, "error": None}
        try:
            asked = message["scene"], message["model"], message["expression"]
            if message["ask"] == "strike":
                answer["strike"] = to_wire(self.session.strike(*asked, message["struck"]))
            else:
                for shown in (*self.session.needed(self.state), asked):
                    self.session.read(*shown)
                self._send_typed()
        except RefsegError as error:
            answer["error"] = str(error)
        except Exception as error:  # whatever the network raises belongs on the screen, not in a log that nobody reads
            answer["error"] = f"The network failed with {type(error).__name__}: {error}"
        if self._newest[place] == message.get("number"):
            self.send(answer)

    # ---- files ----------------------------------------------------------------------------------------------------

    def export_html(self, path: str | Path, title: str = "", **texts: str) -> Path:
        """Write one page that works offline, without a kernel; words can be struck out one at a time.

        Args:
            texts: "introduction" and "closing", HTML above and below the explorer.

        Raises:
            RefsegError: the file cannot be written.
        """
        content = self.still_content()  # before the sheets, whose tables hold the IoU without each word
        states = [self.session.opening(number) for number in range(len(self.scenes))]
        states[self.state.scene] = self.state
        stills = "\n".join(self.contact_sheet(now, "WEBP") for now in states)
        write_text(path, page.render(content, dict(self.view), title, stills=stills, **texts))
        return Path(path)

    def still_content(self) -> dict[str, Any]:
        """The content of a page: every word of every reading has been struck out once."""
        self.session.strike_each()
        return self._content(live=False)

    def save_state(self, path: str | Path, note: str = "") -> Path:
        """Write what is on show, and a note, as JSON: a finding to hand in.

        Raises:
            RefsegError: the file cannot be written.
        """
        sample, now = self.scene.first, self.state
        seen: dict[str, Any] = {"iou": self.reading.iou, "sentence": self.sentence(), "words": self.reading.words}
        if now.struck:
            strike = self.session.strike(now.scene, now.model, now.expression, now.struck)
            seen |= {"struck": [self.reading.words[n] for n in now.struck], "iou without them": strike.iou}
        save(path, now, {"source": sample.source, "sample_id": sample.sample_id}, seen, note)
        return Path(path)

    def load_state(self, path: str | Path) -> None:
        """Show what is in a file of ``save_state``.

        Raises:
            RefsegError: no such file, not written by the explorer, or of another image.
        """
        wanted, sample = load(path)
        ids = [{"source": scene.first.source, "sample_id": scene.first.sample_id} for scene in self.scenes]
        if sample not in ids:
            raise RefsegError(
                f"{path} is of sample {sample['sample_id']!r} of {sample['source']!r}, which this explorer does not "
                "show: open it with that sample."
            )
        self.state = replace(wanted, scene=ids.index(sample))

    # ---- without a browser ----------------------------------------------------------------------------------------

    def plain(self) -> PlainExplorer:
        """The same in plain ipywidgets, where JavaScript modules are blocked; both share one state."""
        return PlainExplorer(self)

    def sentence(self) -> str:
        """What is on show, in words and numbers."""
        return sheet.describe(self.reading, self.state)

    def contact_sheet(self, now: ExplorerState | None = None, kind: str = "PNG") -> str:
        """A <figure> for print and for where no JavaScript runs: the image, the maps of all words, their numbers.

        Args:
            now: another state than the one on show.
            kind: "PNG", or "WEBP" where many sheets share a file.
        """
        now = now or self.state
        scene = self.scenes[now.scene]
        return sheet.figure(scene.first.frames[now.frame], scene.readings[now.model, now.expression], now, kind)

    def __repr__(self) -> str:
        return f"Explorer: {self.sentence()}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        still = self.contact_sheet()
        self._still.value = (HERE / "late.html").read_text(encoding="utf-8") + f"{still}</div>"
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        data = {**data, **(self._framed._repr_mimebundle_(**kwargs) or {})}
        return data | {"text/plain": repr(self), "text/html": still}, metadata


def shipped_examples() -> list[Scene]:
    """The examples that ``Explorer()`` opens on, read in advance by the shipped checkpoint."""
    return [Scene.from_wire(wire) for wire in json.loads(EXAMPLES.read_text(encoding="utf-8"))]
