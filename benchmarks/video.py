"""Does looking across frames pay? CFSA and its controls at one budget on RefShapes-Video, several seeds.

    python benchmarks/video.py                             # trains what is missing, prints the table, writes the JSON
    python benchmarks/video.py --only cmsa_refshapes_video_visual --seeds 1   # one training, say in a second terminal

Every row has the same steps, batches and learning rate, and begins with the weights of the shipped image network, whose
backbone stays fixed; two rows are trained again with twice the steps. "motion" are the kinds of sentences that the
centre frame cannot answer. Training goes on where it stopped; results go to data/results/video.json, and
``benchmarks/results.py`` puts the table into data/results/README.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from trainings import kept, spread, trained

from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.machine import describe_machine, git_commit, versions
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


@dataclass
class Video:
    """Train and score."""

    steps: int = 1000
    """Budget of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    only: str | None = None
    """Train this preset and stop."""
    split: str = "val"
    """Where to score."""
    out: Path = results_dir() / "video.json"

    def run(self) -> None:
        """Everything, or the trainings of one preset."""
        if self.only:
            for seed in self.seeds:
                self.train(self.only, seed)
            return
        rows = {}
        for name, preset in ROWS.items():
            seeds = self.seeds[:1] if preset in FIRST_SEED_ONLY else self.seeds
            rows[name] = {str(seed): self.score(self.train(preset, seed)) for seed in seeds}
        longer = replace(self, steps=2 * self.steps)
        for name in LONGER:
            found = {str(seed): self.score(longer.train(ROWS[name], seed)) for seed in self.seeds}
            rows[f"{name}, {longer.steps:,} steps"] = found
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        result = {"steps": self.steps, "split": self.split, **about, "rows": rows}
        self.out.write_text(json.dumps(result, indent=1) + "\n")
        print(table(result))

    def train(self, preset: str, seed: int) -> Path:
        """The folder of the last checkpoint: the same number of updates for all."""
        return trained("video", preset, self.steps, seed)

    def score(self, checkpoint: Path) -> dict:
        """One evaluation, kept beside the checkpoint."""
        return kept(
            checkpoint.parent / f"{self.split}.json",
            lambda: evaluate_checkpoint(checkpoint, "refshapes_video", self.split, device="cpu"),
        )


def table(result: dict) -> str:
    """Mean and, over several seeds, the standard deviation of mIoU as a Markdown table."""
    lines = [
        "| mIoU | seeds | parameters | motion | other expressions |",
        "|---|---|---|---|---|",
    ]
    for name, by_seed in result["rows"].items():
        scores = list(by_seed.values())
        cells = [spread([score[group]["mIoU"] for score in scores]) for group in ("motion", "static")]
        lines.append(f"| {name} | {len(scores)} | {scores[0]['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Video).run()
