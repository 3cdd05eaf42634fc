"""Does Mask Grounding pay? MagNet, its ablations, and CMSA with and without it, at one budget on RefShapes.

    python benchmarks/magnet.py                          # trains what is missing, row by row; prints the tables
    python benchmarks/magnet.py --only magnet_refshapes --seeds 1   # one training, say in a second terminal
    python benchmarks/magnet.py --share 0.1              # a tenth of train: with Mask Grounding and without
    python benchmarks/magnet.py --ship runs/magnet_refshapes/last   # that training becomes the shipped checkpoint
    python benchmarks/magnet.py --shipped                # what the shipped checkpoint makes of hidden words, all of val

Every row has the same steps and batches, at 64 px; CMSA keeps its learning rate. The second table asks what the trained
heads make of a hidden word that names the colour or the shape of something: with image and mask, without the mask,
and what can be guessed from the words alone, by a text encoder that was trained on nothing else. Synonyms count. The
third asks where Mask Grounding helps or does not: by kind of expression, and by the rarest word of an expression.
Stopped at any time, the same command goes on where it was; results go to data/results/magnet.json after every row, and
those of the shipped checkpoint to data/results/magnet_recovery.json.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import study
import torch
import tyro
from measure import about, write_json
from safetensors.torch import load_file, save_file
from study import Study, Training, count, kept, mean, runs_of, table_of_splits
from study import table as markdown
from torch import Tensor, nn

from refseg.checkpoint import load_checkpoint, load_training
from refseg.datasets import build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import score
from refseg.evaluation.hidden_words import HEADS, WordGuesser, WordsAlone
from refseg.objectives.losses import hidden_word_loss
from refseg.objectives.mask_grounding import hide_some, hideable_ids
from refseg.paths import checkpoints_dir, results_dir, runs_dir
from refseg.tokenizer import WordVocabulary
from refseg.training.loop import learning_rate
from refseg.training.presets import PRESETS
from refseg_course.word_measures import Tally, recover
from refshapes.language import KINDS
from refshapes.wording import MEANINGS

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
RARE = 1 / 30  # a word in fewer expressions than this fraction of the training set; a third of val has one
SHIPPED = "magnet_refshapes"
ASKED = {kind: MEANINGS[kind] for kind in ("colour", "shape")}  # kinds of words that are hidden


def main(
    steps: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: str | None = None,
    share: float = 1.0,
    recovered: int = 800,
    ship: Path | None = None,
    shipped: bool = False,
    out: Path | None = None,
) -> None:
    """Train and score.

    Args:
        steps: Budget of every training.
        seeds: One training each.
        only: Train and score this preset and stop.
        share: Fraction of the training images; below 1 only with and without Mask Grounding, into magnet-SHARE.json.
        recovered: Expressions of val whose colour and shape words are hidden, one at a time.
        ship: The last/ folder of a training of magnet_refshapes: make it the shipped checkpoint, and stop.
        shipped: Ask the shipped checkpoint for the hidden words of all of val, and stop.
        out: The JSON file.
    """
    if ship:
        ship_with_heads(ship)
        return
    if shipped:
        ask_the_shipped(out or results_dir() / "magnet_recovery.json")
        return

    def recovery(training: Training) -> tuple[str, dict] | None:
        if training.preset not in GROUNDED:
            return None
        path = training.last.parent / "recovery.json"
        return training.preset, kept(path, lambda: recovery_of(training.last, recovered))

    rows = {row: preset for row, preset in ROWS.items() if share == 1 or row in WITH_AND_WITHOUT}
    out = out or results_dir() / ("magnet.json" if share == 1 else f"magnet-{share}.json")
    trainings = Study("magnet", rows, scores, {"recovery": recovery}, fraction=share)
    result = trainings.run(steps, seeds, only=only, out=out, share=share)
    tables = [table_of_splits(runs_of(result["rows"])), recovery_table(result["recovery"]), where_table(result)]
    print("\n\n".join(tables))


def scores(training: Training) -> dict:
    """On all splits, and on val by the rarity of the words."""
    found = study.split_scores(training)
    found["val"]["by_rarity"] = kept(training.last.parent / "rarity.json", lambda: by_rarity(training.last))
    return found


def ask_the_shipped(out: Path) -> None:
    """What the shipped checkpoint makes of the hidden words of all of val."""
    folder = checkpoints_dir() / SHIPPED
    val = build_dataset("refshapes", "val", build_transform(load_checkpoint(folder).image_size))
    recovery = described(recover(WordGuesser.of(folder), val, ASKED))
    write_json(out, {"expressions": len(val), **about(), "recovery": recovery})
    print(recovery_table({SHIPPED: {"0": recovery}}))


# ---- hidden words ------------------------------------------------------------------------------------------------


def recovery_of(checkpoint: Path, samples: int) -> dict:
    """Hide every colour and shape word of some of val, one at a time, and let the trained head guess it."""
    loaded = load_checkpoint(checkpoint)
    guesser = WordGuesser(loaded, trained_heads(checkpoint, words_alone(loaded.tokenizer)))
    val = build_dataset("refshapes", "val", build_transform(loaded.image_size))
    return described(recover(guesser, val, ASKED, samples))


def described(tallies: dict[str, Tally]) -> dict:
    """JSON-able: how many were asked for, the shares that came back, and those among words of the same kind."""
    return {
        "asked": dict(sorted(next(iter(tallies.values())).asked.items())),
        "right": {way: tally.shares() for way, tally in tallies.items()},
        "right of its kind": {way: tally.shares(of_kind=True) for way, tally in tallies.items()},
    }


def by_rarity(checkpoint: Path) -> dict:
    """N and mIoU on val of the expressions with a rare word, and of the others; rare is counted on all of train."""
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


def ship_with_heads(last: Path) -> None:
    """Make ``last/`` of a training the shipped checkpoint, with its heads beside the weights."""
    loaded = load_checkpoint(last)
    heads = trained_heads(last, words_alone(loaded.tokenizer))
    save_file({name: x.contiguous().clone() for name, x in heads.items()}, study.ship(last, SHIPPED) / HEADS)


def trained_heads(last: Path, alone: WordsAlone) -> dict[str, Tensor]:
    """The heads of a training's ``last/`` checkpoint, and ``alone`` with them, named as ``WordGuesser`` takes them.

    Raises:
        RefsegError: the checkpoint has no state of the objective: it is not the last one of a training.
    """
    heads = (load_training(last) or {}).get("objective", {})
    predictor = {name.partition("predictor.")[2]: x for name, x in heads.items() if "predictor." in name}
    if not predictor:
        raise RefsegError("The checkpoint has no heads: take the folder last/ of a training with Mask Grounding.")
    parts = {"predictor": predictor, "alone": alone.state_dict()}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


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
    """mIoU on val with and without Mask Grounding, by kind of expression and by rarity of its words."""
    found = runs_of(result["rows"])
    rows = {row: found[row] for row in WITH_AND_WITHOUT if row in found}
    groups = {kind: ("val", "by_kind", kind) for kind in KINDS}
    groups |= {group: ("val", "by_rarity", group) for group in ("rare words", "no rare words")}
    head, line, *lines = markdown("mIoU, val", rows, {g: mean(*path, "mIoU") for g, path in groups.items()}).split("\n")
    if rows:  # N is the same for all
        runs = next(iter(rows.values()))
        lines.insert(0, f"| N | {' | '.join(count(*path, 'N')(runs) for path in groups.values())} |")
    return "\n".join([head, line, *lines])


def recovery_table(recovery: dict) -> str:
    """Shares of hidden words that came back, by network."""
    tables = []
    for name, runs in runs_of(recovery).items():
        groups = list(runs[0]["asked"])
        rows = {
            f"{way}{note}": [run[counted][way] for run in runs]
            for counted, note in (("right", ""), ("right of its kind", ", of its kind"))
            for way in runs[0][counted]
        }
        head, line, *lines = markdown(name, rows, {group: mean(group) for group in groups}).split("\n")
        asked = f"| asked | {' | '.join(count('asked', group)(runs) for group in groups)} |"
        tables.append("\n".join([head, line, asked, *lines]))
    return "\n\n".join(tables)


if __name__ == "__main__":
    tyro.cli(main)
