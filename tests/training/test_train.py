"""Training: it learns, a kill costs nothing but time, and what cannot go on stops with one sentence."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import cos, pi
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Subset

import refseg.training.loop as module
from refseg.checkpoint import TRAINING, load_checkpoint, load_training
from refseg.datasets import Collate, refshapes
from refseg.datasets.wrappers import Mirrored
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
    SemanticsConfig,
)
from refseg.tokenizer import WordVocabulary
from refseg.training.batches import ShuffledBatches
from refseg.training.build import Learner, build_data, build_learner, build_optimizer
from refseg.training.experiment import DataConfig, OptimConfig, variant
from refseg.training.log import read_log
from refseg.training.loop import learning_rate, seconds_per_step, train, train_step
from refseg.training.state import parameter_names

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


def fit(experiment, folder):
    return train(experiment, folder, device="cpu", progress=False)


def change(experiment, **optim):
    return replace(experiment, optim=replace(experiment.optim, **optim))


def weights(folder):
    """The weights of the last checkpoint, and the tensors of its training state by dotted names."""
    return load_file(folder / "last" / "model.safetensors"), flat(load_training(folder / "last"))


def flat(state, prefix=""):
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    return {n: x for name, inner in state.items() for n, x in flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def assert_same_end(one, other):
    """Weights, optimiser and random state, bit for bit."""
    for left, right in zip(weights(one), weights(other)):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []


def logged(folder):
    """What was logged, without the times."""
    rows = read_log(folder / "log.jsonl")
    for row in rows:
        row.pop("seconds")
        row.get("val", {}).pop("seconds", None)
    return rows


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Where the run that nothing interrupts is kept for all tests of this file."""
    return tmp_path_factory.mktemp("trained") / "whole"


@pytest.fixture
def whole(tiny_experiment, whole_run, tmp_path):
    """A copy of the run that nothing interrupted."""
    if not whole_run.exists():
        fit(tiny_experiment, whole_run)
    return Path(shutil.copytree(whole_run, tmp_path / "whole"))


# ---- one run ---------------------------------------------------------------------------------------------------


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
    assert sorted(path.name for path in whole.iterdir()) == ["best", "last", "log.jsonl"]
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
    monkeypatch.setattr(module, "train_step", None)
    assert fit(tiny_experiment, whole) == whole / "best"
    assert (whole / "log.jsonl").read_text() == before


def test_worker_processes_change_nothing(tiny_experiment, whole, tmp_path):
    experiment = replace(tiny_experiment, data=replace(tiny_experiment.data, workers=1))
    fit(experiment, tmp_path / "workers")
    assert [row["loss"] for row in logged(whole) if "loss" in row] == [
        row["loss"] for row in logged(tmp_path / "workers") if "loss" in row
    ]


def test_validation_is_spread_over_the_split(tiny_experiment):
    train_set, val_set, tokenizer = build_data(tiny_experiment)
    assert isinstance(val_set, Subset) and len(val_set.dataset) == 28
    assert val_set.indices == [0, 5, 11, 16, 22]
    assert not any(tokenizer.unknown(expression) for expression in train_set.expressions)


def test_the_blank_control_hides_every_expression_and_keeps_the_vocabulary(tiny_experiment, tmp_path):
    _, _, words = build_data(tiny_experiment)
    blank = replace(tiny_experiment, data=replace(tiny_experiment.data, hide_expressions=True))
    train_set, val_set, tokenizer = build_data(blank)
    assert set(train_set.expressions) == set(val_set.expressions) and len(set(train_set.expressions)) == 1
    assert len(val_set) == 5 and tokenizer.words == words.words
    fit(change(blank, steps=2), tmp_path / "blank")
    assert load_checkpoint(tmp_path / "blank" / "best").config["record"]["results"]["N"] == 5


def test_seconds_per_step_times_whole_steps(tiny_experiment):
    assert 0 < seconds_per_step(change(tiny_experiment, curriculum_steps=800, log_every=1), steps=3) < 5


def test_half_precision_learns_about_the_same_and_keeps_full_weights(tiny_experiment, whole, tmp_path):
    fit(change(tiny_experiment, mixed_precision=True), tmp_path / "half")
    full, half = ([row["loss"] for row in logged(f) if "loss" in row] for f in (whole, tmp_path / "half"))
    assert full != half and half == pytest.approx(full, rel=0.05)
    assert {tensor.dtype for name, tensor in weights(tmp_path / "half")[0].items() if "num" not in name} == {
        torch.float32
    }


# ---- killed and resumed ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill looks like from inside."""


def interrupted(experiment, folder, monkeypatch, calls: int, error=Killed):
    """Train until the ``calls``-th step is asked for."""
    steps = []
    real = module.train_step

    def step(*args):
        steps.append(args)
        if len(steps) == calls:
            raise error
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train_step", step)
        with pytest.raises(error):
            fit(experiment, folder)


@pytest.mark.parametrize("calls", [1, 4, 5, 7, 13])
def test_wherever_it_stops_it_goes_on_to_the_same_end(tiny_experiment, whole, tmp_path, monkeypatch, calls):
    interrupted(tiny_experiment, tmp_path / "cut", monkeypatch, calls)
    fit(tiny_experiment, tmp_path / "cut")
    assert_same_end(whole, tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(whole)


def test_two_kills_and_short_expressions_first(tiny_experiment, tmp_path, monkeypatch):
    experiment = change(tiny_experiment, curriculum_steps=6, curriculum_words=5)
    fit(experiment, tmp_path / "whole")
    for calls in (6, 4):
        interrupted(experiment, tmp_path / "cut", monkeypatch, calls)
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_mirror_go_on_as_they_would_have_been(tiny_experiment, whole, tmp_path, monkeypatch):
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


def test_kept_features_go_on_as_they_would_have_been(tiny_experiment, tmp_path, monkeypatch):
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


def made_older(folder, experiment):
    """Rewrite ``last/`` as runs were once stored: other names and kinds of fields, the optimiser's state by number."""
    last = folder / "last"
    config, training = json.loads((last / "config.json").read_text()), load_training(last)
    older = config["record"]["experiment"]
    config["model"]["vocabulary_size"], older["model"]["vocabulary_size"] = len(config["vocabulary"]) + 2, 0
    older["objective"] = {"type": "SegmentationConfig", "bce": 1.0, "dice": 0.5, "semantics": 1.0}
    for part in (older, older["data"], older["optim"]):
        del part["type"]
    data, optim = older["data"], older["optim"]
    for name in ("mirror", "num_frames", "frame_stride", "hide_expressions", "cache_features", "train_fraction"):
        del data[name]
    data |= {"objects": True, "broken": "skip" if data.pop("skip_unreadable") else "stop", "control": None}
    optim |= {"short_steps": optim.pop("curriculum_steps"), "short_words": optim.pop("curriculum_words")}
    optim |= {"mixed_precision": "no", "compile": None, "recompute": optim.pop("gradient_checkpointing")}
    older |= {"begin_with": older.pop("init_from"), "begin_parts": older.pop("init_parts")}
    config["record"]["progress"]["broken"] = config["record"]["progress"].pop("unreadable")
    (last / "config.json").write_text(json.dumps(config))

    train_set, _, tokenizer = build_data(experiment)
    learner, _ = build_learner(experiment, train_set, tokenizer)
    learned = [(name, p.ndim) for name, p in learner.named_parameters() if p.requires_grad]
    names = [name for name, ndim in learned if ndim > 1] + [name for name, ndim in learned if ndim <= 1]
    tensors = {f"objective.{name.split('.', 2)[2]}": x for name, x in training["objective"].items()}
    for name, state in training["optimizer"].items():
        tensors |= {f"optimizer.{names.index(name)}.{entry}": x for entry, x in state.items()}
    tensors |= {f"random.{name}": x for name, x in training["random"].items()}
    save_file(tensors, last / "training.safetensors")
    (last / TRAINING).unlink()


def test_a_run_that_is_older_than_this_layout_resumes_to_the_same_end(tiny_experiment, tmp_path, monkeypatch):
    experiment = replace(tiny_experiment, objective=ObjectiveConfig((MaskLossConfig(), SemanticsConfig())))
    fit(experiment, tmp_path / "whole")
    interrupted(experiment, tmp_path / "cut", monkeypatch, 10)
    made_older(tmp_path / "cut", experiment)
    with pytest.raises(RefsegError, match="data.mirror was False, now True"):
        fit(variant(experiment, data={"mirror": True}), tmp_path / "cut")
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_records_of_older_runs_are_read():
    """Choices that were words, and an objective whose own parameters came before those of its layers."""
    data = DataConfig.migrate({"broken": "skip", "control": "blank", "pieces": "bert", "flips": True, "objects": False})
    assert data == {"skip_unreadable": True, "hide_expressions": True, "pretrained_tokenizer": "bert", "mirror": True}
    optim = OptimConfig.migrate({"mixed_precision": "bf16", "compile": "inductor", "recompute": False})
    assert optim == {"mixed_precision": True, "compile": True, "gradient_checkpointing": False}
    layers = nn.ModuleDict({"classifiers": nn.Linear(2, 2, bias=True)})
    own = nn.Module()
    own.log_temperature = nn.Parameter(torch.zeros(()))
    objective = nn.Module()
    objective.terms = nn.ModuleList([layers, own])
    learner = Learner(nn.Linear(3, 3), objective)
    optimizer = build_optimizer(learner, OptimConfig())
    free = ["model.bias", "objective.terms.0.classifiers.bias", "objective.terms.1.log_temperature"]
    assert parameter_names(learner, optimizer)[2:] == free
    assert parameter_names(learner, optimizer, older=True)[2:] == [free[0], free[2], free[1]]


def test_mirror_images_stand_behind_the_samples(tiny_experiment):
    experiment = variant(tiny_experiment, data={"mirror": True}, objective=ObjectiveConfig((SemanticsConfig(),)))
    train_set, val_set, tokenizer = build_data(experiment)
    both, count = Mirrored(train_set), len(train_set)
    index = next(i for i, text in enumerate(train_set.expressions) if "left" in text.split())
    sample, mirrored = both[index], both[count + index]
    assert len(both) == 2 * count and "right" in mirrored.expression.split() and mirrored.sample_id == sample.sample_id
    for name in ("frames", "mask", "original_mask", "pixel_valid", "objects"):
        assert torch.equal(getattr(mirrored, name), getattr(sample, name).flip(-1)), name
    batch = Collate(tokenizer)([sample, mirrored, both[count + index], train_set[index]])
    images, image_of = batch.distinct_images()  # the backbone must not take one for the other
    assert len(images) == 2 and image_of.tolist() == [0, 1, 1, 0]
    assert torch.equal(images[1], images[0].flip(-1))
    assert not any(val_set[i].annotations.mirrored for i in range(len(val_set)))  # only training is mirrored


def test_the_vocabulary_knows_the_words_of_the_mirror_images(tiny_experiment, monkeypatch):
    real = WordVocabulary.build
    monkeypatch.setattr(
        WordVocabulary, "build", lambda texts, *args: real([t for t in texts if "rightmost" not in t], *args)
    )
    (_, _, words), (_, _, more) = (
        build_data(tiny_experiment),
        build_data(variant(tiny_experiment, data={"mirror": True})),
    )
    assert "leftmost" in words.ids and "rightmost" not in words.ids
    assert more.words == [*words.words, "rightmost"]


def test_the_stream_of_random_numbers_goes_on(tiny_experiment, tmp_path, monkeypatch):
    """A part that draws some (dropout, hidden words) must not break resuming."""
    real = module.train_step

    def noisy(model, *args):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3 * torch.randn(()))
        return real(model, *args)

    monkeypatch.setattr(module, "train_step", noisy)
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


def up_to(stop):
    """Batches as ever, but none behind step ``stop``."""
    real = ShuffledBatches.__iter__

    def batches(self):
        for _, batch in zip(range(stop - self.first_step), real(self)):
            yield batch

    return batches


def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_log(tmp_path / "nowhere.jsonl") == []


# ---- what cannot go on -----------------------------------------------------------------------------------------


def poisoned(monkeypatch, step: int, logits: bool):
    """From the ``step``-th update on the loss, or only its gradient, is NaN."""
    real, calls = module.train_step, []

    def poison(learner, *args):
        calls.append(1)
        model = learner.model
        if len(calls) == step and logits:
            with torch.no_grad():
                model.head.logits.bias.fill_(float("nan"))
        if len(calls) == step and not logits:
            model.head.logits.bias.register_hook(lambda gradient: gradient * float("nan"))
        return real(learner, *args)

    monkeypatch.setattr(module, "train_step", poison)


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


@pytest.mark.parametrize(
    "other, field",
    [
        (lambda e: change(e, learning_rate=0.5), r"optim\.learning_rate was 0\.002, now 0\.5"),
        (lambda e: replace(e, data=replace(e.data, image_size=48)), r"data\.image_size was 32, now 48"),
        (lambda e: replace(e, model=replace(e.model, c5_dim=6)), r"model\.c5_dim was None, now 6"),
        (
            lambda e: replace(e, objective=e.objective.changed(MaskLossConfig, dice=0.0)),
            r"objective\.terms\.0\.dice was 0\.5, now 0\.0",
        ),
    ],
)
def test_a_folder_of_another_experiment_is_refused(tiny_experiment, whole, other, field):
    before = (whole / "log.jsonl").read_text()
    with pytest.raises(RefsegError, match=rf"holds another experiment \({field}\): name another folder"):
        fit(other(tiny_experiment), whole)
    assert (whole / "log.jsonl").read_text() == before


def test_other_words_are_another_experiment(tiny_experiment, whole):
    config = json.loads((whole / "last" / "config.json").read_text())
    config["vocabulary"].reverse()  # as many words, so that the weights would fit
    (whole / "last" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefsegError, match="words of the training set were others"):
        fit(tiny_experiment, whole)


def test_a_checkpoint_without_its_training_state_cannot_go_on(tiny_experiment, whole):
    (whole / "last" / TRAINING).unlink()
    with pytest.raises(RefsegError, match="cannot be trained on"):
        fit(tiny_experiment, whole)


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


# ---- the order of samples --------------------------------------------------------------------------------------

IMAGE_IDS = [image for image in range(11) for _ in range(image % 5 + 1)]  # 1 to 5 samples each, 31 in all
LENGTHS = [1 + (7 * index) % 11 for index in range(len(IMAGE_IDS))]


def batches(first_step=0, rank=0, world=1, image_ids=IMAGE_IDS, lengths=LENGTHS, mirror=False, **optim):
    config = OptimConfig(**{"steps": 23, "batch_size": 6, "expressions_per_image": 3, **optim})
    sampler = ShuffledBatches(image_ids, lengths, config, first_step, rank, world, mirror)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_every_sample_comes_once_an_epoch():
    assert len(IMAGE_IDS) == 31
    stream = [index for batch in batches(steps=31, batch_size=7) for index in batch]  # seven epochs
    epochs = [stream[start : start + 31] for start in range(0, 7 * 31, 31)]
    assert all(sorted(epoch) == list(range(31)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != list(range(31))


def test_a_batch_larger_than_the_data_set():
    (batch,) = batches(steps=1, batch_size=67)
    assert sorted(batch[:31]) == sorted(batch[31:62]) == list(range(31)) and len(batch) == 67


def test_samples_of_a_picture_stay_together():
    stream = [index for batch in batches(steps=31, batch_size=7) for index in batch][:31]
    runs = [1]
    for before, index in zip(stream, stream[1:]):
        together = IMAGE_IDS[before] == IMAGE_IDS[index]
        runs[-1:] = [runs[-1] + 1] if together else [runs[-1], 1]
    # Groups of at most three: pictures of 5 samples come as 3 and 2 (side by side only by chance).
    groups = sum((count + 2) // 3 for count in map(IMAGE_IDS.count, range(11)))
    assert groups - 3 <= len(runs) <= groups == 15
    alone = [index for batch in batches(steps=31, batch_size=7, expressions_per_image=1) for index in batch][:31]
    assert sum(IMAGE_IDS[a] == IMAGE_IDS[b] for a, b in zip(alone, alone[1:])) < 31 - len(runs)


def test_the_order_is_a_function_of_seed_and_step():
    assert batches() == batches()
    assert batches() != batches(seed=1)


def test_a_resumed_order_is_the_tail():
    for curriculum_steps in (0, 7, 23, 800):
        for mirror in (False, True):
            options = {"curriculum_steps": curriculum_steps, "mirror": mirror}
            whole = batches(**options)
            for first_step in (0, 1, 5, 7, 8, 22, 23):
                assert batches(first_step, **options) == whole[first_step:], (first_step, options)


def test_mirror_mirror_half_of_the_pictures_of_an_epoch_and_keep_the_order():
    count = len(IMAGE_IDS)
    options = {"steps": 31 * 20, "batch_size": 1, "expressions_per_image": 5}  # 20 epochs, no picture in two groups
    plain, flipped = ([batch[0] for batch in batches(mirror=mirror, **options)] for mirror in (False, True))
    assert [index % count for index in flipped] == plain and max(plain) < count <= max(flipped) < 2 * count
    epochs = [flipped[start : start + count] for start in range(0, len(flipped), count)]
    mirrored = [{(IMAGE_IDS[index % count], index >= count) for index in epoch} for epoch in epochs]
    assert all(len(pictures) == 11 for pictures in mirrored)  # a picture's samples are mirrored together
    assert len({frozenset(pictures) for pictures in mirrored}) == 20  # others every epoch
    shares = [sum(dict(pictures)[image] for pictures in mirrored) / 20 for image in range(11)]
    assert 0.4 < sum(shares) / 11 < 0.6 and 0.1 < min(shares) and max(shares) < 0.9
    assert batches(mirror=True, seed=1) != batches(mirror=True)
    halves = [batches(mirror=True, rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == batches(mirror=True)


def test_short_expressions_come_first():
    short = {index for index, length in enumerate(LENGTHS) if length <= 4}
    found = batches(curriculum_steps=7)
    assert len(found) == 23 and 5 < len(short) < 31
    first, rest = sum(found[:7], []), sum(found[7:], [])
    assert set(first) == short and sorted(first[: len(short)]) == sorted(short)
    assert sorted(rest[:31]) == list(range(31))


def test_short_steps_never_lengthen_a_run():
    assert len(batches(steps=5, curriculum_steps=800)) == 5


def test_no_short_expression_means_no_short_steps():
    assert batches(curriculum_steps=7, curriculum_words=0) == batches()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(world):
    shares = [batches(rank=rank, world=world, curriculum_steps=3) for rank in range(world)]
    for whole, *parts in zip(batches(curriculum_steps=3), *shares):
        assert sum(parts, []) == whole and {len(part) for part in parts} == {6 // world}


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(RefsegError, match="A batch of 7 cannot be shared by 2 processes"):
        batches(batch_size=7, world=2)


# ---- steps -----------------------------------------------------------------------------------------------------


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


def test_only_matrices_and_kernels_are_decayed():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 7), nn.Linear(7, 2).requires_grad_(False))
    decayed, free = build_optimizer(net, OptimConfig(weight_decay=0.125, learning_rate=0.5)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 3, 3, 3), (7, 5)]
    assert [tuple(p.shape) for p in free["params"]] == [(5,), (5,), (5,), (7,)]
    assert (decayed["weight_decay"], free["weight_decay"], free["lr"]) == (0.125, 0.0, 0.5)


def test_decay_shrinks_a_weight_without_gradient():
    net = nn.Linear(3, 5)
    before, bias = net.weight.detach().clone(), net.bias.detach().clone()
    optimizer = build_optimizer(net, OptimConfig(weight_decay=0.125, learning_rate=0.5))
    (0 * net(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    assert torch.allclose(net.weight, before * (1 - 0.5 * 0.125)) and torch.equal(net.bias, bias)


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


def test_a_share_of_the_pictures(tiny_experiment):
    """The first pictures with all their sentences, mirror images still those of the right samples."""
    config = replace(tiny_experiment.optim, steps=40, batch_size=2)
    images, lengths = [3, 3, 5, 7, 7, 7, 9], [4] * 7
    seen = {index for batch in ShuffledBatches(images, lengths, config, fraction=0.5) for index in batch}
    assert seen == {0, 1, 2}
    seen = {index for batch in ShuffledBatches(images, lengths, config, mirror=True, fraction=0.5) for index in batch}
    assert seen == {0, 1, 2, 7, 8, 9}
    with pytest.raises(RefsegError, match="train_fraction is 0.0"):
        replace(tiny_experiment.data, train_fraction=0.0)
