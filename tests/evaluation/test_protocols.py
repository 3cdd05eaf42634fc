"""Protocols by name: by hand on a few pixels, and CMSA's against the numbers that its release gave for 320 px masks."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg.datasets.transforms import fit
from refseg.errors import RefsegError
from refseg.evaluation.protocols import ORIGINAL, PROTOCOLS, Meter, choose_protocols
from refseg.types import Annotations

TALL, WIDE = (40, 20), (20, 40)


def logit(prob: float) -> float:
    return math.log(prob / (1 - prob))


def found_by(name: str, logits: torch.Tensor, size: tuple[int, int], valid: torch.Tensor | None = None):
    valid = torch.ones(logits.shape, dtype=torch.bool) if valid is None else valid
    return PROTOCOLS[name].of_logits(logits[None], valid[None], size)


def step(*values: float) -> torch.Tensor:
    """A row of logits, four rows high."""
    return torch.tensor([values] * 4)


# ---- sizes and thresholds --------------------------------------------------------------------------------------


def test_masks_are_bool_and_of_the_size_of_the_truth():
    for name in PROTOCOLS:
        protocol = PROTOCOLS[name]
        for size in (TALL, WIDE, (1, 7), (320, 320)):
            truth = protocol.truth(torch.ones(size, dtype=torch.bool))
            assert truth.shape == ((480, 480) if name == "lavt480" else size) and truth.all()
            (height, width), (left, top, _, _) = fit(*size, 32)
            valid = torch.zeros(32, 32, dtype=torch.bool)
            valid[top : top + height, left : left + width] = True
            answers = found_by(name, torch.full((8, 8), 3.0), size, valid), protocol.of_mask(torch.ones(size).bool())
            for mask in answers:
                assert mask.dtype == torch.bool and mask.shape == truth.shape and mask.all()
            assert not found_by(name, torch.full((8, 8), -3.0), size, valid).any()
            assert not protocol.of_mask(torch.zeros(size).bool()).any()


def test_the_thresholds():
    for name, threshold in [("original", 0.5), ("lavt480", 0.5), ("cmsa-release", 0.5), ("cris", 0.35), ("mttr", 0.5)]:
        assert not found_by(name, torch.full((4, 4), logit(threshold - 0.001)), (6, 6)).any()
        assert found_by(name, torch.full((4, 4), logit(threshold + 0.001)), (6, 6)).all()
        at_zero = found_by(name, torch.zeros(4, 4), (6, 6))
        assert at_zero.all() == (name == "cris") and at_zero.any() == (name == "cris")  # a half is more than 0.35


def test_where_the_border_falls_when_four_columns_become_eight():
    """Logits 3, -1: the new columns lie at old places -0.25, 0.25, 0.75, 1.25, ..., the outermost held."""
    row = step(3.0, -1.0, -1.0, -1.0)
    eight = (8, 8)
    # bilinear: 3, 2, 0, ... at places 0, 0.25, 0.75: zero is not above zero
    assert found_by("original", row, eight)[0].tolist() == [True, True] + [False] * 6
    assert found_by("original", step(3.1, -1.0, -1.0, -1.0), eight)[0].tolist() == [True] * 3 + [False] * 5
    # cut first, then doubled: exactly two columns however large the logit
    assert found_by("mttr", step(9.0, -1.0, -1.0, -1.0), eight)[0].tolist() == [True] * 2 + [False] * 6
    # 1/8 of 480 columns is what two of eight are; bilinear at 480 reaches place 0.75, logit 0, after 150 columns
    assert found_by("lavt480", row, eight).shape == (480, 480)
    assert int(found_by("lavt480", row, eight)[0].sum()) == 150
    # cubic (a = -0.75) weighs the places -1, 0, 1, 2 at 0.75 with -0.0352, 0.2617, 0.8789, -0.1055; -1 is the edge, 0
    first = 0.26171875 - 0.03515625
    for rest, columns in ((0.18, 2), (0.3, 3)):
        assert (rest + (0.9 - rest) * first > 0.35) == (columns == 3)
        row = step(logit(0.9), logit(rest), logit(rest), logit(rest))
        assert found_by("cris", row, eight)[0].tolist() == [True] * columns + [False] * (8 - columns)


def test_nearest_of_mttr_takes_the_place_at_the_corner():
    """3 columns to 7: column c is old column floor(3 c / 7), as torch's "nearest"."""
    assert found_by("mttr", step(1.0, -1.0, 1.0), (4, 7))[0].tolist() == [
        [True, False, True][3 * column // 7] for column in range(7)
    ]


def test_padding_is_cut_off_before_anything_is_resized():
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[:, 2:6] = True
    logits = torch.full((8, 8), 5.0)
    logits[:, 2:6] = -5.0  # the padding shouts
    for name in ("original", "lavt480", "cris", "mttr"):
        assert not found_by(name, logits, (16, 8), valid).any()


def test_cmsa_enlarges_everything_above_zero():
    """A square of 2 x 2 in 320 pixels, twice as large: bilinear reaches half a pixel beyond, one new pixel."""
    logits = torch.full((320, 320), -1.0)
    logits[100:102, 200:202] = 1.0
    rows, columns = found_by("cmsa-release", logits, (640, 640)).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (199, 204, 399, 404) and len(rows) == 36
    assert int(found_by("mttr", logits, (640, 640)).sum()) == 16
    logits[100:102, 200:202] = 1e-10  # below the release's 1e-9
    assert not found_by("cmsa-release", logits, (640, 640)).any()


def test_lavt_weighs_every_picture_alike():
    small, large = torch.zeros(20, 40, dtype=torch.bool), torch.zeros(200, 400, dtype=torch.bool)
    small[:10], large[:100] = True, True
    truths = [PROTOCOLS["lavt480"].truth(mask) for mask in (small, large)]
    assert [int(truth.sum()) for truth in truths] == [480 * 240] * 2
    places = [(2 * column + 1) * 13 // 960 for column in range(480)]  # nearest: where the middle of each column falls
    columns = torch.arange(13) % 3 == 1
    assert PROTOCOLS["lavt480"].truth(columns.expand(7, 13))[0].tolist() == [bool(columns[place]) for place in places]


# ---- the release of CMSA ---------------------------------------------------------------------------------------


def test_equals_the_release_of_cmsa_for_masks_of_320_pixels(shared_dir):
    for name in ["base", "base_exact", "all_but_both_empty"]:
        folder = shared_dir / "parity"
        if not (folder / "metrics_A.json").is_file():
            pytest.skip("no metrics_A.json")
        numbers, arrays = json.loads((folder / "metrics_A.json").read_text()), np.load(folder / "metrics_masks_A.npz")
        theirs = numbers["results"][name]["cmsa_release_legacy320"]
        meter = Meter(PROTOCOLS["cmsa-release"])
        for index in numbers["sets"][name]:
            size = height, width = int(arrays["height"][index]), int(arrays["width"][index])
            bits = arrays["gt_bits"][arrays["gt_offset"][index] : arrays["gt_offset"][index + 1]]
            truth = torch.from_numpy(np.unpackbits(bits, count=height * width).reshape(size).astype(bool))
            pred320 = torch.from_numpy(
                np.unpackbits(arrays["pred320_bits"][index]).reshape(320, 320).astype(np.float32)
            )
            meter.update(2 * pred320[None] - 1, torch.ones(1, 320, 320, dtype=torch.bool), truth)
        ours = meter.report()
        samples = [(intersection, union) for intersection, union, _ in meter.samples]
        assert (sum(i for i, _ in samples), sum(u for _, u in samples)) == (theirs["cum_I"], theirs["cum_U"])
        if "per_sample_I" in theirs:
            assert samples == list(zip(theirs["per_sample_I"], theirs["per_sample_U"]))
        assert (ours["N"], ours["protocol"], ours["at_threshold"]) == (theirs["n"], "cmsa-release", ">=")
        assert ours["oIoU"] == pytest.approx(theirs["overall_iou"], abs=1e-12)
        assert ours["mIoU"] == pytest.approx(theirs["mean_iou"], abs=1e-12)
        assert {k: round(ours[f"P@{k}"] * ours["N"]) for k in theirs["count_ge"]} == theirs["count_ge"]


# ---- names and counting ----------------------------------------------------------------------------------------


def test_ties_and_empty_masks_are_counted_as_each_release_does():
    half, whole = torch.zeros(10, 20).bool(), torch.zeros(10, 20).bool()
    half[:5, :10], whole[:, :10] = True, True  # IoU is exactly 0.5
    nothing = torch.zeros_like(half)
    at_half, both_empty = {}, {}
    for name, protocol in PROTOCOLS.items():
        meter, empty = Meter(protocol), Meter(protocol)
        meter.update_mask(half, whole)
        if name != "cmsa-release":  # it dilates; and it divides by zero below
            at_half[name] = meter.compute()["P@0.5"]
            empty.update_mask(nothing, nothing)
            both_empty[name] = empty.compute()["mIoU"]
    assert at_half == {"original": 1, "original-video": 0, "lavt480": 1, "cris": 0, "mttr": 0}
    assert both_empty == {"original": 0, "original-video": 1, "lavt480": 0, "cris": 0, "mttr": 1}
    with pytest.raises(RefsegError, match="'cmsa-release' has no IoU"):
        Meter(PROTOCOLS["cmsa-release"]).update_mask(nothing, nothing)


def test_average_precision_where_it_belongs():
    logits, truth = torch.full((1, 4, 4), 2.0), torch.ones(6, 6, dtype=torch.bool)
    for name, protocol in PROTOCOLS.items():
        meter = Meter(protocol)
        meter.update(logits, torch.ones(1, 4, 4, dtype=torch.bool), truth)
        scores = meter.compute()
        assert ("mAP" in scores) == (name in ("mttr", "original-video"))
        assert scores.get("mAP", 1) == pytest.approx(1)


def test_names():
    assert [p.name for p in choose_protocols(["mttr", "cris", "mttr"])] == ["mttr", "cris"]
    assert all(name == protocol.name and protocol.says for name, protocol in PROTOCOLS.items())
    with pytest.raises(RefsegError, match="no protocol 'lavt': choose one of original, .*lavt480, cris, mttr"):
        choose_protocols(["original", "lavt"])


# ---- counting --------------------------------------------------------------------------------------------------


def pair(intersection: int, union: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction inside its mask, with the wanted intersection and union, in a row of 13 pixels."""
    return torch.arange(13)[None] < intersection, torch.arange(13)[None] < union


def counted(name: str, *pairs: tuple[int, int]) -> Meter:
    """A meter that counts as the protocol of that name, and resizes nothing."""
    protocol = replace(PROTOCOLS[name], of_mask=lambda mask: mask, truth=lambda mask: mask)
    return Meter(protocol, [(*numbers, Annotations()) for numbers in pairs])


def test_scores_by_hand():
    scores = counted("original", (1, 2), (3, 4), (0, 2)).compute()
    assert scores["N"] == 3
    assert scores["oIoU"] == 4 / 8
    assert scores["mIoU"] == pytest.approx((0.5 + 0.75 + 0) / 3)
    assert [scores[f"P@0.{k}"] for k in (5, 6, 7, 8, 9)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 0])


def test_update_returns_the_iou_and_keeps_it():
    meter = Meter()
    assert meter.update_mask(*pair(3, 4)) == 0.75
    meter.update_mask(*pair(1, 4))
    assert meter.ious == [0.75, 0.25]


def test_exact_ties_count_with_ge_and_not_with_gt():
    strict = replace(ORIGINAL, name="strict", tie_counts=False)
    for tenths in (5, 6, 7, 8, 9):
        for scale in (1, 3, 7, 1_000_003):  # in floats, 0.1 * 7 is not 0.7
            assert ORIGINAL.reaches(tenths * scale, 10 * scale, tenths)
            assert not strict.reaches(tenths * scale, 10 * scale, tenths)
        assert not ORIGINAL.reaches(tenths * 10**6 - 1, 10**7, tenths)
        assert strict.reaches(tenths * 10**6 + 1, 10**7, tenths)
        samples = [(tenths, 10, Annotations())]
        assert Meter(ORIGINAL, samples).compute()[f"P@0.{tenths}"] == 1
        assert Meter(strict, samples).compute()[f"P@0.{tenths}"] == 0


def test_both_empty_is_up_to_the_protocol():
    assert counted("original", (0, 0), (2, 2)).compute() == {
        "N": 2, "oIoU": 1.0, "mIoU": 0.5, "P@0.5": 0.5, "P@0.6": 0.5, "P@0.7": 0.5, "P@0.8": 0.5, "P@0.9": 0.5,
    }  # fmt: skip
    assert counted("original", (0, 0)).compute()["P@0.5"] == 0  # 10 * 0 >= 5 * 0 would have counted it
    assert counted("original", (0, 0)).compute()["oIoU"] == 0
    assert counted("mttr", (0, 0)).compute()["P@0.9"] == 1
    assert counted("cris", (0, 0)).compute()["mIoU"] == 0
    with pytest.raises(RefsegError, match="empty"):
        counted("cmsa-release", (0, 0)).compute()


def test_an_empty_prediction_still_weighs_in_the_union():
    scores = counted("original", (4, 4), (0, 12)).compute()
    assert (scores["oIoU"], scores["mIoU"]) == (0.25, 0.5)


def test_cris_loses_a_perfect_tie_to_its_epsilon():
    assert PROTOCOLS["cris"].iou(7, 10) < 0.7
    assert counted("cris", (10, 10)).compute()["mIoU"] == pytest.approx(1, abs=2e-7)


def kind(annotations: Annotations) -> str | None:
    return annotations.kind


def test_merged_meters_equal_one():
    rng = np.random.default_rng(5)
    numbers = [(int(rng.integers(0, u + 1)), int(u)) for u in rng.integers(1, 13, size=53)]
    whole, parts = Meter(), [Meter() for _ in range(3)]
    for index, item in enumerate(numbers):
        group = Annotations(kind="even" if index % 2 == 0 else "odd")
        whole.update_mask(*pair(*item), group)
        parts[index % 3].update_mask(*pair(*item), group)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.compute() == whole.compute()  # equal, not close
    assert merged.by_group(kind) == whole.by_group(kind) != {}
    with pytest.raises(RefsegError, match="original.*mttr"):
        whole.merge(Meter(PROTOCOLS["mttr"]))


def test_groups_are_scored_apart():
    meter = Meter()
    meter.update_mask(*pair(1, 2), Annotations(kind="place"))
    meter.update_mask(*pair(2, 2), Annotations(kind="colour"))
    meter.update_mask(*pair(0, 2), Annotations(kind="place"))
    meter.update_mask(*pair(1, 1))
    groups = meter.by_group(kind)
    assert list(groups) == ["colour", "place"]
    assert (groups["place"]["N"], groups["place"]["oIoU"], groups["colour"]["mIoU"]) == (2, 0.25, 1.0)
    assert meter.compute()["N"] == 4


def test_nothing_scored_is_refused():
    with pytest.raises(RefsegError, match="No sample"):
        Meter().compute()
