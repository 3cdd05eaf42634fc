"""Every row of the papers' tables has its command, and the document shows the figures as they are in the code."""

import re
from pathlib import Path

from refseg.datasets import DATASETS
from refseg.training.presets import OLD_NAMES, PRESETS, on_benchmark
from refseg_course.published import PUBLISHED, published_table

ROOT = Path(__file__).resolve().parents[2]
CALLED = {"refcoco": r"RefCOCO \(unc\)|UNC", "refcoco+": r"RefCOCO\+ \(unc\)|UNC\+", "referit": "ReferIt trainval"}


def test_a_row_trains_on_what_it_says_and_is_tested_on_splits_that_exist():
    for row in PUBLISHED:
        if row.data == "a2d":
            assert PRESETS[row.preset].data.name == "a2d"
            continue
        data = on_benchmark(PRESETS[row.preset], row.data, row.split_by).data
        owner = DATASETS[row.data].owner(row.split_by)
        splits = DATASETS[row.data].splits[owner].keys()
        assert {data.train_split, data.val_split} <= splits, row
        assert set(re.findall(r"(\w+) \d\d\.\d\d", row.figures)) - {"DenseCRF"} <= splits, row
        called = CALLED.get(
            row.data, rf"(RefCOCOg|G-Ref) \({owner}\)"
        )  # google's and umd's splits must not be mixed up
        assert re.fullmatch(called, row.trained_on), row


def test_every_preset_of_full_size_has_its_rows():
    full_size = {name for name, preset in PRESETS.items() if not preset.data.name.startswith("refshapes")}
    assert full_size == {row.preset for row in PUBLISHED}
    assert set(OLD_NAMES.values()) <= {(row.preset, row.data, row.split_by) for row in PUBLISHED} | {
        ("magnet_refcoco", "referit", None)  # a name that never was
    }


def test_a_figure_has_its_source():
    for row in PUBLISHED:
        assert row.measure and ("no figure found" in row.source) == (row.figures == ""), row


def test_the_honest_default_knows_no_image_of_coco():
    for row in PUBLISHED:
        if row.preset in ("cmsa_refcoco", "cmsa_release_refcoco"):
            backbone = PRESETS[row.preset].model.backbone
            assert backbone.weights == "IMAGENET1K_V2" and not backbone.frozen


def test_the_document_shows_the_table():
    assert published_table() in (ROOT / "data" / "real_benchmarks.md").read_text()
