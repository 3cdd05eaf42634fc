"""What looking across frames costs: time and memory of cross-frame self-attention against the number of frames T.

    python benchmarks/cfsa.py            # `make bench`: T from 1 to 16, writes data/results/cfsa_speed.json and .png
    python benchmarks/cfsa.py --json -   # one JSON object, no file

One target frame asks T frames of 40 x 40 regions. "fused" is what the block does (torch's fused attention, which never
holds the scores); "explicit" computes the same with every score in memory. Rounds are interleaved and the median is
reported, because machines are shared. "off_line" is how far the slowest or quickest T lies from the straight line
through all of them, as a share of its time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from cmsa import high_water_mb
from torch import Tensor

from refseg.machine import describe_machine, git_commit, versions
from refseg.models.blocks.cfsa import CFSAConfig, CrossFrameSelfAttention
from refseg.paths import results_dir

FORMS = ("fused", "explicit")


@dataclass(frozen=True)
class Size:
    """A grid of ``side`` x ``side`` regions; width and heads of the block (the preset ``cmsa_a2d``: 512 and 8)."""

    side: int = 40
    dim: int = 512
    heads: int = 8
    device: str = "cpu"


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor, scale: float) -> Tensor:
    """What torch's fused attention computes, with all scores in memory."""
    scores = (scale * query @ key.mT).masked_fill(~valid, torch.finfo(query.dtype).min)
    return scores.softmax(-1) @ value


def make(size: Size, frames: int) -> tuple[CrossFrameSelfAttention, Tensor]:
    """The block with the weights of one seed, and a clip [1,T,dim,side,side] that asks for gradients."""
    torch.manual_seed(0)
    block = CrossFrameSelfAttention(size.dim, CFSAConfig(size.dim, size.heads))
    clip = torch.randn(1, frames, size.dim, size.side, size.side, device=size.device)
    return block.to(size.device), clip.requires_grad_()


def run(form: str, block: CrossFrameSelfAttention, clip: Tensor, backward: bool) -> Tensor:
    """One pass for the frame in the middle."""
    frames = clip.shape[1]
    fused = F.scaled_dot_product_attention
    if form == "explicit":
        F.scaled_dot_product_attention = explicit_attention
    try:
        with torch.set_grad_enabled(backward):
            target = torch.tensor([frames // 2], device=clip.device)
            output = block(clip, target, torch.ones(1, frames, dtype=torch.bool, device=clip.device))
    finally:
        F.scaled_dot_product_attention = fused
    if backward:
        output.square().mean().backward()
    if clip.is_cuda:
        torch.cuda.synchronize()
    return output


def times(size: Size, counts: list[int], rounds: int, form: str) -> dict[int, dict[str, float]]:
    """Median seconds of forward and of forward with backward, by T."""
    cases = {frames: make(size, frames) for frames in counts}
    seconds: dict[tuple[int, bool], list[float]] = {(n, way): [] for n in counts for way in (False, True)}
    for case in cases.values():
        run(form, *case, True)
    for _ in range(rounds):
        for (frames, backward), measured in seconds.items():
            started = time.perf_counter()
            run(form, *cases[frames], backward)
            measured.append(time.perf_counter() - started)
    medians = {case: statistics.median(measured) for case, measured in seconds.items()}
    return {n: {"forward_s": medians[n, False], "backward_s": medians[n, True]} for n in counts}


def peak_mb(size: Size, frames: int, form: str) -> float:
    """Megabytes that one forward and backward needs beyond weights and clip, measured in a process of its own."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed memory goes back at once: the peak is what was in use
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_mb, (size, frames, form, torch.get_num_threads()))


def _peak_mb(size: Size, frames: int, form: str, threads: int) -> float:
    torch.set_num_threads(threads)
    run(form, *make(Size(2, size.dim, size.heads, size.device), 1), True)
    block, clip = make(size, frames)
    return high_water_mb(lambda: run(form, block, clip, True), size.device)


def off_line(counts: list[int], seconds: list[float]) -> float:
    """Largest relative distance of a measured time from the straight line through all of them (least squares)."""
    line = np.poly1d(np.polyfit(counts, seconds, 1, w=1 / np.asarray(seconds)))
    return float(np.abs(line(counts) / seconds - 1).max())


@dataclass
class Bench:
    """Measure time and memory against T."""

    frames: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of frames T."""
    side: int = 40
    """Regions in a row and in a column."""
    dim: int = 512
    """Width of features, queries, keys and values."""
    heads: int = 8
    """Heads of the block."""
    rounds: int = 5
    """How often each T is timed."""
    device: str = "cpu"
    """cpu or cuda."""
    memory: bool = True
    """Measure peak memory too, each T in a process of its own."""
    json: str | None = None
    """Print the numbers as one JSON object (-) and write no file."""

    def run(self) -> None:
        """Measure and report."""
        size, counts = Size(self.side, self.dim, self.heads, self.device), list(self.frames)
        forms = {}
        for form in FORMS:
            rows = times(size, counts, self.rounds, form)
            for frames, row in rows.items():
                if self.memory:
                    row["peak_mb"] = peak_mb(size, frames, form)
            forms[form] = rows
        about = {"machine": describe_machine(self.device), "versions": versions(), "commit": git_commit()}
        seconds = [forms["fused"][frames]["backward_s"] for frames in counts]
        result = {"size": vars(size), "forms": forms, "off_line": off_line(counts, seconds), **about}
        if self.json == "-":
            print(json.dumps(result))
            return
        stem = "cfsa_speed" if self.device == "cpu" else f"cfsa_speed_{self.device}"
        path = results_dir() / f"{stem}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        plot(result, path.with_suffix(".png"))
        print(table(result), f"\nWritten: {path} and {path.with_suffix('.png').name}")


def table(result: dict) -> str:
    """Time and memory against T, Markdown."""
    lines = [
        "| frames T | forward | forward + backward | peak memory | with scores in memory |",
        "|---|---|---|---|---|",
    ]
    for frames, row in result["forms"]["fused"].items():
        other = result["forms"]["explicit"][frames]
        memory, its_memory = (f"{r['peak_mb']:,.0f} MB" if "peak_mb" in r else "" for r in (row, other))
        its = f"{other['backward_s']:.3f} s, {its_memory}".rstrip(", ")
        lines.append(f"| {frames} | {row['forward_s']:.3f} s | {row['backward_s']:.3f} s | {memory} | {its} |")
    return "\n".join(lines)


def plot(result: dict, path: Path) -> None:
    """Time and memory over T, both forms."""
    import matplotlib.pyplot as plt

    styles = {"fused": ("o-", "#000000", "fused kernel (ours)"), "explicit": ("s--", "#d55e00", "scores in memory")}
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    whats = {"backward_s": "forward + backward, seconds", "peak_mb": "peak memory, MB"}
    for panel, (key, label) in zip(panels, whats.items(), strict=True):
        for form, (style, colour, name) in styles.items():
            measured = [(int(frames), row[key]) for frames, row in result["forms"][form].items() if key in row]
            if measured:
                panel.plot(*zip(*measured), style, color=colour, label=name)
        panel.set(xlabel="frames T", ylabel=label, ylim=(0, None), xticks=list(map(int, result["forms"]["fused"])))
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    side, dim = result["size"]["side"], result["size"]["dim"]
    figure.suptitle(f"Cross-frame self-attention, one target frame, {side} x {side} regions, width {dim}")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    tyro.cli(Bench).run()
