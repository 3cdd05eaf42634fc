"""Score the shipped checkpoints on all splits; write the tables of data/results/README.md, README.md and model cards.

    python benchmarks/results.py              # scores first, then the tables
    python benchmarks/results.py --no-score   # the tables only, from the JSON files that are there
    python benchmarks/results.py --only cmsa_refshapes_video   # scores of one checkpoint, then the tables

Writes data/results/NAME.json for every checkpoint NAME. The other tables come from the JSON files that the other
scripts of this folder wrote there. Scores are taken on the CPU.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import tyro
from alignformer import gathering_table
from cfsa import table as by_frames
from controls import table
from magnet import WITH_AND_WITHOUT, recovery_table, where_table
from study import COMPARED_AT, SPLITS, runs_of, spread, table_of_splits
from video import table as by_sight

from refseg.evaluation.evaluate import evaluate_checkpoint
from refseg.evaluation.metrics import COLUMNS
from refseg.paths import PROJECT, checkpoints_dir, results_dir

FORMS = {
    "literal": "as written, scores in memory",
    "literal_sdpa": "as written, fused attention kernel",
    "per_word": "factorised, one softmax per query word",
    "rank_n": "factorised, rank N: what the block does",
    "plain": "plain non-local attention, no words",
}


SHIPPED = ("cmsa_refshapes", "cmsa_refshapes_taught_maps", "magnet_refshapes", "alignformer_refshapes")  # for images
SHIPPED_VIDEO = "cmsa_refshapes_video"
POINTING = {"cmsa_refshapes": "pointing", "cmsa_refshapes_taught_maps": "pointing_taught_maps"}
VIDEO_SPLITS = ("val", "test")
SHARES = (0.1, 0.3)  # of train, where less data was tried
KINDS = ("direction", "turn", "stop", "still", "size", "pass", "attribute", "position")
HEADLINES = {  # system and data set -> shipped checkpoint, row at one budget, what the papers or releases do not give
    ("CMSA + GMLF, Ye et al., CVPR 2019", "RefShapes"): ("cmsa_refshapes", "CMSA", "the gate layer of GMLF"),
    ("MagNet, Chng et al., CVPR 2024", "RefShapes"): (
        "magnet_refshapes",
        "MagNet",
        "Mask Grounding and the alignment loss: no training code was released",
    ),
    ("AlignFormer, Wei et al., 2023", "RefShapes"): (
        "alignformer_refshapes",
        "AlignFormer",
        "the contrastive loss; that the network is that of the later release, LGFormer",
    ),
    ("CMSA + CFSA, after Ye et al., TPAMI 2021", "RefShapes-Video"): (
        "cmsa_refshapes_video",
        "",
        "cross-frame self-attention (CFSA): the equations were not available",
    ),
}


def main(score: bool = True, only: str | None = None) -> None:
    """Score, store, and rewrite the tables between the marks.

    Args:
        score: False takes the scores of the last time.
        only: score this checkpoint only.
    """
    for name in (*SHIPPED, SHIPPED_VIDEO):
        there = (checkpoints_dir() / name).is_dir()  # a name may stand here before its checkpoint has been trained
        if score and (only == name or (only is None and there)):
            score_shipped(name)
    write_cards()
    write_page(page())
    if text := headlines():
        write_block(PROJECT / "README.md", "headlines", text)


def write_cards() -> None:
    """The tables in the model cards of the shipped checkpoints."""
    for name in SHIPPED:
        if scores := read(name):
            write_block(card(name), "results", shipped(scores))
    if scores := read(SHIPPED_VIDEO):
        write_block(card(SHIPPED_VIDEO), "results", shipped_video(scores))
    if hidden := read("magnet_recovery"):
        text = recovery_table({"hidden word": {"0": hidden["recovery"]}})
        write_block(card("magnet_refshapes"), "hidden words", text)
    if gathered := read("alignformer_gathering"):
        text = gathering_table({"gathering": {"all of val": {"0": gathered["gathering"]}}})
        write_block(card("alignformer_refshapes"), "gathering", text)


def page() -> Path:
    """Where most tables stand."""
    return results_dir() / "README.md"


def write_page(page: Path) -> None:
    """The tables whose JSON files are there."""
    tables = {
        "shipped": (shipped, SHIPPED[0]),
        "controls": (by_control, "controls"),
        "fusions": (by_fusion, "fusions"),
        "grounding": (where_table, "magnet"),
        "gathering": (gathering_table, "alignformer"),
        "video": (video, "video"),
        "speed": (speed, "cmsa_speed"),
        "frames": (against_frames, "cfsa_speed"),
    }
    for block, (table_of, name) in tables.items():
        if found := read(name):
            write_block(page, block, table_of(found))
    if compared := [found for name in ("magnet", "alignformer") if (found := read(name))]:
        write_block(page, "systems", by_system(compared, read("system_times")))
    less = {f"{100 * share:.0f} % of train": found for share in SHARES if (found := read(f"magnet-{share}"))}
    if less and (everything := read("magnet")):
        write_block(page, "less data", by_share(less | {"all": everything}))
    if all(map(read, POINTING.values())):
        write_block(page, "pointing", pointing())


def headlines() -> str | None:
    """The README's table: one row per system, its shipped checkpoint and, where there is one, its row at one budget.

    None if a result is missing.
    """
    compared = [found for name in ("magnet", "alignformer") if (found := read(name))]
    at_one_budget = {name: by_seed for found in compared for name, by_seed in found["rows"].items()}
    lines = ["| system | what is ours in it | shipped: mIoU, val | one budget: mIoU, val |", "|---|---|---|---|"]
    for (name, data), (checkpoint, row, ours) in HEADLINES.items():
        if (scores := read(checkpoint)) is None:
            return None
        runs = list(at_one_budget.get(row, {}).values())
        budget = f"{spread([run['val']['mIoU'] for run in runs])}, {len(runs)} seeds" if runs else ""
        val = scores["val"]
        one = f"{val['mIoU']:.3f}, N = {val['N']:,}, seed {val['seed']}"
        lines.append(f"| [{name}](data/checkpoints/{checkpoint}/README.md) on {data} | {ours} | {one} | {budget} |")
    return "\n".join(lines)


def card(name: str) -> Path:
    """The model card of a shipped checkpoint."""
    return checkpoints_dir() / name / "README.md"


def read(name: str) -> dict | None:
    """A results file, or None."""
    path = results_dir() / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def score_shipped(name: str) -> None:
    """All splits; for images also val with the two controls of the expression."""
    checkpoint = checkpoints_dir() / name
    if name == SHIPPED_VIDEO:
        results = {s: evaluate_checkpoint(checkpoint, "refshapes_video", s, device="cpu") for s in VIDEO_SPLITS}
    else:
        results = {split: evaluate_checkpoint(checkpoint, "refshapes", split, device="cpu") for split in SPLITS}
        for control in ("blank", "other"):
            results[f"val, {control}"] = evaluate_checkpoint(
                checkpoint, "refshapes", "val", device="cpu", expression_control=control
            )
    (results_dir() / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


def shipped(results: dict) -> str:
    """The Markdown table of the shipped checkpoint."""
    lines = ["| shipped checkpoint | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for split, row in results.items():
        cells = [f"{row[c]:,}" if c == "N" else f"{row[c]:.3f}" for c in COLUMNS]
        lines.append(f"| {split} | " + " | ".join(cells) + " |")
    about = results["val"]
    notes = f"{about['parameters']:,} parameters, seed {about['seed']}, one run. {where(about)} "
    notes += "In the last two rows every expression is hidden (blank) or that of another object of the image (other)."
    return "\n".join(lines) + "\n\n" + "\n".join(textwrap.wrap(notes, 118))


def pointing() -> str:
    """The Markdown table of the pointing game: the shipped network, and the same with supervised word maps."""
    lines = [
        "| the maximum of a word's map lies on what the word is true of | c3 | c4 | c5 | mIoU, val |",
        "|---" * 5 + "|",
    ]
    for name, stored in POINTING.items():
        scores = read(stored)["pointing"]["val"]["attention"]
        cells = [f"{scores[level]['all']['pointing']:.3f}" for level in ("c3", "c4", "c5")]
        lines.append(f"| {name} | {' | '.join(cells)} | {read(name)['val']['mIoU']:.3f} |")
    row = scores["c5"]["all"]
    lines += [
        f"| chance, anywhere in the image | {' | '.join([format(row['chance'], '.3f')] * 3)} | |",
        f"| chance, on any object | {' | '.join([format(row['object_chance'], '.3f')] * 3)} | |",
    ]
    count = read(stored)["pointing"]["val"]["expressions"]
    notes = f"Val, {count:,} expressions, {row['N']:,} words. {where(read(stored))}"
    return "\n".join([*lines, "", *textwrap.wrap(notes, 118)])


def shipped_video(results: dict) -> str:
    """The Markdown tables of the shipped network for clips: overall, and mIoU by kind of expression."""
    columns = ("N", "oIoU", "mIoU", "P@0.5", "P@0.9", "mAP")
    lines = [f"| shipped checkpoint | {' | '.join(columns)} | mIoU, motion | mIoU, others |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for split, row in results.items():
        cells = [f"{row[c]:,}" if c == "N" else f"{row[c]:.3f}" for c in columns]
        cells += [f"{row[group]['mIoU']:.3f}" for group in ("motion", "static")]
        lines.append(f"| {split} | {' | '.join(cells)} |")
    lines += ["", f"| mIoU | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for split, row in results.items():
        lines.append(f"| {split} | " + " | ".join(f"{row['by_kind'][kind]['mIoU']:.2f}" for kind in KINDS) + " |")
    about = results["val"]
    notes = f"{about['parameters']:,} parameters, {about['num_frames']} frames, seed {about['seed']}, one run. "
    notes += f"By the convention of papers on video (P@K counts IoU > K; mAP of one mask per sample). {where(about)}"
    return "\n".join([*lines, "", *textwrap.wrap(notes, 118)])


def video(result: dict) -> str:
    """The Markdown table of CFSA and its controls."""
    notes = (
        f"Each trained for {result['steps']:,} steps of 48 expressions from the shipped network for images with its "
        f"backbone fixed; scored on {result['split']}, mean and standard deviation over the seeds. {where(result)}"
    )
    text = "\n".join([by_sight(result), "", *textwrap.wrap(notes, 118)])
    scores = read(SHIPPED_VIDEO)
    return f"{text}\n\n{shipped_video(scores)}" if scores else text


def against_frames(result: dict) -> str:
    """The Markdown table of what more frames cost."""
    size = result["size"]
    notes = (
        f"One target frame, {size['side']} x {size['side']} regions, width {size['dim']}, {size['heads']} heads. No T "
        f"is more than {100 * result['off_line']:.0f} % off the straight line through all of them. {where(result)}"
    )
    return "\n".join([by_frames(result), "", *textwrap.wrap(notes, 118)])


def by_control(controls: dict) -> str:
    """The Markdown table of the controls."""
    notes = (
        f"Each trained for {controls['steps']:,} steps of 32 expressions with seed {controls['seed']}, one run each. "
        f"{where(controls)}"
    )
    return "\n".join([table(controls), "", *textwrap.wrap(notes, 118)])


def by_fusion(fusions: dict) -> str:
    """The Markdown table of the ways to fuse the levels."""
    seeds = len(next(iter(fusions["rows"].values())))
    runs = "one run each" if seeds == 1 else f"mean and standard deviation over {seeds} seeds"
    notes = (
        f"Each trained for {fusions['steps']:,} steps of 32 expressions on the backbone of the shipped network, which "
        f"stays fixed; {runs}. {where(fusions)}"
    )
    return "\n".join([table_of_splits(runs_of(fusions["rows"])), "", *textwrap.wrap(notes, 118)])


def by_system(results: list[dict], times: dict | None) -> str:
    """The Markdown table of all systems and their ablations at one budget; times if they were taken."""
    rows: dict[str, dict] = {}
    for result in results:
        for name, by_seed in result["rows"].items():
            rows.setdefault(name, {}).update(by_seed)
    head = ["mIoU", "seeds", "parameters", *SPLITS, *(["ms per step", "ms per mask"] if times else [])]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, by_seed in rows.items():
        scores = list(by_seed.values())
        cells = [spread([score[split]["mIoU"] for score in scores]) for split in SPLITS]
        cells = [name, str(len(scores)), f"{scores[0]['val']['parameters']:,}", *cells]
        if times:
            cells += [f"{1000 * times['rows'][name][f'seconds per {what}']:.0f}" for what in ("step", "mask")]
        lines.append(f"| {' | '.join(cells)} |")
    notes = (
        f"Each trained from scratch for {results[0]['steps']:,} steps of 32 expressions at {COMPARED_AT} px; mean and "
        f"standard deviation over the seeds. {' '.join(dict.fromkeys(map(where, results)))}"
    )
    if times:
        notes += (
            f" Times: a training step of 32 expressions and the mask of one expression, on the CPU, all rows in turn, "
            f"median of {times['rounds']} rounds. {where(times)}"
        )
    return "\n".join([*lines, "", *textwrap.wrap(notes, 118)])


def by_share(results: dict[str, dict]) -> str:
    """The Markdown table of training with and without Mask Grounding on less data; ``results`` by the share's name."""
    lines = [f"| mIoU, val | {' | '.join(results)} |", "|---" * (1 + len(results)) + "|"]
    for name in WITH_AND_WITHOUT:
        runs = [result["rows"].get(name, {}).values() for result in results.values()]  # a row may still be in training
        cells = [spread([scores["val"]["mIoU"] for scores in by_seed]) if by_seed else "" for by_seed in runs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    counts = [max(map(len, result["rows"].values())) for result in results.values()]
    first = next(iter(results.values()))
    notes = f"As many steps for all, {first['steps']:,}; seeds: {', '.join(map(str, counts))}. {where(first)}"
    return "\n".join([*lines, "", *textwrap.wrap(notes, 118)])


def where(result: dict) -> str:
    """One line on machine and versions."""
    machine = result["machine"]
    return f"Measured on {machine['processor']}, {machine['cores']} cores, torch {result['versions']['torch']}."


def speed(results: dict) -> str:
    """The Markdown table of the forms of the block at the headline size, and of their errors."""
    found, size = results["headline"]["forms"], results["headline"]["size"]
    lines = ["| form of the block | forward | forward + backward | peak memory | error |", "|---|---|---|---|---|"]
    for form, name in FORMS.items():
        if form in found:
            row = found[form]
            error = f"{row['error']:.1e}" if "error" in row else ""
            cells = [
                name,
                f"{row['forward_s']:.3f} s",
                f"{row['backward_s']:.3f} s",
                f"{row['peak_mb']:,.0f} MB",
                error,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    ours = found["rank_n"]
    notes = (
        f"{size['positions']:,} regions, {size['words']} words, width {size['dim']}, batch {size['batch']}, "
        f"{size['dtype']}. Ours takes {ours['over_plain']['forward']:.2f} of the time of the plain block forward and "
        f"{ours['over_plain']['backward']:.2f} with backward"
    )
    if "over_literal_sdpa" in ours:
        ratio = ours["over_literal_sdpa"]
        notes += (
            f"; the equation as written takes {1 / ratio['forward']:.0f} and {1 / ratio['backward']:.0f} times as long"
        )
    notes += f". Error: relative, of the attended value, against float64. {where(results)}"
    table_of_errors = [
        "| logits' standard deviation | as written: value, gradient | ours: value, gradient |",
        "|---|---|---|",
    ]
    for row in results["precision"]:
        pairs = [f"{row[f'{form}_value']:.1e}, {row[f'{form}_gradient']:.1e}" for form in ("literal", "rank_n")]
        table_of_errors.append(f"| {row['spread']:,} | " + " | ".join(pairs) + " |")
    text = "\n".join([*lines, "", *textwrap.wrap(notes, 118), "", *table_of_errors])
    network = read("cmsa_network")
    return f"{text}\n\n{profile(network)}" if network else text


def profile(network: dict) -> str:
    """One paragraph: what a step of the paper-size network spends on attention and fusion."""
    step = network["seconds"]["training step"]
    share = 100 * network["share of CMSA and GMLF"]
    text = (
        f"In the whole paper-size network ({network['size']} px, {network['words']} words, ResNet-101 trained too) the "
        f"three CMSA blocks and GMLF take {share:.0f} % of a training step of {step:.1f} s. "
    )
    return "\n".join(textwrap.wrap(text + where(network), 118))


def write_block(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of that name; they must be there."""
    begin, end = f"<!-- {name}: written by benchmarks/results.py -->", f"<!-- end of {name} -->"
    block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = path.read_text(encoding="utf-8")
    if not block.search(page):
        raise SystemExit(f"{path} has no marks for {name!r}: add {begin} and {end}.")
    path.write_text(block.sub(lambda _: f"{begin}\n{text}\n{end}", page), encoding="utf-8", newline="\n")
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
