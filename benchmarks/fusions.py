"""Do gates pay? Gated multi-level fusion beside other ways to join the levels, on RefShapes, several seeds.

    python benchmarks/fusions.py                        # trains what is missing, prints the table, writes the JSON
    python benchmarks/fusions.py --only cmsa_refshapes_fusion_sum   # one preset's trainings, say in a second terminal

Every row takes the backbone of the shipped network, which stays fixed, and learns all the rest from scratch with the
same steps, batches and learning rate. That backbone has learned below gates; which row this favours is not known. What
each fusion is made of: ``refseg/models/fusion/ablations.py``. Training goes on where it stopped; results go to
data/results/fusions.json, and ``benchmarks/results.py`` puts the table into data/results/README.md.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from study import Study, runs_of, table_of_splits

from refseg.paths import results_dir

ROWS = {  # the ablation of the paper's Sec. 4
    "gates of the paper's Eq. 5-6 (GMLF)": "cmsa_refshapes_fusion_gmlf",
    "gates as in the release": "cmsa_refshapes_fusion_release",
    "sum of the levels": "cmsa_refshapes_fusion_sum",
    "pyramid pooling": "cmsa_refshapes_fusion_ppm",
    "deconvolutions": "cmsa_refshapes_fusion_deconv",
    "ConvLSTM": "cmsa_refshapes_fusion_convlstm",
}


def main(
    steps: int = 1000, seeds: tuple[int, ...] = (0, 1, 2), only: str | None = None, out: Path | None = None
) -> None:
    """Train and score.

    Args:
        steps: Budget of every training.
        seeds: One training each.
        only: Train and score this preset and stop.
        out: The JSON file.
    """
    result = Study("fusions", ROWS).run(steps, seeds, only=only, out=out or results_dir() / "fusions.json")
    print(table_of_splits(runs_of(result["rows"])))


if __name__ == "__main__":
    tyro.cli(main)
