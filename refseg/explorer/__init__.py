"""The word-region explorer, for a notebook and as a page.

from refseg.explorer import Explorer

Explorer()                                  # shipped examples
Explorer("cmsa_refshapes", sample)
Explorer(checkpoint, "photo.png", "the red car").export_html("car.html")
"""

from __future__ import annotations

from refseg.explorer.state import ExplorerState
from refseg.explorer.widget import Explorer

__all__ = ["Explorer", "ExplorerState"]
