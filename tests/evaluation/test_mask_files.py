"""Scoring two JSON files: by hand, against the golden numbers on A2D Sentences, and one sentence for every bad file."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from refseg.errors import RefsegError
from refseg.evaluation.mask_files import score_files
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.tables import format_scores

H, W = 7, 13


def run_lengths(mask: np.ndarray) -> dict:
    """As JSON holds it: the counts are text."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def bar(columns: int, height: int = H, width: int = W) -> np.ndarray:
    """The first columns of a mask."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, :columns] = 1
    return mask


def truth_of(**masks: np.ndarray) -> dict:
    return {
        "categories": [{"id": 1, "name": "dummy_class"}],
        "images": [{"id": name, "height": m.shape[0], "width": m.shape[1]} for name, m in masks.items()],
        "annotations": [
            {"id": i, "image_id": name, "category_id": 1, "segmentation": run_lengths(m), "area": 0, "iscrowd": 0}
            for i, (name, m) in enumerate(masks.items(), start=1)
        ],
    }


def guess(name, mask: np.ndarray, score=0.5, **changes) -> dict:
    return {"image_id": name, "category_id": 1, "segmentation": run_lengths(mask), "score": score, **changes}


@pytest.fixture
def files(tmp_path):
    """Writes what it is given as truth.json and predictions.json, and names both."""

    def write(truth, predictions):
        paths = tmp_path / "truth.json", tmp_path / "predictions.json"
        for path, content in zip(paths, (truth, predictions)):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return paths

    return write


TRUTH = truth_of(a=bar(10), b=bar(4), c=bar(3))
GUESSES = [guess("a", bar(5), 0.9), guess("b", bar(4), 0.8), guess("b", bar(1), 0.1), guess("c", bar(5), 0.3)]


# ---- what is counted -------------------------------------------------------------------------------------------


def test_scores_by_hand(files):
    """IoUs 0.5, 1 and 0.6; float32(0.6) lies above 0.6, as in MTTR."""
    results = score_files(*files(TRUTH, GUESSES))
    assert (results["N"], results["predictions"], results["missing"]) == (3, 4, 0)
    assert results["oIoU"] == pytest.approx((5 + 4 + 3) / (10 + 4 + 5))
    assert results["mIoU"] == pytest.approx((0.5 + 1 + 0.6) / 3, abs=1e-6)
    assert [results[f"P@0.{k}"] for k in (5, 6, 7, 8, 9)] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    # COCO matches with >=, so all three are found at 0.5. From 0.75 on only b is: behind a's false positive it is
    # the second in rank, precision 1/2 up to a recall of 1/3, which 34 of the 101 values 0, 0.01, ... do not exceed.
    assert results["AP50"] == pytest.approx(1)
    assert results["AP75"] == pytest.approx(34 / 101 / 2)
    assert results["AP_small"] == results["mAP"] and results["AP_medium"] is results["AP_large"] is None
    assert (results["protocol"], results["at_threshold"], results["truth"]) == ("mttr", ">", "truth.json")


def test_a_second_guess_helps_map_only(files):
    """The dispute about mAP of A2D: all queries of a model, or its best one?"""
    one = [guess("a", bar(1), 0.9), guess("b", bar(1), 0.8)]
    truth = truth_of(a=bar(10), b=bar(4))
    alone = score_files(*files(truth, one))
    both = score_files(*files(truth, [*one, guess("a", bar(10), 0.2), guess("b", bar(4), 0.1)]))
    assert alone["mAP"] == 0 and both["mAP"] == pytest.approx(0.5) and both["predictions"] == 4  # 2 of 4 are right
    same = ("N", "oIoU", "mIoU", "P@0.5")
    assert [alone[name] for name in same] == [both[name] for name in same]


def test_of_equal_scores_the_last_counts(files):
    paths = files(truth_of(a=bar(10)), [guess("a", bar(1)), guess("a", bar(9)), guess("a", bar(3), 0.4)])
    assert score_files(*paths)["mIoU"] == pytest.approx(0.9, abs=1e-6)


def test_a_missing_prediction_counts_as_an_empty_mask(files):
    missing = score_files(*files(TRUTH, GUESSES[1:3]))
    empty = score_files(*files(TRUTH, [*GUESSES[1:3], guess("a", bar(0), 0.0), guess("c", bar(0), 0.0)]))
    assert (missing["missing"], missing["predictions"], empty["missing"], empty["predictions"]) == (2, 2, 0, 4)
    assert missing["oIoU"] == 4 / (10 + 4 + 3) and missing["mIoU"] == pytest.approx(1 / 3, abs=1e-6)
    assert {n: v for n, v in missing.items() if n not in ("missing", "predictions")} == {
        n: v for n, v in empty.items() if n not in ("missing", "predictions")
    }
    nothing = score_files(*files(TRUTH, []))
    assert (nothing["missing"], nothing["mIoU"] < 1e-6, nothing["mAP"]) == (3, True, 0)
    assert "3 samples have no prediction: they count as empty masks, but mAP" in format_scores(nothing)


def test_an_empty_truth_and_whole_numbers_as_ids(files):
    truth = truth_of(x=bar(0), y=bar(2))
    for entry in (*truth["images"], *truth["annotations"]):
        key = "id" if "height" in entry else "image_id"
        entry[key] = {"x": 7, "y": 11}[entry[key]]
    results = score_files(*files(truth, [guess(11, bar(2))]))
    assert results["mIoU"] == pytest.approx(1) and results["P@0.9"] == 1  # nothing found where nothing is
    assert score_files(*files(truth, [guess(11, bar(2))]), "lavt480")["mIoU"] == 0.5


def test_uncompressed_run_lengths_and_other_categories_are_read(files):
    plain = guess("a", bar(10), segmentation={"size": [H, W], "counts": [0, 70, 21]}, category_id=5)
    results = score_files(*files(truth_of(a=bar(10)), [plain]))
    assert results["mIoU"] == pytest.approx(1) and results["mAP"] == pytest.approx(1)


def test_several_protocols_in_one_run(files):
    """The masks of 7 x 13 pixels tie at 0.5 and 0.6; squashed to 480 x 480 their columns are no longer equally wide."""
    paths = files(TRUTH, GUESSES)
    results = score_files(*paths, list(PROTOCOLS))
    assert list(results["protocols"]) == list(PROTOCOLS)
    table = {name: round(3 * row["P@0.5"]) for name, row in results["protocols"].items()}
    assert table == {"original": 3, "original-video": 2, "cmsa-release": 3, "lavt480": 3, "cris": 2, "mttr": 2}
    assert [name for name, row in results["protocols"].items() if "mAP" in row] == ["original-video", "mttr"]
    for name in PROTOCOLS:
        alone = score_files(*paths, name)
        assert "protocols" not in alone and results["protocols"][name].items() <= alone.items()
    assert results["oIoU"] == results["protocols"]["original"]["oIoU"] == 12 / 19
    columns = {n: sum(480 * (c + 1) // 13 - 480 * c // 13 for c in range(n)) for n in (3, 4, 5, 10)}
    assert columns[5] / columns[10] != 0.5  # 185 of 369: nearest gives the first columns now 37, now 36 places
    told = format_scores(results)
    assert all(name in told for name in PROTOCOLS) and "squashed to 480 x 480; P@K counts IoU >= K" in told
    assert "mAP" not in format_scores(score_files(*paths, "cris"))
    with pytest.raises(RefsegError, match="'cmsa-release' has no IoU"):
        score_files(*files(truth_of(a=bar(0)), []), "cmsa-release")


# ---- golden numbers on the genuine test masks of A2D Sentences --------------------------------------------------


@pytest.fixture(scope="module")
def genuine(shared_dir):
    path = shared_dir / "data" / "a2d_sentences" / "a2d_sentences_test_annotations_in_coco_format.json"
    if not path.is_file():
        pytest.skip(f"no genuine masks at {path}")
    return json.loads(path.read_text())


def shifted(annotation: dict, empty_every: int | None = None) -> dict:
    """The true mask moved to the right by a distance that its number tells, with a score that it tells too."""
    n, mask = annotation["id"], coco_mask.decode(annotation["segmentation"])
    moved = np.zeros_like(mask)
    distance = 7 * n % 41
    if empty_every is None or (n - 1) % empty_every:
        moved[:, distance:] = mask[:, : mask.shape[1] - distance]
    return guess(annotation["image_id"], moved, (13 * n % 101) / 101)


def test_the_first_genuine_masks(genuine, files):
    few = {"images": genuine["images"][:37], "annotations": genuine["annotations"][:37]}
    perfect = score_files(
        *files(few, [guess(a["image_id"], coco_mask.decode(a["segmentation"])) for a in few["annotations"]])
    )
    shares = [
        value for name, value in perfect.items() if name[:2] in ("oI", "mI", "P@", "mA", "AP") and value is not None
    ]
    assert perfect["N"] == 37 and len(shares) >= 11 and shares == pytest.approx([1] * len(shares))
    moved = score_files(*files(few, [shifted(annotation) for annotation in few["annotations"]]))
    truth = [coco_mask.decode(a["segmentation"]).astype(bool) for a in few["annotations"]]
    masks = [coco_mask.decode(shifted(a)["segmentation"]).astype(bool) for a in few["annotations"]]
    both, either = ([int(f(p, t).sum()) for p, t in zip(masks, truth)] for f in (np.logical_and, np.logical_or))
    assert moved["oIoU"] == pytest.approx(sum(both) / sum(either), abs=1e-12)
    assert moved["mIoU"] == pytest.approx(np.mean(np.array(both) / either), abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_golden_numbers_of_all_genuine_masks(genuine, files):
    def scores(predictions, protocol="mttr"):
        return score_files(*files(genuine, predictions), protocol)

    def aps(results):
        return [results[name] for name in ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")]

    predictions = [shifted(annotation) for annotation in genuine["annotations"]]
    results = scores(predictions)
    assert (results["N"], results["predictions"]) == (3800, 3800)
    assert results["oIoU"] == pytest.approx(36358750 / 56826069, abs=1e-12)
    assert results["oIoU"] == pytest.approx(0.6398251830511099, abs=1e-6)
    assert results["mIoU"] == pytest.approx(0.4785351180762383, abs=1e-6)
    strict = [0.483158, 0.383947, 0.284474, 0.183947, 0.087632]
    assert [results[f"P@0.{k}"] for k in (5, 6, 7, 8, 9)] == pytest.approx(strict, abs=1e-6)
    assert aps(results) == pytest.approx([0.095111, 0.245181, 0.064612, 0.010867, 0.040974, 0.244597], abs=1e-6)
    reached = scores(predictions, "original")
    assert [reached[f"P@0.{k}"] for k in (5, 6, 7, 8, 9)] == pytest.approx([0.483421, *strict[1:]], abs=1e-6)

    holes = scores([shifted(annotation, 10) for annotation in genuine["annotations"]])
    assert holes["mAP"] == pytest.approx(0.074533, abs=1e-6)
    left_out = scores([guess for guess, a in zip(predictions, genuine["annotations"]) if (a["id"] - 1) % 10])
    assert left_out["mAP"] == pytest.approx(0.084075, abs=1e-6) and left_out["missing"] == 380
    same = ("N", "oIoU", "mIoU", "P@0.5", "P@0.9")
    assert [left_out[name] for name in same] == [holes[name] for name in same]

    perfect = [guess(a["image_id"], coco_mask.decode(a["segmentation"])) for a in genuine["annotations"]]
    assert aps(scores(perfect)) == pytest.approx([1] * 6)
    second = [{**guess, "score": guess["score"] - 2} for guess in perfect]
    both = aps(scores([*predictions, *second]))[0]
    assert both == pytest.approx(0.5033, abs=5e-4)  # the golden run does not say how its second guesses were ranked


# ---- files that cannot be scored -------------------------------------------------------------------------------


def damaged(counts, size=(H, W)) -> list:
    return [guess("a", bar(1), segmentation={"size": size, "counts": counts})]


def without(entry: dict, key: str) -> dict:
    return {name: value for name, value in entry.items() if name != key}


def test_bad_predictions_are_told_in_one_sentence(files):
    for predictions, message in [
        ([guess(f"no{i}", bar(1)) for i in range(7)], r"predictions for 'no0', 'no1', 'no2', \.\.\. \(7 ids\), which"),
        ([guess("no", bar(1)), guess("no", bar(2))], "predictions for 'no', which .*truth.json does not hold"),
        ([guess(["a"], bar(1))], r"'image_id' is \['a'\]"),
        ([guess("a", bar(1), None)], r"Prediction 1 in .* \(for 'a'\) has no score"),
        ([GUESSES[0], without(guess("b", bar(1)), "score")], "Prediction 2 .* has no score"),
        ([guess("a", bar(1), math.nan)], "the score nan"),
        ([guess("a", bar(1), math.inf)], "the score inf"),
        ([guess("a", bar(1), 10**400)], "the score 1000"),
        ([guess("a", bar(1), "high")], "the score 'high'"),
        ([guess("a", bar(1), True)], "the score True"),
        ([guess("a", bar(1, 7, 11))], r"of size \[7, 11\] \(height, width\), but the image of \[7, 13\]"),
        (damaged("", None), "of size None"),
        (damaged("", 91), "of size 91"),
        ([guess("a", bar(1), segmentation=[[0, 0, 5, 0, 5, 5]])], "run lengths, not as polygons"),
        ([without(GUESSES[0], "segmentation")], "run lengths, not as polygons"),
        (damaged("no"), "do not add up"),
        (damaged("PPPPPPPPPPPPPPPPPPPPP"), "do not add up"),  # pycocotools reads behind the end of it
        (damaged([91, 1]), "do not add up"),
        (damaged([100, -9]), "do not add up"),
        (damaged([45.5, 45.5]), "do not add up"),
        (damaged(None), "do not add up"),
        (damaged("ÿÿ"), "do not add up"),
        ({"annotations": []}, "is not a list of predictions"),
        ([1, 2], "is not a list of predictions"),
        ("[{", "predictions.json is not valid JSON"),
        ("[" * 100_000, "predictions.json is not valid JSON"),
    ]:
        with pytest.raises(RefsegError, match=message) as caught:
            score_files(*files(TRUTH, predictions))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def changed(key: str, index: int, **changes) -> dict:
    """TRUTH with one entry changed."""
    entries = [entry | changes if i == index else entry for i, entry in enumerate(TRUTH[key])]
    return TRUTH | {key: entries}


def test_a_bad_truth_is_told_in_one_sentence(files):
    for truth, message in [
        (changed("images", 1, id="a"), "two images with the id 'a'"),
        (changed("annotations", 1, image_id="a"), "two annotations of 'a'"),
        (changed("annotations", 1, image_id="z"), "an annotation of 'z', but no image"),
        (TRUTH | {"annotations": []}, "no annotation of 'a', 'b', 'c': give"),
        (TRUTH | {"annotations": [], "images": []}, "No sample was scored"),
        (without(TRUTH, "images"), "no list 'images'"),
        (TRUTH | {"annotations": [None]}, "no list 'annotations'"),
        ([TRUTH], "no list 'images'"),
        (changed("images", 0, height=0), "the height 0 and the width 13"),
        (changed("images", 0, height=10**9, width=10**9), "not more than 80 million"),
        (changed("images", 0, width=None), "the width None"),
        (changed("images", 0, id=None), "'id' is None"),
        (changed("annotations", 2, segmentation={"size": [H, W], "counts": "no"}), "mask of 'c' in .* do not add up"),
        (changed("annotations", 2, segmentation=[]), "not as polygons"),
        ("", "truth.json is not valid JSON"),
    ]:
        with pytest.raises(RefsegError, match=message) as caught:
            score_files(*files(truth, []))
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_protocol(files, tmp_path):
    truth, predictions = files(TRUTH, GUESSES)
    for paths in ((tmp_path / "gone.json", predictions), (truth, tmp_path)):
        with pytest.raises(RefsegError, match="could not be read"):
            score_files(*paths)
    with pytest.raises(
        RefsegError,
        match="no protocol 'coco': choose one of original, original-video, cmsa-release, lavt480, cris, mttr",
    ):
        score_files(truth, predictions, "coco")


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(refseg, files, tmp_path):
    truth, predictions = files(TRUTH, GUESSES)
    words = ("score", "--truth", truth, "--predictions", predictions)
    status, out, err = refseg(*words, "--json", tmp_path / "scores.json")
    results = score_files(truth, predictions)
    assert (status, err) == (0, "") and json.loads((tmp_path / "scores.json").read_text()) == results
    lines = out.splitlines()
    assert dict(zip(lines[0].split(), lines[1].split())) == {
        "N": "3", "oIoU": "0.632", "mIoU": "0.700",
        "P@0.5": "0.667", "P@0.6": "0.667", "P@0.7": "0.333", "P@0.8": "0.333", "P@0.9": "0.333",
    }  # fmt: skip
    assert dict(zip(lines[3].split(), lines[4].split())) == {
        name: "-" if results[name] is None else f"{results[name]:.3f}"
        for name in ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    }
    assert lines[-1] == "4 predictions for 3 samples; P@K counts IoU > K (protocol mttr)."
    status, out, _ = refseg(
        *words, "--json", "-", "--protocol", "original"
    )  # COCOeval's own printing would be seen here
    assert status == 0 and json.loads(out)["P@0.5"] == 1 and out.count("\n") == 1
    status, out, err = refseg("score", "--truth", predictions, "--predictions", truth)
    assert (status, out, err.count("\n")) == (2, "", 1) and "no list 'images'" in err


def test_the_command_takes_several_protocols_and_offers_them_all(refseg, files):
    truth, predictions = files(TRUTH, GUESSES)
    status, out, _ = refseg("score", "--truth", truth, "--predictions", predictions, "--protocol", "lavt480", "mttr")
    assert status == 0 and [line.split()[0] for line in out.splitlines()[1:3]] == ["lavt480", "mttr"]
    for command in ("score", "evaluate"):
        _, out, _ = refseg(command, "--help")
        assert [name for name in PROTOCOLS if name not in out] == []
