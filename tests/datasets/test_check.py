"""The published sizes add up, and the report counts what is there and what is not."""

import json

import pytest

from refseg.datasets.obtain import check
from refseg.datasets.obtain.check import WHERE, check_data
from refseg.datasets.obtain.official import OFFICIAL, Sizes, official_sizes
from refseg.datasets.refer import BENCHMARKS
from refseg.errors import RefsegError


@pytest.mark.parametrize("key", [key for key, splits in OFFICIAL.items() if "all" in splits])
def test_splits_add_up_to_the_whole(key):
    splits = {split: sizes for split, sizes in OFFICIAL[key].items() if split != "all"}
    assert sum(sizes.refs for sizes in splits.values()) == OFFICIAL[key]["all"].refs
    if key != ("refcocog", "google"):  # its train and val share pictures
        assert sum(sizes.images for sizes in splits.values()) == OFFICIAL[key]["all"].images
    if key != ("refcoco+", "unc"):
        assert sum(sizes.sentences for sizes in splits.values()) == OFFICIAL[key]["all"].sentences


def test_refcoco_plus_sentences_leave_what_is_known_of_the_rest():
    sizes = OFFICIAL["refcoco+", "unc"]
    assert sizes["all"].sentences - sizes["train"].sentences == 21373


def test_referit_sentences_are_the_query_files_less_the_lost_pictures(shared_dir):
    folder = shared_dir / "data/referit_berkeley"
    if not folder.is_dir():
        pytest.skip("no ReferIt query files")
    lost = ("19579_", "17975_", "19575_")
    for split in ("train", "val", "trainval"):
        queries = json.loads((folder / f"referit_query_{split}.json").read_text())
        count = sum(len(sentences) for region, sentences in queries.items() if not region.startswith(lost))
        assert count == official_sizes("referit", "berkeley", split).sentences


def test_every_official_split_can_be_loaded():
    for (name, split_by), splits in OFFICIAL.items():
        assert set(splits) - {"all"} <= set(BENCHMARKS[name].splits[split_by])
    assert set(WHERE) == set(BENCHMARKS)


def test_nothing_published_is_none():
    assert official_sizes("refshapes", "refseg", "train") == Sizes(None, None, None)


def write_benchmark(folder, pictures_there):
    """Three pictures with one object each; the second object has two sentences."""
    (folder / "images").mkdir(parents=True)
    names = [f"{i:06d}.png" for i in range(3)]
    for name in names[:pictures_there]:
        (folder / "images" / name).touch()  # empty on purpose: the report must not open it
    instances = {
        "images": [{"id": i, "file_name": name, "height": 5, "width": 7} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "segmentation": [[0, 0, 4, 0, 4, 4]]} for i in range(3)],
    }
    refs = [
        {"ref_id": i, "ann_id": i, "image_id": i, "split": "val", "sentences": [
            {"sent_id": 10 * i + k, "sent": "a cup"} for k in range(2 if i == 1 else 1)]}
        for i in range(3)
    ]  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(refseg).json").write_text(json.dumps(refs))
    return folder


def test_a_complete_benchmark_without_published_sizes(tmp_path):
    report = check_data("refshapes", "val", write_benchmark(tmp_path / "refshapes", 3))
    assert report.ok and report.found == Sizes(3, 3, 4)
    assert str(report).count("no official count") == 3 and "[OK]   all 3 pictures are there" in str(report)
    assert "expected folders" not in str(report)


def test_missing_pictures_are_counted_and_the_first_is_named(tmp_path):
    report = check_data("refshapes", "val", write_benchmark(tmp_path / "refshapes", 1))
    assert not report.ok and report.missing == 2
    assert "[FAIL] 2 of 3 pictures are missing. The picture 000001.png of refshapes is in none of" in str(report)
    assert "expected folders" in str(report)


def test_wrong_counts_fail_and_right_ones_pass(tmp_path, monkeypatch):
    folder = write_benchmark(tmp_path / "refshapes", 3)
    monkeypatch.setattr(check, "official_sizes", lambda *_: Sizes(3, 9, None))
    report = check_data("refshapes", "val", folder)
    lines = str(report).splitlines()
    assert not report.ok and "[OK]" in lines[1] and "[FAIL]" in lines[2] and "no official count" in lines[3]


def test_nothing_there_prints_tree_and_hosts(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    text = str(check_data("refcocog", "val"))
    assert "[FAIL] There is no instances.json of refcocog in" in text and "refcocog/refs(umd).p (or .json)" in text
    assert "web.archive.org" in text and "train2014.zip" in text


def test_the_four_genuine_samples(shared_dir):
    root = shared_dir / "data/refcocog_real4/refcocog"
    report = check_data("refcocog", "val", root, split_by="google")
    assert report.found == Sizes(4, 4, 4) and report.missing == 0 and not report.ok
    assert "official    9536" in str(report)


def test_an_unknown_split_is_a_mistake_of_the_caller():
    with pytest.raises(RefsegError, match="has no split 'test': choose one of train, val, testA, testB"):
        check_data("refcoco", "test")
