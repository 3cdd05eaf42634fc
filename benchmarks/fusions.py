"""Do gates pay? Gated multi-level fusion beside other ways to join the levels, on RefShapes, several seeds.

    python benchmarks/fusions.py                        # trains what is missing, prints the table, writes the JSON
    python benchmarks/fusions.py --only cmsa_refshapes_fusion_sum   # one preset's trainings, say in a second terminal

Every row takes the backbone of the shipped network, which stays fixed, and learns all the rest from scratch with the
same steps, batches and learning rate. That backbone has learned below gates; whom this favours is not known. What each
fusion is made of: ``refseg/models/fusion/ablations.py``. Training goes on where it stopped; results go to
data/results/fusions.json, and ``benchmarks/results.py`` puts the table into data/results/README.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from trainings import split_scores, table, trained

from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import results_dir

ROWS = {  # the ablation of the paper's Sec. 4
    "gates of the paper's Eq. 5-6 (GMLF)": "cmsa_refshapes_fusion_gmlf",
    "gates as in the release": "cmsa_refshapes_fusion_release",
    "sum of the levels": "cmsa_refshapes_fusion_sum",
    "pyramid pooling": "cmsa_refshapes_fusion_ppm",
    "deconvolutions": "cmsa_refshapes_fusion_deconv",
    "ConvLSTM": "cmsa_refshapes_fusion_convlstm",
}


@dataclass
class Fusions:
    """Train and score."""

    steps: int = 1000
    """Budget of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    only: str | None = None
    """Train this preset and stop."""
    out: Path = results_dir() / "fusions.json"

    def run(self) -> None:
        """Everything, or the trainings of one preset."""
        presets = [self.only] if self.only else list(ROWS.values())
        folders = {
            (preset, seed): trained("fusions", preset, self.steps, seed) for seed in self.seeds for preset in presets
        }
        if self.only:
            return
        rows = {
            name: {str(seed): split_scores(folders[preset, seed]) for seed in self.seeds}
            for name, preset in ROWS.items()
        }
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        result = {"steps": self.steps, **about, "rows": rows}
        self.out.write_text(json.dumps(result, indent=1) + "\n")
        print(table(result))


if __name__ == "__main__":
    tyro.cli(Fusions).run()
