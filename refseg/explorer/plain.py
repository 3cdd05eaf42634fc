"""The explorer in plain ipywidgets: no JavaScript module of ours, every change computed and drawn in the kernel."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING

import ipywidgets

from refseg.errors import RefsegError
from refseg.explorer.sheet import SIDE, to_html
from refseg.explorer.state import NORMALISATIONS

if TYPE_CHECKING:
    from refseg.explorer.widget import Explorer


class PlainExplorer(ipywidgets.VBox):
    """A word, a level, a normalisation, an expression, words to strike out.

    Below: the picture with the mask and the map of the word, large; a sentence; the contact sheet with its numbers.

    Args:
        explorer: whose state it shows and changes.
    """

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        now = explorer.state
        self.expression = ipywidgets.Text(now.expression, description="Sentence", continuous_update=False)
        self.word = ipywidgets.Dropdown(description="Word")
        levels = list(explorer.reading.frames[0].levels)
        self.level = ipywidgets.Dropdown(options=levels, value=now.level if levels else None, description="Level")
        options = [(text, name) for name, text in NORMALISATIONS.items()]
        self.normalisation = ipywidgets.Dropdown(options=options, value=now.normalisation, description="Weights")
        self.struck = ipywidgets.SelectMultiple(description="Strike out")
        self.picture, self.told, self.sheet = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._list_words()
        self.expression.observe(self._read, "value")
        for chooser in (self.word, self.level, self.normalisation, self.struck):
            chooser.observe(self._choose, "value")
        choosers = ipywidgets.HBox([self.word, self.level, self.normalisation])
        super().__init__([self.expression, choosers, self.struck, self.picture, self.told, self.sheet])
        self._draw()

    def __repr__(self) -> str:
        return f"PlainExplorer: {self.explorer.sentence()}"

    def _list_words(self) -> None:
        words = [(f"{n + 1} {word}", n) for n, word in enumerate(self.explorer.reading.words)]
        now, self._listing = self.explorer.state, True  # what was chosen among the old words is no choice now
        self.word.options, self.word.value = words, now.word
        self.struck.options, self.struck.value = words, now.struck
        self._listing = False

    def _read(self, _change: dict) -> None:
        try:
            self.explorer.show(self.expression.value)
        except RefsegError as error:
            self.told.value = f"<b>{html.escape(str(error))}</b>"
            return
        self._list_words()
        self._draw()

    def _choose(self, _change: dict) -> None:
        if self._listing:
            return
        now = replace(self.explorer.state, word=self.word.value, normalisation=self.normalisation.value)
        self.explorer.state = replace(now, level=self.level.value or now.level, struck=tuple(sorted(self.struck.value)))
        try:
            self._draw()
        except RefsegError as error:
            self.told.value = f"<b>{html.escape(str(error))}</b>"

    def _draw(self) -> None:
        explorer, now = self.explorer, self.explorer.state
        if now.struck:
            explorer.strike(*now.struck)
        word = explorer.reading.words[now.word]
        large = explorer.sheet(now, words=[now.word], side=2 * SIDE)
        self.picture.value = to_html(large, f"The picture with its mask, and where “{word}” looks.")
        self.told.value = html.escape(explorer.sentence())
        self.sheet.value = explorer.contact_sheet()


def plain_explorer(explorer: Explorer) -> PlainExplorer:
    """The plain one for ``explorer``; both share one state."""
    return PlainExplorer(explorer)
