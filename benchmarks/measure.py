"""Measuring: times in interleaved rounds, peak memory, and where a result was measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from refseg.files import write_text
from refseg.machine import describe_machine, git_commit, versions

Name = TypeVar("Name", bound=Hashable)


def about(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions and commit: what every result says about itself."""
    return {"machine": describe_machine(device), "versions": versions(), "commit": git_commit()}


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result as the other files in data/results/ are written."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def median_seconds(
    work: dict[Name, Callable[[], object]], rounds: int, *, once: frozenset[Name] = frozenset()
) -> dict[Name, float]:
    """The median time of each piece of work, which run in turn: a slow minute of a shared machine slows all of them.

    Args:
        work: pieces that were warmed up.
        rounds: how often each runs.
        once: pieces that run in the first round only.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in work}
    for number in tqdm(range(rounds), desc="rounds", leave=False):
        for name, step in work.items():
            if number and name in once:
                continue
            started = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def in_own_process(function: Callable[..., float], *arguments: Any) -> float:
    """``function(*arguments)`` in a fresh process, where freed memory goes back at once, so that peaks are real."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_threads, (torch.get_num_threads(), function, *arguments))


def _with_threads(threads: int, function: Callable[..., float], *arguments: Any) -> float:
    torch.set_num_threads(threads)
    return function(*arguments)


def peak_mb(work: Callable[[], object], device: str) -> float:
    """Mebibytes that ``work`` needs beyond what is in use before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - before) / 2**10


def kilobytes(name: str, file: str = "/proc/self/status") -> int:
    """A line of ``file`` in kB (Linux): VmRSS is the memory in use, VmHWM its highest value."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
