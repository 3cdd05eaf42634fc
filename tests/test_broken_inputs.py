"""Whatever people hand in, through the doors they use: either it works or one line says what is wrong.

The details of each refusal are asserted beside the module that raises it.
"""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from refseg.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from refseg.models import build_model
from refseg.training.presets import PRESETS

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


@pytest.fixture
def predict(refseg, tiny_checkpoint, tmp_path):
    """``refseg predict`` with a small picture, "the red circle" and a small checkpoint, or what is given instead."""

    def run(image=None, expression="the red circle", checkpoint=tiny_checkpoint):
        if image is None:
            image = picture(tmp_path / "ok.png")
        out = tmp_path / "out.png"
        return refseg("predict", "--image", image, "--expression", expression, "--checkpoint", checkpoint, "--out", out)

    return run


@pytest.fixture
def own_data(tiny_refshapes, tmp_path):
    """A copy of the small RefShapes that a test may damage, to be read with --root."""
    return shutil.copytree(tiny_refshapes / "refshapes", tmp_path / "own")


def evaluate(refseg, checkpoint, root):
    return refseg("evaluate", "--checkpoint", checkpoint, "--root", root, "--device", "cpu", "--json", "-")


def picture(path, mode="RGB", size=(53, 37)):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], bands), dtype=np.uint8)
    (Image.fromarray(pixels[..., 0]) if bands == 1 else Image.frombytes(mode, size, pixels.tobytes())).save(path)
    return path


def assert_one_line(answer, *parts, status=2):
    """The last line of stderr is the sentence; a progress bar may stand before it."""
    found, out, err = answer
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "sample" not in line[-40:]]
    assert found == status and out == "" and len(lines) == 1 and lines[0].startswith("refseg: "), answer
    assert [part for part in parts if part not in lines[0]] == [], lines


def assert_predicted(answer, tmp_path, size):
    assert answer[0] == 0, answer
    assert Image.open(tmp_path / "out_mask.png").size == size


# ---- pictures --------------------------------------------------------------------------------------------------


def test_missing_picture(predict, tmp_path):
    assert_one_line(predict(tmp_path / "nowhere.jpg"), "no image at", "nowhere.jpg")


def test_truncated_png(predict, tmp_path):
    whole = picture(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert_one_line(predict(tmp_path / "cut.png"), "cut.png is not a readable image")


def test_a_folder_in_place_of_a_picture(predict, tmp_path):
    assert_one_line(predict(tmp_path), "no image at")


def test_one_pixel(predict, tmp_path):
    assert_predicted(predict(picture(tmp_path / "one.png", size=(1, 1))), tmp_path, (1, 1))


@pytest.mark.slow
def test_48_million_pixels(predict, tmp_path):
    Image.new("RGB", (8000, 6000), (200, 30, 30)).save(tmp_path / "large.jpg")
    assert_predicted(predict(tmp_path / "large.jpg"), tmp_path, (8000, 6000))


def test_every_mode(predict, tmp_path):
    for mode, name in [("L", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.jpg"), ("P", "a.gif")]:
        assert_predicted(predict(picture(tmp_path / name, mode)), tmp_path, (53, 37))


# ---- expressions -----------------------------------------------------------------------------------------------


def test_empty_expression(predict):
    for expression in ["", " ", "."]:
        assert_one_line(predict(expression=expression), "has no word in it")


def test_200_words(predict, tmp_path):
    answer = predict(expression="the red circle " * 67)
    assert_predicted(answer, tmp_path, (53, 37))
    assert answer[2] == "Only the first 20 words are read.\n"


def test_unknown_words_only(predict, tmp_path):
    answer = predict(expression="zzz qqq")
    assert_predicted(answer, tmp_path, (53, 37))
    assert answer[2] == "Not in the vocabulary: zzz, qqq\n"


def test_every_network_takes_what_people_hand_in(request, predict, tmp_path):
    """One pixel, a picture much wider than high, more words than it reads, and none that it knows."""
    for network in ["tiny_grounded", "tiny_alignformer"]:
        checkpoint = request.getfixturevalue(network)
        for size in ((1, 1), (90, 7)):
            image = picture(tmp_path / "odd.png", size=size)
            assert_predicted(predict(image, checkpoint=checkpoint), tmp_path, size)
        answer = predict(expression="the red circle " * 67, checkpoint=checkpoint)
        assert_predicted(answer, tmp_path, (53, 37))
        assert answer[2] == "Only the first 20 words are read.\n"
        assert_predicted(predict(expression="zzz qqq", checkpoint=checkpoint), tmp_path, (53, 37))
        assert_one_line(predict(expression=" ", checkpoint=checkpoint), "has no word in it")


# ---- data sets -------------------------------------------------------------------------------------------------


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_pickle_that_imports_os(refseg, tiny_checkpoint, own_data, tmp_path):
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            import os

            return os.system, (f"touch {fired}",)

    (own_data / "refs(refseg).json").unlink()
    (own_data / "refs(refseg).p").write_bytes(pickle.dumps([Bomb()]))
    assert_one_line(evaluate(refseg, tiny_checkpoint, own_data), "refs(refseg).p")
    status, out, _ = refseg("check-data", "refshapes", "--split", "val", "--root", own_data)
    assert status == 1 and "[FAIL]" in out and "refs(refseg).p" in out
    assert not fired.exists()


def test_refs_that_name_an_absent_annotation(refseg, tiny_checkpoint, own_data):
    change_json(
        own_data / "refs(refseg).json",
        lambda refs: [ref.update(ann_id=987654) for ref in refs if ref["split"] == "val"],
    )
    assert_one_line(evaluate(refseg, tiny_checkpoint, own_data), "987654")
    status, out, _ = refseg("check-data", "refshapes", "--split", "val", "--root", own_data)
    assert status == 1 and "987654" in out


def test_an_empty_polygon(refseg, tiny_checkpoint, own_data):
    change_json(
        own_data / "instances.json",
        lambda instances: [annotation.update(segmentation=[[]]) for annotation in instances["annotations"]],
    )
    assert_one_line(evaluate(refseg, tiny_checkpoint, own_data), "has an empty polygon")


def test_a_missing_picture_of_a_data_set(refseg, tiny_checkpoint, own_data):
    for path in (own_data / "images").iterdir():
        path.unlink()
    assert_one_line(evaluate(refseg, tiny_checkpoint, own_data), ".png", "check-data")
    status, out, _ = refseg("check-data", "refshapes", "--split", "val", "--root", own_data)
    assert status == 1 and "7 of 7 images are missing" in out


def test_a_truncated_picture_of_a_data_set(refseg, tiny_checkpoint, own_data):
    for path in (own_data / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert_one_line(evaluate(refseg, tiny_checkpoint, own_data), "is not a readable image")


def test_a_broken_picture_stops_a_training_with_one_line(
    refseg, tiny_experiment, small_data_dir, tmp_path, monkeypatch
):
    data = shutil.copytree(small_data_dir, tmp_path / "data")
    (data / "refshapes" / "images" / "000001.png").write_bytes(b"")
    monkeypatch.setenv("REFSEG_DATA", str(data))
    monkeypatch.setitem(PRESETS, "tiny", tiny_experiment)
    status, out, err = refseg("train", "--preset", "tiny", "--out", tmp_path / "run", "--device", "cpu")
    assert status == 2 and "000001.png is not a readable image" in err.splitlines()[-1]


# ---- checkpoints -----------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_config(predict, tiny_checkpoint, tiny_experiment, tmp_path):
    loaded = load_checkpoint(tiny_checkpoint)
    other = build_model(
        replace(loaded.model.config, fusion=replace(loaded.model.config.fusion, dim=6)), len(loaded.tokenizer)
    )
    save_checkpoint(tmp_path / "other", Checkpoint(other, loaded.tokenizer, 32))
    shutil.copy(tmp_path / "other" / "model.safetensors", tiny_checkpoint)
    assert_one_line(predict(), "do not fit the config")


def test_a_damaged_checkpoint(predict, tiny_checkpoint):
    (tiny_checkpoint / "model.safetensors").write_bytes(b"half")
    assert_one_line(predict(), "model.safetensors is damaged")


def test_a_full_disk_while_a_checkpoint_is_written(refseg, tiny_experiment, tmp_path, monkeypatch):
    import refseg.checkpoint as checkpoint

    real, written = checkpoint.save_file, []

    def save_file(tensors, path):
        if path.parent.name.startswith(".last."):
            written.append(path)
        if len(written) > 1:  # the second checkpoint to resume from
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setitem(PRESETS, "tiny", tiny_experiment)
    words = ("train", "--preset", "tiny", "--out", tmp_path / "run", "--device", "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", save_file)
        status, _, err = refseg(*words)
    assert status == 2 and "No space left on device" in err.splitlines()[-1]
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["step"] == 4
    assert not list((tmp_path / "run").glob(".last.*"))
    assert refseg(*words)[0] == 0  # with room again it goes on
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["step"] == 13
