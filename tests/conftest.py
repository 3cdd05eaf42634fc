"""One thread and one seed for every test, so that numbers do not depend on the machine."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Genuine samples and parity numbers that lie beside the project; tests that need them skip where they do not."""
    folder = Path(os.environ.get("REFSEG_SHARED") or SHARED)
    if not folder.is_dir():
        pytest.skip(f"no genuine samples at {folder}")
    return folder
