"""Where the word maps of the shipped checkpoint point, and what its words are worth to the mask, on RefShapes.

    python benchmarks/pointing.py                  # val and testB; prints tables, writes data/results/pointing.json

The pointing game and word ablation of ``refseg_course.word_measures``, on the CPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from measure import about, write_json
from study import count, mean
from study import table as markdown
from torch.utils.data import Subset

from refseg.checkpoint import load_checkpoint
from refseg.datasets import build_dataset, build_transform
from refseg.explorer.session import POINTING
from refseg.explorer.state import NORMALISATIONS
from refseg.paths import checkpoints_dir, results_dir
from refseg_course.word_measures import ablation_scores, pointing_scores, relative_word_maps, word_maps

MAPS = {"attention": word_maps, "relative to the other words": relative_word_maps}


@dataclass
class PointingBenchmark:
    """Score the word maps of a checkpoint."""

    checkpoint: Path = checkpoints_dir() / "cmsa_refshapes"
    splits: tuple[str, ...] = ("val", "testB")
    samples: int | None = None  # Take that many samples of each split, spread evenly; all if not given.
    ablated: int = 400  # Samples of the first split, spread evenly, whose words are removed one at a time.
    out: Path = results_dir() / "pointing.json"

    def run(self) -> None:
        """Everything."""
        loaded = load_checkpoint(self.checkpoint, torch.device("cpu"))
        result = {"checkpoint": self.checkpoint.resolve().name, "data": "refshapes", **about(), "pointing": {}}
        for split in self.splits:
            whole = build_dataset("refshapes", split, build_transform(loaded.image_size), objects=True)
            dataset = spread(whole, self.samples)
            result["pointing"][split] = {"expressions": len(dataset)}
            for name, maps_of in MAPS.items():
                scores = pointing_scores(loaded.model, dataset, loaded.tokenizer, maps_of=maps_of)
                result["pointing"][split][name] = scores
                print(f"{split}, {len(dataset):,} expressions, {name}\n\n{table(scores)}\n")
            if split == self.splits[0]:
                dataset = spread(whole, self.ablated)
                by_kind = ablation_scores(loaded.model, dataset, loaded.tokenizer)
                result["ablation"] = {"split": split, "expressions": len(dataset), "by_kind": by_kind}
        print(ablation_table(result["ablation"]["by_kind"]))
        write_json(self.out, result)
        print(f"{write_summary(self.checkpoint, result)}: renew SHA256SUMS beside it.")


def write_summary(checkpoint: Path, result: dict) -> Path:
    """The part that the explorer shows, in the checkpoint's folder; a "note" that is there stays."""
    path, columns = checkpoint / POINTING, ("N", "pointing", "chance", "object_chance")
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    split, by_maps = next(iter(result["pointing"].items()))
    scores = {
        normalisation: {level: {c: kinds["all"][c] for c in columns} for level, kinds in by_maps[name].items()}
        for normalisation, name in zip(NORMALISATIONS, MAPS, strict=True)
    }
    note = old.get("note", "")
    write_json(path, {"data": "refshapes", "of": f"RefShapes {split}", "note": note, "scores": scores})
    return path


def spread(dataset, samples: int | None):
    """This many samples of ``dataset`` at equal distances; None takes all."""
    if samples is None or samples >= len(dataset):
        return dataset
    return Subset(dataset, [int(i * len(dataset) / samples) for i in range(samples)])


def table(scores: dict) -> str:
    """The pointing scores as a Markdown table."""
    rows = {f"{level} | {kind}": [row] for level, by_kind in scores.items() for kind, row in by_kind.items()}
    names = ("pointing", "chance", "object_chance", "on_object", "mass")
    return markdown("level | words", rows, {"N": count("N")} | {name: mean(name) for name in names})


def ablation_table(by_kind: dict) -> str:
    """What removing a word costs, as a Markdown table."""
    columns = {"N": count("N"), "mIoU": mean("mIoU"), "mIoU without": mean("mIoU without")}
    return markdown("word removed", {kind: [row] for kind, row in by_kind.items()}, columns)


if __name__ == "__main__":
    tyro.cli(PointingBenchmark).run()
