"""A figure with its alternative text; how it is shown in a notebook or on a page."""

from __future__ import annotations

import base64
import html
import io
import sys
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from refseg.errors import RefsegError


@dataclass(frozen=True)
class Picture:
    """A figure, its alternative text and, if wanted, a caption; Jupyter shows it with all three."""

    figure: Figure
    alt: str
    caption: str = ""

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"

    def _repr_html_(self) -> str:
        return to_html(self, self.caption)


def show(figure: Figure | Picture, alt: str = "", caption: str = "") -> None:
    """Display a figure in a notebook with its alternative text, then close it so that Jupyter does not show it again.

    JupyterLab and nbconvert drop the alternative text of plain image outputs; in a <figure> of ours it stays.

    Args:
        figure: one made with pyplot or with ``matplotlib.figure.Figure``, or a Picture, which brings both texts.
        alt: what the figure shows, in words and with its main numbers, for those who do not see it.
        caption: a line below it, for everybody.

    Raises:
        RefsegError: there is no alternative text.
    """
    from IPython.display import HTML, display

    picture = figure if isinstance(figure, Picture) else Picture(figure, alt, caption)
    picture = replace(picture, alt=alt or picture.alt, caption=caption or picture.caption)
    if not picture.alt.strip():
        raise RefsegError("The figure has no alternative text: say in alt what it shows.")
    display(HTML(to_html(picture, picture.caption)))
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(picture.figure)


def to_png_bytes(picture: Picture, dpi: int = 110) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    picture.figure.savefig(
        buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None}
    )
    return buffer.getvalue()


def to_html(picture: Picture, caption: str = "") -> str:
    """A self-contained <figure> with the image inside, its alternative text and a caption."""
    data = base64.b64encode(to_png_bytes(picture)).decode("ascii")
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img alt="{html.escape(picture.alt, quote=True)}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}">{below}</figure>'
    )
