"""The published sizes add up, and the report counts what is there and what is not."""

import json
from dataclasses import replace

import pytest
import torch

from refseg.datasets import DATASETS, DatasetInfo, ReferringDataset, build_dataset
from refseg.datasets.obtain.check import check_data
from refseg.errors import RefsegError
from refseg.types import RefSample


def test_splits_add_up_to_the_whole():
    for name, info in DATASETS.items():
        for owner, totals in info.totals.items():
            splits = info.splits[owner].values()
            for what, total in totals.items():
                if (name, owner, what) == ("refcocog", "google", "images"):
                    continue  # its train and val share images
                if (name, what) == ("refcoco+", "sentences"):
                    assert total - info.splits[owner]["train"][what] == 21373  # of val, testA and testB together
                else:
                    assert sum(counts[what] for counts in splits) == total, (name, owner, what)


def test_referit_sentences_are_the_query_files_less_the_lost_images(shared_dir):
    folder = shared_dir / "data/referit_berkeley"
    if not folder.is_dir():
        pytest.skip("no ReferIt query files")
    lost = ("19579_", "17975_", "19575_")
    for split in ("train", "val", "trainval"):
        queries = json.loads((folder / f"referit_query_{split}.json").read_text())
        count = sum(len(sentences) for region, sentences in queries.items() if not region.startswith(lost))
        assert count == DATASETS["referit"].splits["berkeley"][split]["sentences"]


def write_benchmark(folder, images_there):
    """Three images with one object each; the second object has two sentences."""
    (folder / "images").mkdir(parents=True)
    names = [f"{i:06d}.png" for i in range(3)]
    for name in names[:images_there]:
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
    assert report.ok and report.found == {"images": 3, "refs": 3, "sentences": 4}
    assert str(report).count("no official count") == 3 and "[OK]   all 3 images are there" in str(report)
    assert "expected folders" not in str(report)


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    report = check_data("refshapes", "val", write_benchmark(tmp_path / "refshapes", 1))
    assert not report.ok and len(report.findings.missing) == 2
    assert "[FAIL] 2 of 3 images are missing. The image 000001.png of refshapes is in none of" in str(report)
    assert "expected folders" in str(report)


def test_wrong_counts_fail_and_right_ones_pass(tmp_path, monkeypatch):
    splits = {"refseg": {"val": {"images": 3, "refs": 9}}}
    monkeypatch.setitem(DATASETS, "refshapes", replace(DATASETS["refshapes"], splits=splits))
    report = check_data("refshapes", "val", write_benchmark(tmp_path / "refshapes", 3))
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
    assert report.found == {"images": 4, "refs": 4, "sentences": 4} and not report.findings.missing and not report.ok
    assert "official    9536" in str(report)


# ---- what the table is asked for -------------------------------------------------------------------------------


def test_names_owners_splits_and_options_that_do_not_exist():
    wrong = [
        (("coco", "val"), {}, "no data set 'coco': choose one of refcoco, refcoco[+], refcocog, referit, .*jhmdb"),
        (("refcoco", "test"), {}, "refcoco .unc. has no split 'test': choose one of train, val, testA, testB"),
        (("refcoco", "val"), {"split_by": "umd"}, "no split by 'umd': choose one of unc, google"),
        (("a2d", "test"), {"split_by": "unc"}, "no split by 'unc': choose one of gavrilyuk"),
        (("refcoco", "val"), {"sample_list": "x"}, "refcoco does not have sample_list: leave it out"),
    ]
    for place, options, sentence in wrong:
        with pytest.raises(RefsegError, match=sentence):
            build_dataset(*place, **options)
    with pytest.raises(RefsegError, match="has no split 'test'"):
        check_data("refcoco", "test")


class Blocks(ReferringDataset):
    """What a user adds: three images, two expressions for each."""

    def __init__(self, info, split, transform=None):
        self.transform = transform
        self.expressions = [f"{colour} block" for _ in range(3) for colour in ("red", "green")]
        self.image_ids, self.referent_ids = [0, 0, 1, 1, 2, 2], list(range(6))

    def __getitem__(self, index):
        if self.image_ids[index] == 2:
            raise RefsegError("Image 2 of blocks is damaged: draw it again.")
        frames, mask = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(8, 8, dtype=torch.bool)
        sample = RefSample(frames, mask, self.expressions[index], str(index), "blocks/val", (8, 8), mask)
        return self.transform(sample) if self.transform else sample


def test_a_data_set_that_a_user_adds_is_built_counted_and_checked(monkeypatch):
    splits = {"me": {"val": {"images": 3, "samples": 7}}}
    monkeypatch.setitem(DATASETS, "blocks", DatasetInfo("blocks", Blocks, splits))
    data = build_dataset("blocks", "val", lambda sample: sample.expression, objects=False, num_frames=3)
    assert len(data) == 6 and data[1] == "green block"
    report = check_data("blocks", "val")
    assert not report.ok and report.found == {"images": 3, "referents": 6, "samples": 6}
    for line in ("[OK]   images", "referents       6   no official", "[FAIL] samples         6   official       7"):
        assert line in str(report)
    assert "[FAIL] 1 things to fix:\n         Image 2 of blocks is damaged" in str(report)
    with pytest.raises(RefsegError, match="blocks does not have root, objects: leave it out"):
        build_dataset("blocks", "val", root="x", objects=True)
