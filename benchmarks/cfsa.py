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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from measure import about, in_own_process, median_seconds, peak_mb, write_json
from study import table as markdown
from torch import Tensor

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
    block = CrossFrameSelfAttention(size.dim, CFSAConfig(dim=size.dim, heads=size.heads))
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
    for case in cases.values():
        run(form, *case, True)
    work = {(frames, way): partial(run, form, *cases[frames], way) for frames in counts for way in (False, True)}
    medians = median_seconds(work, rounds)
    return {n: {"forward_s": medians[n, False], "backward_s": medians[n, True]} for n in counts}


def memory_mb(size: Size, frames: int, form: str) -> float:
    """Mebibytes that one forward and backward needs beyond weights and clip."""
    run(form, *make(Size(2, size.dim, size.heads, size.device), 1), True)
    block, clip = make(size, frames)
    return peak_mb(lambda: run(form, block, clip, True), size.device)


def off_line(counts: list[int], seconds: list[float]) -> float:
    """Largest relative distance of a measured time from the straight line through all of them (least squares)."""
    line = np.poly1d(np.polyfit(counts, seconds, 1, w=1 / np.asarray(seconds)))
    return float(np.abs(line(counts) / seconds - 1).max())


@dataclass
class Bench:
    """Measure time and memory against T."""

    frames: tuple[int, ...] = (1, 2, 4, 8, 16)  # Numbers of frames T.
    side: int = 40  # Regions in a row and in a column.
    dim: int = 512  # Width of features, queries, keys and values.
    heads: int = 8  # Heads of the block.
    rounds: int = 5  # How often each T is timed.
    device: str = "cpu"  # cpu or cuda.
    memory: bool = True  # Measure peak memory too, each T in a process of its own.
    json: str | None = None  # Print the numbers as one JSON object (-) and write no file.

    def run(self) -> None:
        """Measure and report."""
        size, counts = Size(self.side, self.dim, self.heads, self.device), list(self.frames)
        forms = {}
        for form in FORMS:
            rows = times(size, counts, self.rounds, form)
            for frames, row in rows.items():
                if self.memory:
                    row["peak_mb"] = in_own_process(memory_mb, size, frames, form)
            forms[form] = rows
        seconds = [forms["fused"][frames]["backward_s"] for frames in counts]
        result = {"size": vars(size), "forms": forms, "off_line": off_line(counts, seconds)}
        result |= about(self.device)
        if self.json == "-":
            print(json.dumps(result))
            return
        stem = "cfsa_speed" if self.device == "cpu" else f"cfsa_speed_{self.device}"
        path = results_dir() / f"{stem}.json"
        write_json(path, result)
        plot(result, path.with_suffix(".png"))
        print(table(result), f"\nWritten: {path} and {path.with_suffix('.png').name}")


def table(result: dict) -> str:
    """Time and memory against T, Markdown."""
    fused, explicit = result["forms"]["fused"], result["forms"]["explicit"]

    def memory(row: dict) -> str:
        return f"{row['peak_mb']:,.0f} MB" if "peak_mb" in row else ""

    columns = {
        "forward": lambda runs: f"{runs[0]['forward_s']:.3f} s",
        "forward + backward": lambda runs: f"{runs[0]['backward_s']:.3f} s",
        "peak memory": lambda runs: memory(runs[0]),
        "with scores in memory": lambda runs: f"{runs[1]['backward_s']:.3f} s, {memory(runs[1])}".rstrip(", "),
    }
    return markdown("frames T", {str(frames): [row, explicit[frames]] for frames, row in fused.items()}, columns)


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
