"""Evaluation with a model that really looks for a colour, so that every score can be told beforehand."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from refseg.checkpoint import Checkpoint
from refseg.datasets import DATASETS, Collate, build_dataset, build_transform
from refseg.datasets.wrappers import NEUTRAL, ReplacedExpressions, blank_expressions, other_expressions
from refseg.errors import RefsegError
from refseg.evaluation import evaluate as module
from refseg.evaluation.evaluate import (
    evaluate,
    evaluate_checkpoint,
    score,
)
from refseg.evaluation.protocols import ORIGINAL_VIDEO, Meter
from refseg.inference import predict_masks
from refseg.machine import describe_machine, git_commit, versions
from refseg.tokenizer import UNK, WordVocabulary
from refseg.types import Annotations, Prediction, RefSample

COLOURS = ("red", "green", "blue")
VOCABULARY = WordVocabulary([*COLOURS, "the", "thing"])
H, W = 29, 37


class ColourFinder(nn.Module):
    """Finds the colour that the expression names, at a stride; finds nothing if it names none."""

    def __init__(self, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.inner = nn.Dropout(0.0)
        self.was_training = None

    def forward(self, batch):
        self.was_training = self.training
        channels = []
        for ids in batch.token_ids.tolist():
            named = [index for index, colour in enumerate(COLOURS) if VOCABULARY.ids[colour] in ids]
            channels.append(named[0] if named else None)
        logits = [torch.full_like(i[0], -1) if c is None else i[c] for i, c in zip(batch.images, channels)]
        logits = torch.stack(logits)[:, None]
        return Prediction(nn.functional.avg_pool2d(logits, self.stride), {})


class Blocks(Dataset):
    """Black pictures with one block per referent; not a file on disk."""

    def __init__(self, pictures: list[list[list[str]]], size: int = W, height: int = H):
        """``pictures[i][j]``: the expressions of referent j of picture i, whose block has the j-th colour."""
        self.transform, self.height = build_transform(size), height
        rows = [
            (image, 10 * image + j, text)
            for image, referents in enumerate(pictures)
            for j, texts in enumerate(referents)
            for text in texts
        ]
        self.image_ids, self.referent_ids, self.expressions = zip(*rows)

    def __len__(self):
        return len(self.expressions)

    def __getitem__(self, index):
        expression = self.expressions[index]
        image, colour = divmod(self.referent_ids[index], 10)
        height = self.height - 2 * image
        frames = torch.zeros(1, 3, height, W, dtype=torch.uint8)
        for j in range(3):
            frames[0, j, 3:17, 12 * j : 12 * j + 8] = 255
        mask = torch.zeros(height, W, dtype=torch.bool)
        mask[3:17, 12 * colour : 12 * colour + 8] = True
        annotations = Annotations(kind="odd" if index % 2 else "even")
        return self.transform(
            RefSample(frames, mask, expression, str(index), "blocks/val", (height, W), mask, annotations=annotations)
        )


def two_pictures(**options) -> Blocks:
    return Blocks([[["the red thing", "red"], ["green"]], [["red thing"], ["the green thing"], ["blue"]]], **options)


def test_scores_of_a_model_that_is_right():
    result = evaluate(ColourFinder(), two_pictures(), VOCABULARY, batch_size=4, progress=False)
    assert (result["N"], result["oIoU"], result["mIoU"], result["P@0.9"]) == (6, 1.0, 1.0, 1.0)
    assert (result["convention"], result["at_threshold"]) == ("RES", ">=")
    assert {kind: row["N"] for kind, row in result["by_kind"].items()} == {"even": 3, "odd": 3}
    assert json.loads(json.dumps(result)) == result


def test_scores_of_a_model_that_is_wrong_for_some():
    pictures = [[["red"], ["red"]]]  # the second expression means the green block but says red
    result = evaluate(ColourFinder(), Blocks(pictures), VOCABULARY, progress=False, meters=[Meter(ORIGINAL_VIDEO)])
    assert result["oIoU"] == pytest.approx(112 / (112 + 224))
    assert result["mIoU"] == pytest.approx(0.5, abs=1e-6)
    assert result["by_kind"]["odd"]["mIoU"] == pytest.approx(0, abs=1e-6)
    assert result["convention"] == "MTTR"


def test_masks_come_at_the_original_size():
    for size, stride in [(W, 1), (19, 1), (64, 4)]:
        dataset = two_pictures(size=size)
        batch = Collate(VOCABULARY)([dataset[index] for index in range(6)])
        masks = predict_masks(ColourFinder(stride), batch)
        assert [tuple(mask.shape) for mask in masks] == [(H, W)] * 3 + [(H - 2, W)] * 3
        assert all(mask.dtype == torch.bool for mask in masks)
        meter = score(ColourFinder(stride), dataset, VOCABULARY, progress=False)
        assert min(meter.ious) > 0.75


def test_batches_and_their_padding_change_nothing():
    scores = [
        score(ColourFinder(2), two_pictures(size=20), VOCABULARY, batch_size=size, progress=False).samples
        for size in (1, 4, 6)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert len({(i, u) for i, u, _ in scores[0]}) > 1


def test_two_processes_merged_equal_one():
    dataset = two_pictures(size=20)
    whole = score(ColourFinder(), dataset, VOCABULARY, progress=False)
    parts = [score(ColourFinder(), Subset(dataset, range(k, 6, 2)), VOCABULARY, progress=False) for k in (0, 1)]
    merged = parts[0].merge(parts[1])
    assert merged.compute() == whole.compute()
    assert merged.by_group(lambda known: known.kind) == whole.by_group(lambda known: known.kind)


def test_every_part_of_the_model_is_left_as_it_was():
    model = ColourFinder().train()
    model.inner.eval()  # as a frozen normalisation is kept
    evaluate(model, two_pictures(), VOCABULARY, progress=False)
    assert model.was_training is False
    assert (model.training, model.inner.training) == (True, False)


class Diverged(ColourFinder):
    def forward(self, batch):
        logits = super().forward(batch).mask_logits
        logits[-1] = float("nan")
        return Prediction(logits, {})


def test_undefined_logits_are_refused_and_the_mode_still_restored():
    model = Diverged().train()
    with pytest.raises(RefsegError, match="undefined"):
        evaluate(model, two_pictures(), VOCABULARY, progress=False)
    assert model.training


def test_no_gradient_is_kept():
    class Weighted(ColourFinder):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            self.seen = super().forward(batch).mask_logits * self.weight
            return Prediction(self.seen, {})

    model = Weighted()
    evaluate(model, two_pictures(), VOCABULARY, progress=False)
    assert not model.seen.requires_grad


# ---- controls --------------------------------------------------------------------------------------------------


def test_blank_hides_every_word():
    dataset = ReplacedExpressions(two_pictures(), blank_expressions)
    batch = Collate(VOCABULARY)([dataset[index] for index in range(len(dataset))])
    assert len(dataset) == 6
    assert batch.token_ids.tolist() == [[VOCABULARY.ids[UNK]]] * 6
    assert VOCABULARY.unknown(NEUTRAL) == [NEUTRAL]
    result = evaluate(ColourFinder(), dataset, VOCABULARY, progress=False)
    assert (result["mIoU"], result["N"]) == (0.0, 6)


def test_other_takes_the_next_referent_of_the_same_picture():
    dataset = ReplacedExpressions(two_pictures(), other_expressions)
    assert [dataset[index].expression for index in range(len(dataset))] == [
        "green", "green", "the red thing", "the green thing", "blue", "red thing",
    ]  # fmt: skip
    assert [dataset[index].sample_id for index in range(6)] == ["0", "1", "2", "3", "4", "5"]
    assert evaluate(ColourFinder(), dataset, VOCABULARY, progress=False)["mIoU"] == 0.0


def test_other_leaves_out_and_says_so():
    lonely = Blocks([[["red", "the red"]], [["red"], ["green"]], [["thing"], ["thing"]], [["red"], ["red"], ["blue"]]])
    assert other_expressions(lonely) == {2: "green", 3: "red", 6: "blue", 7: "blue", 8: "red"}
    assert len(ReplacedExpressions(lonely, other_expressions)) == 5


def test_a_control_of_a_subset_keeps_its_order():
    part = ReplacedExpressions(Subset(two_pictures(), [5, 2]), other_expressions)
    assert [part[index].expression for index in range(len(part))] == ["red thing", "the red thing"]
    assert [part[index].sample_id for index in range(len(part))] == ["5", "2"]


def test_any_function_can_replace_the_expressions():
    """A control needs no name in a table: what the function leaves out is left out."""
    dataset = ReplacedExpressions(two_pictures(), lambda whole: {3: "blue", 1: whole.expressions[0]})
    assert [(sample.sample_id, sample.expression) for sample in dataset] == [("1", "the red thing"), ("3", "blue")]


def test_controls_refuse_nonsense():
    with pytest.raises(RefsegError, match="'shuffled': choose one of blank, other"):
        evaluate_checkpoint("here", "refcoco", "val", expression_control="shuffled")
    with pytest.raises(RefsegError, match="No sample has another expression"):
        ReplacedExpressions(Blocks([[["red"]]]), other_expressions)


def test_controls_on_genuine_annotations(shared_dir):
    folder = shared_dir / "data" / "refcocog_real4"
    if not folder.is_dir():
        pytest.skip("no refcocog_real4")
    dataset = build_dataset("refcocog", "val", root=folder, split_by="google")
    for chosen in (control(dataset) for control in (blank_expressions, other_expressions)):
        assert all(text != dataset.expressions[index] for index, text in chosen.items())
    pictures = {text: image for text, image in zip(dataset.expressions, dataset.image_ids)}
    others = other_expressions(dataset)
    assert all(pictures[text] == dataset.image_ids[index] for index, text in others.items())
    several = {
        ref["image_id"] for ref in dataset.refs if sum(r["image_id"] == ref["image_id"] for r in dataset.refs) > 1
    }
    assert {dataset.image_ids[index] for index in others} == several


# ---- a checkpoint, and what its numbers were measured with -----------------------------------------------------


def test_a_checkpoints_scores_say_how_they_came_about(monkeypatch, tmp_path):
    record = {"experiment": {"optim": {"seed": 11}}}
    asked = {}

    def build_dataset(data, split, transform, **where):
        asked.update(data=data, split=split, size=transform.transforms[0].size, **where)
        return two_pictures(size=23)

    loaded = Checkpoint(ColourFinder(), VOCABULARY, 23, {"record": record}, num_frames=5, frame_stride=2)
    monkeypatch.setattr(module, "from_pretrained", lambda name, loaded=loaded: loaded)
    monkeypatch.setattr(module, "build_dataset", build_dataset)
    result = evaluate_checkpoint(
        tmp_path / "best", "refcoco", "testA", root=tmp_path, split_by="unc", progress=False, device="cpu"
    )
    assert asked == {
        "data": "refcoco", "split": "testA", "size": 23, "root": tmp_path, "image_root": None, "split_by": "unc",
        "num_frames": 5, "frame_stride": 2,
    }  # fmt: skip
    assert (result["data"], result["split"], result["split_by"], result["seed"]) == ("refcoco", "testA", "unc", 11)
    assert (result["num_frames"], result["frame_stride"]) == (5, 2)
    assert (result["convention"], "mAP" in result) == ("RES", False)
    assert result["checkpoint"] == "best"  # nobody's home folder in a results file
    assert result["N"] == 6 and result["machine"]["cores"] >= 1 and result["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(result) and "expression_control" not in result
    controlled = evaluate_checkpoint("here", "refcoco", "val", expression_control="other", progress=False, device="cpu")
    assert (controlled["mIoU"], controlled["expression_control"], controlled["left_out"]) == (0.0, "other", 0)


def test_a_record_that_says_nothing_costs_only_the_seed(monkeypatch):
    monkeypatch.setattr(module, "build_dataset", lambda *_, **options: two_pictures(size=23))
    for config in ({}, *({"record": {"experiment": wrong}} for wrong in (None, [1], {"optim": None}))):
        loaded = Checkpoint(ColourFinder(), VOCABULARY, 23, config)
        monkeypatch.setattr(module, "from_pretrained", lambda name, loaded=loaded: loaded)
        result = evaluate_checkpoint("here", "refshapes", "val", progress=False, device="cpu")
        assert result["seed"] is None and result["N"] == 6, config


def test_clips_are_scored_as_papers_on_video_do(monkeypatch):
    for data in [name for name, info in DATASETS.items() if info.is_clips]:
        loaded = Checkpoint(ColourFinder(), VOCABULARY, 23, {"record": {}}, num_frames=3)
        monkeypatch.setattr(module, "from_pretrained", lambda name, loaded=loaded: loaded)
        monkeypatch.setattr(
            module, "build_dataset", lambda *_, **options: two_pictures(size=options["num_frames"] + 20)
        )
        result = evaluate_checkpoint("here", data, "test", progress=False, device="cpu")
        assert (result["convention"], result["at_threshold"], result["n_predictions"]) == ("MTTR", ">", 6)
        assert 0 < result["mAP"] <= 1 and result["split_by"] == next(iter(DATASETS[data].splits))
        more = evaluate_checkpoint(
            "here", data, "test", progress=False, device="cpu", protocols=["original", "lavt480"]
        )
        assert list(more["protocols"]) == ["original", "lavt480"]
        assert "mAP" not in more["protocols"]["original"] and more["mAP"] == result["mAP"]


def test_a_surer_mask_is_ranked_higher():
    """Of two samples one is found and one missed: mAP is 1/2 if the right one comes first, else 1/4."""
    mask = torch.zeros(7, 11, dtype=torch.bool)
    mask[1:4, 2:6] = True
    right, wrong = torch.where(mask, 2.0, -1.0), torch.where(mask, -1.0, 1.0)
    valid = torch.ones(1, 7, 11, dtype=torch.bool)
    for logits, expected in (((right, wrong), 51 / 101), ((right / 4, wrong), 51 / 101 / 2)):
        meter = Meter(ORIGINAL_VIDEO)
        for guess in logits:
            meter.update(guess[None], valid, mask)
        scores = meter.compute()
        assert scores["mAP"] == pytest.approx(expected) and scores["n_predictions"] == 2
        _, [(sure, _)] = meter.ranked[0]
        assert sure == pytest.approx(float(logits[0].max().sigmoid()))
    meter.update(torch.full((1, 7, 11), -5.0), valid, mask)
    assert meter.ranked[-1][1][0][0] == 0.0 and meter.compute()["n_predictions"] == 3


def test_motion_and_static_samples_have_scores_of_their_own():
    data = two_pictures(size=23)
    whole = evaluate(ColourFinder(), data, VOCABULARY, progress=False)
    assert "motion" not in whole and "static" not in whole

    class Moving(Dataset):
        def __len__(self):
            return len(data)

        def __getitem__(self, index):
            sample = data[index]
            return replace(sample, annotations=replace(sample.annotations, motion=index < 2))

    result = evaluate(ColourFinder(), Moving(), VOCABULARY, progress=False)
    assert (result["motion"]["N"], result["static"]["N"]) == (2, 4)
    assert 2 * result["motion"]["mIoU"] + 4 * result["static"]["mIoU"] == pytest.approx(6 * whole["mIoU"])


def test_the_machine_is_described_without_its_name():
    told = json.dumps(describe_machine("cpu")) + json.dumps(versions())
    assert torch.__version__ in told and platform.machine() in told
    assert not platform.node() or len(platform.node()) < 5 or platform.node() not in told
    assert describe_machine("cpu")["threads"] == 1


def test_the_commit_tells_of_changes(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert git_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "new").write_text("untracked files do not count")
    assert git_commit(tmp_path) == clean
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == clean + "+changes"
