"""Does the network read the expression, and is it the attention that reads? Controls at one budget, on RefShapes.

    python benchmarks/controls.py                      # trains what is missing, prints the table, writes the JSON
    python benchmarks/controls.py --only cmsa_refshapes   # one of the trainings, for instance in a second terminal

Every row is trained with the same steps, batches, seed and learning rate; two more rows score the full model with
expressions that cannot identify the referent. Training goes on where it stopped; results go to
data/results/controls.json.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from measure import write_json
from study import SPLITS, Study, Training, kept, table_of_splits

from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.paths import results_dir

ROWS = {
    "full model": "cmsa_refshapes",
    "no attention (concatenation, mean over words)": "cmsa_refshapes_no_attention",
    "sentence vector in place of words (CMSA-S)": "cmsa_refshapes_sentence",
    "expression blanked, in training too": "cmsa_refshapes_blank",
}
HEAD_ROWS = {
    "full model, head without the look across": "cmsa_refshapes_near_head",
    "no attention, head without the look across": "cmsa_refshapes_near_head_no_attention",
}


def main(
    steps: int = 2000, seed: int = 0, heads: bool = False, only: str | None = None, out: Path | None = None
) -> None:
    """Train and score the controls.

    Args:
        steps: Budget of every training.
        seed: Of every training.
        heads: Also train both with a head that does not look across the image: what comparing costs without it.
        only: Train and score this preset and stop.
        out: The JSON file.
    """
    study = Study("controls", ROWS | HEAD_ROWS if heads else ROWS, scores)
    result = study.run(steps, (seed,), only=only, seed=seed)
    if only:
        return
    rows = result["rows"] = {row: by_seed[str(seed)] for row, by_seed in result["rows"].items()}
    full = study.train("cmsa_refshapes", steps, seed)
    rows["full model, scored with the expression blanked"] = {"val": score(full, "val", "blank")}
    rows["full model, given the expression of another object"] = {"val": score(full, "val", "other")}
    write_json(out or results_dir() / "controls.json", result)
    print(table(result))


def scores(training: Training) -> dict[str, dict]:
    """By split; a network that was trained blind is scored blind."""
    control = "blank" if training.preset.endswith("_blank") else None
    return {split: score(training.last, split, control) for split in SPLITS}


def score(checkpoint: Path, split: str, control: str | None) -> dict:
    """One evaluation, kept beside the checkpoint."""
    return kept(
        checkpoint.parent / f"{split}-{control}.json",
        lambda: evaluate_checkpoint(checkpoint, "refshapes", split, expression_control=control, device="cpu"),
    )


def table(result: dict) -> str:
    """The results as a Markdown table of mIoU."""
    return table_of_splits({row: [scores] for row, scores in result["rows"].items()})


if __name__ == "__main__":
    tyro.cli(main)
