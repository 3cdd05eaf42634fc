"""The list of breaks fits the package as it is, and the table in the course's README is that of the record."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script():
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "tests" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MODULE = script()


@pytest.mark.parametrize("mutation", MODULE.MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_break_finds_its_line(mutation):
    sound = (ROOT / "refseg" / mutation.file).read_text(encoding="utf-8")
    changed = MODULE.broken(sound, mutation)
    compile(changed, mutation.file, "exec")
    assert changed != sound and changed.count("\n") == sound.count("\n")
    assert (ROOT / "tests" / mutation.tests).is_file()
    assert len(list((ROOT / "notebooks").glob(f"{mutation.lesson}_*.ipynb"))) == 1


def test_names_are_distinct():
    assert len({mutation.name for mutation in MODULE.MUTATIONS}) == len(MODULE.MUTATIONS) >= 10


@pytest.mark.parametrize("old", ["def ", "no such text"])
def test_a_text_that_does_not_stand_there_once_is_refused(old):
    mutation = MODULE.Mutation("x", "losses.py", old, "y", "test_losses.py", "07")
    with pytest.raises(SystemExit, match="times in refseg/objectives/losses.py, not once"):
        MODULE.broken("def a(): ...\ndef b(): ...", mutation)


def test_every_break_is_noticed_and_most_are_seen_in_a_lesson():
    rows = MODULE.read_record()["rows"]
    if len(rows) < len(MODULE.MUTATIONS):
        pytest.skip(f"{len(rows)} of {len(MODULE.MUTATIONS)} breaks are recorded: make mutations")
    assert [name for name, row in rows.items() if not row["tests"] and not row["cells"]] == []
    assert sum(bool(row["cells"]) for row in rows.values()) > len(rows) / 2


def test_the_table_is_that_of_the_record():
    page = MODULE.PAGE.read_text(encoding="utf-8")
    rows = MODULE.read_record()["rows"]
    assert not rows or MODULE.table(rows) in page, "make mutations writes it"
