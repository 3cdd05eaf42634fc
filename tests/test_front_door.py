"""``import refseg``: what it offers, its examples, what it costs, and that it works from an installed wheel."""

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import refseg

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_run(tiny_refshapes, tmp_path, monkeypatch):
    """Every name has a docstring with an example, and each of them is right."""
    monkeypatch.chdir(tmp_path)
    photo = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = {"refseg": refseg, "photo": photo}
    things = {name: getattr(refseg, name) for name in refseg.__all__ if name != "__version__"}
    things["PRESETS"] = importlib.import_module("refseg.training.presets")  # a dict has no docstring of its own
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name, thing in {**things, "refseg": refseg}.items():
        test = doctest.DocTestParser().get_doctest(thing.__doc__ or "", dict(names), name, None, 0)
        assert test.examples, f"the docstring of {name} has no example"
        assert runner.run(test).failed == 0, f"the example of {name} fails"


def test_the_door_is_short():
    assert set(refseg.__all__) <= set(dir(refseg)) and len(refseg.__all__) <= 10
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        refseg.segment  # noqa: B018
    with pytest.raises(refseg.RefsegError, match="cmsa_refshapes, "):
        refseg.load("cmsa_refshape")
    with pytest.raises(refseg.RefsegError, match="choose one of cmsa_refshapes, "):
        refseg.train("cmsa_refshape")


def test_importing_costs_little():
    """``import refseg`` loads nothing beyond itself; to predict, neither accelerate nor matplotlib is loaded."""
    loaded = "import json, sys, {}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    nothing, door, predict = (set(json.loads(python(loaded.format(n)))) for n in ("os", "refseg", "refseg.predict"))
    assert door - nothing <= {"refseg", "typing", "_typing"}
    assert "torch" in predict and not predict & {"accelerate", "matplotlib", "IPython", "anywidget", "tyro"}
