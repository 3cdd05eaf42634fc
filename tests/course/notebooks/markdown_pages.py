"""What tests of notebooks and of the pages beside them read in Markdown."""

from __future__ import annotations

import re
from pathlib import Path


def outside_code(text: str) -> str:
    """Markdown without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path, text: str) -> list[str]:
    """Links of ``text``, part of ``page``, to files that are missing and to headings that a Markdown page lacks."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(text)):
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        if re.match(r"https?:|mailto:|attachment:", target):
            continue
        if not there.exists():
            broken.append(target)
        elif anchor and there.suffix == ".md":
            source = text if there == page else there.read_text(encoding="utf-8")
            if anchor not in {slug(heading) for heading in re.findall(r"^#+ (.*)$", source, re.MULTILINE)}:
                broken.append(target)
    return broken
