"""``refseg doctor``: whether everything is there that the lessons need, and the command that fixes what is not.

A package is imported only inside the check that tries it, so the doctor runs when half of an installation is missing;
``python -m refseg_course.doctor`` works even without tyro.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from refseg import __version__
from refseg.paths import PROJECT, checkpoints_dir, data_dir

LEAST_MEMORY, LEAST_DISK = 3.0, 1.0  # GiB: what training the lesson's network takes, and RefShapes with a few runs
SUMS = "SHA256SUMS"  # beside the checkpoints; made there by: sha256sum */*.json */*.safetensors > SHA256SUMS
GIB = 2**30
AGAIN = "fix the first [FAIL] above, then run refseg doctor again"


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is what to type or do if it is not ok."""

    ok: bool
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        what = self.what.replace(str(Path.home()) + os.sep, f"~{os.sep}")  # a bug report need not name its author
        return f"[OK]   {what}" if self.ok else f"[FAIL] {what}\n       fix: {self.remedy}"


def main(markdown: bool = False) -> bool:
    """Print the report line by line as it is found; True if all is well.

    Args:
        markdown: as a fenced block, to paste into a bug report.
    """
    if markdown:
        print("```text")
    failed = 0
    for check in CHECKS:
        for finding in examined(check):
            print(finding, flush=True)
            failed += not finding.ok
    if markdown:
        print("```")
    print("All is well." if not failed else f"{failed} to fix: start at the top, later ones often follow from it.")
    return not failed


def examined(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; an exception is a finding too."""
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.replace("_", " ")
        yield Finding(False, f"{name}: {type(error).__name__}: {error}", AGAIN)


def python() -> Iterator[Finding]:
    """Version of the interpreter, and which refseg it imports."""
    wanted = _project()["requires-python"]
    found = platform.python_version()
    new_enough = _numbers(found) >= _numbers(wanted)  # by hand: packaging may be among what is missing
    yield Finding(new_enough, f"Python {found} (needed {wanted}), {sys.executable}", "make")
    yield Finding(True, f"refseg {__version__} in {Path(__file__).parents[1]}")
    yield Finding(True, f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")


def memory() -> Iterator[Finding]:
    """Memory of the machine."""
    try:
        from refseg.machine import memory_gib
    except ImportError as error:
        yield Finding(False, f"the memory was not measured ({error})", AGAIN)
        return
    what = f"memory: {memory_gib():.1f} GiB (needed {LEAST_MEMORY:g})"
    yield Finding(memory_gib() >= LEAST_MEMORY, what, "use a machine with more memory")


def disk() -> Iterator[Finding]:
    """Free space for the data sets, in a folder that can be written to."""
    folder = data_dir()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    elsewhere = "export REFSEG_DATA=/a/folder/on/a/larger/disk"
    free = shutil.disk_usage(there).free / GIB
    yield Finding(free >= LEAST_DISK, f"disk: {free:.1f} GiB free for data (needed {LEAST_DISK:g})", elsewhere)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding(False, f"the data folder {there} cannot be written to ({error.strerror})", elsewhere)


def packages() -> Iterator[Finding]:
    """Every package that pyproject.toml names, against its bounds."""
    for line in _project()["dependencies"]:
        name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+)([^;]*).*", line).groups()
        remedy = _pip(f"{name}{bounds}")
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is not installed (needed {bounds})", remedy)
            continue
        from packaging.specifiers import SpecifierSet  # the first of the dependencies, so it is there

        right = SpecifierSet(bounds).contains(found, prereleases=True)
        yield Finding(right, f"{name} {found} (needed {bounds})", remedy)


def torch_works() -> Iterator[Finding]:
    """A product, a gradient and an operator of torchvision."""
    reinstall = _pip("--force-reinstall", "torch", "torchvision")
    try:
        import torch
        from torchvision.ops import nms

        x = torch.full((3, 5), 2.0, requires_grad=True)
        (x @ torch.ones(5, 7)).sum().backward()
        right = x.grad.sum().item() == 105 and nms(torch.eye(4)[:1], torch.ones(1), 0.5).tolist() == [0]
    except Exception as error:  # a broken library may raise anything
        yield Finding(False, f"torch does not work here ({type(error).__name__}: {error})", reinstall)
        return
    yield Finding(right, "torch multiplies and differentiates" if right else "torch computes wrong numbers", reinstall)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, the CPU is enough for the lessons"
    yield Finding(True, f"GPU: {gpu}")


def jupyter() -> Iterator[Finding]:
    """The kernel, and the part of ipywidgets that runs in the browser: without it, sliders are blank."""
    folders = _jupyter_folders()
    kernel = any((folder / "kernels" / "python3" / "kernel.json").is_file() for folder in folders)
    what = "Jupyter's Python kernel" + ("" if kernel else " is not registered")
    yield Finding(kernel, what, f"{shlex.quote(sys.executable)} -m ipykernel install --sys-prefix")
    manager = Path("labextensions") / "@jupyter-widgets" / "jupyterlab-manager" / "package.json"
    widgets = any((folder / manager).is_file() for folder in folders)
    what = "the browser part of the widgets" + ("" if widgets else " is missing: sliders would be blank")
    yield Finding(widgets, what, _pip("--force-reinstall", "jupyterlab_widgets"))


def checkpoints() -> Iterator[Finding]:
    """Every checkpoint file is the one that was shipped."""
    folder = checkpoints_dir()
    remedy = _restore("data/checkpoints")
    if not (folder / SUMS).is_file():
        yield Finding(False, f"{folder / SUMS} is missing", remedy)
        return
    for line in (folder / SUMS).read_text().splitlines():
        wanted, name = line.split(maxsplit=1)
        path = folder / name.lstrip("*")
        if not path.is_file():
            yield Finding(False, f"checkpoint file {name} is missing", remedy)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            yield Finding(False, f"checkpoint file {name} is not the one that was shipped", remedy)
        else:
            yield Finding(True, f"checkpoint file {name}")


def forward() -> Iterator[Finding]:
    """The shipped network answers for a grey image."""
    started = time.perf_counter()
    try:
        import torch

        from refseg.predict import Predictor

        predictor = Predictor(checkpoints_dir() / "cmsa_refshapes", "cpu")
        result = predictor.predict(torch.full((3, 61, 89), 128, dtype=torch.uint8), "the red circle")
        sound = result.mask_prob.shape == (61, 89) and bool(result.mask_prob.isfinite().all())
    except ImportError as error:
        yield Finding(False, f"the shipped network was not tried ({error})", AGAIN)
        return
    except Exception as error:
        yield Finding(False, f"the shipped network fails: {error}", _restore("refseg", "data/checkpoints"))
        return
    seconds = time.perf_counter() - started
    what = f"the shipped network answers, {seconds:.1f} s" if sound else "the shipped network gives undefined numbers"
    yield Finding(sound, what, _restore("refseg", "data/checkpoints"))


def refshapes() -> Iterator[Finding]:
    """Whether the embedded benchmark is drawn; if not, that is not an error."""
    drawn = (data_dir() / "refshapes" / "refshapes.json").is_file()
    yield Finding(True, "RefShapes is " + ("drawn" if drawn else "not drawn yet: its first use draws it in a minute"))


CHECKS = (python, memory, disk, packages, torch_works, jupyter, checkpoints, forward, refshapes)


def _project() -> dict:
    """``requires-python`` and ``dependencies``: of the checkout, else of the installed package."""
    path = PROJECT / "pyproject.toml"
    if path.is_file():
        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    own = metadata.metadata("refseg")
    needed = [line for line in metadata.requires("refseg") or [] if "extra ==" not in line]
    return {"requires-python": own["Requires-Python"], "dependencies": needed}


def _numbers(version: str) -> tuple[int, ...]:
    """``"3.11.4"`` or ``">=3.11"`` -> (3, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _jupyter_folders() -> list[Path]:
    """Where Jupyter looks for kernels and extensions: of this Python, of the user, and where JUPYTER_PATH says."""
    named = [Path(folder) for folder in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if folder]
    user = Path.home() / ".local" / "share" / "jupyter"
    return [*named, user, Path(sys.prefix) / "share" / "jupyter", Path("/usr/local/share/jupyter")]


def _pip(*words: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.join(words)}"


def _restore(*paths: str) -> str:
    if not (PROJECT / ".git").exists():
        return "install refseg again, or unpack its zip file again"
    return f"git -C {shlex.quote(str(PROJECT))} checkout -- {' '.join(paths)}"


if __name__ == "__main__":
    raise SystemExit(0 if main("--markdown" in sys.argv[1:]) else 1)
