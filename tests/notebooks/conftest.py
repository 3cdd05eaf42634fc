"""The script beside the notebooks that runs them and builds the student's version, as a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """``notebooks/build.py``."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def drawn_refshapes(build) -> None:
    """The data lie where the lessons look for them; drawn inside a lesson they would write a progress bar there."""
    build.draw_data()
