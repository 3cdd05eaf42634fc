"""The wheelhouse: filled by the genuine pip from tiny packages made here, so that no test needs the network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from refseg import __version__
from refseg.errors import RefsegError
from refseg_course import wheelhouse
from refseg_course.wheelhouse import install_text, make_wheelhouse
from refseg_course.wheelhouse.pip import run_pip, why
from refseg_course.wheelhouse.target import PLATFORMS, Target

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

# A build backend small enough to be carried: what setuptools is to the real project.
BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    about = "Metadata-Version: 2.1\\nName: refseg\\nVersion: 7.0\\nProvides-Extra: test\\nRequires-Dist: torch\\n"
    about += "Requires-Dist: torchvision\\nRequires-Dist: alpha\\nRequires-Dist: checker; extra == 'test'\\n"
    with zipfile.ZipFile(folder + "/refseg-7.0-py3-none-any.whl", "w") as wheel:
        wheel.write("marked.py")
        wheel.writestr("refseg-7.0.dist-info/METADATA", about)
        wheel.writestr("refseg-7.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("refseg-7.0.dist-info/RECORD", "")
    return "refseg-7.0-py3-none-any.whl"
"""
PYPROJECT = """
[build-system]
requires = ["tinybuild"]
build-backend = "tinybuild"
[project]
name = "refseg"
dependencies = ["torch>=2", "torchvision", "alpha"]
optional-dependencies.test = ["checker"]
"""


def add_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any", code: str = "") -> Path:
    """A wheel of one module."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", about)
        wheel.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """What stands for PyPI: alpha needs another package on every system."""
    folder = tmp_path_factory.mktemp("shop")
    for tag in ("linux_x86_64", "win_amd64"):
        add_wheel(folder, "torch", "2.3", 'cuda; platform_system == "Linux"', tag=f"py3-none-{tag}")
        add_wheel(folder, "torchvision", "1.1", "torch", tag=f"py3-none-{tag}")
    systems = [f'on_{name}; sys_platform == "{name}"' for name in ("linux", "win32", "darwin")]
    add_wheel(folder, "alpha", "1.0", *systems, 'old; python_version < "3.10"', 'new; python_version >= "3.10"')
    for name in ("on_linux", "on_win32", "on_darwin", "old", "new", "cuda", "checker"):
        add_wheel(folder, name, "1.0")
    add_wheel(folder, "tinybuild", "1.0", code=BACKEND)
    return folder


@pytest.fixture
def only_the_shop(shop, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout that git knows nothing of, with things in it that stay at home."""
    folder = tmp_path / "my own kit"
    files = (
        "marked.py",
        "notebooks/00.ipynb",
        "data/README.md",
        "data/checkpoints/net/config.json",
        "data/results/a.json",
    )
    stay = (".venv/bin/python", "data/refshapes/1.png", "runs/a/log", "build/lib/x.py", "refseg/__pycache__/x.pyc")
    for name in (*files, *stay):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "marked.py").write_text("carried = True\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def wheels_of(folder: Path) -> set[str]:
    return {"-".join(path.name.split("-")[:2]) for path in (folder / "wheels").glob("*.whl")}


@pytest.fixture
def no_pip(monkeypatch):
    """pip only says what it is asked for, and every wheel asked for is there."""
    asked = []

    def pip(words, folder, target):
        asked.append(words)
        if "wheel" in words:
            add_wheel(folder / "wheels", "refseg", "7.0")

    monkeypatch.setattr(wheelhouse, "run_pip", pip)
    return asked


# ---- the genuine pip -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_filled_for_windows_then_installed_here(only_the_shop, project, tmp_path):
    """For two systems in one folder; then what INSTALL.txt says, from that folder alone."""
    folder = tmp_path / "stick"
    make_wheelhouse(folder, Target("win_amd64", "3.12"), project=project)
    assert wheels_of(folder) == {"refseg-7.0", "torch-2.3", "torchvision-1.1", "alpha-1.0", "checker-1.0"} | {
        "on_win32-1.0",
        "new-1.0",
        "tinybuild-1.0",
    }
    (folder / "wheels" / "alpha-1.0-py3-none-any.whl").write_bytes(b"PK\x03\x04 the stick was pulled")
    size = make_wheelhouse(folder, Target(), torch_index="pypi", project=project)
    assert wheels_of(folder) >= {"on_linux-1.0" if sys.platform == "linux" else "alpha-1.0", "on_win32-1.0"}
    record = json.loads((folder / "wheelhouse.json").read_text())
    assert record["made_for"] == sorted([str(Target()), "Windows AMD64, Python 3.12"]) and record["bytes"] == size
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(sums) == there - {"SHA256SUMS", "wheelhouse.json"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted for name, wanted in sums.items())

    with zipfile.ZipFile(folder / f"refseg-{__version__}.zip") as archive:
        archive.extractall(tmp_path / "home")
    target = ["--target", str(tmp_path / "installed"), "--no-index", "--find-links", "wheels"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *target, str(tmp_path / "home" / "refseg") + "[test]"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    assert {"marked.py", "alpha.py", "checker.py"} <= set(os.listdir(tmp_path / "installed"))


def test_markers_are_those_of_the_laptops(only_the_shop, shop, tmp_path):
    """The running pip, whose own machine is another one."""
    for target, extra in ((Target("windows", "3.12"), "on_win32"), (Target("macos", "3.9"), "on_darwin")):
        folder = tmp_path / extra
        (folder / "unfinished").mkdir(parents=True)
        run_pip(["download", "--quiet", "--dest", str(folder), *target.options, "alpha"], folder, target)
        newer = "old" if target.python == "3.9" else "new"
        assert sorted(p.name.split("-")[0] for p in folder.glob("*.whl")) == sorted(["alpha", extra, newer])


def test_a_package_without_a_wheel(only_the_shop, tmp_path):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(RefsegError, match=r"no wheel for beta>=3 on Windows AMD64, Python 3.13: try another"):
        target = Target("windows", "3.13")
        run_pip(["download", "--quiet", "--dest", str(tmp_path), *target.options, "beta>=3"], tmp_path, target)


# ---- pip in name only ------------------------------------------------------------------------------------------


def test_what_pip_is_asked_for_on_linux(no_pip, project, tmp_path, monkeypatch):
    monkeypatch.setattr(wheelhouse, "_newest", lambda wheels, lines: {"torch": "2.3+cpu", "torchvision": "1.1+cpu"})
    make_wheelhouse(tmp_path / "stick", Target("linux", "3.11"), index_url="https://mirror/simple", project=project)
    torch, rest, own, proof = no_pip
    assert torch[-2:] == ["torch>=2", "torchvision"] and "--no-deps" in torch
    assert torch[torch.index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert "--constraint" in rest and rest[rest.index("--index-url") + 1] == "https://mirror/simple"
    assert rest[-5:] == ["torch>=2", "torchvision", "alpha", "checker", "tinybuild"]
    assert all("--no-index" in words for words in (own, proof)) and proof[-2:] == ["refseg[test]", "tinybuild"]
    assert rest.count("--platform") == len(PLATFORMS["linux"]) and "--only-binary=:all:" in rest


def test_torch_comes_with_the_others_where_that_brings_no_cuda_or_is_wished(no_pip, project, tmp_path):
    for target, index in ((Target("windows"), wheelhouse.CPU_INDEX), (Target("linux"), "pypi")):
        make_wheelhouse(tmp_path / target.platform, target, torch_index=index, project=project)
        rest, _, _ = (no_pip.pop(0) for _ in range(3))
        assert "--constraint" not in rest and "--no-deps" not in rest and "torch>=2" in rest


def test_the_pinned_torch_is_the_one_for_linux(tmp_path):
    for number, name in enumerate(
        ("torch-2.2+cpu-cp311-cp311-linux_x86_64", "torch-2.3+cpu-cp311-cp311-manylinux_2_28")
    ):
        (tmp_path / f"{name}.whl").touch()
        os.utime(tmp_path / f"{name}.whl", (1000 + number, 1000 + number))
    (tmp_path / "torch-2.9-cp311-cp311-win_amd64.whl").touch()
    assert wheelhouse._newest(tmp_path, ["torch>=2"]) == {"torch": "2.3+cpu"}


def test_what_is_carried(no_pip, project, tmp_path):
    stick = project / "stick"  # inside the checkout: it must not pack itself
    make_wheelhouse(stick, Target("windows"), project=project)
    with zipfile.ZipFile(stick / f"refseg-{__version__}.zip") as archive:
        names = set(archive.namelist())
    assert names == {"refseg/" + name for name in ("marked.py", "pyproject.toml", "notebooks/00.ipynb")} | {
        "refseg/data/README.md",
        "refseg/data/checkpoints/net/config.json",
        "refseg/data/results/a.json",
    }


def test_a_checkout_goes_in_as_committed(no_pip, project, tmp_path, capsys):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(project)]
    for words in (["init", "-q"], ["add", "marked.py", "pyproject.toml"], ["commit", "-q", "-m", "x"]):
        if subprocess.run([*git, *words]).returncode:
            pytest.skip("git is not installed")
    (project / "marked.py").write_text("never committed\n")
    make_wheelhouse(tmp_path / "stick", Target("windows"), project=project)
    with zipfile.ZipFile(tmp_path / "stick" / f"refseg-{__version__}.zip") as archive:
        assert archive.read("refseg/marked.py") == b"carried = True\n"
        assert "refseg/runs/a/log" not in archive.namelist()
    assert re.search(r"The last commit goes in: \d+ changed or new files do not", capsys.readouterr().out)
    assert len(json.loads((tmp_path / "stick" / "wheelhouse.json").read_text())["commit"]) == 40


def test_cut_off_it_is_not_complete_and_goes_on(no_pip, project, tmp_path, monkeypatch, capsys):
    stick = tmp_path / "stick"
    make_wheelhouse(stick, Target("windows", "3.12"), project=project)
    (stick / "wheels" / "big-1.0-py3-none-any.whl").write_bytes(b"PK\x03\x04 half of it")
    working = wheelhouse.run_pip

    def cut_off(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(wheelhouse, "run_pip", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make_wheelhouse(stick, Target("macos", "3.12"), project=project)
    assert not (stick / "wheelhouse.json").exists() and not (stick / "unfinished").exists()
    assert "big-1.0-py3-none-any.whl is incomplete" in capsys.readouterr().out and "big-1.0" not in wheels_of(stick)
    monkeypatch.setattr(wheelhouse, "run_pip", working)
    make_wheelhouse(stick, Target("macos", "3.12"), project=project)
    record = json.loads((stick / "wheelhouse.json").read_text())
    assert record["made_for"] == ["Darwin arm64, Python 3.12", "Windows AMD64, Python 3.12"]
    assert not (stick / "unfinished.json").exists()


def test_a_folder_of_others_is_left_alone(no_pip, project, tmp_path):
    (tmp_path / "home" / "unfinished").mkdir(parents=True)
    (tmp_path / "home" / "unfinished" / "novel.txt").write_text("Once")
    with pytest.raises(RefsegError, match="holds unfinished/, which was not written there"):
        make_wheelhouse(tmp_path / "home", Target(), project=project)
    assert [p.name for p in (tmp_path / "home").rglob("*")] == ["unfinished", "novel.txt"]


def test_an_installed_copy_has_no_notebooks_to_carry(tmp_path):
    with pytest.raises(RefsegError, match="use a git clone"):
        make_wheelhouse(tmp_path / "stick", Target(), project=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(no_pip, project, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(wheelhouse, "_archive", full)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("usage", "free")(2**29))
    with pytest.raises(RefsegError, match=r"^No room: 0.5 GiB are left on the disk of .*stick\. Free some, then run"):
        make_wheelhouse(tmp_path / "stick", Target(), project=project)
    assert not (tmp_path / "stick" / "wheelhouse.json").exists()


def test_why_pip_failed_is_said_in_one_sentence(tmp_path):
    for said, sentence in (
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "No room: "),
        (
            "WARNING: Retrying (Retry(total=1)) NewConnectionError\nERROR: No matching distribution found for torch\n",
            "The package index cannot be reached",
        ),
        ("ERROR: No matching distribution found for ruff>=0.17\n", "There is no wheel for ruff>=0.17 on "),
        ("/usr/bin/python3: No module named pip\n", "This Python has no pip: "),
        ("Traceback\nERROR: something new\n", "pip failed: something new"),
        ("", "pip failed: it gives no reason"),
    ):
        found = why(said, tmp_path, Target())
        assert found.startswith(sentence) and "\n" not in found


def test_no_network_for_torch_names_the_other_way(project, tmp_path, monkeypatch):
    def unreachable(words, folder, target):
        raise RefsegError("The package index cannot be reached: connect to the network.")

    monkeypatch.setattr(wheelhouse, "run_pip", unreachable)
    with pytest.raises(
        RefsegError, match=r"^torch without CUDA, from https://.* cannot be reached: .*--torch-index pypi"
    ):
        make_wheelhouse(tmp_path / "stick", Target("linux"), project=project)


# ---- names -----------------------------------------------------------------------------------------------------


def test_targets():
    for platform, python, name, markers in (
        ("windows", "3.12", "Windows AMD64, Python 3.12", ("nt", "win32", "Windows", "AMD64")),
        ("macos", "3.13", "Darwin arm64, Python 3.13", ("posix", "darwin", "Darwin", "arm64")),
        ("linux", "3.11", "Linux x86_64, Python 3.11", ("posix", "linux", "Linux", "x86_64")),
        ("manylinux2014_aarch64", "3.11", "Linux aarch64, Python 3.11", ("posix", "linux", "Linux", "aarch64")),
    ):
        target = Target(platform, python)
        assert str(target) == name
        got = target.markers
        assert tuple(got[key] for key in ("os_name", "sys_platform", "platform_system", "platform_machine")) == markers
        assert (got["python_version"], got["python_full_version"]) == (python, f"{python}.0")


def test_this_machine_is_left_to_pip():
    target = Target()
    assert target.markers == {} and target.options == ["--only-binary=:all:"]
    assert str(target).endswith(f"Python {HERE}") and target.is_linux == (sys.platform == "linux")


def test_unknown_names_are_refused():
    for wrong in ({"platform": "amiga"}, {"platform": ""}, {"python": "3"}, {"python": "312"}):
        with pytest.raises(RefsegError):
            Target(**wrong)


def test_install_text_names_what_is_there():
    text = install_text(["Linux x86_64, Python 3.11", "Windows AMD64, Python 3.12"])
    assert "    Windows AMD64, Python 3.12\n" in text and "{" not in text
    assert text.count(f"refseg-{__version__}.zip") == 2 and text.count("--no-index --find-links wheels -e") == 2
    assert max(map(len, text.splitlines())) <= 130


def test_the_command(refseg, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr("refseg_course.wheelhouse.make_wheelhouse", lambda *args: called.append(args) or 1_240_000_000)
    words = ("wheelhouse", tmp_path, "--platform", "windows", "--python-version", "3.12", "--torch-index", "pypi")
    status, out, _ = refseg(*words)
    assert status == 0 and "is complete, 1.2 GB, for Windows AMD64, Python 3.12" in out
    assert called == [(tmp_path, Target("windows", "3.12"), None, "pypi")]
    status, _, err = refseg("wheelhouse", tmp_path, "--platform", "amiga")
    assert status == 2 and "windows, macos, linux" in err
