"""``import refseg``: what it offers, its examples, what it costs, and that it works from an installed wheel."""

import doctest
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import refseg

ROOT = Path(__file__).resolve().parents[1]
TEXT = {"capture_output": True, "text": True}


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
    """``import refseg`` loads Python's own modules and itself; predicting, neither accelerate nor matplotlib."""
    loaded = "import json, sys, {}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    nothing, door, predict = (set(json.loads(python(loaded.format(n)))) for n in ("os", "refseg", "refseg.predict"))
    assert door - nothing - sys.stdlib_module_names == {"refseg"}
    assert "torch" in predict and not predict & {"accelerate", "matplotlib", "IPython", "anywidget", "tyro"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_wheel_works_in_an_empty_folder(tmp_path):
    """Built and installed as pip does it, the packages that refseg needs lent by the running environment."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "src" / name)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "src"],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"pip cannot build a wheel here, the index may be out of reach: {built.stderr[-200:]}")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    env = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    env.pop("REFSEG_DATA", None)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(subprocess.run([python, "-c", "import site; print(site.getsitepackages()[-1])"], **TEXT).stdout.strip())
    (site / "lent.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    wheel = next(tmp_path.glob("refseg-*.whl"))
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel]
    subprocess.run([python, *install], env=env, check=True)
    (tmp_path / "empty").mkdir()
    code = """
import refseg, numpy
print(refseg.__file__)
photo = numpy.zeros((40, 60, 3), numpy.uint8)
found = refseg.load("cmsa_refshapes").predict(photo, "the red star")
print(found.pred_mask.shape)
from PIL import Image
Image.fromarray(photo).save("photo.png")
"""
    done = subprocess.run([python, "-c", code], cwd=tmp_path / "empty", env=env, **TEXT)
    assert done.stdout.splitlines() == [str(site / "refseg" / "__init__.py"), "torch.Size([40, 60])"], done.stderr
    words = ["-m", "refseg.cli", "predict", "--image", "photo.png", "--expression", "the red star"]
    done = subprocess.run([python, *words], cwd=tmp_path / "empty", env=env, **TEXT)
    assert done.returncode == 0 and "of 2400 pixels found" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {
        "photo.png", "prediction.png", "prediction_mask.png"
    }  # fmt: skip
