"""Scores by hand, then against the numbers that the released test loops of CMSA, LAVT and MTTR gave."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from refseg.errors import RefsegError
from refseg.evaluation.metrics import (
    AP_COLUMNS,
    CMSA,
    CRIS,
    MTTR,
    RES,
    Convention,
    SegmentationMeter,
    area_under_curve,
    average_precision,
    gathering,
    intersection_union,
)


def strip(*pixels: int, length: int = 13) -> torch.Tensor:
    """A mask of one row with these pixels on."""
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, list(pixels)] = True
    return mask


def pair(intersection: int, union: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction inside its mask, with the wanted intersection and union."""
    return strip(*range(intersection)), strip(*range(union))


def meter_of(convention: Convention, *pairs: tuple[int, int]) -> SegmentationMeter:
    meter = SegmentationMeter(convention)
    for numbers in pairs:
        meter.update(*pair(*numbers))
    return meter


def test_intersection_and_union_by_hand():
    assert intersection_union(strip(0, 1, 2), strip(2, 3)) == (1, 4)
    assert intersection_union(strip(), strip(2, 3)) == (0, 2)
    assert intersection_union(strip(), strip()) == (0, 0)


def test_scores_by_hand():
    scores = meter_of(RES, (1, 2), (3, 4), (0, 2)).compute()
    assert scores["N"] == 3
    assert scores["oIoU"] == 4 / 8
    assert scores["mIoU"] == pytest.approx((0.5 + 0.75 + 0) / 3)
    assert [scores[f"P@0.{k}"] for k in (5, 6, 7, 8, 9)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 0])


def test_update_returns_the_iou_and_keeps_it():
    meter = SegmentationMeter()
    assert meter.update(*pair(3, 4)) == 0.75
    meter.update(*pair(1, 4))
    assert meter.ious == [0.75, 0.25]


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_exact_ties_count_with_ge_and_not_with_gt(tenths):
    key, strict = f"P@0.{tenths}", Convention("strict", ">")
    for scale in (1, 3, 7, 1_000_003):  # in floats, 0.1 * 7 is not 0.7
        assert RES.reaches(tenths * scale, 10 * scale, tenths)
        assert not strict.reaches(tenths * scale, 10 * scale, tenths)
    assert not RES.reaches(tenths * 10**6 - 1, 10**7, tenths)
    assert strict.reaches(tenths * 10**6 + 1, 10**7, tenths)
    assert meter_of(RES, (tenths, 10)).compute()[key] == 1
    assert meter_of(strict, (tenths, 10)).compute()[key] == 0


def test_both_empty_is_named_by_the_convention():
    assert meter_of(RES, (0, 0), (2, 2)).compute() == {
        "N": 2, "oIoU": 1.0, "mIoU": 0.5, "P@0.5": 0.5, "P@0.6": 0.5, "P@0.7": 0.5, "P@0.8": 0.5, "P@0.9": 0.5,
    }  # fmt: skip
    assert meter_of(RES, (0, 0)).compute()["P@0.5"] == 0  # 10 * 0 >= 5 * 0 would have counted it
    assert meter_of(RES, (0, 0)).compute()["oIoU"] == 0
    assert meter_of(MTTR, (0, 0)).compute()["P@0.9"] == 1
    assert meter_of(CRIS, (0, 0)).compute()["mIoU"] == 0
    with pytest.raises(RefsegError, match="empty"):
        meter_of(CMSA, (0, 0))


def test_an_empty_prediction_still_weighs_in_the_union():
    scores = meter_of(RES, (4, 4), (0, 12)).compute()
    assert (scores["oIoU"], scores["mIoU"]) == (0.25, 0.5)


def test_cris_loses_a_perfect_tie_to_its_epsilon():
    assert CRIS.iou(7, 10) < 0.7
    assert meter_of(CRIS, (10, 10)).compute()["mIoU"] == pytest.approx(1, abs=2e-7)


def test_merged_meters_equal_one():
    rng = np.random.default_rng(5)
    numbers = [(int(rng.integers(0, u + 1)), int(u)) for u in rng.integers(1, 13, size=53)]
    whole, parts = SegmentationMeter(), [SegmentationMeter() for _ in range(3)]
    for index, item in enumerate(numbers):
        group = "even" if index % 2 == 0 else "odd"
        whole.update(*pair(*item), group)
        parts[index % 3].update(*pair(*item), group)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.compute() == whole.compute()  # equal, not close
    assert merged.by_group() == whole.by_group()
    with pytest.raises(RefsegError, match="RES.*MTTR"):
        whole.merge(SegmentationMeter(MTTR))


def test_groups_are_scored_apart():
    meter = SegmentationMeter()
    meter.update(*pair(1, 2), "place")
    meter.update(*pair(2, 2), "colour")
    meter.update(*pair(0, 2), "place")
    meter.update(*pair(1, 1))
    groups = meter.by_group()
    assert list(groups) == ["colour", "place"]
    assert (groups["place"]["N"], groups["place"]["oIoU"], groups["colour"]["mIoU"]) == (2, 0.25, 1.0)
    assert meter.compute()["N"] == 4


@pytest.mark.parametrize(
    "pred, message",
    [
        (torch.full((1, 13), float("nan")), "threshold"),
        (torch.ones(1, 13, dtype=torch.uint8), "uint8"),
        (np.ones((1, 13), bool), "bool tensor"),
        (torch.ones(13, 1, dtype=torch.bool), r"\(13, 1\)"),
    ],
)
def test_bad_masks_are_refused(pred, message):
    with pytest.raises(RefsegError, match=message):
        SegmentationMeter().update(pred, strip(3))


def test_nothing_scored_and_unknown_comparison_are_refused():
    with pytest.raises(RefsegError, match="No sample"):
        SegmentationMeter().compute()
    with pytest.raises(RefsegError, match="at_threshold"):
        Convention("odd", "=>")


# ---- average precision -----------------------------------------------------------------------------------------


def encoded(mask: torch.Tensor) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))


def test_average_precision_by_hand(capsys):
    """Two samples, one found: precision 1 up to a recall of 1/2, which 51 of the 101 values 0, 0.01, ... reach."""
    masks = [encoded(strip(0, 1, 2)), encoded(strip(5))]
    right, wrong = (0.3, masks[0]), (0.9, encoded(strip(7)))
    assert average_precision(masks, [[right], []])["mAP"] == pytest.approx(51 / 101)
    behind = average_precision(masks, [[right], [wrong]])  # the wrong one is ranked first, so precision is 1/2
    assert [behind[name] for name in AP_COLUMNS] == pytest.approx([51 / 202] * 4 + [None, None])
    assert average_precision(masks, [[right], [(0.1, wrong[1])]])["mAP"] == pytest.approx(51 / 101)
    both = average_precision(
        masks, [[right], [wrong, (0.2, masks[1])]]
    )  # precision 0, 1/2, 2/3: the best behind counts
    assert both["AP50"] == pytest.approx(2 / 3)
    assert average_precision(masks, [[], []])["mAP"] == 0
    assert capsys.readouterr().out == ""


def test_average_precision_by_area():
    """A thing of 1600 pixels is medium, and a small one is not asked for."""
    big = torch.zeros(41, 43, dtype=torch.bool)
    big[:40, :40] = True
    scores = average_precision([encoded(big)], [[(0.5, encoded(big))]])
    assert scores == pytest.approx(dict(zip(AP_COLUMNS, [1, 1, 1, None, 1, None])))


# ---- the numbers of others -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(shared_dir):
    """The stored results of the releases, and the 120 mask pairs they were computed on."""
    folder = shared_dir / "parity"
    if not (folder / "metrics_A.json").is_file():
        pytest.skip("no metrics_A.json")
    arrays = np.load(folder / "metrics_masks_A.npz")

    def masks(name: str) -> list[torch.Tensor]:
        bits, offset, found = arrays[f"{name}_bits"], arrays[f"{name}_offset"], []
        for i, (h, w) in enumerate(zip(arrays["height"], arrays["width"], strict=True)):
            flat = np.unpackbits(bits[offset[i] : offset[i + 1]], count=int(h) * int(w))
            found.append(torch.from_numpy(flat.reshape(h, w).astype(bool)))
        return found

    return json.loads((folder / "metrics_A.json").read_text()), masks("pred"), masks("gt")


def measure(released, name: str, convention: Convention) -> tuple[dict, SegmentationMeter]:
    numbers, pred, gt = released
    meter = SegmentationMeter(convention)
    for index in numbers["sets"][name]:
        meter.update(pred[index], gt[index])
    return meter.compute(), meter


@pytest.mark.parametrize("name", ["base", "base_exact", "all_but_both_empty"])
def test_equals_the_cmsa_release(released, name):
    theirs = released[0]["results"][name]["cmsa_release_native"]
    ours, meter = measure(released, name, CMSA)
    assert ours["N"] == theirs["n"]
    assert [sum(s[i] for s in meter.samples) for i in (0, 1)] == [theirs["cum_I"], theirs["cum_U"]]
    assert ours["oIoU"] == pytest.approx(theirs["overall_iou"], abs=1e-14)
    assert ours["mIoU"] == pytest.approx(theirs["mean_iou"], abs=1e-14)
    assert {k: ours[f"P@{k}"] for k in theirs["prec"]} == pytest.approx(theirs["prec"], abs=1e-14)
    if "per_sample_I" in theirs:
        assert [s[0] for s in meter.samples] == theirs["per_sample_I"]
        assert [s[1] for s in meter.samples] == theirs["per_sample_U"]


def test_refuses_what_crashes_the_cmsa_release(released):
    assert "ZeroDivisionError" in released[0]["results"]["all"]["cmsa_release_native"]["error"]
    with pytest.raises(RefsegError, match="CMSA"):
        measure(released, "all", CMSA)


@pytest.mark.parametrize("name", ["base", "base_exact", "all_but_both_empty", "all"])
def test_equals_lavt(released, name):
    theirs = released[0]["results"][name]["lavt"]
    ours, meter = measure(released, name, RES)
    assert ours["N"] == theirs["n"]
    assert 100 * ours["oIoU"] == pytest.approx(theirs["overall_iou_percent"], abs=1e-12)
    assert 100 * ours["mIoU"] == pytest.approx(theirs["mean_iou_percent"], abs=1e-12)
    assert {k: round(ours[f"P@{k}"] * ours["N"]) for k in theirs["count_ge"]} == theirs["count_ge"]
    if "per_sample_iou" in theirs:
        assert meter.ious == pytest.approx(theirs["per_sample_iou"], abs=1e-14)


@pytest.mark.parametrize("name", ["base", "base_exact", "all_but_both_empty", "all"])
def test_equals_mttr_exact_ties_in_float32_included(released, name):
    theirs = released[0]["results"][name]["mttr_single"]
    ours, meter = measure(released, name, MTTR)
    assert ours["N"] == theirs["n"]
    assert ours["oIoU"] == pytest.approx(theirs["overall_iou"], abs=1e-12)
    assert ours["mIoU"] == pytest.approx(theirs["mean_iou"], abs=1e-6)
    assert {k: round(ours[f"P@{k}"] * ours["N"]) for k in theirs["count_gt"]} == theirs["count_gt"]
    if "per_sample_iou_float32" in theirs:
        assert meter.ious == theirs["per_sample_iou_float32"]


@pytest.mark.parametrize("name", ["base", "base_exact", "all_but_both_empty", "all"])
@pytest.mark.parametrize("guesses", ["mttr_single", "mttr_multi"])
def test_average_precision_equals_mttr(released, shared_dir, name, guesses):
    numbers, pred, gt = released
    theirs = numbers["results"][name][guesses]
    arrays = np.load(shared_dir / "parity" / "metrics_masks_A.npz")
    found = {index: [(float(arrays["score"][index]), pred[index])] for index in numbers["sets"][name]}
    if guesses == "mttr_multi":
        bits, offset = arrays["cand_bits"], arrays["cand_offset"]
        for i, (index, score) in enumerate(zip(arrays["cand_pair"].tolist(), arrays["cand_score"].tolist())):
            if index in found:
                shape = gt[index].shape
                flat = np.unpackbits(bits[offset[i] : offset[i + 1]], count=shape.numel())
                found[index].append((score, torch.from_numpy(flat.reshape(shape).astype(bool))))
    predictions = [[(score, encoded(mask)) for score, mask in own] for own in found.values()]
    assert sum(map(len, predictions)) == theirs["n_predictions"]
    ours = average_precision([encoded(gt[index]) for index in found], predictions)
    wanted = [theirs[key] for key in ("mAP 0.5:0.95", "AP 0.5", "AP 0.75", *(f"AP 0.5:0.95 {size}" for size in "SML"))]
    assert [-1 if ours[key] is None else ours[key] for key in AP_COLUMNS] == pytest.approx(wanted, abs=1e-6)

    meter = SegmentationMeter(MTTR)
    for index, own in found.items():
        meter.update(sorted(own, key=lambda guess: guess[0])[-1][1], gt[index])
    scores = meter.compute()
    assert scores["oIoU"] == pytest.approx(theirs["overall_iou"], abs=1e-6)
    assert scores["mIoU"] == pytest.approx(theirs["mean_iou"], abs=1e-6)
    assert {k: scores[f"P@{k}"] for k in theirs["count_gt"]} == pytest.approx(
        {k: theirs[f"P@{k}"] for k in theirs["count_gt"]}
    )


# ---- area under the curve ----------------------------------------------------------------------------------------


def test_area_under_curve_by_hand():
    positive = torch.tensor([True, False, True, False, False])
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0])
    # The first positive beats two of three negatives, the second one and a tie: (2 + 1.5) / 6.
    assert area_under_curve(values, positive) == pytest.approx(3.5 / 6)
    assert area_under_curve(-values, positive) == pytest.approx(1 - 3.5 / 6)
    assert area_under_curve(torch.exp(values), positive) == area_under_curve(values, positive)
    assert area_under_curve(torch.zeros(5), positive) == 0.5
    assert area_under_curve(values, torch.ones(5, dtype=torch.bool)) is None
    assert area_under_curve(values, torch.zeros(5, dtype=torch.bool)) is None


def test_gathering_by_hand():
    """Two steps on a grid of 2 x 3 for 4 x 6 pixels; the last column is padding, one region is half covered."""
    similarity = torch.tensor([[[0.9, 0.1, 0.7], [0.2, 0.3, 0.7]], [[-1.0, 1.0, 2.0], [0.5, 0.5, 2.0]]])
    mask, valid = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    mask[0, :2, :3] = True  # the first region, and half of the second: that is not most of it
    valid[0, :, :4] = True
    assert gathering(similarity, mask, valid) == [1.0, 0.0]
    assert gathering(similarity, torch.zeros_like(mask), valid) == [None, None]
