"""The benchmark of data sets measures what it says; the sizes it must keep to are in the results that it wrote."""

import json

import data_files
import numpy as np
import pytest
from pycocotools import mask as coco_mask

import data
from refseg.datasets import build_dataset
from refseg.paths import results_dir


def test_a_box_as_run_lengths():
    mask = coco_mask.decode(data_files.box_mask([2, 1, 4, 3], 7, 11))
    expected = np.zeros((7, 11), dtype=np.uint8)
    expected[1:4, 2:5] = 1
    assert np.array_equal(mask, expected)
    assert coco_mask.decode(data_files.box_mask([0, 0, 10, 6], 7, 11)).all()


def test_predictions_are_shifted_and_ranked():
    mask = np.zeros((5, 60), dtype=np.uint8, order="F")
    mask[:, 3:6] = 1
    encoded = coco_mask.encode(mask)
    truth = {"annotations": [{"id": 7, "image_id": "v", "segmentation": encoded}]}
    (prediction,) = data_files.shifted_masks(truth)
    moved = coco_mask.decode(prediction["segmentation"])
    assert np.flatnonzero(moved[0]).tolist() == [3 + 49 % 41 + k for k in range(3)]
    assert (prediction["image_id"], prediction["score"]) == ("v", 91 / 101)


def test_referit_in_the_refer_layout_has_every_sentence(shared_dir, tmp_path):
    source = shared_dir / "data" / "referit_berkeley"
    if not source.is_dir():
        pytest.skip("no ReferIt query files")
    queries = {"8756_2": ["sky", "the sky"], "8756_1": ["man"]}
    for name in ("referit_imsize.json", "referit_bbox.json"):
        (tmp_path / name).symlink_to(source / name)
    (tmp_path / "referit_query_train.json").write_text(json.dumps(queries))
    (tmp_path / "referit_query_val.json").write_text("{}")
    data_files.write_referit(tmp_path, tmp_path / "refclef")
    dataset = build_dataset("referit", "trainval", root=tmp_path / "refclef")
    assert dataset.expressions == ["sky", "the sky", "man"] and len(set(dataset.sample_ids)) == 3


def test_the_input_pipeline_is_timed_on_real_pictures(shared_dir, tmp_path):
    source = shared_dir / "data" / "coco128"
    if not source.is_dir():
        pytest.skip("no pictures of COCO")
    found = data.DataBenchmark(shared=shared_dir, batches=2).input(tmp_path)
    ways = ("four_sentences_of_a_picture_together", "every_sentence_alone", "plain_torchvision")
    assert all(found[way]["by_the_clock"] > 0 and found[way]["by_the_processors"] > 0 for way in ways)
    assert len(found["milliseconds_by_stage"]) == 5 and all(ms > 0 for ms in found["milliseconds_by_stage"].values())
    dataset = build_dataset("refcoco", "train", root=tmp_path / "coco", image_root=source)
    assert len(dataset) == 3 * 929 and len(set(dataset.image_ids)) == 126
    image, mask = data.PlainTorchvision(dataset)[5]
    assert image.shape == (3, 320, 320) and mask.shape == (1, 320, 320) and 0 < mask.sum() < 320 * 320


def test_the_stored_results_keep_to_their_bounds():
    """Seconds of the processor: on two idle cores the clock shows no more."""
    results = json.loads((results_dir() / "data_speed.json").read_text())
    scoring, indexing, index = (results[name] for name in ("scoring_a2d", "indexing_referit", "index_of_150000"))
    assert scoring["N"] == 3800 and scoring["oIoU"] == pytest.approx(0.6398251830511099)
    assert scoring["mAP"] == pytest.approx(0.095111, abs=1e-6) and 0 < scoring["cpu_seconds"] <= 10
    assert indexing["sentences"] == 59_976 and 0 < indexing["cpu_seconds"] <= 2
    assert index["sentences"] == 150_000 and 0 < index["megabytes"] <= 300
    assert results["input"]["pixels"] == 320 and results["input"]["every_sentence_alone"]["by_the_clock"] >= 150
