"""``refseg wheelhouse``: a folder from which the kit installs without a network, for thirty laptops.

pip does the work, from PyPI. Every step can be repeated, so a run that was cut off is started again. The folder is
complete when it holds ``wheelhouse.json``, which is written last:

    wheels/            the packages, no source to compile
    refseg-VERSION.zip the checkout: package, notebooks, checkpoints
    INSTALL.txt        the commands
    SHA256SUMS         of all of these
    wheelhouse.json    what the folder was made for
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

from refseg import __version__
from refseg.errors import RefsegError
from refseg.files import refuse_others, write_text
from refseg.paths import PROJECT
from refseg_course.wheelhouse.pip import NO_ROOM, SCRATCH, no_room, run_pip
from refseg_course.wheelhouse.target import Target

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYPI = "pypi"  # as --torch-index: PyPI's torch for Linux brings several gigabytes of CUDA packages
DONE, UNFINISHED = "wheelhouse.json", "unfinished.json"
COPIED_NEVER = re.compile(  # of a folder that git does not know: what a clone would not hold either
    r"(?:^|/)(?:\.git|\.venv[^/]*|__pycache__|\.ipynb_checkpoints|\.pytest_cache|\.ruff_cache|[^/]*\.egg-info)(?:/|$)|"
    r"^(?:build|dist|runs)(?:/|$)|^data/(?!README\.md$|checkpoints(?:/|$)|results(?:/|$))"
)


def make_wheelhouse(
    folder: Path, target: Target, index_url: str | None = None, torch_index: str = CPU_INDEX, project: Path = PROJECT
) -> int:
    """Fill ``folder`` and return its size in bytes. A wheelhouse made before, even for other laptops, is added to.

    Args:
        folder: a new or empty one, or a wheelhouse, finished or not.
        target: the laptops.
        index_url: a package index in place of PyPI.
        torch_index: where torch and torchvision for Linux come from; "pypi" treats them like all other packages.
        project: the checkout.

    Raises:
        RefsegError: refseg does not run from a checkout, the folder holds other files, a package has no wheel for the
            target, or there is no network or no room. The folder then has no ``wheelhouse.json``, and the same call
            continues from there.
    """
    if not (project / "pyproject.toml").is_file():
        raise RefsegError(
            f"A wheelhouse holds the checkout with its notebooks, and {project} is not a checkout: use a git clone."
        )
    folder = folder.absolute()
    try:
        earlier = _begin(folder)
        try:
            return _fill(folder, target, index_url, torch_index, project, earlier)
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or NO_ROOM.search(str(error)):
            raise RefsegError(no_room(folder)) from error
        raise RefsegError(f"{error.filename or folder} could not be written or read ({error.strerror}).") from error


def _begin(folder: Path) -> list[str]:
    """Mark the folder as unfinished; returns what it was made for before."""
    done, unfinished = folder / DONE, folder / UNFINISHED
    made_for = _made_for(done) or _made_for(unfinished)
    if made_for is None:
        refuse_others(folder)
        write_text(unfinished, '{"made_for": []}\n')
    elif done.is_file():
        done.replace(unfinished)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    (folder / SCRATCH).mkdir()
    (folder / "wheels").mkdir(exist_ok=True)
    for wheel in (folder / "wheels").glob("*.whl"):
        if not zipfile.is_zipfile(wheel):  # cut off: the directory of a zip file is at its end
            print(f"{wheel.name} is incomplete and is fetched again.")
            wheel.unlink()
    return made_for or []


def _made_for(path: Path) -> list[str] | None:
    """What a wheelhouse's record says it was made for; None if ``path`` is no such record."""
    try:
        return [str(target) for target in json.loads(path.read_text())["made_for"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fill(
    folder: Path, target: Target, index_url: str | None, torch_index: str, project: Path, earlier: list[str]
) -> int:
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    needed = about["project"]["dependencies"] + about["project"]["optional-dependencies"]["test"]
    build = about["build-system"]["requires"]  # an editable installation needs them on the laptop
    wheels, scratch = folder / "wheels", folder / SCRATCH

    _say(1, f"the checkout in {project}")
    source = _archive(project, folder, scratch)

    _say(2, f"packages for {target}")
    fetch = ["download", "--dest", str(wheels), "--find-links", str(wheels), "--retries", "2", *target.options]
    if target.is_linux and torch_index != PYPI:
        fetch += _torch_without_cuda(fetch, folder, target, torch_index, needed)
    index = ["--index-url", index_url] if index_url else []
    run_pip([*fetch, *index, *needed, *build], folder, target)

    _say(3, "refseg itself, and whether all of it installs without a network")
    for old in wheels.glob("refseg-*.whl"):  # of the same version, but perhaps of another commit
        old.unlink()
    only = ["--no-index", "--find-links", str(wheels)]
    run_pip(["wheel", "--quiet", *only, "--no-deps", "--wheel-dir", str(wheels), str(source)], folder, Target())
    dry = ["install", "--quiet", "--dry-run", "--ignore-installed", "--target", str(scratch / "installed")]
    run_pip([*dry, *only, *target.options, "refseg[test]", *build], folder, target)

    _say(4, "check sums")
    shutil.rmtree(scratch)
    return _finish(folder, project, sorted({*earlier, str(target)}))


def _torch_without_cuda(fetch: list[str], folder: Path, target: Target, index: str, needed: list[str]) -> list[str]:
    """Fetch torch and torchvision from their own index; returns the options that keep pip to these versions."""
    torches = [line for line in needed if re.match(r"torch(vision)?\b", line)]
    try:
        run_pip([*fetch, "--no-deps", "--index-url", index, *torches], folder, target)
    except RefsegError as error:
        hint = f"--torch-index {PYPI} takes torch from PyPI, with several gigabytes of CUDA that no laptop needs."
        raise RefsegError(f"torch without CUDA, from {index}: {error} {hint}") from error
    pins = folder / SCRATCH / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in _newest(folder / "wheels", torches).items()))
    return ["--constraint", str(pins)]


def _finish(folder: Path, project: Path, made_for: list[str]) -> int:
    """Write INSTALL.txt, the check sums and, last, ``wheelhouse.json``; returns the size in bytes."""
    (folder / "INSTALL.txt").write_text(install_text(made_for), encoding="utf-8")
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (UNFINISHED, "SHA256SUMS", ".lock")
    )
    (folder / "SHA256SUMS").write_text("".join(f"{_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files))
    size = sum(path.stat().st_size for path in files)
    record = {"refseg": __version__, "commit": _git(project, "rev-parse", "HEAD"), "made_for": made_for}
    record |= {"files": len(files), "bytes": size}
    (folder / UNFINISHED).write_text(json.dumps(record, indent=1) + "\n")
    (folder / UNFINISHED).replace(folder / DONE)
    return size


def install_text(made_for: list[str]) -> str:
    """INSTALL.txt: the commands, for a terminal that was opened in the folder."""
    return INSTALL.format(version=__version__, made_for="\n".join(f"    {line}" for line in made_for))


INSTALL = """\
refseg {version}, to be installed without a network.

Made for
{made_for}
Your system and the first two numbers of your Python must be among these: python3 --version prints them (py --version
on Windows). If there is no file wheelhouse.json beside this one, the folder is incomplete: ask for another copy.

Open a terminal in this folder. The commands put the kit into the folder refseg of your home folder.

Linux and macOS

    python3 -m zipfile -e refseg-{version}.zip ~
    python3 -m venv ~/refseg/.venv
    ~/refseg/.venv/bin/python -m pip install --no-index --find-links wheels -e ~/refseg'[test]'
    touch ~/refseg/.venv/ready

(The last one tells make that there is nothing left to install.) Then check that all is well, draw the images of
RefShapes, which needs no network and takes a few minutes on a slow machine, and open the lessons:

    ~/refseg/.venv/bin/refseg doctor
    ~/refseg/.venv/bin/refseg prepare
    ~/refseg/.venv/bin/python -m jupyterlab ~/refseg/notebooks

Windows (PowerShell)

    py -m zipfile -e refseg-{version}.zip $HOME
    py -m venv $HOME\\refseg\\.venv
    & $HOME\\refseg\\.venv\\Scripts\\python -m pip install --no-index --find-links wheels -e "$HOME\\refseg[test]"

and then

    & $HOME\\refseg\\.venv\\Scripts\\refseg doctor
    & $HOME\\refseg\\.venv\\Scripts\\refseg prepare
    & $HOME\\refseg\\.venv\\Scripts\\python -m jupyterlab $HOME\\refseg\\notebooks

Is a file damaged? Linux: sha256sum -c SHA256SUMS   macOS: shasum -a 256 -c SHA256SUMS
"""


def _archive(project: Path, folder: Path, scratch: Path) -> Path:
    """Put the checkout into the folder as a zip file; returns it unpacked, in scratch."""
    name = f"refseg-{__version__}.zip"
    part = scratch / name
    if (project / ".git").exists() and _git(project, "rev-parse", "HEAD"):
        changed = _git(project, "status", "--porcelain").splitlines()
        if changed:
            print(f"The last commit goes in: {len(changed)} changed or new files do not.")
        done = subprocess.run(
            ["git", "archive", "--format=zip", "--prefix=refseg/", f"--output={part}", "HEAD"],
            cwd=project,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RefsegError(no_room(folder) if NO_ROOM.search(done.stderr) else f"git archive: {done.stderr.strip()}")
    else:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(project.rglob("*")):
                inside = path.relative_to(project).as_posix()
                if path.is_file() and not COPIED_NEVER.search(inside) and not path.is_relative_to(folder):
                    archive.write(path, f"refseg/{inside}")
    with zipfile.ZipFile(part) as archive:
        archive.extractall(scratch)
    for old in folder.glob("refseg-*.zip"):
        old.unlink()
    part.replace(folder / name)
    return scratch / "refseg"


def _newest(wheels: Path, requirements: list[str]) -> dict[str, str]:
    """The version for Linux that was fetched last of each required package: {"torch": "2.15.0+cpu"}."""
    found = {}
    for line in requirements:
        name = re.match(r"[a-z]+", line).group()
        path = max(wheels.glob(f"{name}-*linux*.whl"), key=lambda path: path.stat().st_mtime)
        found[name] = path.name.split("-")[1]
    return found


def _git(folder: Path, *words: str) -> str:
    """What git prints; "" if it is not installed or fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(step: int, what: str) -> None:
    print(f"[{step}/4] {what}", flush=True)
