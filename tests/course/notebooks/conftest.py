"""The data that lessons use."""

from __future__ import annotations

import pytest

from refseg_course.notebooks.execute import draw_data


@pytest.fixture(scope="session")
def drawn_refshapes() -> None:
    """The data are where the lessons look for them; drawn inside a lesson they would write a progress bar there."""
    draw_data()
