"""The explorer in plain ipywidgets: no JavaScript of ours; every change is computed and drawn in the kernel."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import ipywidgets

from refseg.errors import RefsegError
from refseg.explorer.sheet import SIDE, contact_sheet, to_html
from refseg.explorer.state import NORMALISATIONS

if TYPE_CHECKING:
    from refseg.explorer.widget import Explorer


class PlainExplorer(ipywidgets.VBox):
    """A word, a level, a normalisation, an expression, words to strike out.

    Below: the image with the mask and the map of the word, large; a sentence; the contact sheet with its numbers.

    Args:
        explorer: the one whose state it shows and changes.
    """

    def __init__(self, explorer: Explorer):
        self.explorer, now = explorer, explorer.state
        self.expression = ipywidgets.Text(now.expression, description="Expression", continuous_update=False)
        self.word = ipywidgets.Dropdown(description="Word")
        levels = list(explorer.reading.frames[0].levels)
        self.level = ipywidgets.Dropdown(options=levels, value=now.level if levels else None, description="Level")
        options = [(text, name) for name, text in NORMALISATIONS.items()]
        self.normalisation = ipywidgets.Dropdown(options=options, value=now.normalisation, description="Weights")
        self.struck = ipywidgets.SelectMultiple(description="Strike out")
        self.image, self.text, self.sheet = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._list_words()
        choosers = ipywidgets.HBox([self.word, self.level, self.normalisation])
        super().__init__([self.expression, choosers, self.struck, self.image, self.text, self.sheet])
        self._draw()
        for control in (self.expression, *choosers.children, self.struck):
            control.observe(self._change, "value")

    def __repr__(self) -> str:
        return f"PlainExplorer: {self.explorer.sentence()}"

    def _list_words(self) -> None:
        words = [(f"{n + 1} {word}", n) for n, word in enumerate(self.explorer.reading.words)]
        now, self._listing = self.explorer.state, True  # a choice among the old words no longer counts
        self.word.options, self.word.value = words, now.word
        self.struck.options, self.struck.value = words, now.struck
        self._listing = False

    def _change(self, change: dict) -> None:
        if self._listing:
            return
        try:
            if change["owner"] is self.expression:
                self.explorer.show(self.expression.value)
                self._list_words()
            else:
                chosen = {"word": self.word.value, "normalisation": self.normalisation.value, "struck": ()}
                self.explorer.show(**chosen, level=self.level.value or self.explorer.state.level)
                if self.struck.value:
                    self.explorer.strike(*self.struck.value)
            self._draw()
        except RefsegError as error:
            self.text.value = f"<b>{html.escape(str(error))}</b>"

    def _draw(self) -> None:
        explorer, now = self.explorer, self.explorer.state
        frame = explorer.scene.first.frames[now.frame]
        large = contact_sheet(frame, explorer.reading, now, words=[now.word], side=2 * SIDE)
        alt = f"The image with its mask, and where “{explorer.reading.words[now.word]}” looks."
        self.image.value = to_html(large, alt)
        self.text.value = html.escape(explorer.sentence())
        self.sheet.value = explorer.contact_sheet()
