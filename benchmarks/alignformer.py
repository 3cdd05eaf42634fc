"""Which part of AlignFormer pays? Its ablations at one budget on RefShapes, several seeds.

    python benchmarks/alignformer.py                       # trains what is missing, prints the tables, writes the JSON
    python benchmarks/alignformer.py --only alignformer_refshapes --seeds 1   # one training, say in a second terminal
    python benchmarks/alignformer.py --ship runs/alignformer_refshapes_short/last   # becomes the shipped checkpoint
    python benchmarks/alignformer.py --shipped              # how pixels gather in the shipped checkpoint, all of val

Every row has the same steps and batches, at 64 px: the budget of ``benchmarks/magnet.py``, which trains CMSA and
MagNet, so ``results.py`` puts all of them into one table. All three have about a million parameters.

The second table asks how well pixels gather around their centre: the probability that a pixel of the referent is nearer
to it (cosine) than another pixel of the same image (AUC, 0.5 is chance), before training and after, around the centre
that the sentence vector gives and around the last one. Finding every object is enough to do well in that; so around the
last one it is also asked among the pixels of objects only. Training goes on where it stopped; results go to
data/results/alignformer.json, and those of the shipped checkpoint to data/results/alignformer_gathering.json.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import study
import torch
import tyro
from measure import about, write_json
from study import Study, Training, kept, mean, runs_of, table_of_splits
from study import table as markdown
from torch import nn
from torch.utils.data import DataLoader, Subset

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.evaluation.metrics import centre_auc
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


def main(
    steps: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: str | None = None,
    gathered: int = 400,
    ship: Path | None = None,
    shipped: bool = False,
    out: Path | None = None,
) -> None:
    """Train, score, and measure how pixels gather.

    Args:
        steps: Budget of every training.
        seeds: One training each.
        only: Train and measure this preset and stop.
        gathered: Samples of val whose pixels are compared with their centre.
        ship: The last/ folder of a training of AlignFormer: make it the shipped checkpoint, and stop.
        shipped: Ask the shipped checkpoint how pixels gather in all of val, and stop.
        out: The JSON file.
    """
    if ship:
        study.ship(ship, SHIPPED)
        return
    if shipped:
        ask_the_shipped(out or results_dir() / "alignformer_gathering.json")
        return

    def gathering(training: Training) -> tuple[str, dict]:
        path = training.last.parent / "gathering.json"
        return training.row, kept(path, lambda: before_and_after(training.last, gathered))

    trainings = Study("alignformer", ROWS, also={"gathering": gathering}, fraction=1.0)
    result = trainings.run(steps, seeds, only=only, out=out or results_dir() / "alignformer.json")
    print(f"{table_of_splits(runs_of(result['rows']))}\n\n{gathering_table(result)}")


def ask_the_shipped(out: Path) -> None:
    """How pixels gather around the centres of the shipped checkpoint, in all of val."""
    samples = len(build_dataset("refshapes", "val"))
    result = before_and_after(checkpoints_dir() / SHIPPED, samples)
    write_json(out, {"samples": samples, **about(), "gathering": result})
    print(gathering_table({"gathering": {SHIPPED: {"0": result}}}))


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
    columns = {f"{centre}, {time}": mean(time, centre) for centre in CENTRES for time in ("before", "after")}
    return markdown("AUC around the centre", runs_of(result["gathering"]), columns)


if __name__ == "__main__":
    tyro.cli(main)
