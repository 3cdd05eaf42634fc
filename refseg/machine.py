"""What a number was measured with: machine, versions, commit. Every results file has these."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import import_module
from pathlib import Path

import psutil
import torch

from refseg import __version__
from refseg.paths import PROJECT

PACKAGES = ("torch", "torchvision", "numpy")


def describe_machine(device: str | torch.device = "cpu") -> dict[str, str | int | float]:
    """Processor, cores for this process, torch threads, memory and the device computed on, never the host's name."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": memory_gib(),
        "device": _device_name(torch.device(device)),
    }


def versions() -> dict[str, str]:
    """Versions of refseg, Python and the packages that numbers depend on, with the build if there is one ("+cu130")."""
    packages = {name: str(import_module(name).__version__) for name in PACKAGES}
    return {"refseg": __version__, "python": platform.python_version()} | packages


def git_commit(folder: Path = PROJECT) -> str | None:
    """The commit of the checkout in ``folder``, followed by "+changes" if tracked files differ from it.

    None if refseg was not installed from a checkout, or git is missing.
    """
    if not (folder / ".git").exists():  # else git would answer for a repository around an installed copy
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def memory_gib() -> float:
    """Memory of the machine in GiB."""
    return round(psutil.virtual_memory().total / 2**30, 1)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
