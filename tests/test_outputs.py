"""What is the user's stays: no command, whatever its output is called, touches a file that it did not write."""

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refseg import cli
from refseg.files import write_text

pytestmark = pytest.mark.usefixtures("no_accelerate_state")
MINE = (  # a folder of the user's, whose files happen to have the names of ours
    *("best/config.json", "best/notes.txt", "last/model.safetensors", "log.jsonl", "report.html", "plan.json"),
    *("prediction.png", "prediction_mask.png", "masks/00001.png", "sheet.png", "prediction.json", "shards.json"),
    *("config.json", "model.safetensors", "README.md", "wheels/mine.whl", "wheelhouse.json", "unfinished.json"),
    *("unfinished/novel.txt", "INSTALL.txt", "refseg-0.1.0.zip", "explorer.html", "val-best.json", "result.json"),
)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_sentence(answer, *parts):
    status, out, err = answer
    assert (status, err.count("\n")) == (2, 1) and err.startswith("refseg: ") and "Traceback" not in err, answer
    assert [part for part in parts if part not in err] == [], err


@pytest.fixture
def mine(tmp_path):
    for name in MINE:
        write_text(tmp_path / "mine" / name, f'{{"step": 7, "mine": "{name}"}}\n')
    return tmp_path / "mine"


@pytest.fixture
def given(tmp_path, tiny_checkpoint, small_refcoco):
    """The options that every command needs, without its outputs."""
    pixels = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    (tmp_path / "clip").mkdir()
    for place in ("photo.png", "clip/00001.png", "clip/00002.png"):
        Image.fromarray(pixels).save(tmp_path / place)
    mask = coco_mask.encode(np.asfortranarray(pixels[..., 0] > 100))
    run_lengths = {"size": mask["size"], "counts": mask["counts"].decode()}
    image = {"id": "a", "height": 37, "width": 53}
    truth = {"images": [image], "annotations": [{"image_id": "a", "segmentation": run_lengths}]}
    write_text(tmp_path / "truth.json", json.dumps(truth))
    guess = {"image_id": "a", "category_id": 1, "segmentation": run_lengths, "score": 1.0}
    write_text(tmp_path / "guesses.json", json.dumps([guess]))
    write_text(tmp_path / "words.txt", "red\n")
    network = ["--checkpoint", tiny_checkpoint]
    photo = ["--image", tmp_path / "photo.png", "--expression", "red", *network]
    release = [tmp_path / "photo.png", "--vocabulary", tmp_path / "words.txt"]
    return {
        "predict": photo,
        "predict --video": ["--video", tmp_path / "clip", "--expression", "red", *network],
        "explore": photo,
        "train": ["--steps", 3, "--device", "cpu"],
        "evaluate": [*network, "--device", "cpu"],
        "score": ["--truth", tmp_path / "truth.json", "--predictions", tmp_path / "guesses.json"],
        "shard": ["refcoco", "--root", small_refcoco(tmp_path / "refcoco")],
        "convert-cmsa-release": release,
        "convert-magnet-release": release,
        "tour": [],
        "wheelhouse": [],
    }


FOLDERS = "predict --video", "train", "shard", "convert-cmsa-release", "convert-magnet-release", "tour", "wheelhouse"
FILES = {"predict": "--out", "explore": "--out", "evaluate": "--json", "score": "--json"}  # named by these options


def test_a_folder_of_the_user_is_untouched_by_every_command(refseg, given, mine, monkeypatch):
    outputs = {
        name: [option for option in inspect.signature(command).parameters if option in cli.OUTPUTS]
        for name, command in cli.commands().items()
    }
    writing = {name for name, options in outputs.items() if options}
    assert {name.split()[0] for name in FOLDERS} | FILES.keys() == writing, "which output does the new command have?"
    assert max(map(len, outputs.values())) == 1
    before = bytes_of(mine)
    for name in FOLDERS:
        command, option = name.split()[0], [] if name == "wheelhouse" else ["--out"]
        assert_one_sentence(refseg(command, *given[name], *option, mine))
        assert bytes_of(mine) | {".lock": b""} == before | {".lock": b""}, name
    for name, option in FILES.items():
        for target in ("new.png", "prediction.png", "best", "new/deep.png"):
            if target != "prediction.png" or name == "predict":  # a file that a user names is replaced, but an image
                status, _, err = refseg(name, *given[name], option, mine / target)
                assert (status, err.count("\n")) == (2, 1) if target in ("best", "prediction.png") else status == 0, err
                after = bytes_of(mine)
                assert {path: after.get(path) for path in before} == before, (name, target)
    monkeypatch.chdir(mine)  # where defaults lead
    assert_one_sentence(refseg("predict", *given["predict"]), "prediction.png is in the way")
    assert_one_sentence(refseg("predict", *given["predict --video"], "--out", "."), "holds other files")
    (mine / "prediction.png").unlink()
    assert_one_sentence(refseg("predict", *given["predict"]), "prediction_mask.png is in the way")


def test_an_output_is_never_an_input(refseg, given, tmp_path, tiny_checkpoint, tiny_refshapes, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tiny_refshapes))
    photo, linked, hard = (tmp_path / name for name in ("photo.png", "linked.png", "hard.png"))
    linked.symlink_to(photo)
    os.link(photo, hard)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    (tmp_path / "a_mask.png").write_bytes(photo.read_bytes())
    instances = tiny_refshapes / "refshapes" / "instances.json"
    before = bytes_of(tmp_path) | {"instances": instances.read_bytes()}
    cases = [
        *(("predict", "--out", place) for place in (photo, linked, hard, tmp_path / "elsewhere" / "photo.png")),
        *(("predict", "--out", place) for place in (tmp_path / "tiny" / ".." / "photo.png", os.path.relpath(photo))),
        *(("explore", "--out", place) for place in (photo, linked, tiny_checkpoint / "config.json")),
        *(("score", "--json", tmp_path / place) for place in ("truth.json", "guesses.json", "elsewhere/truth.json")),
        *(("evaluate", "--json", tiny_checkpoint / file) for file in ("config.json", "model.safetensors")),
        ("evaluate", "--json", instances),  # of the data set
    ]
    for command, option, place in cases:
        answer = refseg(command, *given[command], option, place)
        assert_one_sentence(answer, "is among the files that this command reads: name another file")
    words = ["--image", tmp_path / "a_mask.png", "--expression", "red", "--checkpoint", tiny_checkpoint]
    assert_one_sentence(refseg("predict", *words, "--out", tmp_path / "a.png"), "a_mask.png is")
    shipped = cli.checkpoints_dir() / "cmsa_refshapes" / "config.json"  # read when no checkpoint is named
    assert_one_sentence(refseg("evaluate", "--json", shipped), "is among the files")
    assert bytes_of(tmp_path) | {"instances": instances.read_bytes()} == before


def test_a_result_may_be_written_again_and_beside_its_checkpoint(refseg, given, tmp_path, tiny_checkpoint):
    for _ in range(2):
        for command, option in FILES.items():
            answer = refseg(command, *given[command], option, tmp_path / f"{command}.png")
            assert answer[0] == 0, answer
        inside = tmp_path / "clip" / "prediction"  # of the folder that is read
        assert refseg("predict", *given["predict --video"], "--out", inside)[0] == 0
    for _ in range(2):  # scores in a checkpoint's folder may be written again
        assert refseg("evaluate", *given["evaluate"], "--json", tiny_checkpoint / "val.json")[0] == 0
    assert_one_sentence(refseg("score", *given["score"], "--json", tmp_path / ("x" * 300)), "could not be written")
