"""Checkpoints: what goes in comes out, a failed write harms nothing, and damage is told in one sentence."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from refseg.checkpoint import (
    CONFIG,
    OLD_TRAINING,
    TRAINING,
    WEIGHTS,
    Checkpoint,
    exists,
    init_from,
    load_checkpoint,
    load_training,
    save_checkpoint,
)
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import ResNet101BackboneConfig
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.tokenizer import WordVocabulary

WORDS = ["circle", "red", "the"]


@pytest.fixture
def tokenizer():
    return WordVocabulary(WORDS, max_words=11)


@pytest.fixture
def model(tiny_experiment, tokenizer):
    return build_model(tiny_experiment.model, len(tokenizer))


@pytest.fixture
def saved(tmp_path, model, tokenizer):
    save_checkpoint(tmp_path / "here", Checkpoint(model, tokenizer, 32), record={"step": 7})
    return tmp_path / "here"


def change(folder, **fields):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def first_weight(model):
    return next(model.parameters())


# ---- beginning with the weights of another ---------------------------------------------------------------------


def test_weights_go_over_by_name_and_vectors_by_word(saved, model, tiny_experiment):
    other = WordVocabulary(["moving", "the", "red"])
    config = replace(tiny_experiment.model, temporal=CFSAConfig(dim=6, heads=2))
    begun = build_model(config, len(other))
    fresh = begun.text.table.weight.detach().clone()
    left = init_from(begun, other, saved)
    given, own = model.state_dict(), begun.state_dict()
    assert left and all(name.startswith("temporal.") for name in left)
    assert all(torch.equal(own[name], given[name]) for name in given if name != "text.table.weight")
    table = begun.text.table.weight
    assert torch.equal(table[[0, 1, 3, 4]], model.text.table.weight[[0, 1, 4, 3]])  # <pad>, <unk>, the, red
    assert torch.equal(table[2], fresh[2])  # "moving" is new


def test_only_the_parts_that_are_named_go_over(saved, model, tokenizer):
    begun = build_model(model.config, len(tokenizer))
    fresh = {name: weight.clone() for name, weight in begun.state_dict().items()}
    left = init_from(begun, tokenizer, saved, parts=("backbone",))
    given, own = model.state_dict(), begun.state_dict()
    backbone = {name for name in own if name.startswith("backbone.")}
    assert backbone and set(left) == own.keys() - backbone
    assert all(torch.equal(own[name], (given if name in backbone else fresh)[name]) for name in own)
    with pytest.raises(RefsegError, match="No weight of .* fits the backbones of this model"):
        init_from(begun, tokenizer, saved, parts=("backbones",))


def test_nothing_to_begin_with_is_an_error(saved, tokenizer):
    with pytest.raises(RefsegError, match="No weight of .* fits this model"):
        init_from(torch.nn.Linear(3, 5), tokenizer, saved)


# ---- there and back --------------------------------------------------------------------------------------------


def test_a_loaded_model_predicts_the_same(tmp_path, tiny_experiment):
    val = build_dataset("refshapes", "val", build_transform(32))
    tokenizer = WordVocabulary.build(val.expressions)
    model = build_model(tiny_experiment.model, len(tokenizer))
    batch = Collate(tokenizer)([val[i] for i in range(5)])
    with torch.no_grad():
        model(batch)  # in train mode: BatchNorm's statistics are no longer the first ones
        expected = model.eval()(batch).mask_logits
        save_checkpoint(tmp_path / "a", Checkpoint(model, tokenizer, 32))
        loaded = load_checkpoint(tmp_path / "a")
        again = Collate(loaded.tokenizer)([val[i] for i in range(5)])
        assert torch.equal(loaded.model(again).mask_logits, expected)
    assert not loaded.model.training and expected.std() > 0


def test_everything_else_comes_back_too(tmp_path, model, tokenizer):
    training = {"optimizer": {0: {"step": torch.tensor(3.0)}}, "random": torch.get_rng_state()}
    save_checkpoint(tmp_path / "a", Checkpoint(model, tokenizer, 37), record={"mIoU": 0.5}, training=training)
    loaded = load_checkpoint(tmp_path / "a")
    assert (loaded.tokenizer.words, loaded.tokenizer.max_words) == (tokenizer.words, 11)
    assert (loaded.image_size, loaded.config["record"]) == (37, {"mIoU": 0.5})
    assert loaded.model.config == model.config
    again = load_training(tmp_path / "a")
    assert again["optimizer"] == training["optimizer"] and torch.equal(again["random"], training["random"])
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == [CONFIG, WEIGHTS, TRAINING]


def test_a_loaded_checkpoint_is_written_with_its_window_and_its_record(tmp_path, model, tokenizer):
    first = Checkpoint(model, tokenizer, 32, num_frames=5, frame_stride=3)
    save_checkpoint(tmp_path / "a", first, record={"step": 7}, training={"a": torch.zeros(1)})
    save_checkpoint(tmp_path / "b", load_checkpoint(tmp_path / "a"))
    one, other = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("a", "b"))
    assert one == other and (one["num_frames"], one["record"]) == (5, {"step": 7})
    assert load_training(tmp_path / "b") is None


def test_the_training_state_of_older_runs_is_read(saved):
    older = {"optimizer.3.exp_avg": torch.ones(2), "objective.a.weight": torch.zeros(3), "random.cpu": torch.ones(1)}
    save_file(older, saved / OLD_TRAINING)
    training = load_training(saved)
    assert {part: list(state) for part, state in training.items()} == {
        "objective": ["a.weight"],
        "optimizer": [3],
        "random": ["cpu"],
        "average": [],
    }
    assert torch.equal(training["optimizer"][3]["exp_avg"], torch.ones(2))


def test_a_checkpoint_without_training_state(saved):
    assert load_training(saved) is None
    assert names(saved) == [CONFIG, WEIGHTS]


def test_the_newer_one_replaces_the_older(saved, model, tokenizer):
    with torch.no_grad():
        first_weight(model).fill_(0.25)
    save_checkpoint(saved, Checkpoint(model, tokenizer, 41))
    loaded = load_checkpoint(saved)
    assert loaded.image_size == 41 and (first_weight(loaded.model) == 0.25).all()
    assert names(saved.parent) == ["here"]


def test_shared_and_strided_weights_can_be_stored(tmp_path, model, tokenizer):
    model.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "a", Checkpoint(model, tokenizer, 32))
    kernel = next(p for p in load_checkpoint(tmp_path / "a").model.parameters() if p.ndim == 4)
    assert kernel.is_contiguous()


def test_loading_asks_nobody_for_pretrained_weights(tmp_path, tiny_experiment, tokenizer, monkeypatch):
    """The checkpoint holds them: neither the network nor the file they once came from is needed."""
    backbone = ResNet101BackboneConfig(layers=(1, 1, 1, 1))
    config = replace(tiny_experiment.model, backbone=backbone)
    save_checkpoint(tmp_path / "a", Checkpoint(build_model(config, len(tokenizer)), tokenizer, 32))
    stored = json.loads((tmp_path / "a" / CONFIG).read_text())["model"]
    stored["backbone"]["weights"] = "gone.safetensors"
    change(tmp_path / "a", model=stored)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    assert load_checkpoint(tmp_path / "a").model.backbone.channels["c5"] == 2048


# ---- a write that fails ----------------------------------------------------------------------------------------


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


def full_disk_of_torch(*args):
    raise RuntimeError("PytorchStreamWriter failed: No space left on device")


def full_disk_of_safetensors(tensors, path):
    path.write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_a_full_disk_leaves_the_old_checkpoint(saved, model, tokenizer, monkeypatch):
    before = first_weight(load_checkpoint(saved).model).clone()
    with torch.no_grad():
        first_weight(model).add_(1)
    for target, failure in (
        ("refseg.checkpoint.save_file", full_disk_of_safetensors),
        ("refseg.checkpoint.save_file", full_disk),
        ("torch.save", full_disk_of_torch),
        ("pathlib.Path.write_text", full_disk),
        ("pathlib.Path.mkdir", full_disk),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(target, failure)
            with pytest.raises(RefsegError, match="could not be written .*No space left on device.*room") as caught:
                save_checkpoint(saved, Checkpoint(model, tokenizer, 32), training={})
        assert "\n" not in str(caught.value)
        assert names(saved.parent) == ["here"]  # no partial folder
        assert torch.equal(first_weight(load_checkpoint(saved).model), before)


def test_a_rename_that_fails_leaves_the_old_checkpoint(saved, model, tokenizer, monkeypatch):
    real = type(saved).rename

    def rename(path, target):
        if path.name.endswith(".partial"):
            full_disk()
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(saved), "rename", rename)
        with pytest.raises(RefsegError, match="could not be written"):
            save_checkpoint(saved, Checkpoint(model, tokenizer, 41))
    assert exists(saved) and load_checkpoint(saved).image_size == 32
    save_checkpoint(saved, Checkpoint(model, tokenizer, 41))
    assert load_checkpoint(saved).image_size == 41 and names(saved.parent) == ["here"]


def test_a_kill_between_the_two_renames(saved, model, tokenizer, monkeypatch):
    """The old one lies under another name, and stays there until the next one stands in its place."""
    previous = saved.with_name(".here.previous")
    saved.rename(previous)
    assert exists(saved) and load_checkpoint(saved).config["record"] == {"step": 7}
    real = type(saved).rename

    def rename(path, target):
        assert exists(saved)  # killed here, there would still be a checkpoint
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(saved), "rename", rename)
        save_checkpoint(saved, Checkpoint(model, tokenizer, 41))
    assert load_checkpoint(saved).image_size == 41 and names(saved.parent) == ["here"]


def test_a_folder_that_is_not_complete_does_not_exist(tmp_path, saved):
    assert exists(saved) and not exists(tmp_path / "nowhere")
    (saved / CONFIG).unlink()
    assert not exists(saved)


# ---- damage ----------------------------------------------------------------------------------------------------


def refusal(folder, load=load_checkpoint) -> str:
    with pytest.raises(RefsegError) as caught:
        load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(folder.name) in sentence
    return sentence


def test_cut_weights(saved):
    data = (saved / WEIGHTS).read_bytes()
    for keep in (0, 5, 8, 100, len(data) // 2, -1):
        (saved / WEIGHTS).write_bytes(data[:keep])
        assert "model.safetensors is damaged" in refusal(saved)


def test_weights_that_are_something_else(saved):
    (saved / WEIGHTS).write_bytes(b"<html>not found</html>" * 100)
    assert "model.safetensors is damaged" in refusal(saved)


def test_a_pickle_never_runs(saved, tmp_path):
    """Neither under the name of the weights, nor as the state of a training, nor under names that others use."""
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return fired.touch, ()

    for name in (TRAINING, "model.pt", "model.bin", "pytorch_model.bin"):
        torch.save({"optimizer": Bomb()}, saved / name)
    assert load_checkpoint(saved).image_size == 32  # which does not even open them
    for write in (torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))):
        write({"optimizer": Bomb()}, saved / TRAINING)
        assert "training.pt is damaged" in refusal(saved, load_training)
    (saved / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    assert "model.safetensors is damaged" in refusal(saved)
    assert not fired.exists()
    pickle.loads((saved / WEIGHTS).read_bytes())
    assert fired.exists()  # it would have gone off


def test_missing_weights(saved):
    (saved / WEIGHTS).unlink()
    assert "model.safetensors is missing: copy the whole checkpoint folder again" in refusal(saved)


def test_damaged_training_state(tmp_path, model, tokenizer):
    save_checkpoint(tmp_path / "a", Checkpoint(model, tokenizer, 32), training={"a": torch.zeros(100)})
    data = (tmp_path / "a" / TRAINING).read_bytes()
    for keep in (0, 5, 100, len(data) // 2, -7):
        (tmp_path / "a" / TRAINING).write_bytes(data[:keep])
        assert "training.pt is damaged" in refusal(tmp_path / "a", load_training)
    torch.save([torch.zeros(3)], tmp_path / "a" / TRAINING)
    assert "training.pt is damaged (it holds a list)" in refusal(tmp_path / "a", load_training)
    protocol, empty_stack = b"\x80\x02", b"R."  # REDUCE with nothing on the stack is an IndexError
    (tmp_path / "a" / TRAINING).write_bytes(protocol + empty_stack)
    assert "training.pt is damaged" in refusal(tmp_path / "a", load_training)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("x")
    for place in ("nowhere", "empty", "a-file"):
        assert "There is no checkpoint in" in refusal(tmp_path / place)


def test_the_working_folder_can_be_asked(tmp_path, saved, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(saved)
    assert load_checkpoint(Path(".")).image_size == 32
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefsegError, match="There is no checkpoint"):
        load_checkpoint(Path("."))


def test_a_cut_config(saved):
    data = (saved / CONFIG).read_bytes()
    for content in (b"", b"{", b"\xff\xfe", data[: len(data) // 2]):
        (saved / CONFIG).write_bytes(content)
        assert "config.json is damaged" in refusal(saved)


def test_a_config_of_something_else(saved):
    for content in ("[]", "3", "{}", '{"model_type": "bert"}'):
        (saved / CONFIG).write_text(content)
        assert "is not the config of a refseg checkpoint" in refusal(saved)


def test_the_window_comes_back_and_is_one_frame_where_nothing_is_said(tmp_path, saved, model, tokenizer):
    save_checkpoint(tmp_path / "clips", Checkpoint(model, tokenizer, 32, num_frames=5, frame_stride=3))
    loaded = load_checkpoint(tmp_path / "clips")
    assert (loaded.num_frames, loaded.frame_stride) == (5, 3)
    config = json.loads((saved / CONFIG).read_text())
    del config["num_frames"], config["frame_stride"]  # as before there were clips
    (saved / CONFIG).write_text(json.dumps(config))
    loaded = load_checkpoint(saved)
    assert (loaded.num_frames, loaded.frame_stride) == (1, 1)


def test_another_format_is_named_before_its_fields(saved):
    (saved / CONFIG).write_text('{"format": 2}')
    assert "has checkpoint format 2" in refusal(saved) and "reads format 1" in refusal(saved)


def test_fields_of_the_wrong_kind(saved):
    right = json.loads((saved / CONFIG).read_text())
    for field, value in (
        ("model", None),
        ("vocabulary", None),
        ("vocabulary", "red"),
        ("vocabulary", [1, 2, 3]),
        ("max_words", 0),
        ("image_size", "32"),
        ("image_size", True),
        ("num_frames", 4),
        ("num_frames", "5"),
        ("frame_stride", 0),
        ("record", []),
    ):
        change(saved, **{**right, field: value})
        assert f"is damaged (its field '{field}')" in refusal(saved)


def test_a_word_twice_in_the_vocabulary(saved):
    change(saved, vocabulary=["red", "circle", "red"])
    assert "config.json cannot be used. The vocabulary lists 'red' twice" in refusal(saved)


def test_a_vocabulary_of_another_length(saved):
    change(saved, vocabulary=[*WORDS, "extra"])
    assert "do not fit the config beside them" in refusal(saved)


def test_an_unknown_model(saved):
    model = json.loads((saved / CONFIG).read_text())["model"]
    change(saved, model={**model, "type": "os.system"})
    assert "config.json cannot be used. The model config has the unknown type 'os.system'" in refusal(saved)
    change(saved, model={**model, "depth": 3})
    assert "field 'depth'" in refusal(saved)


def test_weights_of_another_config(saved, tmp_path, tiny_experiment, tokenizer):
    model = tiny_experiment.model
    other = build_model(replace(model, head=replace(model.head, dim=6)), len(tokenizer))
    save_checkpoint(tmp_path / "other", Checkpoint(other, tokenizer, 32))
    (tmp_path / "other" / WEIGHTS).replace(saved / WEIGHTS)
    assert "do not fit the config beside them" in refusal(saved) and "head." in refusal(saved)


def test_a_weight_too_few(saved):
    weights = load_file(saved / WEIGHTS)
    weights.pop(next(name for name in weights if name.endswith(".weight")))
    save_file(weights, saved / WEIGHTS)
    assert "do not fit the config beside them" in refusal(saved)
