"""A study: presets trained at one budget with several seeds, scored, in one JSON file and a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from measure import about, write_json

from refseg.checkpoint import load_checkpoint, save_checkpoint
from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.paths import checkpoints_dir, runs_dir
from refseg.training.experiment import Experiment, variant
from refseg.training.loop import train
from refseg.training.presets import PRESETS

SPLITS = ("val", "testA", "testB", "testC")  # of RefShapes
COMPARED_AT = 64  # pixels: less than half the time of a step at 96


class Training(NamedTuple):
    """One training of a study."""

    row: str
    preset: str
    seed: int
    last: Path  # the folder of its last checkpoint: the same number of updates for all


def kept(path: Path, measure: Callable[[], dict]) -> dict:
    """What was measured once is not measured again."""
    if not path.exists():
        path.write_text(json.dumps(measure()))
    return json.loads(path.read_text())


def split_scores(training: Training) -> dict[str, Any]:
    """Evaluations on RefShapes by split, kept beside the checkpoint."""
    return kept(
        training.last.parent / "scores.json",
        lambda: {split: evaluate_checkpoint(training.last, "refshapes", split, device="cpu") for split in SPLITS},
    )


@dataclass(frozen=True)
class Study:
    """Presets that are compared at one budget. Stopped at any time, the same call goes on where it was."""

    name: str  # of its trainings' folder in runs/, and of its file in data/results/
    rows: dict[str, str]  # of the table, each with its preset
    measure: Callable[[Training], dict] = split_scores
    also: dict[str, Callable[[Training], tuple[str, dict] | None]] = field(default_factory=dict)  # further tables
    first_seed_only: tuple[str, ...] = ()  # these presets are not trained with the other seeds
    fraction: float | None = None  # train at the size of ``at_one_budget`` on this fraction of the images

    def run(
        self, steps: int, seeds: Sequence[int], *, only: str | None = None, out: Path | None = None, **facts: Any
    ) -> dict[str, Any]:
        """Train and measure row by row, all rows with the first seed first.

        Args:
            steps: budget of every training.
            seeds: one training each.
            only: this preset, and no file is written: for a second terminal.
            out: the JSON file, written after every row.
            facts: what else the file says about the study.
        """
        result = {"steps": steps, **facts, **about(), "rows": {}, **{name: {} for name in self.also}}
        for seed in seeds:
            for row, preset in ({only: only} if only else self.rows).items():
                if preset in self.first_seed_only and seed != seeds[0]:
                    continue
                training = Training(row, preset, seed, self.train(preset, steps, seed))
                result["rows"].setdefault(row, {})[str(seed)] = self.measure(training)
                for name, measure in self.also.items():
                    if found := measure(training):
                        result[name].setdefault(found[0], {})[str(seed)] = found[1]
                if out and not only:
                    write_json(out, result)
        return result

    def train(self, preset: str, steps: int, seed: int) -> Path:
        """The folder of the last checkpoint; a training goes on where it stopped."""
        if self.fraction is None:
            experiment = variant(PRESETS[preset], optim={"steps": steps, "seed": seed})
            folder = runs_dir() / self.name / f"{preset}-{steps}-{seed}"
        else:
            experiment = at_one_budget(preset, steps, seed, self.fraction)
            folder = runs_dir() / "compared" / f"{preset}-{steps}-{self.fraction}-{seed}"
        train(experiment, folder, device="cpu")
        return folder / "last"


def at_one_budget(preset: str, steps: int, seed: int = 0, fraction: float = 1.0) -> Experiment:
    """A preset as it is where whole systems are compared: small, for more trainings in the same time.

    Images of 64 px; the first fifth of the steps on short expressions, a tenth of them to warm up.

    Args:
        fraction: of the training images.
    """
    optim = {"steps": steps, "seed": seed, "curriculum_steps": steps // 5, "warmup_steps": steps // 10}
    return variant(PRESETS[preset], optim=optim, data={"image_size": COMPARED_AT, "train_fraction": fraction})


def ship(last: Path, name: str) -> Path:
    """Make ``last/`` of a training the shipped checkpoint ``name``: its folder; a model card that is there stays."""
    loaded, folder = load_checkpoint(last), checkpoints_dir() / name
    card = folder / "README.md"
    save_checkpoint(folder, loaded, card=card.read_text() if card.exists() else "")
    print(f"{last} is shipped as {folder}: write SHA256SUMS again (refseg doctor says how).")
    return folder


# ---- tables ------------------------------------------------------------------------------------------------------

Cell = Callable[[list[dict]], str]  # of the runs of one row


def table(corner: str, rows: Mapping[str, Sequence[dict]], columns: Mapping[str, Cell]) -> str:
    """Markdown: a line per row, a cell per column, made of the row's runs."""
    head = f"| {' | '.join([corner, *columns])} |"
    lines = [f"| {' | '.join([row, *(cell(list(runs)) for cell in columns.values())])} |" for row, runs in rows.items()]
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines])


def runs_of(by_seed: Mapping[str, Mapping[str, dict]]) -> dict[str, list[dict]]:
    """The runs of every row, without their seeds."""
    return {row: list(runs.values()) for row, runs in by_seed.items()}


def mean(*path: str) -> Cell:
    """The value at ``path`` of every run: mean and, of several runs, standard deviation; empty where it is missing."""

    def cell(runs: list[dict]) -> str:
        values = []
        for value in runs:
            for name in path:
                value = value.get(name, {})
            values += [] if value == {} else [value]
        return spread(values)

    return cell


def count(*path: str) -> Cell:
    """The whole number at ``path`` of the first run, which is that of all."""

    def cell(runs: list[dict]) -> str:
        value = runs[0]
        for name in path:
            value = value[name]
        return f"{value:,}"

    return cell


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation as ``0.812 ± 0.010``, or the one value, or nothing."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def table_of_splits(rows: Mapping[str, Sequence[dict]]) -> str:
    """mIoU on all splits of RefShapes."""
    columns = {"parameters": count("val", "parameters")} | {split: mean(split, "mIoU") for split in SPLITS}
    return table("mIoU", rows, columns)
