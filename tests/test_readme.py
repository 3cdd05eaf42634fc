"""What people copy from README.md and from the page on the real benchmarks works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "data/real_benchmarks.md", "CONTRIBUTING.md")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in ``language``."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_it_is_short_enough_to_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_lines_of_python_run(tiny_refshapes):
    (code,) = blocks("README.md", "python")
    names: dict = {}
    exec(code, names)
    assert names["found"].pred_mask.shape == names["sample"].original_size


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page, refseg):
    lines = [line.split("  #")[0] for block in blocks(page, "sh") for line in block.replace("\\\n", "").splitlines()]
    asked = [re.search(r"\brefseg(?:\.cli)? ([a-z-]+)\b(.*)", line) for line in lines]
    helps: dict[str, str] = {}
    for command, options in [found.groups() for found in asked if found]:
        if command not in helps:
            status, text, _ = refseg(command, "--help")
            assert status == 0, f"{page} names refseg {command}, which does not exist"
            helps[command] = text
        for option in re.findall(r"(?<= )--[a-z-]+", options):
            assert option in helps[command] or f"--no-{option[2:]}" in helps[command], f"{page}: {command} {option}"
