"""Which part of AlignFormer pays? Its ablations at one budget on RefShapes, several seeds.

    python benchmarks/alignformer.py                       # trains what is missing, prints the tables, writes the JSON
    python benchmarks/alignformer.py --only alignformer_refshapes --seeds 1   # one training, say in a second terminal
    python benchmarks/alignformer.py --ship runs/alignformer_refshapes_short/last   # becomes the shipped checkpoint
    python benchmarks/alignformer.py --shipped              # how pixels gather in the shipped checkpoint, all of val

Every row has the same steps and batches, at 64 px: the budget of ``benchmarks/magnet.py``, which trains CMSA and
MagNet, so ``results.py`` puts all of them into one table. All three have about a million parameters.

The second table asks how well pixels gather around their centre: the probability that a pixel of the referent is nearer
to it (cosine) than another pixel of the same picture (AUC, 0.5 is chance), before training and after, around the centre
that the sentence alone gives and around the last one. Finding every object is enough to do well in that; so around the
last one it is also asked among the pixels of objects only. Training goes on where it stopped; results go to
data/results/alignformer.json, and those of the shipped checkpoint to data/results/alignformer_gathering.json.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader, Subset
from trainings import compared, kept, ship, split_scores, spread, table

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.evaluation.metrics import centre_auc
from refseg.machine import describe_machine, git_commit, versions
from refseg.models import build_model
from refseg.models.alignformer import centre_similarity
from refseg.paths import checkpoints_dir, results_dir
from refseg.types import Prediction, RefBatch

ROWS = {
    "AlignFormer": "alignformer_refshapes",
    "AlignFormer, language to vision only": "alignformer_refshapes_words_to_pixels",
    "AlignFormer without VLBA": "alignformer_refshapes_no_vlba",
    "AlignFormer without the contrastive loss": "alignformer_refshapes_no_contrast",
    "AlignFormer, contrast within the picture": "alignformer_refshapes_contrast_in_picture",
    "AlignFormer, pixels contrasted in place of instances": "alignformer_refshapes_pixel_contrast",
}
CENTRES = {  # the step, and whether only the pixels of objects are compared
    "sentence alone": (0, False),
    "last step": (-1, False),
    "last step, among objects": (-1, True),
}
SHIPPED = "alignformer_refshapes"


@dataclass
class AlignFormerBenchmark:
    """Train, score, and measure how pixels gather."""

    steps: int = 1000
    """Budget of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    only: str | None = None
    """Train and measure this preset and stop."""
    gathered: int = 400
    """Samples of val whose pixels are compared with their centre."""
    ship: Path | None = None
    """The last/ folder of a training of AlignFormer: make it the shipped checkpoint, and stop."""
    shipped: bool = False
    """Ask the shipped checkpoint how pixels gather in all of val, and stop."""
    out: Path | None = None

    def run(self) -> None:
        """What was asked for."""
        if self.ship:
            ship(self.ship, SHIPPED)
        elif self.shipped:
            self.ask_the_shipped()
        elif self.only:
            for seed in self.seeds:
                self.measure(self.only, seed)
        else:
            self.fill_the_tables()

    def fill_the_tables(self) -> None:
        """Row by row, all rows with the first seed first; what is there is written after each."""
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        result = {"steps": self.steps, **about, "rows": {}, "gathering": {}}
        out = self.out or results_dir() / "alignformer.json"
        for seed in self.seeds:
            for name, preset in ROWS.items():
                scores, areas = self.measure(preset, seed)
                result["rows"].setdefault(name, {})[str(seed)] = scores
                result["gathering"].setdefault(name, {})[str(seed)] = areas
                out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{table(result)}\n\n{gathering_table(result)}")

    def ask_the_shipped(self) -> None:
        """Write data/results/alignformer_gathering.json."""
        samples = len(build_dataset("refshapes", "val"))
        result = before_and_after(checkpoints_dir() / SHIPPED, samples)
        about = {"samples": samples, "machine": describe_machine(), "versions": versions()}
        out = self.out or results_dir() / "alignformer_gathering.json"
        out.write_text(json.dumps(about | {"gathering": result}, indent=1) + "\n")
        print(gathering_table({"gathering": {SHIPPED: {"0": result}}}))

    def measure(self, preset: str, seed: int) -> tuple[dict, dict]:
        """Train, score, and ask how pixels gather, whatever of it has not been done yet; kept beside the checkpoint."""
        checkpoint = compared(preset, self.steps, seed)
        areas = kept(checkpoint.parent / "gathering.json", lambda: before_and_after(checkpoint, self.gathered))
        return split_scores(checkpoint), areas


def before_and_after(checkpoint: Path, samples: int) -> dict:
    """AUC of a trained network, and of one that begins as its training began; by centre."""
    after = load_checkpoint(checkpoint)
    torch.manual_seed(after.config["record"]["experiment"]["optim"]["seed"])
    before = build_model(after.model.config, len(after.tokenizer)).eval()
    batches = val_batches(after.tokenizer, after.image_size, samples)
    return {"before": gathering(before, batches), "after": gathering(after.model, batches)}


def val_batches(tokenizer, image_size: int, samples: int) -> DataLoader:
    """Samples spread over val."""
    dataset = build_dataset("refshapes", "val", build_transform(image_size), objects=True)
    step = max(1, len(dataset) // samples)
    return DataLoader(Subset(dataset, range(0, len(dataset), step)), batch_size=32, collate_fn=Collate(tokenizer))


@torch.no_grad()
def gathering(model: nn.Module, batches: DataLoader) -> dict[str, float]:
    """AUC of the referent's pixels around the centre, mean over samples, by centre."""
    areas = {name: [] for name in CENTRES}
    for batch in batches:
        for name, found in batch_areas(model(batch), batch).items():
            areas[name] += found
    return {name: statistics.mean(found) for name, found in areas.items()}


def batch_areas(prediction: Prediction, batch: RefBatch) -> dict[str, list[float]]:
    """The same for each sample of a batch that has pixels of both kinds."""
    similarity = centre_similarity(prediction.trace["pixels"], prediction.trace["centres"])  # [B,S,h,w]
    areas = {name: [] for name in CENTRES}
    for maps, mask, valid, objects in zip(similarity, batch.mask, batch.pixel_valid, batch.objects > 0, strict=True):
        everywhere, among = centre_auc(maps, mask, valid), centre_auc(maps, mask, objects)
        for name, (step, objects_only) in CENTRES.items():
            area = (among if objects_only else everywhere)[step]
            areas[name] += [] if area is None else [area]
    return areas


def gathering_table(result: dict) -> str:
    """AUC before and after training as a Markdown table."""
    lines = [f"| AUC around the centre | {' | '.join(f'{c}, {t}' for c in CENTRES for t in ('before', 'after'))} |"]
    lines.append("|---|" + "---|" * (2 * len(CENTRES)))
    for name, by_seed in result["gathering"].items():
        runs = list(by_seed.values())
        cells = [spread([run[time][centre] for run in runs]) for centre in CENTRES for time in ("before", "after")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(AlignFormerBenchmark).run()
