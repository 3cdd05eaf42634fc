"""``make tour``: the whole kit once, in a few minutes, ending in one page to look at.

Draws RefShapes, trains a CMSA network for about two minutes, scores it and the shipped checkpoint on the val split,
and writes ``report.html``, which works offline and has alternative text for every image. Next to it, ``explorer.html``
compares the two networks word by word. A second run reuses what is there.
"""

from __future__ import annotations

import html
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from refseg.checkpoint import Checkpoint, load_checkpoint
from refseg.datasets import ReferringDataset, build_dataset
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.evaluation.metrics import COLUMNS, mask_iou
from refseg.explorer import Explorer
from refseg.files import refuse_others, write_text
from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import checkpoints_dir
from refseg.predict import Predictor
from refseg.training.experiment import Experiment, variant
from refseg.training.log import UnreadableLog, read_log
from refseg.training.loop import Run, train
from refseg.training.presets import PRESETS
from refseg.types import RefSample
from refseg_course.figures import learning_curve, prediction_figure, to_html, word_map_figure

SHIPPED = "cmsa_refshapes"
EXAMPLES_PER_KIND = 2
EXPLORER = "explorer.html"  # beside the report


def run_tour(folder: Path, minutes: float = 2.0) -> Path:
    """Run everything in order and return the path of the report.

    Args:
        folder: for the run's checkpoints, log and report.
        minutes: time for training, not counting the validations.
    """
    started = time.perf_counter()
    folder = Path(folder)
    print("1/4  RefShapes, the embedded benchmark")
    val = build_dataset("refshapes", "val")
    print(f"     {len(set(val.image_ids))} images, {len(val)} expressions in val")
    print(f"2/4  training a CMSA network for about {minutes:g} minutes")
    own = train(plan(folder, minutes), folder)
    print("3/4  scoring on val")
    checkpoints = {"trained just now": own, "shipped": checkpoints_dir() / SHIPPED}
    results = {name: _score(path, folder) for name, path in checkpoints.items()}
    print("4/4  writing the report")
    both = Explorer(checkpoints["trained just now"], val[0], other_model=checkpoints["shipped"])
    both.export_html(folder / EXPLORER, "Two networks, word by word")
    report = folder / "report.html"
    write_text(report, _page(folder, val, checkpoints, results))
    print(_table_text(results))
    print(f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes. Open in a browser:  {report.resolve()}")
    print("Notebooks:  make lab   (JupyterLab opens in your browser; start with 00_start_here)")
    return report


def plan(folder: Path, minutes: float) -> Experiment:
    """The lesson's preset with as many steps as fit into ``minutes`` here; a second run keeps the number of the first.

    Raises:
        RefsegError: ``minutes`` is not positive, or the folder holds a tour of another length, or something else.
    """
    if not minutes > 0:
        raise RefsegError(f"The tour was given {minutes:g} minutes to train: give more than 0, for example 2.")
    experiment, path = PRESETS[SHIPPED], folder / "plan.json"
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        stored = {}
    if not isinstance(stored, dict) or not stored.keys() >= {"minutes", "steps"}:
        refuse_others(folder)  # a report, a log or an explorer in it would not be ours
        stored = {}
    if stored.get("minutes", minutes) != minutes:
        raise RefsegError(
            f"{folder} holds a tour of {stored['minutes']:g} minutes: name another folder with --out, or remove it."
        )
    if not stored:
        stored = {"minutes": minutes, "steps": max(40, round(60 * minutes / seconds_per_step(experiment)))}
        write_text(path, json.dumps(stored))
    return _shortened(experiment, stored["steps"])


def seconds_per_step(experiment: Experiment, steps: int = 12, device: str | None = None) -> float:
    """How long an update takes on this machine, reading the data included: the median of ``steps``, after a warm-up."""
    # Short expressions take less time.
    run = Run(variant(experiment, optim={"steps": steps + 3, "curriculum_steps": 0}), None, device)
    unreadable = UnreadableLog(experiment.data.skip_unreadable)
    ends = [time.perf_counter()]
    for batch in run.loader:
        run.update(unreadable.readable(batch))
        ends.append(time.perf_counter())
    durations = sorted(end - start for start, end in zip(ends[3:], ends[4:]))
    return durations[len(durations) // 2]


def _shortened(experiment: Experiment, steps: int) -> Experiment:
    """The schedule for a run of minutes: short expressions for 40 % of it, a validation after every quarter."""
    quarter = max(1, steps // 4)
    schedule = {"steps": steps, "warmup_steps": max(1, steps // 12), "curriculum_steps": 2 * steps // 5}
    often = {"eval_every": quarter, "save_every": quarter}
    data = replace(experiment.data, val_samples=200)
    return replace(experiment, data=data, optim=replace(experiment.optim, **schedule, **often))


def _score(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Results on val, kept in the run's folder until the weights change."""
    weights = checkpoint / "model.safetensors"
    kept = folder / f"val-{checkpoint.parent.name}-{checkpoint.name}.json"
    stamp = [weights.stat().st_size, weights.stat().st_mtime_ns] if weights.exists() else None
    try:
        stored = json.loads(kept.read_text())
    except (OSError, ValueError):
        stored = {}
    if stamp and stored.get("stamp") == stamp:
        return stored["results"]
    results = evaluate_checkpoint(checkpoint, "refshapes", "val")
    write_text(kept, json.dumps({"stamp": stamp, "results": results}))
    return results


# ---------------------------------------------------------------------------------------------------- the page


def _page(folder: Path, val: ReferringDataset, checkpoints: dict[str, Path], results: dict[str, dict]) -> str:
    loaded = {name: load_checkpoint(path) for name, path in checkpoints.items()}
    log = read_log(folder / "log.jsonl")
    curve = learning_curve(log, over="seconds")
    about = {**describe_machine(), **versions(), "commit": git_commit() or "unknown"}
    return _TEMPLATE.format(
        style=_STYLE,
        parameters=f"{sum(p.numel() for p in loaded['trained just now'].model.parameters()):,}",
        minutes=f"{log[-1]['seconds'] / 60:.1f}",
        results=_table(results, "All of val"),
        kinds=_table(results["shipped"]["by_kind"], "The shipped checkpoint, by kind of expression"),
        curve=to_html(curve, "Training loss and validation mIoU of the network trained just now."),
        examples="\n".join(
            _example(sample, loaded, unfold=number == 0)
            for number, sample in enumerate(tqdm(_examples(val), desc="drawing", unit="example"))
        ),
        about=html.escape(", ".join(f"{name} {value}" for name, value in about.items())),
        date=time.strftime("%Y-%m-%d"),
    )


def _examples(val: ReferringDataset) -> list[RefSample]:
    """The first expressions of every kind, each of a different image."""
    chosen: dict[str, list[RefSample]] = {}
    images = set()
    for index in range(len(val)):
        sample = val[index]
        kind, image = sample.annotations.kind, sample.annotations.image_id
        if image not in images and len(chosen.setdefault(kind, [])) < EXAMPLES_PER_KIND:
            chosen[kind].append(sample)
            images.add(image)
        if len(chosen) == 6 and all(len(samples) == EXAMPLES_PER_KIND for samples in chosen.values()):
            break
    return [sample for kind in sorted(chosen) for sample in chosen[kind]]


def _example(sample: RefSample, loaded: dict[str, Checkpoint], unfold: bool) -> str:
    """One expression: both predictions, and the word maps of the shipped network, open or to be opened."""
    figures = []
    image = sample.frames[sample.target_frame]
    for name, checkpoint in loaded.items():
        result = Predictor(checkpoint, "cpu").predict(image, sample.expression)
        iou = mask_iou(result.pred_mask, sample.mask)
        figure = prediction_figure(image, sample.expression, result.pred_mask, sample.mask, iou)
        figures.append(to_html(figure, f"{name}: IoU {iou:.2f}"))
    maps = word_map_figure(image, result.words, result.word_maps["c3"], result.pred_mask, level="C3")
    summary = "<summary>Where each word looks</summary>"
    details = f"<details{' open' * unfold}>{summary}{to_html(maps, maps.caption)}</details>"
    kind = html.escape(sample.annotations.kind)
    title = f"<h3>“{html.escape(sample.expression)}” <small>{kind}</small></h3>"
    return f'<section class="example">{title}<div class="pair">{"".join(figures)}</div>{details}</section>'


def _table(rows: dict[str, dict[str, Any]], caption: str) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in ("", *COLUMNS))
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{_cell(row[c])}</td>" for c in COLUMNS)}</tr>'
        for name, row in rows.items()
    )
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table_text(rows: dict[str, dict[str, Any]]) -> str:
    width = max(len(name) for name in rows)
    lines = [" " * (width + 5) + "".join(f"{column:>7}" for column in COLUMNS)]
    lines += [f"     {name:<{width}}" + "".join(f"{_cell(row[c]):>7}" for c in COLUMNS) for name, row in rows.items()]
    return "\n".join(lines)


def _cell(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


_STYLE = """
:root { color: #222; background: #f4f4f2; font: 17px/1.55 system-ui, sans-serif; }
body { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { margin: 2.6rem 0 .6rem; } h3 { margin: 0 0 .6rem; font-weight: 600; }
h3 small { color: #555; font-weight: 400; margin-left: .6rem; }
p { max-width: 44rem; }
table { border-collapse: collapse; background: #fff; width: 100%; margin: 1rem 0; }
caption { text-align: left; color: #555; padding: .3rem 0; }
th, td { padding: .45rem .7rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th[scope=row], th:first-child { text-align: left; }
.example, .card { background: #fff; padding: 1.1rem; margin: 1.1rem 0; border: 1px solid #ddd; border-radius: 6px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; }
figcaption, footer { color: #555; font-size: .85rem; }
summary { cursor: pointer; color: #0b5394; padding: .4rem 0; }
code { background: #e9e9e4; padding: .1rem .3rem; border-radius: 3px; }
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>refseg: a tour of referring segmentation</title>
<style>{style}</style>
</head>
<body>
<h1>A tour of referring segmentation</h1>
<p>Given an image and an expression, find the pixels that it refers to. The network below (CMSA with gated
multi-level fusion, {parameters} parameters) was trained on this machine in {minutes} minutes, validations included,
on RefShapes, the benchmark that the kit draws. The shipped checkpoint next to it is the same network, trained
longer.</p>

<h2>How good is it?</h2>
<p>Every expression is one sample, scored at the original size. <b>IoU</b> is the overlap of predicted and true mask
divided by their union. <b>mIoU</b> is its mean; <b>oIoU</b> adds up all overlaps and all unions first, so large
objects weigh more; <b>P@K</b> is the share of samples with IoU ≥ K.</p>
{results}
{kinds}

<h2>How it learned</h2>
<div class="card">{curve}</div>

<h2>What it sees</h2>
<p>Two expressions of each kind: the first in the file, not the best. Solid outline: prediction. Dashed: truth.
To strike out words and look at regions, open <a href="explorer.html">the explorer</a>: it shows both networks.</p>
{examples}

<h2>Where to go next</h2>
<p><code>make lab</code> opens the lessons in JupyterLab; begin with <code>00_start_here</code>.
<code>.venv/bin/refseg predict --help</code> tries a photo of your own,
<code>.venv/bin/refseg train --help</code> trains longer.</p>
<footer>Written {date}. {about}.</footer>
</body>
</html>
"""
