"""Does Mask Grounding pay? MagNet, its ablations, and CMSA with and without it, at one budget on RefShapes.

    python benchmarks/magnet.py                          # trains what is missing, row by row; prints the tables
    python benchmarks/magnet.py --only magnet_refshapes --seeds 1   # one training, say in a second terminal
    python benchmarks/magnet.py --share 0.1              # a tenth of train: with Mask Grounding and without
    python benchmarks/magnet.py --ship runs/magnet_refshapes/last   # that training becomes the shipped checkpoint
    python benchmarks/magnet.py --shipped                # what the shipped checkpoint makes of hidden words, all of val

Every row has the same steps and batches, at 64 px; CMSA keeps its learning rate. The second table asks what the trained
heads make of a hidden word that names the colour or the shape of something: with picture and mask, without the mask,
and what can be guessed from the words alone, by a text encoder that was trained on nothing else. Synonyms count. The
third asks where Mask Grounding helps or does not: by kind of sentence, and by the rarest word of a sentence.
Stopped at any time, the same command goes on where it was; results go to data/results/magnet.json after every row, and
those of the shipped checkpoint to data/results/magnet_recovery.json.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import trainings
import tyro
from safetensors.torch import load_file, save_file
from torch import nn
from trainings import SPLITS, compared, kept, split_scores, spread, table

from refseg.checkpoint import load_checkpoint
from refseg.datasets import build_dataset, build_transform
from refseg.datasets.refshapes.language import KINDS
from refseg.evaluation.evaluate import score
from refseg.evaluation.hidden_words import Tally, WordGuesser, WordsAlone, recover, trained_heads, write_heads
from refseg.machine import describe_machine, git_commit, versions
from refseg.objectives.losses import hidden_word_loss
from refseg.objectives.mask_grounding import hide_some, hideable_ids
from refseg.paths import checkpoints_dir, results_dir, runs_dir
from refseg.tokenizer import WordVocabulary
from refseg.training.loop import learning_rate
from refseg.training.presets import PRESETS

ROWS = {
    "MagNet": "magnet_refshapes",
    "MagNet without Mask Grounding": "magnet_refshapes_no_mask_grounding",
    "MagNet, Mask Grounding at full weight": "magnet_refshapes_full_grounding",
    "MagNet without CAM": "magnet_refshapes_no_cam",
    "MagNet without the alignment loss": "magnet_refshapes_no_alignment",
    "CMSA": "cmsa_refshapes",
    "CMSA with Mask Grounding": "cmsa_refshapes_mask_grounding",
    "CMSA, Mask Grounding at full weight": "cmsa_refshapes_full_grounding",
}
GROUNDED = (
    "magnet_refshapes",
    "magnet_refshapes_full_grounding",
    "cmsa_refshapes_mask_grounding",
    "cmsa_refshapes_full_grounding",
)
WITH_AND_WITHOUT = ("MagNet", "MagNet without Mask Grounding", "CMSA with Mask Grounding", "CMSA")
RARE = 1 / 30  # a word in fewer sentences than this share of the training set; a third of val has one
SHIPPED = "magnet_refshapes"


@dataclass
class Magnet:
    """Train and score."""

    steps: int = 1000
    """Budget of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    only: str | None = None
    """Train this preset and stop."""
    share: float = 1.0
    """Of the training pictures; below 1 only with and without Mask Grounding, and results go to magnet-SHARE.json."""
    recovered: int = 800
    """Expressions of val whose colour and shape words are hidden, one at a time."""
    ship: Path | None = None
    """The last/ folder of a training of magnet_refshapes: make it the shipped checkpoint, and stop."""
    shipped: bool = False
    """Ask the shipped checkpoint for the hidden words of all of val, and stop."""
    out: Path | None = None

    def run(self) -> None:
        """What was asked for."""
        if self.ship:
            ship(self.ship)
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
        result = {"steps": self.steps, "share": self.share, **about, "rows": {}, "recovery": {}}
        out = self.out or results_dir() / ("magnet.json" if self.share == 1 else f"magnet-{self.share}.json")
        rows = {name: preset for name, preset in ROWS.items() if self.share == 1 or name in WITH_AND_WITHOUT}
        for seed in self.seeds:
            for name, preset in rows.items():
                scores, recovery = self.measure(preset, seed)
                result["rows"].setdefault(name, {})[str(seed)] = scores
                if recovery:
                    result["recovery"].setdefault(preset, {})[str(seed)] = recovery
                out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{table(result)}\n\n{recovery_table(result['recovery'])}\n\n{where_table(result)}")

    def measure(self, preset: str, seed: int) -> tuple[dict, dict | None]:
        """Train, score and ask for hidden words, whatever of it has not been done yet; kept beside the checkpoint."""
        checkpoint = self.train(preset, seed)
        scores = split_scores(checkpoint, SPLITS)
        scores["val"]["by_rarity"] = kept(checkpoint.parent / "rarity.json", lambda: by_rarity(checkpoint))
        if preset not in GROUNDED:
            return scores, None
        return scores, kept(checkpoint.parent / "recovery.json", lambda: recovery_of(checkpoint, self.recovered))

    def train(self, preset: str, seed: int) -> Path:
        """The folder of the last checkpoint: the same number of updates for all."""
        return compared(preset, self.steps, seed, self.share)

    def ask_the_shipped(self) -> None:
        """Write data/results/magnet_recovery.json."""
        folder = checkpoints_dir() / SHIPPED
        val = build_dataset("refshapes", "val", build_transform(load_checkpoint(folder).image_size))
        about = {"expressions": len(val), "machine": describe_machine(), "versions": versions()}
        result = about | {"recovery": described(recover(WordGuesser.of(folder), val))}
        out = self.out or results_dir() / "magnet_recovery.json"
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(recovery_table({SHIPPED: {"0": result["recovery"]}}))


# ---- hidden words ------------------------------------------------------------------------------------------------


def recovery_of(checkpoint: Path, samples: int) -> dict:
    """Hide every colour and shape word of some of val, one at a time, and let the trained head guess it."""
    loaded = load_checkpoint(checkpoint)
    guesser = WordGuesser(loaded, trained_heads(checkpoint, words_alone(loaded.tokenizer)))
    val = build_dataset("refshapes", "val", build_transform(loaded.image_size))
    return described(recover(guesser, val, samples))


def described(tallies: dict[str, Tally]) -> dict:
    """JSON-able: how many were asked for, the shares that came back, and those among words of the same kind."""
    return {
        "asked": dict(sorted(next(iter(tallies.values())).asked.items())),
        "right": {way: tally.shares() for way, tally in tallies.items()},
        "right of its kind": {way: tally.shares(of_kind=True) for way, tally in tallies.items()},
    }


def by_rarity(checkpoint: Path) -> dict:
    """N and mIoU on val of the sentences with a rare word, and of the others; rare is counted on all of train."""
    loaded = load_checkpoint(checkpoint)
    train_words = [set(loaded.tokenizer.split(text)) for text in build_dataset("refshapes", "train").expressions]
    counts = Counter(word for words in train_words for word in words)
    rare = {word for word in counts if counts[word] < RARE * len(train_words)}
    val = build_dataset("refshapes", "val", build_transform(loaded.image_size))
    ious = score(loaded.model, val, loaded.tokenizer, progress=False).ious
    groups = {"rare words": [], "no rare words": []}
    for text, iou in zip(val.expressions, ious, strict=True):
        groups["rare words" if rare & set(loaded.tokenizer.split(text)) else "no rare words"].append(iou)
    return {name: {"N": len(found), "mIoU": statistics.mean(found)} for name, found in groups.items() if found}


def ship(last: Path) -> None:
    """Make ``last/`` of a training the shipped checkpoint, with its heads beside the weights."""
    loaded = load_checkpoint(last)
    write_heads(trainings.ship(last, SHIPPED), trained_heads(last, words_alone(loaded.tokenizer)))


def words_alone(tokenizer: WordVocabulary) -> WordsAlone:
    """Trained on the training expressions of RefShapes, once for a vocabulary."""
    model = WordsAlone(len(tokenizer))
    path = runs_dir() / "magnet" / f"words_alone-{len(tokenizer)}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    model = train_on_words_alone(tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model


def train_on_words_alone(tokenizer: WordVocabulary, steps: int = 1500, batch_size: int = 128) -> WordsAlone:
    """Masked language modelling on the training expressions of RefShapes; about a minute."""
    torch.manual_seed(0)
    rows = [torch.tensor(tokenizer.encode(text)) for text in build_dataset("refshapes", "train").expressions]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    model, hideable = WordsAlone(len(tokenizer)), hideable_ids(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    config = replace(PRESETS["magnet_refshapes"].optim, steps=steps, warmup_steps=100)
    for step in range(steps):
        batch = ids[torch.randint(len(ids), (batch_size,))]
        hidden = hide_some((batch > 0) & hideable[batch], 0.15)
        logits = model(batch.masked_fill(hidden, tokenizer.hidden_id), batch > 0)[hidden]
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.zero_grad()
        hidden_word_loss(logits, batch[hidden]).backward()
        optimizer.step()
    return model.eval()


# ---- tables ------------------------------------------------------------------------------------------------------


def where_table(result: dict) -> str:
    """mIoU on val with and without Mask Grounding, by kind of sentence and by rarity of its words."""
    rows = {name: result["rows"][name].values() for name in WITH_AND_WITHOUT if name in result["rows"]}
    found = {name: [one["val"]["by_kind"] | one["val"]["by_rarity"] for one in runs] for name, runs in rows.items()}
    groups = [*KINDS, "rare words", "no rare words"]
    lines = [f"| mIoU, val | {' | '.join(groups)} |", "|---|" + "---|" * len(groups)]
    if found:  # N is the same for all
        first = next(iter(found.values()))[0]
        lines.append("| N | " + " | ".join(f"{first[group]['N']:,}" for group in groups) + " |")
    for name, runs in found.items():
        lines.append(f"| {name} | {' | '.join(spread([run[group]['mIoU'] for run in runs]) for group in groups)} |")
    return "\n".join(lines)


def recovery_table(recovery: dict) -> str:
    """Shares of hidden words that came back, by network and seed."""
    lines = []
    for name, by_seed in recovery.items():
        runs = list(by_seed.values())
        groups = list(runs[0]["asked"])
        lines += [f"| {name} | {' | '.join(groups)} |", "|---|" + "---|" * len(groups)]
        lines.append("| asked | " + " | ".join(f"{runs[0]['asked'][group]:,}" for group in groups) + " |")
        for counted, note in (("right", ""), ("right of its kind", ", of its kind")):
            for way in runs[0][counted]:
                cells = [spread([run[counted][way][group] for run in runs]) for group in groups]
                lines.append(f"| {way}{note} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    tyro.cli(Magnet).run()
