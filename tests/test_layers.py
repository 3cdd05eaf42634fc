"""The map of the package, as a test: imports go down the layers only, and importing anything acts on nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refseg"

# Lowest first. A name is a module or a folder of refseg/; it imports names of the layers before its own.
LAYERS = [
    "errors",
    "types paths tokenizer machine",
    "files",
    "datasets models",
    "objectives checkpoint viz",
    "evaluation",
    "hub predict",
    "training explorer",
    "convert",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}


def module_name(path: Path) -> str:
    """``refseg/datasets/__init__.py`` -> ``refseg.datasets``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str, is_package: bool = False) -> set[str]:
    """The names right below ``refseg`` that ``source`` imports, at any depth of its code; relative ones resolved.

    What ``refseg/__init__.py`` itself holds (``from refseg import __version__``) belongs to no layer.
    """
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
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "refseg" else {base}
    below = {name.split(".")[1] for name in found if name.startswith("refseg.")}
    return {name for name in below if not name.startswith("__")}


def forbidden(name: str, imported: set[str]) -> list[str]:
    """What ``name`` must not import of ``imported``, as sentences."""
    wrong = []
    for other in sorted(imported - {name}):
        if other not in LEVEL:
            wrong.append(f"{name} imports {other}, which has no layer: give it one in LAYERS")
        elif LEVEL[other] >= LEVEL[name]:
            wrong.append(f"{name} (layer {LEVEL[name]}) imports {other} (layer {LEVEL[other]})")
    return wrong


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path))
def test_imports_go_down(path):
    module = module_name(path)
    imported = imported_names(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    if module == "refseg":
        assert not imported, "refseg/__init__.py imports parts of the package: every import of one part would load them"
        return
    name = module.split(".")[1]
    assert name in LEVEL, f"{module} has no layer: give it one in LAYERS, and in the map of the package"
    assert not forbidden(name, imported)


def test_every_folder_is_a_package():
    """A folder without ``__init__.py`` is imported in the checkout and missing from the installed package."""
    assert {p.parent for p in SOURCES} == {p.parent for p in SOURCES if p.name == "__init__.py"}


@pytest.mark.parametrize(
    "source, module, expected",
    [
        ("import torch\nfrom refseg.types import RefBatch", "refseg.models.blocks.cmsa", {"types"}),
        ("def f():\n    from refseg import __version__, training", "refseg.evaluation.metrics", {"training"}),
        ("import refseg.viz as v, refseg.datasets.refshapes.scene", "refseg.evaluation.metrics", {"viz", "datasets"}),
        ("from .scene import Thing\nfrom ..collate import collate", "refseg.datasets.refshapes.draw", {"datasets"}),
        ("from ..train import fit", "refseg.models.blocks.cmsa", {"train"}),
        ("from .cmsa import CMSA\nfrom .. import viz", "refseg.models", {"models", "viz"}),
    ],
)
def test_the_walk_sees_every_form_of_import(source, module, expected):
    assert imported_names(source, module, is_package=module == "refseg.models") == expected


def test_the_rule_forbids_up_and_sideways():
    assert forbidden("models", {"types", "errors", "models"}) == []
    assert len(forbidden("models", {"types", "losses", "train", "nowhere"})) == 3
    assert forbidden("cli", {"doctor"}) == [] and len(forbidden("doctor", {"cli"})) == 1


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
