"""What a run continues from: its own folder, also an older one, and no other."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small_runs import assert_same_end, fit, interrupted, logged
from torch import nn

import refseg.training.loop as loop
from refseg.checkpoint import TRAINING, load_training
from refseg.errors import RefsegError
from refseg.objectives import (
    MaskLossConfig,
    ObjectiveConfig,
    SemanticsConfig,
)
from refseg.training.build import Learner, build_data, build_learner, build_optimizer
from refseg.training.experiment import DataConfig, OptimConfig, variant
from refseg.training.state import parameter_names

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


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


def test_a_folder_of_another_experiment_is_refused(tiny_experiment, whole):
    before = (whole / "log.jsonl").read_text()
    objective = tiny_experiment.objective.changed(MaskLossConfig, dice=0.0)
    for changes, field in (
        ({"optim": {"learning_rate": 0.5}}, r"optim\.learning_rate was 0\.002, now 0\.5"),
        ({"data": {"image_size": 48}}, r"data\.image_size was 32, now 48"),
        ({"model": {"c5_dim": 6}}, r"model\.c5_dim was None, now 6"),
        ({"objective": objective}, r"objective\.terms\.0\.dice was 0\.5, now 0\.0"),
    ):
        with pytest.raises(RefsegError, match=rf"holds another experiment \({field}\): name another folder"):
            fit(variant(tiny_experiment, **changes), whole)
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


def test_a_damaged_record_is_one_sentence(tiny_experiment, whole):
    path = whole / "last" / "config.json"
    good = path.read_text()
    experiment = json.loads(good)["record"]["experiment"]
    without_optim = {name: value for name, value in experiment.items() if name != "optim"}
    for damaged in (
        *(None, {}, experiment | {"data": None}, experiment | {"objective": None}, without_optim),
        experiment | {"objective": {"type": "SegmentationConfig"}},
    ):
        config = json.loads(good)
        config["record"]["experiment"] = damaged
        path.write_text(json.dumps(config))
        with pytest.raises(RefsegError, match="holds another experiment, or its record is damaged .*--out"):
            fit(tiny_experiment, whole)
    config["record"] |= {"experiment": experiment, "progress": {"steps": 3}}
    path.write_text(json.dumps(config))
    with pytest.raises(RefsegError, match="its record is damaged"):
        fit(tiny_experiment, whole)
    path.write_text(good)
    torch.save({"objective": {}, "optimizer": {}, "random": {}}, whole / "last" / TRAINING)
    with pytest.raises(RefsegError, match="its training state lacks average"):
        fit(tiny_experiment, whole)


def test_what_others_keep_where_a_run_writes_stays(tiny_experiment, whole):
    """Refused at the start, and not after hours, when best/ is replaced."""
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    longer = variant(tiny_experiment, optim={"steps": 17})
    for name, why in (
        *(("best/notes.txt", "best is in the way: it holds notes.txt"), ("last/plots/loss.png", "holds plots/")),
        *(("best", "best is in the way and is not a folder"), ("best/config.json", "is not the config of a refseg")),
        *(
            ("last/model.safetensors", "last is in the way: it is not whole"),
            ("log.jsonl", "is not the log of a training"),
        ),
    ):
        for experiment in (tiny_experiment, longer):
            folder = whole.parent / "theirs"
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text('{"loss": 1, "mine": true}')
            with pytest.raises(RefsegError, match=why):
                fit(experiment, folder)
            assert (folder / name).read_text() == '{"loss": 1, "mine": true}' and not (
                folder / "last/config.json"
            ).exists()
            shutil.rmtree(folder)
    (whole / "best" / "notes.txt").write_text("mine")
    with pytest.raises(RefsegError, match="holds notes.txt"):
        fit(tiny_experiment, whole)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_begins_again_only_if_nothing_is_lost(tiny_experiment, tmp_path, monkeypatch):
    """A kill before the first last/ costs what was done; a last/ that somebody removed is another matter."""
    experiment = variant(tiny_experiment, optim={"steps": 13, "eval_every": 2, "save_every": 6})
    fit(experiment, tmp_path / "whole")
    interrupted(experiment, tmp_path / "killed", monkeypatch, 5)
    assert (tmp_path / "killed" / "best").is_dir() and not (tmp_path / "killed" / "last").exists()
    with pytest.raises(RefsegError, match="holds another experiment"):
        fit(variant(experiment, optim={"seed": 7}), tmp_path / "killed")
    fit(experiment, tmp_path / "killed")
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "whole" / "last")
    stored = tmp_path / "whole" / "best" / "config.json"
    config = json.loads(stored.read_text())
    config["record"]["progress"]["step"] = 8
    stored.write_text(json.dumps(config))
    with pytest.raises(RefsegError, match="is of a run whose last/ is gone"):
        fit(experiment, tmp_path / "whole")
    assert stored.read_text() == json.dumps(config)


def test_two_trainings_in_one_folder(tiny_experiment, tmp_path, monkeypatch):
    update, refused = loop.Run.update, []

    def during(run, batch):
        if not refused:
            refused.append("")
            with pytest.raises(RefsegError, match="Another process is writing to .*run: wait for it, or name another"):
                fit(variant(tiny_experiment, optim={"seed": 7}), tmp_path / "run")
        return update(run, batch)

    monkeypatch.setattr(loop.Run, "update", during)
    fit(tiny_experiment, tmp_path / "run")
    fit(tiny_experiment, tmp_path / "run")  # and afterwards nothing is locked
    assert refused and json.loads((tmp_path / "run/last/config.json").read_text())["record"]["progress"]["step"] == 13
