"""Scores by hand, then against the numbers that the released test loops of CMSA, LAVT and MTTR gave."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from refseg.errors import RefsegError
from refseg.evaluation.metrics import (
    AP_COLUMNS,
    area_under_curve,
    average_precision,
    centre_auc,
    intersection_union,
    mask_iou,
)
from refseg.evaluation.protocols import PROTOCOLS, Meter


def strip(*pixels: int, length: int = 13) -> torch.Tensor:
    """A mask of one row with these pixels on."""
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, list(pixels)] = True
    return mask


def pair(intersection: int, union: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction inside its mask, with the wanted intersection and union."""
    return strip(*range(intersection)), strip(*range(union))


def test_intersection_and_union_by_hand():
    assert intersection_union(strip(0, 1, 2), strip(2, 3)) == (1, 4)
    assert intersection_union(strip(), strip(2, 3)) == (0, 2)
    assert intersection_union(strip(), strip()) == (0, 0)


def test_mask_iou():
    assert (mask_iou(*pair(3, 4)), mask_iou(*pair(0, 3)), mask_iou(*pair(0, 0))) == (0.75, 0.0, 0.0)


def test_bad_masks_are_refused():
    for pred, message in (
        (torch.full((1, 13), float("nan")), "threshold"),
        (torch.ones(1, 13, dtype=torch.uint8), "uint8"),
        (np.ones((1, 13), bool), "bool tensor"),
        (torch.ones(13, 1, dtype=torch.bool), r"\(13, 1\)"),
    ):
        with pytest.raises(RefsegError, match=message):
            mask_iou(pred, strip(3))


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


SETS = ("base", "base_exact", "all_but_both_empty", "all")


def measure(released, name: str, protocol: str) -> tuple[dict, Meter]:
    """The masks compared as they are: those of CMSA's release are checked in test_protocols.py."""
    numbers, pred, gt = released
    meter = Meter(replace(PROTOCOLS[protocol], of_mask=lambda mask: mask, truth=lambda mask: mask))
    for index in numbers["sets"][name]:
        meter.update_mask(pred[index], gt[index])
    return meter.compute(), meter


def test_equals_the_cmsa_release(released):
    for name in SETS[:3]:
        theirs = released[0]["results"][name]["cmsa_release_native"]
        ours, meter = measure(released, name, "cmsa-release")
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
    with pytest.raises(RefsegError, match="cmsa-release"):
        measure(released, "all", "cmsa-release")


def test_equals_lavt(released):
    for name in SETS:
        theirs = released[0]["results"][name]["lavt"]
        ours, meter = measure(released, name, "original")
        assert ours["N"] == theirs["n"]
        assert 100 * ours["oIoU"] == pytest.approx(theirs["overall_iou_percent"], abs=1e-12)
        assert 100 * ours["mIoU"] == pytest.approx(theirs["mean_iou_percent"], abs=1e-12)
        assert {k: round(ours[f"P@{k}"] * ours["N"]) for k in theirs["count_ge"]} == theirs["count_ge"]
        if "per_sample_iou" in theirs:
            assert meter.ious == pytest.approx(theirs["per_sample_iou"], abs=1e-14)


def test_equals_mttr_exact_ties_in_float32_included(released):
    for name in SETS:
        theirs = released[0]["results"][name]["mttr_single"]
        ours, meter = measure(released, name, "mttr")
        assert ours["N"] == theirs["n"]
        assert ours["oIoU"] == pytest.approx(theirs["overall_iou"], abs=1e-12)
        assert ours["mIoU"] == pytest.approx(theirs["mean_iou"], abs=1e-6)
        assert {k: round(ours[f"P@{k}"] * ours["N"]) for k in theirs["count_gt"]} == theirs["count_gt"]
        if "per_sample_iou_float32" in theirs:
            assert meter.ious == theirs["per_sample_iou_float32"]


def test_average_precision_equals_mttr(released, shared_dir):
    for name, guesses in product(SETS, ("mttr_single", "mttr_multi")):
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
        wanted = [
            theirs[key] for key in ("mAP 0.5:0.95", "AP 0.5", "AP 0.75", *(f"AP 0.5:0.95 {size}" for size in "SML"))
        ]
        assert [-1 if ours[key] is None else ours[key] for key in AP_COLUMNS] == pytest.approx(wanted, abs=1e-6)

        meter = Meter(PROTOCOLS["mttr"])
        for index, own in found.items():
            meter.update_mask(sorted(own, key=lambda guess: guess[0])[-1][1], gt[index])
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


def test_centre_auc_by_hand():
    """Two steps on a grid of 2 x 3 for 4 x 6 pixels; the last column is padding, one region is half covered."""
    similarity = torch.tensor([[[0.9, 0.1, 0.7], [0.2, 0.3, 0.7]], [[-1.0, 1.0, 2.0], [0.5, 0.5, 2.0]]])
    mask, valid = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    mask[0, :2, :3] = True  # the first region, and half of the second: that is not most of it
    valid[0, :, :4] = True
    assert centre_auc(similarity, mask, valid) == [1.0, 0.0]
    assert centre_auc(similarity, torch.zeros_like(mask), valid) == [None, None]
