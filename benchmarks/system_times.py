"""What every system and its parts cost, side by side: a training step, and the mask of one expression.

    python benchmarks/system_times.py      # a quarter of an hour; keep the machine quiet

At the size of the trainings that ``magnet.py`` and ``alignformer.py`` compare: 64 px, batches of 32. All rows are timed
in turn, several rounds, so that a slow minute of the machine slows all of them. Writes data/results/system_times.json.
"""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path

import alignformer
import magnet
import torch
import tyro
from measure import about, median_seconds, write_json
from study import at_one_budget, mean
from study import table as markdown
from torch import nn
from tqdm.auto import tqdm

from refseg.datasets import Collate
from refseg.paths import results_dir
from refseg.training.build import build_data, build_learner
from refseg.types import RefBatch
from refseg_course.tour import seconds_per_step

ROWS = magnet.ROWS | alignformer.ROWS


def main(rounds: int = 5, repeats: int = 8, out: Path | None = None) -> None:
    """Time every row in turn.

    Args:
        rounds: The median over these is kept.
        repeats: Steps and predictions of one row in a round; their median is the round's.
        out: The JSON file.
    """
    presets = list(dict.fromkeys(ROWS.values()))
    measures = {
        "seconds per step": lambda preset: seconds_per_step(at_one_budget(preset, 1000), repeats, device="cpu"),
        "seconds per mask": lambda preset: seconds_per_mask(preset, repeats),
    }
    found: dict[tuple[str, str], list[float]] = {(preset, name): [] for preset in presets for name in measures}
    for _ in tqdm(range(rounds), desc="rounds"):
        for preset, name in found:
            found[preset, name].append(measures[name](preset))
    rows = {row: {name: statistics.median(found[preset, name]) for name in measures} for row, preset in ROWS.items()}
    write_json(out or results_dir() / "system_times.json", {"rounds": rounds, **about(), "rows": rows})
    print(markdown("system", {row: [times] for row, times in rows.items()}, {name: mean(name) for name in measures}))


def seconds_per_mask(preset: str, repeats: int) -> float:
    """How long the network takes for one image and one expression, once they are read: the median, after a warm-up."""
    model, batch = network_and_sample(preset)
    with torch.no_grad():
        for _ in range(2):
            model(batch)
        return median_seconds({preset: lambda: model(batch)}, repeats)[preset]


@cache  # the same in every round
def network_and_sample(preset: str) -> tuple[nn.Module, RefBatch]:
    """The untrained network and a batch of one sample of val."""
    experiment = at_one_budget(preset, 1000)
    train_set, val_set, tokenizer = build_data(experiment)
    learner, _ = build_learner(experiment, train_set, tokenizer)
    return learner.model.eval(), Collate(tokenizer)([val_set[0]])


if __name__ == "__main__":
    tyro.cli(main)
