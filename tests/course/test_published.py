"""Every row of the papers' tables has its preset, and the document shows the figures as they stand in the code."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from refseg.datasets import BENCHMARKS
from refseg.training.presets import PRESETS, find_preset
from refseg_course.published import NOT_YET_RUN, PUBLISHED, published_table

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK_OF = {
    "refcoco": "refcoco",
    "refcoco+": "refcoco+",
    "refcocog": "refcocog",
    "referit": "referit",
    "a2d": "a2d",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_preset_trains_on_what_the_row_says(name):
    data = find_preset(name).data
    of = next(part for part in name.removesuffix("_google").split("_") if part in BENCHMARK_OF)
    assert data.name == BENCHMARK_OF[of]
    if of == "a2d":
        return
    owner = data.split_by or BENCHMARKS[data.name].default_split_by
    assert {data.train_split, data.val_split} <= BENCHMARKS[data.name].splits[owner].keys()
    for row in PUBLISHED[name]:
        assert of != "refcocog" or owner in row.trained_on  # google's and umd's splits must not be mixed up
        assert of != "referit" or data.train_split == "trainval"
        splits = re.findall(r"(\w+) \d\d\.\d\d", row.figures)
        assert set(splits) - {"DenseCRF"} <= BENCHMARKS[data.name].splits[owner].keys()


def test_every_preset_of_full_size_has_a_row():
    benchmarks = {name for name in PRESETS if PRESETS[name].data.name in set(BENCHMARKS) - {"refshapes"} | {"a2d"}}
    assert benchmarks <= set(PUBLISHED)


def test_nothing_is_said_to_be_ours_before_it_is_run():
    rows = [row for rows in PUBLISHED.values() for row in rows]
    assert {row.ours for row in rows} == {NOT_YET_RUN}
    assert all(row.source and row.measure for row in rows)


def test_a_figure_has_its_source():
    for rows in PUBLISHED.values():
        for row in rows:
            assert ("no figure found" in row.source) == (row.figures == "")


@pytest.mark.parametrize("form", ["cmsa", "cmsa_release", "magnet", "alignformer"])
def test_benchmarks_of_one_method_differ_in_the_data_alone(form):
    first, *others = [find_preset(name) for name in PUBLISHED if re.fullmatch(rf"{form}_ref\w*\+?(_google)?", name)]
    assert len(others) >= 3
    for other in others:
        assert other.model == first.model and other.optim == first.optim and other.objective == first.objective
        changed = {key for key, value in asdict(other.data).items() if value != asdict(first.data)[key]}
        assert "name" in changed and changed <= {"name", "split_by", "train_split"}


def test_the_honest_default_knows_no_picture_of_coco():
    for name in PUBLISHED:
        backbone = find_preset(name).model.backbone
        if name.startswith("cmsa_ref") or name.startswith("cmsa_release_ref"):
            assert backbone.weights == "IMAGENET1K_V2" and not backbone.frozen


def test_the_document_shows_the_table():
    assert published_table() in (ROOT / "data" / "real_benchmarks.md").read_text()
