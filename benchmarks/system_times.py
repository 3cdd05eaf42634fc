"""What every system and its parts cost, side by side: a training step, and the mask of one sentence.

    python benchmarks/system_times.py      # a quarter of an hour; keep the machine quiet

At the size of the trainings that ``magnet.py`` and ``alignformer.py`` compare: 64 px, batches of 32. All rows are timed
in turn, several rounds, so that a slow minute of the machine slows all of them. Writes data/results/system_times.json.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import alignformer
import magnet
import torch
import tyro
from torch import nn
from tqdm.auto import tqdm
from trainings import at_one_budget

from refseg.datasets import Collate
from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import results_dir
from refseg.training.build import build_data, build_learner
from refseg.training.loop import seconds_per_step
from refseg.types import RefBatch

ROWS = magnet.ROWS | alignformer.ROWS


@dataclass
class SystemTimes:
    """Time every row in turn."""

    rounds: int = 5
    """The median over these is kept."""
    repeats: int = 8
    """Steps and predictions of one row in a round; their median is the round's."""
    out: Path | None = None

    def run(self) -> None:
        """Measure, print and write."""
        presets = list(dict.fromkeys(ROWS.values()))
        steps: dict[str, list[float]] = {preset: [] for preset in presets}
        masks: dict[str, list[float]] = {preset: [] for preset in presets}
        for _ in tqdm(range(self.rounds), desc="rounds"):
            for preset in presets:
                steps[preset].append(seconds_per_step(at_one_budget(preset, 1000), self.repeats, device="cpu"))
                masks[preset].append(seconds_per_mask(preset, self.repeats))
        rows = {
            name: {
                "seconds per step": statistics.median(steps[preset]),
                "seconds per mask": statistics.median(masks[preset]),
            }
            for name, preset in ROWS.items()
        }
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        out = self.out or results_dir() / "system_times.json"
        out.write_text(json.dumps({"rounds": self.rounds, **about, "rows": rows}, indent=1) + "\n")
        for name, row in rows.items():
            print(f"{name:54} step {row['seconds per step']:.3f} s   mask {row['seconds per mask']:.4f} s")


def seconds_per_mask(preset: str, repeats: int) -> float:
    """How long the network takes for one picture and one sentence, once they are read: the median, after a warm-up."""
    return statistics.median(prediction_seconds(*network_and_sentence(preset), repeats))


@cache  # the same in every round
def network_and_sentence(preset: str) -> tuple[nn.Module, RefBatch]:
    """The untrained network and a batch of one sample of val."""
    experiment = at_one_budget(preset, 1000)
    train_set, val_set, tokenizer = build_data(experiment)
    learner, _ = build_learner(experiment, train_set, tokenizer)
    return learner.model.eval(), Collate(tokenizer)([val_set[0]])


@torch.no_grad()
def prediction_seconds(model: nn.Module, batch: RefBatch, repeats: int) -> list[float]:
    """One time per forward pass; the two passes before are not counted."""
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        model(batch)
        taken.append(time.perf_counter() - began)
    return taken[2:]


if __name__ == "__main__":
    tyro.cli(SystemTimes).run()
