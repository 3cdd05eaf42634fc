"""What the browser is given: the script, the constants it shares with Python, and a page that holds everything."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from string import Template
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from refseg.explorer.state import FORMAT, LAYERS, LONGEST_EXPRESSION, NORMALISATIONS, WAYS
from refseg.viz import DARK, PREDICTION, TRUTH

HERE = Path(__file__).parent
# The modules of the script, in an order in which each needs only earlier ones.
MODULES = ("numbers", "drawing", "elements", "view", "maps", "texts", "figures", "words", "controls", "keys", "kernel")
MODULES += ("panel", "render")
COLOURS = {"prediction": PREDICTION, "truth": TRUTH, "second": "#CC79A7", "dark": DARK}  # of masks and their edges
CIVIDIS = [to_hex(colormaps["cividis"](n / 32)) for n in range(33)]
DIVERGING = ["#0b3c6f", "#3f78b0", "#a5c6e0", "#f6f4ef", "#e9bd85", "#c27a2b", "#7d3c00"]  # the middle is zero


def script() -> str:
    """The modules in ``js`` as one ES module: without their imports of each other there is nothing to load."""
    text = "\n".join((HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in MODULES)
    return re.sub(r"^import .*;\n|^export (?!default)", "", text, flags=re.MULTILINE)


def constants() -> dict[str, Any]:
    """What the script shares with Python and holds no copy of."""
    return {
        "labels": {"layers": LAYERS, "normalisations": NORMALISATIONS, "ways": WAYS},
        "colours": {**COLOURS, "cividis": CIVIDIS, "diverging": DIVERGING},
        "longest": LONGEST_EXPRESSION,
        "format": FORMAT,
    }


def render(content: dict[str, Any], view: dict[str, Any], title: str = "", **texts: str) -> str:
    """One page that holds everything: images, readings, style and script.

    Args:
        content, view: as the widget has them; ``content["live"]`` False.
        texts: "introduction" and "closing", HTML above and below the explorer; "stills", HTML where no script runs.
    """
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        {"introduction": "", "closing": "", "stills": "", **texts},
        title=html.escape(title or f"“{view['expression']}” in the word-region explorer"),
        style=(HERE / "explorer.css").read_text(encoding="utf-8"),
        content=_script_json(content),
        view=_script_json(view),
        script=script(),
    )


def _script_json(value: Any) -> str:
    """JSON that cannot end the <script> it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
