"""A run that nothing interrupts, for all tests of this folder."""

import shutil
from pathlib import Path

import pytest
from small_runs import fit


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """Where the run that nothing interrupts is kept for all tests of this file."""
    return tmp_path_factory.mktemp("trained") / "whole"


@pytest.fixture
def whole(tiny_experiment, whole_run, tmp_path):
    """A copy of the run that nothing interrupted."""
    if not whole_run.exists():
        fit(tiny_experiment, whole_run)
    return Path(shutil.copytree(whole_run, tmp_path / "whole"))
