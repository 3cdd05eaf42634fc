"""How joint is a trained attention? The mutual information of word and region under a query's weights.

    refseg train --preset cmsa_release_refshapes --steps 600      # the release form has no shipped checkpoint
    python benchmarks/jointness.py

0 for the paper's linear form, whatever its weights: the softmax factorises. Above 0 for the release form, whose ReLUs
let "red" look here and "car" look there. Writes data/results/jointness.json, in nats, by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from measure import about, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.models.blocks.attention import masked_mean
from refseg.models.cmsa_net import LEVELS, CMSANet
from refseg.paths import checkpoints_dir, results_dir, runs_dir
from refseg.types import RefBatch
from refseg_course.word_measures import mutual_information


@dataclass
class Jointness:
    """Measure checkpoints on the first expressions of val."""

    paper: Path = checkpoints_dir() / "cmsa_refshapes"  # Checkpoint of the paper's form.
    release: Path = runs_dir() / "cmsa_release_refshapes" / "best"  # Checkpoint of the release form.
    samples: int = 200  # How many expressions.
    regions: tuple[int, ...] = (13, 41, 66, 78, 103, 130)
    """Query regions, row * w + column; every valid word is a query at each."""

    def run(self) -> None:
        """Measure, print, write."""
        found = {name: self.measure(folder) for name, folder in (("paper", self.paper), ("release", self.release))}
        result = {"unit": "nats", "samples": self.samples, "query regions": self.regions, "forms": found, **about()}
        write_json(results_dir() / "jointness.json", result)
        for name, row in found.items():
            print(
                f"{name:8}",
                "  ".join(f"{level} {value:.2e}" for level, value in row["jointness"].items()),
                row["steps"],
            )

    def measure(self, folder: Path) -> dict:
        """Mean jointness by level, and how long the network was trained."""
        loaded = load_checkpoint(folder)
        data = Subset(build_dataset("refshapes", "val", build_transform(loaded.image_size)), range(self.samples))
        sums: dict[str, float] = {}
        loader = DataLoader(data, batch_size=20, collate_fn=Collate(loaded.tokenizer))
        with torch.no_grad():
            for batch in tqdm(loader, desc=folder.parent.name):
                for level, values in jointness(loaded.model, batch, self.regions).items():
                    sums[level] = sums.get(level, 0.0) + values.double().sum().item()
        steps = loaded.config["record"]["progress"]["step"]
        return {"jointness": {level: total / self.samples for level, total in sums.items()}, "steps": steps}


def jointness(model: CMSANet, batch: RefBatch, query_regions: Sequence[int]) -> dict[str, Tensor]:
    """How far each level's attention is from a product of one over words and one over regions, {level: [B]}.

    The mutual information between key word and key region under one query, in nats, averaged over all valid words as
    queries at the given regions (row * w + column).
    """
    trace, information = model(batch).trace, {}
    for level in LEVELS:
        words_valid = trace["words_valid"]
        L, S = words_valid.shape[1], len(query_regions)
        regions, query_words = list(query_regions) * L, [n for n in range(L) for _ in range(S)]
        joint = trace[f"attention/{level}"].joint(regions, query_words)
        information[level] = masked_mean(mutual_information(joint).unflatten(1, (L, S)).mean(2), words_valid, dim=1)
    return information


if __name__ == "__main__":
    tyro.cli(Jointness).run()
