"""``refseg wheelhouse``: a folder from which the kit installs without a network, for thirty laptops.

pip does the work, from PyPI. Every step can be repeated, so a run that was cut off is simply started again. The folder
is complete when it holds ``wheelhouse.json``, which is written last:

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
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from refseg import __version__
from refseg.errors import RefsegError
from refseg.paths import PROJECT

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYPI = "pypi"  # as --torch-index: PyPI's torch for Linux draws several gigabytes of CUDA packages
DONE, UNFINISHED = "wheelhouse.json", "unfinished.json"
SCRATCH = "unfinished"  # in the folder itself: the system's place for temporary files is often small

# What pip calls the systems of our choice. A Linux wheel names the oldest C library it runs with, 2.17 to 2.28 here.
PLATFORMS = {
    "windows": ("win_amd64",),
    "macos": ("macosx_14_0_arm64",),
    "linux": (*(f"manylinux_2_{n}_x86_64" for n in range(28, 16, -1)), "manylinux2014_x86_64", "linux_x86_64"),
}
SYSTEMS = {  # prefix of pip's name: os_name, sys_platform, platform_system
    "win": ("nt", "win32", "Windows"),
    "macosx": ("posix", "darwin", "Darwin"),
    "manylinux": ("posix", "linux", "Linux"),
    "musllinux": ("posix", "linux", "Linux"),
    "linux": ("posix", "linux", "Linux"),
}

# pip chooses wheels for the platform it is told, but asks "is this Windows?" of the machine it runs on. Without this,
# Linux would put CUDA for torch into a wheelhouse for Windows, and leave out what only Windows needs.
PIP_FOR_ANOTHER_MACHINE = """
import json, sys
from pip._vendor.packaging import markers
changes, here = json.loads(sys.argv.pop(1)), markers.default_environment
markers.default_environment = lambda: {**here(), **changes}
from pip._internal.cli.main import main
sys.exit(main())
"""

NO_ROOM = re.compile(r"No space left on device|not enough space on the disk|Disk quota exceeded", re.IGNORECASE)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Max retries|ProxyError|SSLError|"
    r"Connection (?:refused|reset|aborted|broken)|IncompleteRead|Network is unreachable"
)
COPIED_NEVER = re.compile(  # of a folder that is no git checkout: what a checkout would not hold either
    r"(?:^|/)(?:\.git|\.venv[^/]*|__pycache__|\.ipynb_checkpoints|\.pytest_cache|\.ruff_cache|[^/]*\.egg-info)(?:/|$)|"
    r"^(?:build|dist|runs)(?:/|$)|^data/(?!README\.md$|checkpoints(?:/|$)|results(?:/|$))"
)


@dataclass(frozen=True)
class Target:
    """The laptops that a wheelhouse is for.

    Args:
        platform: "windows", "macos", "linux", or pip's own name such as "win_amd64"; None is this machine's.
        python: such as "3.12"; None is the running one.

    Raises:
        RefsegError: either is no such name.
    """

    platform: str | None = None
    python: str | None = None

    def __post_init__(self):
        if self.platform is not None and self._system is None:
            known = ", ".join(PLATFORMS)
            raise RefsegError(
                f"There is no platform {self.platform!r}: give {known}, or pip's name, such as win_amd64."
            )
        if self.python is not None and not re.fullmatch(r"3\.\d{1,2}", self.python):
            raise RefsegError(f"{self.python!r} is no version of Python like 3.12.")

    @property
    def tags(self) -> tuple[str, ...]:
        """pip's names of the platform."""
        return PLATFORMS.get(self.platform, (self.platform,)) if self.platform else ()

    @property
    def options(self) -> list[str]:
        """What pip is told; wheels only, for who has a compiler on a laptop?"""
        version = ["--python-version", self.python] if self.python else []
        return ["--only-binary=:all:", *(word for tag in self.tags for word in ("--platform", tag)), *version]

    @property
    def markers(self) -> dict[str, str]:
        """The environment markers (PEP 508) in which the laptops differ from this machine, as far as packages ask."""
        changes = {}
        if self._system:
            names = ("os_name", "sys_platform", "platform_system")
            changes |= dict(zip(names, self._system)) | {"platform_machine": self._machine}
        if self.python:
            changes |= {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        return changes

    @property
    def is_linux(self) -> bool:
        """Whether PyPI's torch would bring CUDA along."""
        return self._system[1] == "linux" if self._system else sys.platform == "linux"

    def __str__(self) -> str:
        system = f"{self._system[2]} {self._machine}" if self._system else _this_system()
        return f"{system}, Python {self.python or f'{sys.version_info[0]}.{sys.version_info[1]}'}"

    @property
    def _system(self) -> tuple[str, str, str] | None:
        for prefix, system in SYSTEMS.items():
            if self.tags and re.match(rf"{prefix}[\d_]", self.tags[0]):
                return system
        return None

    @property
    def _machine(self) -> str:
        machine = re.search(r"(x86_64|amd64|arm64|aarch64|i686|universal2|$)", self.tags[0]).group()
        return machine.upper() if self._system[1] == "win32" else machine


def make_wheelhouse(
    folder: Path, target: Target, index_url: str | None = None, torch_index: str = CPU_INDEX, project: Path = PROJECT
) -> int:
    """Fill ``folder`` and return its size in bytes. A folder filled before, for other laptops too, is added to.

    Args:
        folder: a new or empty one, or a wheelhouse, finished or not.
        target: the laptops.
        index_url: in place of PyPI.
        torch_index: where torch and torchvision for Linux come from; "pypi" takes them like all others.
        project: the checkout.

    Raises:
        RefsegError: refseg runs from no checkout, the folder holds other files, a package has no wheel for the target,
            or there is no network or no room. The folder then has no ``wheelhouse.json``, and the same call goes on.
    """
    if not (project / "pyproject.toml").is_file():
        raise RefsegError(
            f"A wheelhouse holds the checkout with its notebooks, and {project} is none: use a git clone."
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
            raise RefsegError(_no_room(folder)) from error
        raise RefsegError(f"{error.filename or folder} could not be written or read ({error.strerror}).") from error


def _begin(folder: Path) -> list[str]:
    """Mark the folder as unfinished; returns what it was made for before."""
    folder.mkdir(parents=True, exist_ok=True)
    done, unfinished = folder / DONE, folder / UNFINISHED
    if done.is_file():
        done.replace(unfinished)
    elif not unfinished.is_file():
        if any(folder.iterdir()):
            raise RefsegError(f"{folder} holds other files: name a new or an empty folder.")
        unfinished.write_text('{"made_for": []}\n')
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    (folder / SCRATCH).mkdir()
    (folder / "wheels").mkdir(exist_ok=True)
    for wheel in (folder / "wheels").glob("*.whl"):
        if not zipfile.is_zipfile(wheel):  # cut off: the directory of a zip file stands at its end
            print(f"{wheel.name} is not whole and is fetched again.")
            wheel.unlink()
    try:
        return list(json.loads(unfinished.read_text())["made_for"])
    except (ValueError, KeyError, TypeError):  # the power failed while it was written
        return []


def _fill(
    folder: Path, target: Target, index_url: str | None, torch_index: str, project: Path, earlier: list[str]
) -> int:
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    needed = about["project"]["dependencies"] + about["project"]["optional-dependencies"]["test"]
    build = about["build-system"]["requires"]  # an editable installation needs them on the laptop
    wheels, scratch = folder / "wheels", folder / SCRATCH
    fetch = ["download", "--dest", str(wheels), "--find-links", str(wheels), "--retries", "2", *target.options]
    index = ["--index-url", index_url] if index_url else []

    _say(1, f"the checkout in {project}")
    source = _archive(project, folder, scratch)
    _say(2, f"packages for {target}")
    if target.is_linux and torch_index != PYPI:
        torches = [line for line in needed if re.match(r"torch(vision)?\b", line)]
        try:
            _pip([*fetch, "--no-deps", "--index-url", torch_index, *torches], folder, target)
        except RefsegError as error:
            hint = f"--torch-index {PYPI} takes torch from PyPI, with some gigabytes of CUDA that no laptop needs."
            raise RefsegError(f"torch without CUDA, from {torch_index}: {error} {hint}") from error
        pins = [f"{name}=={version}" for name, version in _newest(wheels, torches).items()]
        (scratch / "pins.txt").write_text("\n".join(pins) + "\n")
        fetch += ["--constraint", str(scratch / "pins.txt")]
    _pip([*fetch, *index, *needed, *build], folder, target)

    _say(3, "refseg itself, and whether all of it installs without a network")
    for old in wheels.glob("refseg-*.whl"):  # of the same version, but perhaps of another commit
        old.unlink()
    only = ["--no-index", "--find-links", str(wheels)]
    _pip(["wheel", "--quiet", *only, "--no-deps", "--wheel-dir", str(wheels), str(source)], folder, Target())
    dry = ["install", "--quiet", "--dry-run", "--ignore-installed", "--target", str(scratch / "installed")]
    _pip([*dry, *only, *target.options, "refseg[test]", *build], folder, target)

    _say(4, "check sums")
    made_for = sorted({*earlier, str(target)})
    (folder / "INSTALL.txt").write_text(install_text(made_for), encoding="utf-8")
    shutil.rmtree(scratch)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (UNFINISHED, "SHA256SUMS"))
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
Your system and the first two numbers of your Python must be among these: python3 --version tells (py --version on
Windows). If there is no file wheelhouse.json beside this one, the folder is not complete: ask for another copy.

Open a terminal in this folder. The commands put the kit into the folder refseg of your home folder.

Linux and macOS

    python3 -m zipfile -e refseg-{version}.zip ~
    python3 -m venv ~/refseg/.venv
    ~/refseg/.venv/bin/python -m pip install --no-index --find-links wheels -e ~/refseg'[test]'
    touch ~/refseg/.venv/ready

(The last one tells make that nothing is left to install.) Then look whether all is well, draw the pictures of
RefShapes, which needs no network either and takes a few minutes on a slow machine, and open the lessons:

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
            print(f"It goes in as of the last commit: {len(changed)} changed or new files do not.")
        done = subprocess.run(
            ["git", "archive", "--format=zip", "--prefix=refseg/", f"--output={part}", "HEAD"],
            cwd=project,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RefsegError(
                _no_room(folder) if NO_ROOM.search(done.stderr) else f"git archive: {done.stderr.strip()}"
            )
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


def _pip(words: list[str], folder: Path, target: Target) -> None:
    """Run pip for ``target``; what it says is shown as it comes.

    Raises:
        RefsegError: it fails; the sentence says why, and where that is known how to mend it.
    """
    environment = dict(os.environ, TMPDIR=str(folder / SCRATCH), TEMP=str(folder / SCRATCH), PIP_NO_INPUT="1")
    if "--no-index" in words:  # nothing but the folder: no index or folder of this machine's settings
        environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    start = ["-c", PIP_FOR_ANOTHER_MACHINE, json.dumps(target.markers)] if target.markers else ["-m", "pip"]
    complaints = []
    command = [sys.executable, *start, *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as pip:
        for line in pip.stderr:
            complaints.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    if pip.returncode:
        raise RefsegError(_why("".join(complaints), folder, target))


def _why(complaints: str, folder: Path, target: Target) -> str:
    """pip's complaints as one sentence."""
    if NO_ROOM.search(complaints):
        return _no_room(folder)
    if "No module named pip" in complaints:
        return f"This Python has no pip: {sys.executable} -m ensurepip installs it."
    if NO_NETWORK.search(complaints):
        return "The package index cannot be reached: mend the network, then run the same command, it goes on."
    missing = re.search(r"No matching distribution found for (.*)", complaints)
    if missing:
        return (
            f"There is no wheel of {missing.group(1).strip()} for {target}: try another --python-version or platform."
        )
    errors = re.findall(r"^ERROR: (.*)$", complaints, re.MULTILINE) or complaints.strip().splitlines()[-1:]
    return f"pip failed: {errors[0] if errors else 'it does not say why'}"


def _no_room(folder: Path) -> str:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free / 2**30
    return (
        f"No room: {free:.1f} GiB are left on the disk of {folder}. Make room, then run the same command, it goes on."
    )


def _newest(wheels: Path, requirements: list[str]) -> dict[str, str]:
    """The version for Linux that was fetched last of each required package: {"torch": "2.15.0+cpu"}."""
    found = {}
    for line in requirements:
        name = re.match(r"[a-z]+", line).group()
        path = max(wheels.glob(f"{name}-*linux*.whl"), key=lambda path: path.stat().st_mtime)
        found[name] = path.name.split("-")[1]
    return found


def _git(folder: Path, *words: str) -> str:
    """What git says, "" if it is not installed or fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _this_system() -> str:
    return f"{platform.system()} {platform.machine()}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(step: int, what: str) -> None:
    print(f"[{step}/4] {what}", flush=True)
