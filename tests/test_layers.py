"""The map in CONTRIBUTING.md is true: it names what is there, and imports go down it. Importing acts on nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refseg"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAP = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def layers(text: str) -> list[list[str]]:
    """The modules of each layer, lowest first, from the first table of ``text``: ``evaluation/metrics`` as
    ``evaluation.metrics``. A ``<`` within a row divides it into two layers."""
    rows = re.findall(r"^\| \w+ \| (`.*?) \|", text, re.MULTILINE)
    return [re.findall(r"`([\w/]+?)/?`", part.replace("/`", "`")) for row in rows for part in row.split(" < ")]


LAYERS = [[name.replace("/", ".") for name in layer] for layer in layers(MAP)]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def module_name(path: Path) -> str:
    """``refseg/datasets/__init__.py`` -> ``refseg.datasets``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str, is_package: bool = False) -> set[str]:
    """What ``source`` imports at any depth of its code, relative imports resolved; ``from a import b`` as ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def place(name: str) -> str | None:
    """The entry of the map that ``refseg.a.b.c`` belongs to: the longest that it begins with. None for what
    ``refseg/__init__.py`` itself holds."""
    parts = name.split(".")[1:]
    if not parts or parts[0].startswith("__"):
        return None
    known = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((entry for entry in known if entry in LEVEL), parts[0])


def forbidden(name: str, imported: set[str]) -> list[str]:
    """What the module at ``name`` of the map must not import, as sentences."""
    wrong = []
    for other in sorted({entry for full in imported if full.startswith("refseg.") and (entry := place(full))} - {name}):
        if other not in LEVEL:
            wrong.append(f"{name} imports {other}, which is not on the map of CONTRIBUTING.md")
        elif LEVEL[other] >= LEVEL[name] and not other.startswith(f"{name}."):
            wrong.append(f"{name} (layer {LEVEL[name]}) imports {other} (layer {LEVEL[other]})")
    return wrong


def test_imports_go_down():
    wrong = []
    for path in SOURCES:
        module = module_name(path)
        if (name := place(module)) is not None:  # the front door imports when asked, from anywhere
            imported = imported_names(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
            wrong += [f"{module}: {sentence}" for sentence in forbidden(name, imported)]
    assert wrong == []


def test_the_packages_stay_apart():
    """The library knows nothing of the course, and the generator of RefShapes nothing of either."""
    for package, others in ((PACKAGE, {"refseg_course"}), (ROOT / "refshapes", {"refseg", "refseg_course"})):
        for path in package.rglob("*.py"):
            imported = imported_names(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
            assert not {name.split(".")[0] for name in imported} & others, path


def test_the_generator_knows_nothing_of_the_library():
    for path in sorted((ROOT / "refshapes").glob("*.py")):
        imported = imported_names(path.read_text(encoding="utf-8"), f"refshapes.{path.stem}")
        assert not {name for name in imported if name.split(".")[0] in ("refseg", "refseg_course")}, path


def test_the_map_names_what_is_there():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {name.split(".")[0] for name in LEVEL} == there - {"__init__", "__main__"}
    assert [name for name in LEVEL if not list(PACKAGE.glob(f"{name.replace('.', '/')}*"))] == []
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line and not line.startswith(".")}
    assert set(re.findall(r"^\| `(\w+)/` \|", MAP, re.MULTILINE)) == folders - {"refseg"}


def test_every_folder_is_a_package():
    """A folder without ``__init__.py`` is imported in the checkout and missing from the installed package."""
    assert {p.parent for p in SOURCES} == {p.parent for p in SOURCES if p.name == "__init__.py"}


def test_the_walk_sees_every_form_of_import():
    for source, module, expected in (
        ("import torch\nfrom refseg.types import RefBatch", "refseg.models.blocks.cmsa", {"types"}),
        ("def f():\n    from refseg import __version__, training", "refseg.viz", {"training"}),
        ("import refseg.viz as v, refseg.datasets.refer", "refseg.cli", {"viz", "datasets"}),
        ("from .scene import Thing\nfrom ..collate import collate", "refseg.datasets.obtain.fetch", {"datasets"}),
        ("from .cmsa import CMSA\nfrom .. import viz", "refseg.models", {"models", "viz"}),
        ("from refseg.evaluation import metrics, evaluate", "refseg.viz", {"evaluation.metrics", "evaluation"}),
    ):
        imported = imported_names(source, module, is_package=module == "refseg.models")
        assert {place(name) for name in imported if name.startswith("refseg.")} - {None} == expected


def test_the_rule_forbids_up_and_sideways():
    assert layers("| a | `x` `y/` < `z/w` | what |\n| b | `v` | `not.this` |") == [["x", "y"], ["z/w"], ["v"]]
    assert forbidden("models", {"refseg.types", "refseg.errors.RefsegError", "refseg.models.base"}) == []
    assert len(forbidden("models", {"refseg.types", "refseg.datasets", "refseg.training.loop", "refseg.nowhere"})) == 3
    assert forbidden("evaluation", {"refseg.evaluation.metrics.P"}) == []
    assert len(forbidden("evaluation.metrics", {"refseg.evaluation.evaluate"})) == 1


# Third-party packages come first, so that what they do at import is not counted as ours.
IMPORT_ALL = """
import importlib, os, pkgutil, random, socket, sys
import accelerate, matplotlib, numpy, PIL.Image, pycocotools.mask, safetensors.torch, torch, torchvision.transforms.v2

def refuse(*args, **kwargs):
    raise AssertionError("a module asks for the network at import")

socket.socket = socket.create_connection = socket.getaddrinfo = refuse
sys.argv = ["refseg", "--no-such-option"]

def state():
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "numpy's random numbers": str(numpy.random.get_state()),
        "random's random numbers": random.getstate(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "matplotlib's settings": {k: v for k, v in dict.items(matplotlib.rcParams) if k != "backend"},
        "environment": dict(os.environ),
        "folder": (os.getcwd(), os.listdir()),
    }

before = state()
import refseg

def fail(name):
    raise

found = [m.name for m in pkgutil.walk_packages(refseg.__path__, "refseg.", onerror=fail)]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, f"importing refseg changes {changed}"
pyplot = sys.modules.get("matplotlib.pyplot")
assert pyplot is None or not pyplot.get_fignums(), "importing refseg opens figures"
print("OK", len(found))
"""


@pytest.mark.timeout(300)
def test_importing_everything_acts_on_nothing(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), MPLBACKEND="Agg", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "OK" and len(words) == 2, f"importing refseg prints: {done.stdout}"
    assert int(words[1]) == len(SOURCES) - 1  # all but refseg/__init__.py
