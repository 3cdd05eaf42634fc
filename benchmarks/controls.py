"""Does the network read the sentence, and is it the attention that reads? Controls at one budget, on RefShapes.

    python benchmarks/controls.py                      # trains what is missing, prints the table, writes the JSON
    python benchmarks/controls.py --only cmsa_refshapes   # one of the trainings, for instance in a second terminal

Every row is trained with the same steps, batches, seed and learning rate; two more rows score the full model with
expressions that cannot tell the referent. Training goes on where it stopped; results go to data/results/controls.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from trainings import SPLITS, kept, trained

from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.machine import describe_machine, git_commit, versions
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


@dataclass
class Controls:
    """Train and score the controls."""

    steps: int = 2000
    """Budget of every training."""
    seed: int = 0
    heads: bool = False
    """Also train both with a head that does not look across the picture: what comparing costs without it."""
    only: str | None = None
    """Train this preset and stop."""
    out: Path = results_dir()

    def run(self) -> None:
        """Everything, or one training."""
        wanted = ROWS | HEAD_ROWS if self.heads else ROWS
        folders = {preset: self.train(preset) for preset in ([self.only] if self.only else wanted.values())}
        if self.only:
            return
        rows = {}
        for name, preset in wanted.items():
            control = "blank" if preset.endswith("_blank") else None
            rows[name] = {split: self.score(folders[preset], split, control) for split in SPLITS}
        full = folders["cmsa_refshapes"]
        rows["full model, scored with the expression blanked"] = {"val": self.score(full, "val", "blank")}
        rows["full model, given the expression of another object"] = {"val": self.score(full, "val", "other")}
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        result = {"steps": self.steps, "seed": self.seed, **about, "rows": rows}
        (self.out / "controls.json").write_text(json.dumps(result, indent=1) + "\n")
        print(table(result))

    def train(self, preset: str) -> Path:
        """The folder of the last checkpoint: the same number of updates for all."""
        return trained("controls", preset, self.steps, self.seed)

    def score(self, checkpoint: Path, split: str, control: str | None) -> dict:
        """One evaluation, kept beside the checkpoint."""
        return kept(
            checkpoint.parent / f"{split}-{control}.json",
            lambda: evaluate_checkpoint(checkpoint, "refshapes", split, expression_control=control, device="cpu"),
        )


def table(result: dict) -> str:
    """The results as a Markdown table of mIoU."""
    lines = [
        "| " + " | ".join(["mIoU", "parameters", *SPLITS]) + " |",
        "|---|" + "---|" * (len(SPLITS) + 1),
    ]
    for name, row in result["rows"].items():
        cells = [f"{row[split]['mIoU']:.3f}" if split in row else "" for split in SPLITS]
        lines.append("| " + " | ".join([name, f"{row['val']['parameters']:,}", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Controls).run()
