"""The doctor: every fault it looks for is made here, and its line and the command that fixes it are compared."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from refseg.paths import checkpoints_dir
from refseg_course import doctor
from refseg_course.doctor import Finding, examined

ROOT = Path(__file__).resolve().parents[2]


def failures(check) -> list[Finding]:
    return [finding for finding in examined(check) if not finding.ok]


def failed(check) -> Finding:
    (finding,) = failures(check)
    assert finding.remedy
    return finding


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """A folder of checkpoints with one file and its sum."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / doctor.SUMS).write_text(f"{hashlib.sha256(b'weights').hexdigest()}  net/model.safetensors\n")
    monkeypatch.setattr(doctor, "checkpoints_dir", lambda: tmp_path)
    return tmp_path


def test_a_report_on_this_machine():
    for check in (doctor.python, doctor.packages, doctor.torch_works, doctor.jupyter):
        found = list(examined(check))
        assert found and [str(finding) for finding in found if not finding.ok] == []
    named = {finding.what.split()[0] for finding in examined(doctor.packages)}
    assert {"torch", "ipywidgets", "jupyterlab"} <= named


def test_the_shipped_checkpoints_have_their_sums():
    listed = [line.split()[1] for line in (checkpoints_dir() / doctor.SUMS).read_text().splitlines()]
    there = [p.relative_to(checkpoints_dir()).as_posix() for p in checkpoints_dir().glob("*/*")]
    assert sorted(listed) == sorted(name for name in there if name.endswith((".json", ".safetensors")))
    again = "in data/checkpoints: sha256sum */*.json */*.safetensors > SHA256SUMS"
    assert failures(doctor.checkpoints) == [], f"after a new checkpoint run, {again}"


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.12")
    assert failed(doctor.python).what.startswith("Python 3.10.12 (needed >=3.11)")


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr("refseg.machine.memory_gib", lambda: 1.94)
    assert "memory: 1.9 GiB (needed 3)" == failed(doctor.memory).what


def test_a_full_disk(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(2**28))
    assert failed(doctor.disk) == Finding(
        False, "disk: 0.2 GiB free for data (needed 1)", "export REFSEG_DATA=/a/folder/on/a/larger/disk"
    )


def test_a_data_folder_that_is_not_there_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path / "a" / "b"))
    assert failures(doctor.disk) == [] and not (tmp_path / "a").exists()


def test_a_data_folder_that_refuses(monkeypatch, tmp_path):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert "cannot be written to (Permission denied)" in failed(doctor.disk).what


def test_a_missing_and_an_old_package(monkeypatch):
    def version(name, real=metadata.version):
        if name == "tqdm":
            raise metadata.PackageNotFoundError(name)
        odd = {"numpy": "1.26.4", "torch": "2.15.0+cu132", "torchvision": "3.0.0rc1"}  # the last two are new enough
        return odd.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    old, missing = failures(doctor.packages)
    assert old.what == "numpy 1.26.4 (needed >=2.0)" and old.remedy.endswith("-m pip install 'numpy>=2.0'")
    assert missing.what == "tqdm is not installed (needed >=4.66)"
    assert missing.remedy.startswith(sys.executable)


def test_an_installed_copy_asks_its_metadata(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    lines = ["torch>=2.9", "numpy>=2.0", 'ruff<0.18,>=0.17; extra == "test"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert [f.what.split(" (")[1] for f in examined(doctor.packages)] == ["needed >=2.9)", "needed >=2.0)"]


def test_no_kernel_and_blank_widgets(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_jupyter_folders", lambda: [tmp_path])
    kernel, widgets = failures(doctor.jupyter)
    assert "kernel is not registered" in kernel.what and "ipykernel install --sys-prefix" in kernel.remedy
    assert "sliders would be blank" in widgets.what and "jupyterlab_widgets" in widgets.remedy


def test_damaged_and_missing_checkpoints(checkpoints, monkeypatch):
    assert failures(doctor.checkpoints) == []
    (checkpoints / "net" / "model.safetensors").write_bytes(b"version https://git-lfs")
    assert "net/model.safetensors is not the one that was shipped" in failed(doctor.checkpoints).what
    (checkpoints / "net" / "model.safetensors").unlink()
    finding = failed(doctor.checkpoints)
    assert "is missing" in finding.what and finding.remedy.endswith("checkout -- data/checkpoints")
    monkeypatch.setattr(doctor, "PROJECT", checkpoints)  # installed from a wheel or a zip file
    assert failed(doctor.checkpoints).remedy == "install refseg again, or unpack its zip file again"
    (checkpoints / doctor.SUMS).unlink()
    assert "SHA256SUMS is missing" in failed(doctor.checkpoints).what


def test_the_shipped_network_is_tried(tiny_checkpoint, monkeypatch):
    tiny_checkpoint.rename(tiny_checkpoint.with_name("cmsa_refshapes"))
    monkeypatch.setattr(doctor, "checkpoints_dir", lambda: tiny_checkpoint.parent)
    (finding,) = examined(doctor.forward)
    assert finding.ok and "the shipped network answers" in finding.what
    (tiny_checkpoint.with_name("cmsa_refshapes") / "config.json").write_text("{")
    finding = failed(doctor.forward)
    assert "damaged" in finding.what and finding.remedy.endswith("checkout -- refseg data/checkpoints")


def test_data_may_be_undrawn(monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    (finding,) = examined(doctor.refshapes)
    assert finding.ok and "not drawn yet" in finding.what


def test_a_check_that_breaks_is_a_finding():
    def some_check():
        yield Finding(True, "first")
        raise OSError("gone")

    first, second = examined(some_check)
    assert first.ok and not second.ok and second.what == "some check: OSError: gone"


def test_the_report(monkeypatch, capsys):
    home = str(Path.home() / "kit")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding(True, f"in {home}"), Finding(False, "x", "make")]),))
    assert doctor.main(markdown=True) is False
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == ["```text", f"[OK]   in ~{os.sep}kit", "[FAIL] x", "       fix: make", "```"]
    assert lines[5].startswith("1 to fix")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding(True, "y")]),))
    assert doctor.main() is True
    assert capsys.readouterr().out == "[OK]   y\nAll is well.\n"


def test_the_command(refseg, monkeypatch):
    for finding, status in ((Finding(True, "y"), 0), (Finding(False, "x", "make"), 1)):
        monkeypatch.setattr(doctor, "CHECKS", (lambda found=finding: iter([found]),))
        assert refseg("doctor")[0] == status


def test_it_runs_without_any_package(tmp_path):
    """With -S and -I no installed package can be found: neither torch nor tyro nor jupyter_core."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from refseg_course.doctor import main; sys.exit(not main(True))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert re.search(r"^\[FAIL\] torch is not installed \(needed >=[\d.]+\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +fix: \S+ -m pip install 'torch>=", done.stdout, re.MULTILINE)
    assert "[FAIL] torch does not work here (ModuleNotFoundError" in done.stdout
    assert "[FAIL] the shipped network was not tried" in done.stdout
    assert "[FAIL] packaging is not installed" in done.stdout and "the memory was not measured" in done.stdout
    assert "[OK]   Python" in done.stdout and "[OK]   checkpoint file" in done.stdout
