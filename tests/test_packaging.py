"""pyproject.toml, environment.yml, CITATION.cff, LICENSE, Makefile and .ci/run agree with each other."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import refseg

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]

CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # the others are called alike
IMPORTED_AS = {"pillow": "PIL", "ipython": "IPython", "pytest-timeout": "pytest_timeout", "pyyaml": "yaml"}
IMPORTED_AS["axe-playwright-python"] = "axe_playwright_python"
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # LICENSE-2.0.txt as apache.org has it


def requirement(line: str) -> tuple[str, str]:
    """``"ruff>=0.17,<0.18"`` -> ``("ruff", ">=0.17,<0.18")``."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line.strip()).groups()
    return name, bounds


def release(version: str) -> tuple[int, ...]:
    """Numbers of a version without trailing zeros, so that 2.9 equals 2.9.0."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def floor(bounds: str) -> str:
    """The lower bound, e.g. ``0.17`` of ``>=0.17,<0.18``."""
    return re.match(r">=([0-9.]+)", bounds).group(1)


ALL = dict(map(requirement, DEPENDENCIES + [line for lines in EXTRAS.values() for line in lines]))


def test_every_dependency_has_a_lower_bound():
    assert [name for name, bounds in ALL.items() if not bounds.startswith(">=")] == []


def test_the_floor_is_exactly_the_lower_bounds():
    lines = (ROOT / "tests" / "floor.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: release(version) for name, version in pins.items()} == {
        name: release(floor(bounds)) for name, bounds in ALL.items()
    }


def test_the_conda_environment_is_the_same():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = dict(requirement(line) for line in re.findall(r"^(?:  |      )- ([a-z0-9_-]+>=.*)$", text, re.MULTILINE))
    assert listed.pop("python") == PROJECT["project"]["requires-python"]
    assert listed == {CONDA.get(name, name): bounds for name, bounds in ALL.items()}
    channels = re.search(r"^channels:\n((?:  - .*\n)+)", text, re.MULTILINE).group(1).split()
    assert [word for word in channels if word != "-"] == ["conda-forge", "nodefaults"]
    assert text.endswith("      - -e .\n")


def test_one_version():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "refseg.__version__"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE).group(1) == refseg.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", refseg.__version__)


def test_one_licence():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def third_party(folder: str) -> dict[str, Path]:
    """Top-level modules that the files of ``folder`` import and that neither Python nor the project brings."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            match node:  # errors.require("scipy.io", ...)
                case ast.Call(ast.Name("require"), [ast.Constant(str(module)), *_]):
                    names.append(module)
            found |= {name.split(".")[0]: path for name in names}
    own = [*(ROOT / folder).rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]  # pytest finds the benchmarks too
    ours = {"refseg", "refseg_course", "refshapes", *(path.stem for path in own)}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | ours}


def test_what_is_imported_is_declared():
    """A test may use more through ``pytest.importorskip``, which is no import statement."""
    needed = {IMPORTED_AS.get(name, name) for name, _ in map(requirement, DEPENDENCIES)}
    tools = {IMPORTED_AS.get(name, name) for name, _ in map(requirement, EXTRAS["test"])}
    extras = EXTRAS["video"] + EXTRAS["parquet"] + EXTRAS["paper"] + EXTRAS["hub"]
    optional = {IMPORTED_AS.get(name, name) for name, _ in map(requirement, extras)}
    package = third_party("refseg")
    assert "torch" in package and optional <= set(package)
    assert {name: path for name, path in package.items() if name not in needed | optional} == {}
    for folder in ("refshapes", "refseg_course", "tests", "benchmarks"):
        assert {name: path for name, path in third_party(folder).items() if name not in needed | tools} == {}


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and "\nmake test\n" in text


# The Makefile is tried with a stand-in for Python that only notes what it is asked for.

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

STAND_IN = """#!/bin/sh
echo "$*" >> "$HERE/asked"
case "$*" in
    *version_info*) exit "${TOO_OLD:-0}" ;;
    *ensurepip*) exit "${NO_VENV:-0}" ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && rm -f "$4"/installing && cp "$0" "$4/bin/python" ;;
    *"pip install"*) if [ -n "${CUT_OFF:-}" ]; then kill -9 $PPID; fi; exit "${NO_NETWORK:-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout in a folder with spaces in its name, as ``run(**what goes wrong) -> (status, errors, asked)``."""
    here = tmp_path / "my own kit"
    here.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, here / name)
    python = here / "python3"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(target: str = ".venv/ready", **wrong: str):
        (here / "asked").write_text("")
        environment = {"PATH": os.environ["PATH"], "HERE": str(here), **wrong}
        command = ["make", "--no-print-directory", target, f"PYTHON={python}"]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr, (here / "asked").read_text()

    run.folder = here
    return run


@needs_make
def test_make_alone_explains_every_target():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    explained = re.findall(r"^  make ([a-z-]+) +\S.*$", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE).group(1)
    assert done.returncode == 0
    assert explained == phony.split()
    assert {"tour", "test", "test-slow", "lab", "lint", "clean", "help"} <= set(explained)


@needs_make
def test_the_second_run_installs_nothing(checkout):
    status, _, asked = checkout()
    assert status == 0 and "-m venv --clear .venv" in asked and "-e .[test]" in asked
    assert (checkout.folder / ".venv" / ".gitignore").read_text() == "*\n"
    assert checkout() == (0, "", "")


@needs_make
def test_an_installation_cut_off_is_made_anew(checkout):
    assert checkout(CUT_OFF="1")[0] != 0
    assert not (checkout.folder / ".venv" / "ready").exists()
    status, _, asked = checkout()
    assert status == 0 and "-m venv --clear .venv" in asked


@needs_make
def test_a_changed_pyproject_installs_into_the_same_environment(checkout):
    checkout()
    os.utime(checkout.folder / "pyproject.toml", (2**31, 2**31))
    status, _, asked = checkout()
    assert status == 0 and "pip install" in asked and "venv --clear" not in asked


@needs_make
@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"TOO_OLD": "1"}, "No Python 3.11 or newer"),
        ({"NO_VENV": "1"}, "apt install python3-venv"),
        ({"NO_NETWORK": "1"}, "no network or a full disk"),
    ],
)
def test_what_goes_wrong_is_said_in_one_sentence(checkout, wrong, sentence):
    status, errors, _ = checkout(**wrong)
    lines = [line for line in errors.splitlines() if not line.startswith("make: ***")]
    assert status != 0 and len(lines) == 1 and sentence in lines[0]
    assert not (checkout.folder / ".venv" / "ready").exists()
