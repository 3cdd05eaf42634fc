"""Do the tests test? Breaks one line of ``refseg`` after the other and records which unit tests and which cells notice.

    python tests/mutations.py [WORD ...]    all breaks, or those in whose name a word stands; half an hour for all

It works on a copy of the last commit in a temporary folder; this checkout is only read. Each break runs one file of
unit tests and one lesson. What it finds goes into data/results/mutations.json and from there into notebooks/README.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from refseg.datasets.refshapes import ensure
from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import data_dir, results_dir

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "notebooks" / "README.md"
BEGIN, END = "<!-- mutations: written by tests/mutations.py -->", "<!-- end of mutations -->"
SECONDS = 3600  # for one test or cell


@dataclass(frozen=True)
class Mutation:
    """One line of ``refseg/file`` that is broken: ``old`` occurs in it exactly once and becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # a file of unit tests
    lesson: str  # its number


CMSA, ATTENTION, GMLF = "models/cmsa.py", "models/attention.py", "models/gmlf.py"
VLBA, ALIGNMENT = "models/vlba.py", "objectives/alignment.py"
MUTATIONS = [
    Mutation(
        "softmax over the queries",
        ATTENTION,
        "torch.finfo(scores.dtype).min).softmax(dim)",
        "torch.finfo(scores.dtype).min).softmax(dim - 1)",
        "models/test_attention.py",
        "04",
    ),
    Mutation(
        "padded words are keys",
        CMSA,
        "return scores.masked_fill(~key_valid[:, None], torch.finfo(scores.dtype).min / 2)",
        "return scores",
        "models/test_cmsa.py",
        "04",
    ),
    Mutation(
        "padded words are query words",
        CMSA,
        "return token_valid.to(dtype) / token_valid.sum(1, keepdim=True).clamp(min=1)",
        "return torch.ones_like(token_valid, dtype=dtype) / token_valid.shape[1]",
        "models/test_cmsa.py",
        "04",
    ),
    Mutation(
        "residual dropped: f is not added",
        CMSA,
        "region_valid)) + mean_of_parts(*parts, token_valid)",
        "region_valid)) + 0 * mean_of_parts(*parts, token_valid)",
        "models/test_cmsa.py",
        "04",
    ),
    Mutation(
        "scores halved",
        CMSA,
        "scale: float = 1.0",
        "scale: float = 0.5",
        "models/test_cmsa.py",
        "04",
    ),
    Mutation(
        "scale of the scores forgotten",
        CMSA,
        "(self.scale * at_least_float32(part) for part",
        "(at_least_float32(part) for part",
        "models/test_cmsa.py",
        "04",
    ),
    Mutation(
        "no guard against underflow",
        CMSA,
        "if Z.amin() < SMALLEST_SUM:",
        "if Z.amin() < 0:",
        "models/test_cmsa.py",
        "05",
    ),
    Mutation(
        "mean over the words counts padding",
        ATTENTION,
        "return values.masked_fill(~valid, 0.0).sum(dim) / count",
        "return values.mean(dim)",
        "models/test_attention.py",
        "02",
    ),
    Mutation(
        "x and y exchanged in the coordinates",
        ATTENTION,
        "return torch.stack([x_min, y_min, x_max, y_max,",
        "return torch.stack([y_min, x_min, y_max, x_max,",
        "models/test_attention.py",
        "03",
    ),
    Mutation(
        "length one along the wrong dimension",
        ATTENTION,
        "return F.normalize(vectors, dim=dim, eps=1e-6)",
        "return F.normalize(vectors, eps=1e-6)",
        "models/test_attention.py",
        "03",
    ),
    Mutation(
        "levels in reverse order",
        "models/backbones.py",
        'LEVELS = ("c2", "c3", "c4", "c5")',
        'LEVELS = ("c5", "c4", "c3", "c2")',
        "models/test_backbones.py",
        "03",
    ),
    Mutation(
        "memory gate inverted",
        GMLF,
        "mixture = (1 - memory_gate) * x[level] + received",
        "mixture = memory_gate * x[level] + received",
        "models/test_gmlf.py",
        "06",
    ),
    Mutation(
        "a level receives its own offer",
        GMLF,
        "sum(offer for other, offer in offers.items() if other != level)",
        "sum(offers.values())",
        "models/test_gmlf.py",
        "06",
    ),
    Mutation(
        "Dice without smoothing above",
        "losses.py",
        "(1 - (2 * both + smooth) /",
        "(1 - (2 * both) /",
        "test_losses.py",
        "07",
    ),
    Mutation(
        "P@K with > in place of >=",
        "metrics.py",
        'return reached >= needed if self.at_threshold == ">=" else reached > needed',
        "return reached > needed",
        "test_metrics.py",
        "07",
    ),
    Mutation(
        "masks enlarged with the corners aligned",
        "datasets/transforms.py",
        'mode="bilinear", align_corners=False)',
        'mode="bilinear", align_corners=True)',
        "datasets/test_transforms.py",
        "00",
    ),
    Mutation(
        "an unknown word becomes padding",
        "tokenizer.py",
        "return [self.ids.get(word, self.ids[UNK]) for word",
        "return [self.ids.get(word, self.ids[PAD]) for word",
        "test_tokenizer.py",
        "02",
    ),
    Mutation(
        "words that say nothing are hidden",
        "objectives/mask_grounding.py",
        "return candidates & ((draws < share) | lowest)",
        "return (draws < share) | lowest",
        "objectives/test_mask_grounding.py",
        "12",
    ),
    Mutation(
        "x and y exchanged in the centre of the mask",
        "objectives/mask_grounding.py",
        "return torch.stack([x, y], dim=1) / area",
        "return torch.stack([y, x], dim=1) / area",
        "objectives/test_mask_grounding.py",
        "12",
    ),
    Mutation(
        "hidden words summed, not averaged",
        "losses.py",
        'F.cross_entropy(logits, words, reduction="sum") / max(1, len(words))',
        'F.cross_entropy(logits, words, reduction="sum") / 1',
        "test_losses_of_grounding.py",
        "12",
    ),
    Mutation(
        "words added to pixels, not multiplied",
        "models/cross_modal_alignment.py",
        "F.gelu(self.own(regions)) * self.out(told)",
        "F.gelu(self.own(regions)) + self.out(told)",
        "models/test_cross_modal_alignment.py",
        "12",
    ),
    Mutation(
        "the last batch of an evaluation left out",
        "evaluate.py",
        "for start in range(0, count, batch_size)]",
        "for start in range(0, count - batch_size, batch_size)]",
        "test_many_processes.py",
        "14",
    ),
    Mutation(
        "every process takes the same share of a batch",
        "train.py",
        "yield batch[self.rank * share : (self.rank + 1) * share]",
        "yield batch[:share]",
        "exercises/test_lesson_14.py",
        "14",
    ),
    Mutation(
        "VLBA's scores scaled twice",
        VLBA,
        "* queries.shape[-1] ** -0.5",
        "* queries.shape[-1] ** -1.0",
        "models/test_vlba.py",
        "13",
    ),
    Mutation(
        "regions read padded words",
        VLBA,
        "return masked_softmax(scores, token_valid[:, None, None])",
        "return scores.softmax(-1)",
        "models/test_vlba.py",
        "13",
    ),
    Mutation(
        "a dead gate",
        "models/cross_modal_alignment.py",
        "nn.init.trunc_normal_(linear.weight, std=0.02)",
        "nn.init.zeros_(linear.weight)",
        "models/test_vlba.py",
        "13",
    ),
    Mutation(
        "only centres are asked",
        ALIGNMENT,
        "return (find_instance + find_centre) / 2",
        "return find_instance",
        "objectives/test_alignment.py",
        "13",
    ),
    Mutation(
        "other objects are no candidates",
        ALIGNMENT,
        "allowed = torch.cat([comparable, present[:, BACKGROUND:]], dim=1)",
        "allowed = torch.cat([comparable, torch.zeros_like(present[:, BACKGROUND:])], dim=1)",
        "objectives/test_alignment.py",
        "13",
    ),
    Mutation(
        "the ring along the outline counts",
        ALIGNMENT,
        "inner = 1 - F.max_pool2d(1 - clear, 3, stride=1, padding=1)",
        "inner = clear",
        "objectives/test_alignment.py",
        "13",
    ),
]


def main(words: list[str]) -> int:
    """Run the breaks, write the record and the table; the number of breaks that nothing noticed."""
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    ensure()  # else a lesson would draw it
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "refseg copy"
        copy.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(copy)], input=archive, check=True)
        print(f"commit {git_commit(ROOT)}; changes that are not committed play no part", flush=True)
        unbroken = failures(copy, {mutation.tests for mutation in chosen}, {mutation.lesson for mutation in chosen})
        if unbroken:
            print(f"Fails unbroken and counts nowhere: {', '.join(unbroken)}", flush=True)
        for mutation in chosen:
            record(mutation, copy, unbroken)
    unnoticed = [name for name, row in read_record()["rows"].items() if not row["tests"] and not row["cells"]]
    print("Nothing notices: " + ", ".join(unnoticed) if unnoticed else "Every break is noticed.")
    return len(unnoticed)


def record(mutation: Mutation, copy: Path, unbroken: list[str]) -> None:
    """Break the copy, run, mend it, and keep what failed and does not fail ``unbroken``."""
    path = copy / "refseg" / mutation.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(broken(sound, mutation), encoding="utf-8")
    started = time.perf_counter()
    try:
        failed = [name for name in failures(copy, {mutation.tests}, {mutation.lesson}) if name not in unbroken]
    finally:
        path.write_text(sound, encoding="utf-8")
    notebook = notebook_of(copy, mutation.lesson)
    cells = [int(number) for number in re.findall(r"\.ipynb::Cell (\d+)", "\n".join(failed))]
    code = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    row = asdict(mutation) | {
        "tests_file": mutation.tests,
        "notebook": notebook.name,
        "tests": [name.split("::", 1)[-1] for name in failed if ".ipynb::" not in name],
        "cells": cells,
        "first_cell": "".join(code[cells[0]]["source"]) if cells else None,
        "seconds": round(time.perf_counter() - started),
    }
    kept = read_record()
    rows = kept["rows"] | {mutation.name: row}
    order = [m.name for m in MUTATIONS if m.name in rows]
    kept = {"machine": describe_machine(), "versions": versions(), "commit": git_commit(ROOT)}
    record_file().write_text(json.dumps(kept | {"rows": {n: rows[n] for n in order}}, indent=1) + "\n")
    write_table()
    print(f"{mutation.name}: {len(row['tests'])} unit tests, {len(cells)} cells, {row['seconds']} s", flush=True)


def broken(source: str, mutation: Mutation) -> str:
    """``source`` with the break in it.

    Raises:
        SystemExit: the text to be replaced does not occur exactly once.
    """
    found = source.count(mutation.old)
    if found != 1:
        raise SystemExit(f"{mutation.name}: {mutation.old!r} stands {found} times in refseg/{mutation.file}, not once.")
    return source.replace(mutation.old, mutation.new)


def notebook_of(copy: Path, lesson: str) -> Path:
    """The notebook with this number."""
    (notebook,) = (copy / "notebooks").glob(f"{lesson}_*.ipynb")
    return notebook


def failures(copy: Path, tests: set[str], lessons: set[str]) -> list[str]:
    """The names of the unit tests and cells that fail in the copy."""
    paths = [f"tests/{name}" for name in sorted(tests)]
    paths += [f"notebooks/{notebook_of(copy, lesson).name}" for lesson in sorted(lessons)]
    quiet = ["-q", "-p", "no:cacheprovider", "--color=no", "--tb=no", "-rfE", f"--timeout={SECONDS}"]
    nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with=tests/notebooks/sanitize.cfg"]
    nbval.append(f"--nbval-cell-timeout={SECONDS}")
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *quiet, *nbval, *paths],
            cwd=copy,
            env=environment(copy, Path(scratch) / "ipython"),
            capture_output=True,
            text=True,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with status {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)


def environment(copy: Path, scratch: Path) -> dict[str, str]:
    """That of the lessons' kernels; the copy is imported, RefShapes comes from this checkout's data folder."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "refseg_course" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    places = {"PYTHONPATH": str(copy), "REFSEG_DATA": str(data_dir().absolute())}
    # No bytecode: a break of the same length within the same second would be taken for the sound file.
    return {**build.kernel_environment(scratch), **places, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}


def record_file() -> Path:
    """Where the record is kept."""
    return results_dir() / "mutations.json"


def read_record() -> dict:
    """What was recorded; rows of breaks that are no longer in the list are left out."""
    kept = json.loads(record_file().read_text()) if record_file().exists() else {"rows": {}}
    names = {mutation.name for mutation in MUTATIONS}
    return kept | {"rows": {name: row for name, row in kept["rows"].items() if name in names}}


def table(rows: dict[str, dict]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| broken | in | unit tests that fail | lesson | cells that fail, and the first of them |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = "none" if not row["cells"] else f"{len(row['cells'])}: {cell_in_words(row['first_cell'])}"
        place = f"[{row['lesson']}]({row['notebook']})"
        lines.append(f"| {name} | `{row['file']}` | {len(row['tests'])} | {place} | {cells} |")
    return "\n".join(lines)


def cell_in_words(source: str) -> str:
    """The line of a cell that says most about it: the first assert or check, else the last one."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("assert ", "check."))]
    line = (telling or lines[-1:])[0]
    short = line if len(line) <= 60 else line[:57] + "..."
    return "`" + short.replace("|", "\\|").replace("`", "'") + "`"


def write_table() -> None:
    """Put the table between its marks in notebooks/README.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(read_record()['rows'])}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(1 if main(sys.argv[1:]) else 0)
