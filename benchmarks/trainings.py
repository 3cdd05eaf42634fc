"""What the benchmarks that train several presets share: a training per preset and seed, and what was measured once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from refseg.checkpoint import load_checkpoint, save_checkpoint
from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.paths import checkpoints_dir, runs_dir
from refseg.training.experiment import Experiment
from refseg.training.loop import train
from refseg.training.presets import PRESETS

SPLITS = ("val", "testA", "testB", "testC")  # of RefShapes
COMPARED_AT = 64  # pixels: less than half the time of a step at 96


def trained(benchmark: str, preset: str, steps: int, seed: int) -> Path:
    """The folder of a training's last checkpoint: the same number of updates for all; it goes on where it stopped."""
    experiment = PRESETS[preset]
    folder = runs_dir() / benchmark / f"{preset}-{steps}-{seed}"
    train(replace(experiment, optim=replace(experiment.optim, steps=steps, seed=seed)), folder, device="cpu")
    return folder / "last"


def compared(preset: str, steps: int, seed: int, share: float = 1.0) -> Path:
    """As ``trained``, in the budget of ``at_one_budget``."""
    folder = runs_dir() / "compared" / f"{preset}-{steps}-{share}-{seed}"
    train(at_one_budget(preset, steps, seed, share), folder, device="cpu")
    return folder / "last"


def at_one_budget(preset: str, steps: int, seed: int = 0, share: float = 1.0) -> Experiment:
    """A preset as it is where whole systems are compared: small, for more trainings in the time that there is.

    Pictures of 64 px; the first fifth of the steps on short expressions, a tenth of them to warm up.

    Args:
        share: of the training pictures.
    """
    experiment = PRESETS[preset]
    optim = replace(experiment.optim, steps=steps, seed=seed, curriculum_steps=steps // 5, warmup_steps=steps // 10)
    data = replace(experiment.data, image_size=COMPARED_AT, train_fraction=share)
    return replace(experiment, optim=optim, data=data)


def ship(last: Path, name: str) -> Path:
    """Make ``last/`` of a training the shipped checkpoint ``name``: its folder; a model card that is there stays."""
    loaded, folder = load_checkpoint(last), checkpoints_dir() / name
    card = folder / "README.md"
    text = card.read_text() if card.exists() else None
    save_checkpoint(folder, loaded)
    if text is not None:
        card.write_text(text)
    print(f"{last} is shipped as {folder}: make SHA256SUMS anew (refseg doctor says how).")
    return folder


def kept(path: Path, measure: Callable[[], dict]) -> dict:
    """What was measured once is not measured again."""
    if not path.exists():
        path.write_text(json.dumps(measure()))
    return json.loads(path.read_text())


def split_scores(checkpoint: Path, splits: tuple[str, ...] = SPLITS) -> dict:
    """Evaluations on RefShapes by split, kept beside the checkpoint."""
    return kept(
        checkpoint.parent / "scores.json",
        lambda: {split: evaluate_checkpoint(checkpoint, "refshapes", split, device="cpu") for split in splits},
    )


def spread(values: list[float]) -> str:
    """Mean and standard deviation as ``0.812 ± 0.010``, or the one value."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def table(result: dict) -> str:
    """Mean and, over several seeds, the standard deviation of mIoU as a Markdown table."""
    lines = [f"| mIoU | parameters | {' | '.join(SPLITS)} |", "|---|---|" + "---|" * len(SPLITS)]
    for name, by_seed in result["rows"].items():
        scores = list(by_seed.values())
        cells = [spread([score[split]["mIoU"] for score in scores]) for split in SPLITS]
        lines.append(f"| {name} | {scores[0]['val']['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
