"""Training: it learns, a kill costs nothing but time, and what cannot go on stops with one sentence."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import cos, pi

import pytest
import torch
from small_runs import ROOT, assert_same_end, change, fit, flat, interrupted, logged, up_to, weights

import refseg.training.loop as loop
from refseg.checkpoint import load_checkpoint, load_training
from refseg.datasets import Collate, refshapes
from refseg.errors import RefsegError
from refseg.models.backbones import HALVING
from refseg.models.magnet import MagNetConfig
from refseg.models.serialise import config_to_dict
from refseg.models.text import TransformerWordsConfig
from refseg.objectives import (
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    PixelAlignmentConfig,
)
from refseg.training.batches import ShuffledBatches
from refseg.training.build import build_data, build_learner
from refseg.training.experiment import OptimConfig
from refseg.training.log import read_log
from refseg.training.loop import learning_rate, train_step

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


def test_a_batch_can_be_learned_by_heart(tiny_experiment):
    train_set, _, tokenizer = build_data(tiny_experiment)
    learner, optimizer = build_learner(change(tiny_experiment, learning_rate=0.02), train_set, tokenizer)
    batch, weights = Collate(tokenizer)([train_set[i] for i in range(3)]), learner.objective.weights
    steps = [train_step(learner, optimizer, [batch], weights, clip_norm=1.0)[0] for _ in range(60)]
    totals = [float(learner.objective.total(losses)) for losses in steps]
    assert totals[-1] < 0.4 * totals[0]


def test_a_run_leaves_log_last_and_best(tiny_experiment, whole):
    rows = logged(whole)
    assert [row["step"] for row in rows if "val" not in row] == list(range(1, 14))
    assert [row["step"] for row in rows if "val" in row] == [5, 10, 13]
    assert rows[0]["lr"] == pytest.approx(2e-3 / 3, abs=1e-7)
    assert rows[0]["loss"] == pytest.approx(rows[0]["bce"] + 0.5 * rows[0]["dice"], abs=2e-5)
    assert sorted(path.name for path in whole.glob("[!.]*")) == ["best", "last", "log.jsonl"]
    best = load_checkpoint(whole / "best").config["record"]
    scores = {row["step"]: row["val"]["mIoU"] for row in rows if "val" in row}
    assert best["progress"]["best"] == best["results"]["mIoU"] == max(scores.values())
    assert best["progress"]["step"] == next(step for step, score in scores.items() if score == max(scores.values()))
    assert best["results"]["N"] == 5 and best["experiment"] == config_to_dict(tiny_experiment)
    assert load_training(whole / "best") is None
    assert load_checkpoint(whole / "last").config["record"]["progress"]["step"] == 13


def test_the_seed_decides_everything(tiny_experiment, whole, tmp_path):
    torch.manual_seed(99)  # what happened before must not matter
    fit(tiny_experiment, tmp_path / "again")
    assert_same_end(whole, tmp_path / "again")
    assert logged(whole) == logged(tmp_path / "again")
    fit(change(tiny_experiment, seed=1), tmp_path / "other")
    assert logged(whole)[0]["loss"] != logged(tmp_path / "other")[0]["loss"]


def test_a_finished_run_is_not_trained_again(tiny_experiment, whole, monkeypatch):
    before = (whole / "log.jsonl").read_text()
    monkeypatch.setattr(loop, "train_step", None)
    assert fit(tiny_experiment, whole) == whole / "best"
    assert (whole / "log.jsonl").read_text() == before


def test_worker_processes_change_nothing(tiny_experiment, whole, tmp_path):
    experiment = replace(tiny_experiment, data=replace(tiny_experiment.data, workers=1))
    fit(experiment, tmp_path / "workers")
    assert [row["loss"] for row in logged(whole) if "loss" in row] == [
        row["loss"] for row in logged(tmp_path / "workers") if "loss" in row
    ]


def test_the_blank_control_hides_every_expression_and_keeps_the_vocabulary(tiny_experiment, tmp_path):
    _, _, words = build_data(tiny_experiment)
    blank = replace(tiny_experiment, data=replace(tiny_experiment.data, hide_expressions=True))
    train_set, val_set, tokenizer = build_data(blank)
    assert set(train_set.expressions) == set(val_set.expressions) and len(set(train_set.expressions)) == 1
    assert len(val_set) == 5 and tokenizer.words == words.words
    fit(change(blank, steps=2), tmp_path / "blank")
    assert load_checkpoint(tmp_path / "blank" / "best").config["record"]["results"]["N"] == 5


def test_half_precision_learns_about_the_same_and_keeps_full_weights(tiny_experiment, whole, tmp_path):
    fit(change(tiny_experiment, mixed_precision=True), tmp_path / "half")
    full, half = ([row["loss"] for row in logged(f) if "loss" in row] for f in (whole, tmp_path / "half"))
    assert full != half and half == pytest.approx(full, rel=0.05)
    assert {tensor.dtype for name, tensor in weights(tmp_path / "half")[0].items() if "num" not in name} == {
        torch.float32
    }


def test_wherever_it_stops_it_resumes_to_the_same_end(tiny_experiment, whole, tmp_path, monkeypatch):
    for calls in (1, 4, 5, 7, 13):
        folder = tmp_path / f"killed at {calls}"
        interrupted(tiny_experiment, folder, monkeypatch, calls)
        fit(tiny_experiment, folder)
        assert_same_end(whole, folder)
        assert logged(folder) == logged(whole)


def test_two_kills_and_short_expressions_first(tiny_experiment, tmp_path, monkeypatch):
    experiment = change(tiny_experiment, curriculum_steps=6, curriculum_words=5)
    fit(experiment, tmp_path / "whole")
    for calls in (6, 4):
        interrupted(experiment, tmp_path / "cut", monkeypatch, calls)
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_mirror_images_continue_as_they_would_have_been(tiny_experiment, whole, tmp_path, monkeypatch):
    experiment = replace(tiny_experiment, data=replace(tiny_experiment.data, mirror=True))
    fit(experiment, tmp_path / "flipped")
    interrupted(experiment, tmp_path / "cut", monkeypatch, 7)
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "flipped", tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(tmp_path / "flipped")
    assert logged(whole)[0]["loss"] != logged(tmp_path / "flipped")[0]["loss"]
    with pytest.raises(RefsegError, match="data.mirror was True, now False"):
        fit(tiny_experiment, tmp_path / "cut")


def with_kept_features(experiment, **data):
    frozen = replace(experiment.model.backbone, frozen=True)
    kept = replace(experiment.data, cache_features=True, **data)
    return replace(experiment, model=replace(experiment.model, backbone=frozen), data=kept)


def test_kept_features_train_like_the_pixels_and_leave_the_backbone(tiny_experiment, tmp_path):
    experiment = with_kept_features(tiny_experiment)
    fit(experiment, tmp_path / "kept")
    fit(replace(experiment, data=replace(experiment.data, cache_features=False)), tmp_path / "looked")
    kept, looked = ([row["loss"] for row in logged(tmp_path / name) if "loss" in row] for name in ("kept", "looked"))
    assert kept == pytest.approx(looked, rel=2e-3)  # half precision
    untrained = weights(tmp_path / "looked")[0]
    backbone = {name: value for name, value in weights(tmp_path / "kept")[0].items() if name.startswith("backbone.")}
    assert backbone and all(torch.equal(value, untrained[name]) for name, value in backbone.items())
    assert torch.equal(backbone["backbone.stem.1.running_mean"], torch.zeros(4))  # its statistics stand, too


def test_cached_features_continue_as_they_would_have_been(tiny_experiment, tmp_path, monkeypatch):
    experiment = with_kept_features(tiny_experiment, mirror=True)
    interrupted(experiment, tmp_path / "killed", monkeypatch, 7)
    fit(experiment, tmp_path / "killed")
    fit(experiment, tmp_path / "whole")
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_features_of_a_backbone_that_learns_are_not_kept(tiny_experiment, tmp_path):
    experiment = replace(tiny_experiment, data=replace(tiny_experiment.data, cache_features=True))
    with pytest.raises(RefsegError, match="needs a backbone that does not change: set frozen in its config"):
        fit(experiment, tmp_path)
    with pytest.raises(RefsegError, match="set workers to 0"):
        replace(experiment.data, workers=2)


def test_the_stream_of_random_numbers_goes_on(tiny_experiment, tmp_path, monkeypatch):
    """A part that draws some (dropout, hidden words) must not break resuming."""
    real = loop.train_step

    def noisy(model, *args):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3 * torch.randn(()))
        return real(model, *args)

    monkeypatch.setattr(loop, "train_step", noisy)
    fit(tiny_experiment, tmp_path / "whole")
    interrupted(tiny_experiment, tmp_path / "cut", monkeypatch, 7)
    torch.manual_seed(5)
    fit(tiny_experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_hidden_words_are_those_that_would_have_been_hidden(tiny_experiment, tmp_path, monkeypatch):
    """MagNet with Mask Grounding, killed and resumed; the checkpoint to use holds nothing of the objective."""
    model = MagNetConfig.lesson()
    model = replace(model, backbone=replace(HALVING, channels=(4, 4, 8, 8, 8)), text=TransformerWordsConfig(dim=8))
    grounding = MaskGroundingConfig(pixels="fused/c3", dim=8, heads=2, layers=1)
    objective = ObjectiveConfig((MaskLossConfig(deep_supervision=True), grounding, PixelAlignmentConfig()))
    experiment = replace(tiny_experiment, model=model, objective=objective)
    fit(experiment, tmp_path / "whole")
    interrupted(experiment, tmp_path / "cut", monkeypatch, 7)
    torch.manual_seed(5)
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    assert {"ground", "pixel_to_pixel", "pixel_to_text"} <= logged(tmp_path / "whole")[0].keys()
    best = tmp_path / "whole" / "best"
    assert load_training(best) is None
    assert not any("predictor" in name for name in load_checkpoint(best).model.state_dict())


def test_control_c_leaves_a_folder_to_go_on_from(tiny_experiment, whole, tmp_path, monkeypatch):
    interrupted(tiny_experiment, tmp_path / "cut", monkeypatch, 11, KeyboardInterrupt)
    assert load_checkpoint(tmp_path / "cut" / "last").config["record"]["progress"]["step"] == 8
    fit(tiny_experiment, tmp_path / "cut")
    assert_same_end(whole, tmp_path / "cut")
    seconds = [row["seconds"] for row in read_log(tmp_path / "cut" / "log.jsonl")]
    assert seconds == sorted(seconds)  # the second sitting counts on where the first one stopped


SCRIPT = """
import pickle, sys
from pathlib import Path
from refseg.datasets import refshapes
from refseg.training.loop import train
experiment, refshapes.IMAGES, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
train(experiment, folder, device="cpu", progress=False)
"""


def start(experiment, folder, tmp_path, **environment) -> subprocess.Popen:
    """The same training in a process of its own, that can be killed."""
    task = tmp_path / f"{folder.name}.pickle"
    task.write_bytes(pickle.dumps((experiment, refshapes.IMAGES, folder)))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(task)],
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **environment),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigkill(tiny_experiment, tmp_path):
    """The real thing: no handler, no warning, in the middle of a run."""
    experiment = change(tiny_experiment, steps=997, save_every=10, eval_every=25)
    folder = tmp_path / "killed"
    process = start(experiment, folder, tmp_path)
    try:
        deadline = time.monotonic() + 90
        while not any(row["step"] >= 34 for row in read_log(folder / "log.jsonl")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    reached = read_log(folder / "log.jsonl")[-1]["step"]
    assert 34 <= reached < 900
    saved = load_checkpoint(folder / "last").config["record"]["progress"]["step"]
    assert 0 < saved <= reached and saved % 10 == 0

    # Resumed and finished shortly behind where it was killed; the schedule of both runs is the long one.
    stop = reached + 12
    for name in ("killed", "whole"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ShuffledBatches, "__iter__", up_to(stop))
            fit(experiment, tmp_path / name)
    last = (stop // 10) * 10
    assert load_checkpoint(tmp_path / "killed" / "last").config["record"]["progress"]["step"] == last > reached
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    steps = [row["step"] for row in logged(tmp_path / "killed") if "val" not in row]
    assert steps == list(range(1, stop + 1))


def poisoned(monkeypatch, step: int, logits: bool):
    """From the ``step``-th update on the loss, or only its gradient, is NaN."""
    real, calls = loop.train_step, []

    def poison(learner, *args):
        calls.append(1)
        model = learner.model
        if len(calls) == step and logits:
            with torch.no_grad():
                model.head.logits.bias.fill_(float("nan"))
        if len(calls) == step and not logits:
            model.head.logits.bias.register_hook(lambda gradient: gradient * float("nan"))
        return real(learner, *args)

    monkeypatch.setattr(loop, "train_step", poison)


@pytest.mark.parametrize(
    "logits, what", [(True, r"loss is not finite at step 6 \(bce nan"), (False, "gradient is not")]
)
def test_a_diverged_run_stops_and_keeps_its_checkpoint(tiny_experiment, tmp_path, monkeypatch, logits, what):
    poisoned(monkeypatch, 6, logits)
    with pytest.raises(RefsegError, match=what) as caught:
        fit(tiny_experiment, tmp_path / "run")
    assert "at step 6" in str(caught.value) and "--learning-rate" in str(caught.value)
    last = load_checkpoint(tmp_path / "run" / "last")
    assert last.config["record"]["progress"]["step"] == 4
    assert all(parameter.isfinite().all() for parameter in last.model.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing():
    learner = torch.nn.Linear(2, 1)
    learner.forward = lambda x: (None, {"loss": torch.nn.Linear.forward(learner, x).sum()})
    optimizer = torch.optim.AdamW(learner.parameters(), 0.1)
    train_step(learner, optimizer, [torch.ones(3, 2)], {"loss": 1.0}, 1.0)
    before = [x.clone() for x in (*learner.parameters(), *flat(optimizer.state_dict()["state"]).values())]
    _, norm = train_step(learner, optimizer, [torch.full((3, 2), float("nan"))], {"loss": 1.0}, 1.0)
    after = [*learner.parameters(), *flat(optimizer.state_dict()["state"]).values()]
    assert not norm.isfinite() and all(map(torch.equal, before, after))


def test_a_refusal_in_a_real_process_is_one_line_and_status_2(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", REFSEG_DATA=str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "refseg.cli", "train", "--out", str(tmp_path / "run"), "--device", "cpu"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("refseg: ") and "refshapes could not be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_learning_rate_by_hand():
    config = OptimConfig(steps=100, warmup_steps=20, learning_rate=0.8)
    assert learning_rate(0, config) == pytest.approx(0.04)
    assert learning_rate(9, config) == pytest.approx(0.4)
    assert learning_rate(19, config) == learning_rate(20, config) == pytest.approx(0.8)
    assert learning_rate(60, config) == pytest.approx(0.4)
    assert learning_rate(99, config) == pytest.approx(0.4 * (1 + cos(pi * 79 / 80))) and learning_rate(99, config) > 0
    rates = [learning_rate(step, config) for step in range(20, 101)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0)


def test_learning_rate_without_and_with_nothing_but_warm_up():
    assert learning_rate(0, OptimConfig(steps=10, warmup_steps=0, learning_rate=0.8)) == 0.8
    assert learning_rate(9, OptimConfig(steps=10, warmup_steps=10, learning_rate=0.8)) == pytest.approx(0.8)
    assert learning_rate(9, OptimConfig(steps=10, warmup_steps=200, learning_rate=0.8)) == pytest.approx(0.04)


def test_the_gradient_is_clipped(tiny_experiment, tmp_path, monkeypatch):
    norms = []
    real = torch.optim.AdamW.step

    def step(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return real(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(change(tiny_experiment, steps=3, clip_norm=1e-3), tmp_path / "run")
    assert norms == pytest.approx([1e-3] * 3, rel=1e-2)
