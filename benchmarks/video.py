"""Does looking across frames pay? CFSA and its controls at one budget on RefShapes-Video, several seeds.

    python benchmarks/video.py                             # trains what is missing, prints the table, writes the JSON
    python benchmarks/video.py --only cmsa_refshapes_video_visual --seeds 1   # one training, say in a second terminal

Every row has the same steps, batches and learning rate, and begins with the weights of the shipped image network, whose
backbone stays fixed; two rows are trained again with twice the steps. "motion" are the kinds of expressions that the
centre frame cannot answer. Training goes on where it stopped; results go to data/results/video.json, and
``benchmarks/results.py`` puts the table into data/results/README.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tyro
from measure import write_json
from study import Study, Training, count, kept, mean, runs_of
from study import table as markdown

from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.paths import results_dir

ROWS = {
    "centre frame only": "cmsa_refshapes_video_centre",
    "mean over the frames, no attention": "cmsa_refshapes_video_mean",
    "CFSA on visual features": "cmsa_refshapes_video_visual",
    "CFSA on visual features, blind to time and place": "cmsa_refshapes_video_no_offsets",
    "CFSA on CMSA features": "cmsa_refshapes_video",
}
LONGER = ("centre frame only", "CFSA on visual features")  # trained again with twice the steps
FIRST_SEED_ONLY = ("cmsa_refshapes_video_no_offsets",)  # what it cannot do shows without a spread


def main(
    steps: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: str | None = None,
    split: str = "val",
    out: Path | None = None,
) -> None:
    """Train and score.

    Args:
        steps: Budget of every training.
        seeds: One training each.
        only: Train and score this preset and stop.
        split: Where to score.
        out: The JSON file.
    """

    def scores(training: Training) -> dict:
        return kept(
            training.last.parent / f"{split}.json",
            lambda: evaluate_checkpoint(training.last, "refshapes_video", split, device="cpu"),
        )

    out = out or results_dir() / "video.json"
    study = Study("video", ROWS, scores, first_seed_only=FIRST_SEED_ONLY)
    result = study.run(steps, seeds, only=only, out=out, split=split)
    if only:
        return
    longer = replace(study, rows={f"{row}, {2 * steps:,} steps": ROWS[row] for row in LONGER})
    result["rows"] |= longer.run(2 * steps, seeds)["rows"]
    write_json(out, result)
    print(table(result))


def table(result: dict) -> str:
    """mIoU on the expressions that need motion and on the others."""
    columns = {"seeds": lambda runs: str(len(runs)), "parameters": count("parameters")}
    columns |= {"motion": mean("motion", "mIoU"), "other expressions": mean("static", "mIoU")}
    return markdown("mIoU", runs_of(result["rows"]), columns)


if __name__ == "__main__":
    tyro.cli(main)
