"""What the pages beside the lessons say exists: links, exercises, messages, numbers, and hours that add up."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from markdown_pages import broken_links, outside_code

from refseg_course.exercises import exercises_of, lessons
from refseg_course.notebooks.lessons import titles
from refseg_course.notebooks.slow import SLOW_PAGE, half_a_core, slow_file, slow_page
from refseg_course.notebooks.student import build_student
from refseg_course.notebooks.times import stored, times_file, times_page

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
TEACHING = NOTEBOOKS / "teaching"
PAGES = sorted(NOTEBOOKS.rglob("*.md"))
PLANS = {"plan_90_minutes.md": [90], "plan_half_day.md": [240], "plan_two_days.md": [450, 450]}


def exercise_names() -> dict[str, str]:
    """Name of every exercise: number of its lesson."""
    return {name: number for number, module in lessons().items() for name in exercises_of(module)}


def unknown_exercises(text: str) -> list[str]:
    """``check.name`` in ``text`` where no lesson has such an exercise."""
    return [name for name in re.findall(r"\bcheck\.([a-z_]+)", text) if name not in {*exercise_names(), "suspects"}]


def messages() -> str:
    """All that the checks say, and the sources of what else speaks to a class, as one line with single spaces."""
    said = [s for m in lessons().values() for e in exercises_of(m).values() for _, s in e.mistakes]
    sources = [ROOT / "Makefile", *(ROOT / "refseg_course").rglob("*.py")]
    sources += (ROOT / "refseg").rglob("*.py")
    return one_line(" ".join([*said, *(path.read_text(encoding="utf-8") for path in sources)]))


def one_line(text: str) -> str:
    return " ".join(text.split())


def quotes(text: str) -> list[str]:
    """The block quotes of a page, each as one line."""
    blocks = re.findall(r"(?:^> .*\n?)+", text, re.MULTILINE)
    return [one_line(re.sub(r"^> ", "", block, flags=re.MULTILINE)) for block in blocks]


def tables(text: str) -> list[list[tuple[int, int]]]:
    """(from, minutes) of the rows of every table of a plan."""
    found = re.findall(r"^\| from \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[tuple(map(int, re.match(r"\| (\d+) \| (\d+) \|", row).groups())) for row in t.splitlines()] for t in found]


def test_links_and_exercises_are_there():
    wrong = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        wrong[page.name] = broken_links(page, text) + unknown_exercises(text)
    assert wrong == {page.name: [] for page in PAGES}


def test_the_pack_is_linked_and_whole():
    assert "](teaching/README.md)" in (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert "](notebooks/teaching/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    index = (TEACHING / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in TEACHING.glob("*.md") if f"]({page.name}" not in index + "](README.md"] == []


def test_errors_are_quoted_as_they_are_said():
    said = messages()
    quoted = quotes((TEACHING / "typical_errors.md").read_text(encoding="utf-8"))
    assert len(quoted) >= 20
    assert [quote for quote in quoted if quote not in said] == []


def test_the_hours_of_a_plan_add_up():
    for name, hours in PLANS.items():
        days = tables((TEACHING / name).read_text(encoding="utf-8"))
        assert [day[-1][0] + day[-1][1] for day in days] == hours, name
        for day in days:
            assert day[0][0] == 0, name
            assert [start + minutes for start, minutes in day[:-1]] == [start for start, _ in day[1:]], name


def test_exercises_fit_into_their_time_and_belong_to_their_lesson():
    known = {n: e for module in lessons().values() for n, e in exercises_of(module).items()}
    plans = "\n".join((TEACHING / name).read_text(encoding="utf-8") for name in PLANS)
    for row in re.findall(r"^\| \d.*$", plans, re.MULTILINE):
        _, _, minutes, what, exercises, _ = map(str.strip, row.split("|"))
        named = re.findall(r"check\.(\w+)", exercises)
        assert sum(known[n].minutes for n in named) <= int(minutes), row
        lesson = re.search(r"\.\./(\d\d)_", what)
        if lesson:
            assert {exercise_names()[n] for n in named} <= {lesson.group(1)}, row


def test_sections_to_skip_to_begin_where_the_plan_says():
    """**25.** stands for the row of the table that begins at minute 25."""
    for name in PLANS:
        text = (TEACHING / name).read_text(encoding="utf-8")
        for part, rows in zip(re.split(r"^\| from \|", text, flags=re.MULTILINE)[1:], tables(text)):
            begins = {start for start, _ in rows}
            assert {int(n) for n in re.findall(r"^\*\*(\d+)\.\*\*", part, re.MULTILINE)} <= begins


def test_measured_numbers_are_those_of_the_model_card_and_the_lessons():
    sources = [*ROOT.glob("data/results/*.md"), *ROOT.glob("data/checkpoints/*/README.md"), *NOTEBOOKS.glob("*.ipynb")]
    known = set(re.findall(r"\d+\.\d+", " ".join(path.read_text(encoding="utf-8") for path in sources)))
    for page in TEACHING.glob("*.md"):
        if page.name != "slow_laptop.md":  # written by the command that measures
            text = outside_code(page.read_text(encoding="utf-8"))
            stated = re.findall(r"(?<![\w.])\d+\.\d\d+(?![\w.]*\d)", text)
            assert [n for n in stated if n not in known and not n.startswith("3.1")] == [], page.name  # Python 3.1x


def test_questions_have_answers():
    text = (TEACHING / "questions.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^\*\*(\d+)\.\*\*", text, re.MULTILINE)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
    assert text.count("<details><summary>Answer</summary>") == text.count("</details>") == len(numbers)
    for name in PLANS:
        asked = re.findall(r"Questions ([\d, and]+)of \[the list\]", (TEACHING / name).read_text(encoding="utf-8"))
        assert asked and set(re.findall(r"\d+", " ".join(asked))) <= set(numbers)


# ---- the rules find what is wrong ------------------------------------------------------------------------------


def test_what_is_not_there_is_found():
    page = TEACHING / "README.md"
    text = "# A heading\n[a](questions.md) [b](gone.md) [c](#a-heading) [d](#none) [e](../README.md#no-such) `[f](x)`"
    assert broken_links(page, text) == ["gone.md", "#none", "../README.md#no-such"]
    assert unknown_exercises("`check.share`, `check.masked_softmaxx`") == ["masked_softmaxx"]
    assert quotes("> a\n> b\n\nx\n\n> c\n") == ["a b", "c"]
    assert tables("| from | minutes |\n|---|---|\n| 0 | 10 | x |\n| 11 | 5 | y |\n") == [[(0, 10), (11, 5)]]


# ---- measured times --------------------------------------------------------------------------------------------


def test_the_page_of_slow_times():
    one = {"seconds": 97, "share": 0.49, "machine": "Abacus, one core, one thread", "date": "2001-02-03"}
    page = slow_page({"04_x": one, "refshapes": one, "05_gone": one}, {"04_x": {"seconds": 41}}, {"04_x": "04 X"})
    assert "| [04 X](../04_x.ipynb) | 41 | 97 | 0.49 | Abacus, one core, one thread | 2001-02-03 |" in page.splitlines()
    assert "| RefShapes is drawn, once |  | 97 | 0.49 |" in page and "05_gone" not in page
    assert "Nothing has been measured" in slow_page({}, {}, {})


def test_the_pages_of_times_are_what_was_measured():
    usual = stored(times_file())
    assert (NOTEBOOKS / "times.md").read_text(encoding="utf-8") == times_page(usual, titles())
    assert SLOW_PAGE.read_text(encoding="utf-8") == slow_page(stored(slow_file()), usual, titles())


def test_half_a_core_is_given_back():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("Linux only")
    before = os.sched_getaffinity(0)
    with half_a_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_student_gets_pages_whose_links_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("refseg_course.notebooks.student.lesson_paths", lambda: [])
    build_student(tmp_path)
    copied = sorted(tmp_path.rglob("*.md"))
    assert [page.relative_to(tmp_path) for page in copied] == [page.relative_to(NOTEBOOKS) for page in PAGES]
    for page in copied:  # no lesson is built here
        text = re.sub(r"\]\((\.\./)?\d\d_[a-z0-9_]+\.ipynb\)", "]", page.read_text(encoding="utf-8"))
        assert broken_links(page, text) == [], page
