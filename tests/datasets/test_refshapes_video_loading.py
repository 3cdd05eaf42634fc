"""RefShapes-Video as the kit uses it: loaded as clips, mirrored, trained on, scored and predicted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, HorizontalFlip, build_dataset, build_transform
from refseg.datasets.refshapes import ensure_video
from refseg.errors import RefsegError
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.tokenizer import WordVocabulary
from refseg.training.experiment import DataConfig
from refseg.training.presets import PRESETS

CLIPS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video-data")
    ensure_video(folder / "refshapes_video", CLIPS)
    return folder


@pytest.fixture
def here(data_dir, monkeypatch):
    """``build_dataset("refshapes_video", ...)`` reads the small one."""
    monkeypatch.setenv("REFSEG_DATA", str(data_dir))
    monkeypatch.setattr("refseg.datasets.refshapes.CLIPS", CLIPS)


def texts(data_dir, name):
    return json.loads((data_dir / "refshapes_video" / "text_annotations" / f"{name}.json").read_text())


# ---- loading ---------------------------------------------------------------------------------------------------


def test_windows_of_the_drawn_frames(here, data_dir):
    data = build_dataset("refshapes_video", "train", num_frames=3, frame_stride=2)
    assert (data.num_frames, data.frame_stride) == (3, 2)
    sample = data[0]
    assert sample.source == "refshapes_video/train" and sample.target_frame == 1
    folder = data_dir / "refshapes_video" / "Release" / "frames" / sample.annotations.video_id
    drawn = [np.array(Image.open(folder / f"0000{number}.png")) for number in (1, 3, 5)]
    assert np.array_equal(sample.frames.permute(0, 2, 3, 1).numpy(), np.stack(drawn))
    assert sample.annotations.kind and sample.annotations.motion in (True, False)
    assert len({s.sample_id for s in data}) == len(data) > 2 * CLIPS["train"]


def test_every_object_is_what_the_files_say(here, data_dir):
    data = build_dataset("refshapes_video", "train", objects=True, num_frames=5)
    written, motions = texts(data_dir, "attributes"), set()
    assert list(data.class_names) == ["shape", "colour", "motion"]
    for sample in data:
        ids = sample.annotations.object_ids
        seen = sample.objects[sample.mask].unique().tolist()
        assert seen and [ids[number - 1] for number in seen] == [sample.annotations.instance_id]
        assert (sample.objects == seen[0]).equal(sample.mask)
        for number, instance in enumerate(ids, start=1):
            said = written["objects"][sample.annotations.video_id][str(instance)]
            numbers = sample.object_classes[number].tolist()
            assert {name: data.class_names[name][n - 1] for name, n in zip(data.class_names, numbers)} == said
            motions.add(said["motion"])
        assert sample.object_classes[0].tolist() == [0, 0, 0]
    assert len(motions) > 3


def test_a_mirror_image_moves_the_other_way(here):
    data = build_dataset("refshapes_video", "train", objects=True, num_frames=5)
    flip, names = HorizontalFlip(data.class_names), data.class_names["motion"]
    other = {"left": "right", "right": "left"}
    moved = set()
    for sample in data:
        mirrored = flip(sample)
        assert mirrored.frames.equal(sample.frames.flip(-1)) and mirrored.target_frame == sample.target_frame
        before, after = sample.object_classes[1:, 2].tolist(), mirrored.object_classes[1:, 2].tolist()
        assert [names[n - 1] for n in after] == [other.get(names[n - 1], names[n - 1]) for n in before]
        assert mirrored.object_classes[:, :2].equal(sample.object_classes[:, :2])
        moved |= {names[n - 1] for n in before} & set(other)
        words = sample.expression.split()
        assert mirrored.expression.split() == [other.get(word, word) for word in words]
    assert moved  # or nothing would have been turned round


def test_one_clip_is_one_image_of_a_batch_and_its_mirror_image_another(here):
    data = build_dataset("refshapes_video", "val", build_transform(32), num_frames=5)
    of_clip = [index for index in range(len(data)) if data.image_ids[index] == data.image_ids[0]]
    assert 2 <= len(of_clip) < len(data)
    samples = [data[of_clip[0]], data[of_clip[1]], data[len(data) - 1], HorizontalFlip()(data[of_clip[0]])]
    batch = Collate(WordVocabulary(["the"]))(samples)
    assert batch.frames.shape == (4, 5, 3, 32, 32) and batch.target_frame.tolist() == [2] * 4
    assert batch.distinct_rows()[1].tolist() == [0, 0, 1, 2]


def test_all_frames_of_a_clip_are_transformed_alike(here):
    sample = build_dataset("refshapes_video", "val", num_frames=5)[0]
    sample = replace(sample, frames=sample.frames[..., 10:51], mask=sample.mask[:, 10:51])  # 64 x 41
    together = build_transform(37)(sample)
    for number, frame in enumerate(sample.frames):
        alone = build_transform(37)(replace(sample, frames=frame[None]))
        assert alone.frames[0].equal(together.frames[number]) and alone.pixel_valid.equal(together.pixel_valid)


def test_options_that_clips_do_not_have(here, tmp_path):
    with pytest.raises(RefsegError, match="refshapes_video has no split by 'unc'"):
        build_dataset("refshapes_video", "val", split_by="unc")
    with pytest.raises(RefsegError, match="jhmdb does not know what every pixel shows"):
        build_dataset("jhmdb", "test", objects=True)
    with pytest.raises(RefsegError, match="refshapes, a2d, jhmdb, refshapes_video"):
        build_dataset("youtube", "val")
    with pytest.raises(RefsegError, match="refseg check-data a2d"):
        build_dataset("a2d", "test", root=tmp_path)
    with pytest.raises(RefsegError, match="refseg check-data jhmdb"):
        build_dataset("jhmdb", "test", root=tmp_path)
    for wrong in ({"num_frames": 4}, {"num_frames": -1}, {"frame_stride": 0}):
        with pytest.raises(RefsegError, match="has no middle"):
            DataConfig(**wrong)


def test_check_data_counts_what_was_drawn_and_finds_what_is_broken(here, data_dir, tmp_path, refseg):
    status, out, _ = refseg("check-data", "refshapes_video")
    assert status == 0
    assert [line.split()[2] for line in out.splitlines() if line.startswith("refshapes_video")] == [
        "train",
        "val",
        "test",
    ]
    copy = shutil.copytree(data_dir / "refshapes_video", tmp_path / "copy")
    (copy / "Release" / "frames" / "val00000" / "00003.png").unlink()
    status, out, _ = refseg("check-data", "refshapes_video", "--split", "val", "--root", copy)
    assert status == 1 and "[FAIL] 1 things to fix" in out and "val00000" in out
    assert "refseg prepare refshapes_video" in out


# ---- from training to masks ------------------------------------------------------------------------------------


def test_train_evaluate_and_predict(tiny_experiment, here, data_dir, tmp_path, refseg, monkeypatch):
    """One network for clips from its first step to the masks of a folder of frames."""
    experiment = replace(
        tiny_experiment,
        model=replace(tiny_experiment.model, temporal=CFSAConfig(dim=12, heads=6)),
        data=DataConfig("refshapes_video", image_size=32, val_samples=3, num_frames=3, mirror=True),
        optim=replace(tiny_experiment.optim, steps=2, batch_size=4),
    )
    monkeypatch.setitem(PRESETS, "tiny_video", experiment)
    status, _, _ = refseg("train", "--preset", "tiny_video", "--out", tmp_path / "run", "--device", "cpu")
    best = tmp_path / "run" / "best"
    loaded = load_checkpoint(best)
    assert status == 0 and (loaded.num_frames, loaded.frame_stride) == (3, 1)

    words = ("--checkpoint", best, "--data", "refshapes_video", "--device", "cpu")
    status, out, _ = refseg("evaluate", *words, "--json", tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text())
    assert status == 0 and (results["convention"], results["at_threshold"]) == ("MTTR", ">")
    assert (results["num_frames"], results["frame_stride"]) == (3, 1)
    assert results["N"] == results["n_predictions"] == results["motion"]["N"] + results["static"]["N"]
    static = {"attribute", "position"} & results["by_kind"].keys()
    assert results["static"]["N"] == sum(results["by_kind"][kind]["N"] for kind in static) > 0
    *rows, precision, protocol = out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["all", "motion", "static", *results["by_kind"]]
    assert precision.startswith(f"mAP {results['mAP']:.3f}, AP50 ")
    assert protocol == "P@K counts IoU > K (protocol original-video)."

    frames = data_dir / "refshapes_video" / "Release" / "frames" / "val00000"
    words = ("--checkpoint", best, "--video", frames, "--out", tmp_path / "masks of a clip")
    status, out, err = refseg("predict", *words, "--expression", "the red circle that moves left")
    masks = sorted((tmp_path / "masks of a clip" / "masks").iterdir())
    assert status == 0 and [path.name for path in masks] == sorted(path.name for path in frames.iterdir())
    assert out.startswith("5 frames with the prediction for “the red circle that moves left”. 00001")
    assert "5 masks are in" in out and "predicting" in err
    assert {Image.open(path).size for path in masks} == {(64, 64)}


def test_an_old_run_of_images_is_one_of_single_frames(here):
    assert (DataConfig().num_frames, DataConfig().frame_stride) == (1, 1)
    sample = build_dataset("refshapes_video", "val")[0]
    assert sample.frames.shape == (1, 3, 64, 64) and sample.target_frame == 0 and sample.mask.any()
    assert sample.mask.dtype == torch.bool
