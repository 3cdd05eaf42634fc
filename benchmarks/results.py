"""Score the shipped checkpoint on all splits of RefShapes and write the tables of README.md.

    python benchmarks/results.py

Writes data/results/cmsa_refshapes.json; the table of the controls comes from data/results/controls.json
(``benchmarks/controls.py`` makes it). Scores are taken on the CPU.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from controls import SPLITS, table

from refseg.evaluate import evaluate_checkpoint
from refseg.metrics import COLUMNS
from refseg.paths import PROJECT, checkpoints_dir, results_dir

BEGIN, END = "<!-- results: written by benchmarks/results.py -->", "<!-- end of results -->"


def main() -> None:
    """Evaluate, store, and rewrite the block between the two marks in README.md."""
    checkpoint = checkpoints_dir() / "cmsa_refshapes"
    results = {split: evaluate_checkpoint(checkpoint, "refshapes", split, device="cpu") for split in SPLITS}
    for control in ("blank", "other"):
        results[f"val, {control}"] = evaluate_checkpoint(
            checkpoint, "refshapes", "val", device="cpu", expression_control=control
        )
    (results_dir() / "cmsa_refshapes.json").write_text(json.dumps(results, indent=1) + "\n")
    parts = [shipped(results)]
    controls = results_dir() / "controls.json"
    if controls.exists():
        parts.append(by_control(json.loads(controls.read_text())))
    text = "\n\n".join(parts)
    write_block(PROJECT / "README.md", text)
    print(text)


def shipped(results: dict) -> str:
    """The Markdown table of the shipped checkpoint."""
    lines = ["| shipped checkpoint | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for split, row in results.items():
        cells = [f"{row[c]:,}" if c == "N" else f"{row[c]:.3f}" for c in COLUMNS]
        lines.append(f"| {split} | " + " | ".join(cells) + " |")
    about = results["val"]
    notes = f"{about['parameters']:,} parameters, seed {about['seed']}, one run. {where(about)} "
    notes += "In the last two rows every expression is hidden (blank) or that of another object of its picture (other)."
    return "\n".join(lines) + "\n\n" + "\n".join(textwrap.wrap(notes, 118))


def by_control(controls: dict) -> str:
    """The Markdown table of the controls."""
    return (
        f"What reads the sentence? Controls, each trained for {controls['steps']:,} steps of 32 expressions with seed "
        f"{controls['seed']}, one run each:\n\n{table(controls)}\n\n{where(controls)}"
    )


def where(result: dict) -> str:
    """One line on machine and versions."""
    machine = result["machine"]
    return f"Measured on {machine['processor']}, {machine['cores']} cores, torch {result['versions']['torch']}."


def write_block(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    old = path.read_text()
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    path.write_text(block.sub(lambda _: f"{BEGIN}\n{text}\n{END}", old))


if __name__ == "__main__":
    main()
