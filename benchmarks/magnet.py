"""Does Mask Grounding pay? MagNet, its ablations, and CMSA with and without it, at one budget on RefShapes.

    python benchmarks/magnet.py                          # trains what is missing, prints the tables, writes the JSON
    python benchmarks/magnet.py --only magnet_refshapes --seeds 1   # one training, say in a second terminal
    python benchmarks/magnet.py --steps 3000 --share 0.1 # a tenth of the training pictures

Every row has the same steps and batches; CMSA keeps its learning rate. The second table asks what the trained heads
make of a hidden word that names the colour or the shape of something: with picture and mask, without the mask, and
what can be guessed from the words alone, by a text encoder that was trained on nothing else. Synonyms count as right.
Training goes on where it stopped; results go to data/results/magnet.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.datasets.refshapes.language import SYNONYMS, content_words
from refseg.datasets.refshapes.scene import ATTRIBUTES
from refseg.evaluate import evaluate_checkpoint
from refseg.losses import hidden_word_loss
from refseg.machine import describe_machine, git_commit, versions
from refseg.models.staged_text import TransformerWords, TransformerWordsConfig
from refseg.objectives import MaskGrounding, build_objective
from refseg.objectives.mask_grounding import hide_some, hideable_ids
from refseg.paths import results_dir, runs_dir
from refseg.presets import PRESETS
from refseg.tokenizer import WordVocabulary
from refseg.train import learning_rate, train
from refseg.types import RefBatch

ROWS = {
    "MagNet": "magnet_refshapes",
    "without CAM": "magnet_refshapes_no_cam",
    "without Mask Grounding": "magnet_refshapes_no_mask_grounding",
    "without the alignment loss": "magnet_refshapes_no_alignment",
    "CMSA": "cmsa_refshapes",
    "CMSA with Mask Grounding": "cmsa_refshapes_mask_grounding",
}
GROUNDED = ("magnet_refshapes", "cmsa_refshapes_mask_grounding")
SPLITS = ("val", "testA", "testB", "testC")
ASKED = ("colour", "shape")  # kinds of words that are hidden for the second table
SEEN = {"picture and mask": {}, "picture, no mask": {"mask": False}}
# Every word for a colour or a shape, and what it means.
MEANING = {text: value for kind in ASKED for value in ATTRIBUTES[kind] for text in SYNONYMS.get(value, (value,))}


@dataclass
class Magnet:
    """Train and score."""

    steps: int = 3000
    """Budget of every training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training each."""
    only: str | None = None
    """Train this preset and stop."""
    share: float = 1.0
    """Of the training pictures; below 1 the results go to magnet-SHARE.json."""
    recovered: int = 800
    """Expressions of val whose colour and shape words are hidden, one at a time."""
    out: Path | None = None

    def run(self) -> None:
        """Everything, or the trainings of one preset."""
        presets = [self.only] if self.only else list(ROWS.values())
        folders = {(preset, seed): self.train(preset, seed) for preset in presets for seed in self.seeds}
        if self.only:
            return
        rows = {
            name: {str(seed): self.score(folders[preset, seed]) for seed in self.seeds} for name, preset in ROWS.items()
        }
        recovery = {
            preset: {str(seed): self.recover(preset, folders[preset, seed]) for seed in self.seeds}
            for preset in GROUNDED
        }
        about = {"machine": describe_machine(), "versions": versions(), "commit": git_commit()}
        result = {"steps": self.steps, "share": self.share, **about, "rows": rows, "recovery": recovery}
        out = self.out or results_dir() / ("magnet.json" if self.share == 1 else f"magnet-{self.share}.json")
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{table(result)}\n\n{recovery_table(result)}")

    def train(self, preset: str, seed: int) -> Path:
        """The folder of the last checkpoint: the same number of updates for all."""
        experiment = PRESETS[preset]()
        optim = replace(experiment.optim, steps=self.steps, seed=seed)
        data = replace(experiment.data, train_share=self.share)
        folder = runs_dir() / "magnet" / f"{preset}-{self.steps}-{self.share}-{seed}"
        train(replace(experiment, optim=optim, data=data), folder, device="cpu")
        return folder / "last"

    def score(self, checkpoint: Path) -> dict:
        """Evaluations by split, kept beside the checkpoint."""
        kept = checkpoint.parent / "scores.json"
        if not kept.exists():
            scores = {split: evaluate_checkpoint(checkpoint, "refshapes", split, device="cpu") for split in SPLITS}
            kept.write_text(json.dumps(scores))
        return json.loads(kept.read_text())

    def recover(self, preset: str, checkpoint: Path) -> dict:
        """Shares of hidden words that come back, kept beside the checkpoint."""
        kept = checkpoint.parent / "recovery.json"
        if not kept.exists():
            kept.write_text(json.dumps(recover(preset, checkpoint, self.recovered)))
        return json.loads(kept.read_text())


# ---- hidden words ------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """How often a hidden word came back, of the referent's own words and of those of other things."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def count(self, group: str, guessed: str, hidden: str) -> None:
        """One word that was hidden."""
        self.asked[group] = self.asked.get(group, 0) + 1
        self.right[group] = self.right.get(group, 0) + (MEANING.get(guessed) == MEANING[hidden])

    def shares(self) -> dict[str, float]:
        """By group."""
        return {group: self.right[group] / count for group, count in sorted(self.asked.items())}


@torch.no_grad()
def recover(preset: str, checkpoint: Path, samples: int) -> dict:
    """Hide every colour and shape word of some of val, one at a time, and let the trained head guess it."""
    loaded = load_checkpoint(checkpoint)
    objective = build_objective(replace(PRESETS[preset]().objective, semantics=0.0), loaded.model, (), loaded.tokenizer)
    heads = {n.removeprefix("objective."): t for n, t in loaded.training.items() if n.startswith("objective.")}
    objective.load_state_dict({name: heads[name] for name in objective.state_dict()})
    objective.eval()
    alone = train_on_words_alone(loaded.tokenizer)
    tallies = {name: Tally() for name in (*SEEN, "words alone")}
    for batch in _batches(loaded.tokenizer, loaded.image_size, samples):
        for rows, hidden, words, groups in hidden_words(batch):
            guesses = {name: objective.guess(loaded.model, rows, hidden, **seen) for name, seen in SEEN.items()}
            guesses["words alone"] = alone.guess(rows, hidden, objective)
            for name, probabilities in guesses.items():
                for word, group, best in zip(words, groups, probabilities.argmax(-1).tolist(), strict=True):
                    tallies[name].count(group, loaded.tokenizer.words[best], word)
    asked = tallies["words alone"].asked
    return {"asked": asked, "right": {name: tally.shares() for name, tally in tallies.items()}}


def _batches(tokenizer: WordVocabulary, image_size: int, samples: int) -> Iterator[RefBatch]:
    dataset = build_dataset("refshapes", "val", build_transform(image_size))
    step = max(1, len(dataset) // samples)
    chosen = torch.utils.data.Subset(dataset, range(0, len(dataset), step))
    return iter(DataLoader(chosen, batch_size=32, collate_fn=Collate(tokenizer)))


def hidden_words(batch: RefBatch) -> Iterator[tuple[RefBatch, Tensor, list[str], list[str]]]:
    """The batch as often as its richest sentence has words to hide, each time with those that have one left.

    Yields:
        the samples, hidden [B,L] with one True per row, the hidden words, and groups like "shape of the referent"
    """
    places = [list(_places(*sample)) for sample in zip(batch.expressions, batch.facts, strict=True)]
    for turn in range(max(map(len, places))):
        rows = [row for row, found in enumerate(places) if turn < len(found)]
        hidden = torch.zeros(len(rows), batch.token_ids.shape[1], dtype=torch.bool)
        for n, row in enumerate(rows):
            hidden[n, places[row][turn][0]] = True
        yield _rows(batch, rows), hidden, *([places[row][turn][i] for row in rows] for i in (1, 2))


def _places(expression: str, facts: dict) -> Iterator[tuple[int, str, str]]:
    words = expression.split()
    for position, word, kind, true_of in content_words(words, facts["word_objects"]):
        if kind in ASKED:
            of = "the referent" if facts["ann_id"] in true_of else "another"
            yield position, word, f"{kind} of {of}"


def _rows(batch: RefBatch, rows: list[int]) -> RefBatch:
    chosen = {}
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            chosen[name] = value[rows]
        elif isinstance(value, list):
            chosen[name] = [value[row] for row in rows]
    return replace(batch, **chosen)


class WordsAlone(nn.Module):
    """A text encoder that names hidden words from their neighbours: what a guess is worth without the picture."""

    def __init__(self, vocabulary_size: int):
        super().__init__()
        self.text = TransformerWords(TransformerWordsConfig(), vocabulary_size)
        self.head = nn.Linear(self.text.channels, vocabulary_size)

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> Tensor:
        """[B,L] -> logits [B,L,V]."""
        return self.head(self.text(token_ids, token_valid)[0])

    def guess(self, batch: RefBatch, hidden: Tensor, objective: MaskGrounding) -> Tensor:
        """As ``MaskGrounding.guess``."""
        read = objective.with_hidden(batch, hidden)
        return self(read.token_ids, read.token_valid)[hidden].softmax(-1)


@torch.enable_grad()
def train_on_words_alone(tokenizer: WordVocabulary, steps: int = 1500, batch_size: int = 128) -> WordsAlone:
    """Masked language modelling on the training expressions of RefShapes; about a minute."""
    torch.manual_seed(0)
    rows = [torch.tensor(tokenizer.encode(text)) for text in build_dataset("refshapes", "train").expressions]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    model, hideable = WordsAlone(len(tokenizer)), hideable_ids(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    config = replace(PRESETS["magnet_refshapes"]().optim, steps=steps, warmup_steps=100)
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


def table(result: dict) -> str:
    """Mean and, over several seeds, the standard deviation of mIoU as a Markdown table."""
    lines = [f"| mIoU | parameters | {' | '.join(SPLITS)} |", "|---|---|" + "---|" * len(SPLITS)]
    for name, by_seed in result["rows"].items():
        scores = list(by_seed.values())
        cells = [spread([score[split]["mIoU"] for score in scores]) for split in SPLITS]
        lines.append(f"| {name} | {scores[0]['val']['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def recovery_table(result: dict) -> str:
    """Shares of hidden words that came back."""
    lines = []
    for preset, by_seed in result["recovery"].items():
        runs = list(by_seed.values())
        groups = list(runs[0]["asked"])
        lines += [f"| {preset} | {' | '.join(groups)} |", "|---|" + "---|" * len(groups)]
        lines.append("| asked | " + " | ".join(f"{runs[0]['asked'][group]:,}" for group in groups) + " |")
        for name in runs[0]["right"]:
            cells = [spread([run["right"][name][group] for run in runs]) for group in groups]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def spread(values: list[float]) -> str:
    """``0.812 ± 0.010``, or the one value."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    tyro.cli(Magnet).run()
