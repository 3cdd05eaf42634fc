"""The module that runs the notebooks and builds the student's version."""

from __future__ import annotations

from types import ModuleType

import pytest

from refseg_course import build as module


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """``refseg_course/build.py``."""
    return module


@pytest.fixture(scope="session")
def drawn_refshapes(build) -> None:
    """The data lie where the lessons look for them; drawn inside a lesson they would write a progress bar there."""
    build.draw_data()
