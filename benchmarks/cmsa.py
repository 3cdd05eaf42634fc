"""What the factorisation of CMSA buys: time, memory and error of every form of the block, side by side in one run.

    python benchmarks/cmsa.py --positions 1600 --words 20 --dim 512 --json -   # one point, one JSON object
    python benchmarks/cmsa.py --sweep       # `make bench`: the curves too, data/results/cmsa_speed.json and .png

The forms, all given the same images, words and weights (see ``refseg/models/blocks/cmsa.py``):

    literal        the equation as written, every score in memory; only where it fits
    literal_sdpa   the same through torch's fused attention, which never holds the scores
    per_word       factorised, one softmax over the regions per query word
    rank_n         factorised, one exponential matrix for all query words: what the block does
    plain          a non-local block over the regions alone, without words (Wang et al., CVPR 2018), scores in memory

The literal forms are given the cheap projections of the factorised ones, which favours them. "plain" has the same
visual width and attention width. Rounds are interleaved and the median is reported, because machines are shared.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path

import torch
import tyro
from cmsa_forms import Point, attended, attended_literal, make, run
from measure import about, in_own_process, kilobytes, median_seconds, peak_mb, write_json
from study import Cell
from study import table as markdown
from torch import Tensor, nn
from tqdm.auto import tqdm

from refseg.models.blocks.cross_modal import multimodal_parts, project_parts
from refseg.paths import results_dir

SWEEPS = {"words": (1, 2, 5, 10, 20, 40), "positions": (100, 400, 1600, 6400), "dim": (64, 128, 256, 512)}


# ------------------------------------------------------------------------------------------------------- measures


def times(point: Point, forms: list[str], rounds: int, slow: set[str]) -> dict[str, dict[str, float]]:
    """Median seconds of forward and of forward with backward; the ``slow`` forms run once, after a small warm-up."""
    cases = {form: make(point, form) for form in forms}
    for form in forms:
        small = replace(point, positions=min(64, point.positions), words=min(3, point.words))
        warm = (small, *make(small, form)) if form in slow else (point, *cases[form])
        run(warm[0], form, warm[1], warm[2], True)
    work = {(form, way): partial(run, point, form, *cases[form], way) for form in forms for way in (False, True)}
    medians = median_seconds(work, rounds, once=frozenset(case for case in work if case[0] in slow))
    return {form: {"forward_s": medians[form, False], "backward_s": medians[form, True]} for form in forms}


def memory_mb(point: Point, form: str) -> float:
    """Mebibytes that one forward and backward needs beyond weights and inputs."""
    small = replace(point, positions=16, words=2)
    run(small, form, *make(small, form), True)
    block, inputs = make(point, form)
    return peak_mb(lambda: run(point, form, block, inputs, True), point.device)


def error(point: Point, form: str, queries: int = 16) -> float:
    """Relative error of the attended value at some query regions against the literal form in float64."""
    block, inputs = make(point, form)
    rows = torch.linspace(0, point.positions - 1, min(queries, point.positions), device=point.device).long()
    short = point.dtype != "float32"
    with torch.no_grad():
        with torch.autocast(point.device, getattr(torch, point.dtype), enabled=short):
            got = _rows(form, block, inputs, rows)
        exact = attended_literal(block.double(), *(x.double() for x in inputs[:2]), inputs[2], fused=True, rows=rows)
    return ((got.double() - exact).norm() / exact.norm()).item()


def _rows(form: str, block: nn.Module, inputs: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    if form in ("rank_n", "per_word"):
        return attended(form, block, *inputs)[:, rows]
    return attended_literal(block, *inputs, fused=form == "literal_sdpa", rows=rows)


def precision(spreads: tuple[int, ...] = (1, 10, 100, 1000), seeds: int = 5) -> list[dict[str, float]]:
    """Error of value and gradients against float64 where logits have the given standard deviations.

    Small enough for the literal form in float64. Medians over ``seeds``; "literal" is its own float32 error.
    """
    point = Point(positions=196, words=7, dim=64)
    rows = []
    for spread in spreads:
        row: dict[str, float] = {"spread": spread}
        for form in ("literal", "rank_n", "per_word"):
            found = [_precision(point, form, spread, seed) for seed in range(seeds)]
            row |= {f"{form}_value": statistics.median(value for value, _ in found)}
            row |= {f"{form}_gradient": statistics.median(gradient for _, gradient in found)}
        rows.append(row)
    return rows


def _precision(point: Point, form: str, spread: float, seed: int) -> tuple[float, float]:
    block, (pixels, words, valid) = make(point, form, seed)
    with torch.no_grad():  # scale the queries until the logits spread as asked
        query, key = (sum(_pair(linear, pixels, words)) for linear in (block.query, block.key))
        block.query.weight.mul_(spread / (query.flatten(1, 2) @ key.flatten(1, 2).mT).std())
        block.query.bias.zero_()
    results = []
    for kind, cast in ((form, Tensor.float), ("literal", Tensor.double)):
        block = block.to(cast(torch.zeros(1)).dtype)
        inputs = [cast(x.detach()).requires_grad_() for x in (pixels, words)]
        block.zero_grad()
        value = attended(kind, block, *inputs, valid)
        target = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value.dtype)
        (value * target).sum().backward()
        gradients = [*inputs, block.query.weight, block.key.weight, block.value.weight]
        results.append((value.detach().double(), torch.cat([x.grad.double().flatten() for x in gradients])))
    (value, gradient), (exact, exact_gradient) = results
    return tuple(((a - b).norm() / b.norm()).item() for a, b in ((value, exact), (gradient, exact_gradient)))


def _pair(linear: nn.Linear, pixels: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    part_p, part_n = project_parts(linear, *multimodal_parts(pixels, words))
    return part_p[:, None], part_n[:, :, None]


# -------------------------------------------------------------------------------------------------------- reports


def measure(point: Point, rounds: int, literal_seconds: float, memory: bool) -> dict:
    """All forms at one size: {"size": ..., "forms": {form: {...}}}, with the ratios to "plain" and "literal_sdpa"."""
    rate = 1e11 if point.device == "cpu" else 1e13  # multiply-adds per second, a guess good enough to choose by
    expected = 4 * point.literal_operations() / rate
    forms = ["plain", "rank_n", "per_word"]
    literal = ["literal_sdpa"] * (expected < literal_seconds)
    literal += ["literal"] * (expected < literal_seconds and point.literal_gib() < _free_gib(point.device))
    found = times(point, forms + literal, rounds, slow=set(literal) if expected > 1 else set())
    for form, row in found.items():
        if form != "plain":
            row["error"] = error(point, form)
        if memory:
            row["peak_mb"] = in_own_process(memory_mb, point, form)
        for other in ("plain", "literal_sdpa", "literal"):
            if other in found and other != form:
                both = {name: row[name] / found[other][name] for name in ("forward_s", "backward_s")}
                row[f"over_{other}"] = {name.removesuffix("_s"): ratio for name, ratio in both.items()}
    return {"size": asdict(point), "forms": found}


def _free_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**30
    return kilobytes("MemAvailable", "/proc/meminfo") / 2**20


def table(result: dict) -> str:
    """One measured size as a Markdown table."""

    def number(path: str, form: str, invert: bool = False) -> Cell:
        def cell(runs: list[dict]) -> str:
            value = reduce(lambda inner, name: inner.get(name, {}), path.split("."), runs[0])
            return format(1 / value if invert else value, form) if value != {} else ""

        return cell

    columns = {"forward s": number("forward_s", ".4f"), "forward + backward s": number("backward_s", ".4f")}
    columns |= {"peak MB": number("peak_mb", ".0f"), "error": number("error", ".1e")}
    columns |= {"over plain": number("over_plain.backward", ".2f")}
    columns |= {"faster than literal": number("over_literal_sdpa.backward", ".0f", invert=True)}
    title = "P={positions} N={words} d={dim} batch {batch} {dtype} on {device}".format(**result["size"])
    return markdown(title, {form: [row] for form, row in result["forms"].items()}, columns)


def precision_table(rows: list[dict[str, float]]) -> str:
    """``precision`` as a Markdown table."""
    columns = {name: lambda runs, name=name: f"{runs[0][name]:.2e}" for name in rows[0] if name != "spread"}
    return markdown("spread", {str(row["spread"]): [row] for row in rows}, columns)


def plot(results: dict, path: Path) -> None:
    """Forward and backward over N, P and d."""
    import matplotlib.pyplot as plt

    titles = {"words": "words N", "positions": "regions P", "dim": "attention width d"}
    styles = {"literal_sdpa": "s--", "per_word": "^-.", "rank_n": "o-", "plain": "d:"}
    labels = {"literal_sdpa": "as written (fused kernel)", "per_word": "factorised, softmax per word"}
    labels |= {"rank_n": "factorised, rank N (ours)", "plain": "plain attention, no words"}
    colours = dict(zip(styles, ("#d55e00", "#0072b2", "#000000", "#009e73"), strict=True))
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    for panel, (name, points) in zip(panels, results["sweeps"].items(), strict=True):
        for form, style in styles.items():
            measured = [(p["size"][name], p["forms"][form]["backward_s"]) for p in points if form in p["forms"]]
            panel.plot(*zip(*measured), style, color=colours[form], label=labels[form], markersize=6)
        panel.set(xscale="log", yscale="log", xlabel=titles[name], xticks=SWEEPS[name])
        panel.set_xticklabels(SWEEPS[name])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("forward + backward, seconds")
    panels[0].legend(frameon=False, fontsize=9)
    size = results["headline"]["size"]
    given = f"{size['positions']} regions, {size['words']} words, width {size['dim']} where not varied"
    figure.suptitle(f"One CMSA block, {size['dtype']}, {results['machine']['device']}: {given}")
    figure.savefig(path, dpi=110, metadata={"Software": None})


@dataclass
class Bench:
    """Measure the forms of the CMSA block."""

    positions: int = 1600  # Regions P.
    words: int = 20  # Words N.
    dim: int = 512  # Attention width d.
    batch: int = 1  # Samples at once.
    dtype: str = "float32"  # float32, or bfloat16 for autocast.
    device: str = "cpu"  # cpu or cuda.
    rounds: int = 5  # How often each quick form is timed.
    literal_seconds: float = 60.0  # The literal forms are left out where they are expected to take longer than this.
    memory: bool = True  # Measure peak memory too, each form in a process of its own.
    sweep: bool = False  # Measure the curves over N, P and d as well, and write JSON and plot to data/results.
    json: str | None = None  # Write the numbers as one JSON object to this file; - prints it and nothing else.

    def run(self) -> None:
        """Measure and report."""
        point = Point(self.positions, self.words, self.dim, self.batch, self.dtype, self.device)
        headline = measure(point, self.rounds, self.literal_seconds, self.memory)
        results = {"headline": headline, "precision": precision()} if self.sweep else headline
        results = {**results, **about(self.device)}
        if self.sweep:
            results["sweeps"] = {name: self.curve(point, name, headline) for name in SWEEPS}
        if self.json == "-":
            print(json.dumps(results))
            return
        if self.sweep:
            stem = "cmsa_speed" if self.device == "cpu" else f"cmsa_speed_{self.device}_{self.dtype}_b{self.batch}"
            path = results_dir() / f"{stem}.json"
            write_json(path, results)
            plot(results, path.with_suffix(".png"))
            print("\n\n".join(table(p) for curve in results["sweeps"].values() for p in curve), end="\n\n")
            print(precision_table(results["precision"]), end="\n\n")
            print(f"Written: {path} and {path.with_suffix('.png').name}\n")
        elif self.json:
            write_json(Path(self.json), results)
        print(table(headline))

    def curve(self, point: Point, name: str, headline: dict) -> list[dict]:
        """All forms at every value of one size; the point of the headline is not measured again."""
        budget = min(self.literal_seconds, 6.0)  # the long ones are in the headline
        rows = []
        for value in tqdm(SWEEPS[name], desc=name, file=sys.stderr):
            varied = replace(point, **{name: value})
            rows.append(headline if varied == point else measure(varied, self.rounds, budget, memory=False))
        return rows


if __name__ == "__main__":
    tyro.cli(Bench).run()
