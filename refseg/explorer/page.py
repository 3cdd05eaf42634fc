"""One self-contained page: pictures, readings, style and script in one HTML file that asks for nothing else."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from refseg.files import write_text

HERE = Path(__file__).parent


def write(path: Path, content: dict[str, Any], view: dict[str, Any], title: str = "", **texts: str) -> Path:
    """Write the page of an explorer, complete or not at all.

    Args:
        content, view: as the widget has them; ``content["live"]`` False.
        texts: "introduction" and "closing", HTML above and below the explorer; "stills", HTML where no script runs.

    Raises:
        RefsegError: the file cannot be written.
    """
    write_text(path, render(content, view, title, **texts))
    return path


def render(
    content: dict[str, Any],
    view: dict[str, Any],
    title: str = "",
    introduction: str = "",
    closing: str = "",
    stills: str = "",
) -> str:
    """The page as text."""
    title = title or f"“{view['expression']}” in the word-region explorer"
    return _TEMPLATE.format(
        title=html.escape(title),
        heading=html.escape(title),
        introduction=introduction,
        closing=closing,
        stills=stills,
        style=(HERE / "explorer.css").read_text(encoding="utf-8"),
        content=_script_json(content),
        view=_script_json(view),
        script=(HERE / "explorer.js").read_text(encoding="utf-8"),
    )


def _script_json(value: Any) -> str:
    """JSON that cannot end the <script> it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body class="rx-page">
<main>
<h1>{heading}</h1>
{introduction}
<div id="explorer"></div>
<noscript>
<p>Here JavaScript is switched off. With it you can point at regions, choose words and strike them out; without it, this
is what there is to see.</p>
{stills}
</noscript>
{closing}
</main>
<script type="application/json" id="content">{content}</script>
<script type="application/json" id="view">{view}</script>
<script type="module">
{script}
const read = (id) => JSON.parse(document.getElementById(id).textContent);
render({{ model: new StillModel(read("content"), read("view")), el: document.getElementById("explorer") }});
</script>
</body>
</html>
"""
