"""A mask for every frame of a clip: the right window, frames read once, little memory, and going on after a stop."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from refseg.checkpoint import Checkpoint
from refseg.datasets import open_clip
from refseg.datasets.clip_files import Clip
from refseg.errors import RefsegError
from refseg.files import write_text
from refseg.models.base import ModelConfig, ReferringModel
from refseg.predict import ABOUT, MASKS, SHEET, Predictor, save_clip
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction

H, W, SIZE = 13, 29, 32
VOCABULARY = WordVocabulary(["the", "red", "one"], max_words=4)


class Listener(ReferringModel):
    """Red pixels of the target frame; it remembers how bright the blue of every frame was that it was given."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-1.0))
        self.config = ModelConfig()
        self.windows, self.targets = [], []

    def forward(self, batch):
        blue = batch.frames[0, :, 2, SIZE // 2, SIZE // 2] * 0.225 + 0.406  # as before Normalize
        self.windows.append((blue * 255).round().int().tolist())
        self.targets.append(int(batch.target_frame))
        return Prediction(batch.images[:, :1] - batch.images[:, 1:2] + self.bias, {})


def predictor(num_frames: int = 1, stride: int = 1, model: nn.Module | None = None) -> Predictor:
    loaded = Checkpoint(model or Listener(), VOCABULARY, SIZE, {}, num_frames=num_frames, frame_stride=stride)
    return Predictor(loaded, "cpu")


class Film(Clip):
    """``length`` frames whose blue is the frame's number and of whose columns the first ``index % W`` are red."""

    path = Path("film")
    size = (H, W)

    def __init__(self, length: int):
        self.length, self.read = length, []
        self.alive: weakref.WeakSet = weakref.WeakSet()
        self.most_alive = 0

    def __len__(self):
        return self.length

    def frame(self, index):
        self._check_index(index)
        self.read.append(index)
        frame = torch.zeros(3, H, W, dtype=torch.uint8)
        frame[2], frame[0, :, : index % W] = index % 256, 255
        self.alive.add(frame)
        self.most_alive = max(self.most_alive, len(self.alive))
        return frame


def folder_of(film: Film, folder: Path, name: str = "{:05d}.png", first: int = 1) -> Path:
    folder.mkdir()
    for index in range(len(film)):
        pixels = film.frame(index).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / name.format(index + first))
    return folder


# ---- the masks of a clip ---------------------------------------------------------------------------------------


def test_every_frame_is_seen_in_its_window_and_read_once():
    for num_frames, stride in [(1, 1), (3, 1), (5, 1), (5, 2), (3, 7)]:
        film, with_window = Film(11), predictor(num_frames, stride)
        masks = list(with_window.predict_clip(film, "red"))
        assert film.read == list(range(11))
        half = num_frames // 2
        near = [[i + stride * k for k in range(-half, half + 1) if 0 <= i + stride * k < 11] for i in range(11)]
        assert with_window.model.windows == near
        assert [window[target] for window, target in zip(near, with_window.model.targets)] == list(range(11))
        assert all(mask.shape == (H, W) and mask.dtype == torch.bool for mask in masks)
        assert [bool(mask[:, : max(0, i - 1)].all()) for i, mask in enumerate(masks)] == [True] * 11
        assert not any(mask[:, i + 1 :].any() for i, mask in enumerate(masks))


def test_a_checkpoint_of_pictures_gives_what_it_gives_for_each_picture():
    film, with_pictures = Film(7), predictor()
    for index, mask in enumerate(with_pictures.predict_clip(film, "the red one")):
        assert torch.equal(mask, with_pictures.predict(film.frame(index), "the red one").pred_mask)


def test_only_some_frames():
    film, with_window = Film(101), predictor(3, 2)
    masks = list(with_window.predict_clip(film, "red", [50, 3, 51]))
    assert with_window.model.windows == [[1, 3, 5], [48, 50, 52], [49, 51, 53]] and len(masks) == 3
    assert film.read == [*range(1, 6), *range(48, 54)]
    with pytest.raises(IndexError, match="there is no frame 101"):
        next(with_window.predict_clip(film, "red", [101]))


def test_memory_does_not_grow_with_the_clip():
    film, alive = Film(150), []
    count = 0
    for mask in predictor(5, 2, Quiet()).predict_clip(film, "red"):
        count += 1
        if count % 30 == 0:
            gc.collect()
            alive.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
        del mask
    assert count == 150 and film.read == list(range(150))
    assert film.most_alive <= 2  # the decoded ones: kept is only what the network is to see
    assert max(alive) <= alive[0] + 2


class Quiet(ReferringModel):
    def forward(self, batch):
        return Prediction(batch.images[:, :1], {})


# ---- files -----------------------------------------------------------------------------------------------------


def saved(masks: list[Path]) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in masks]


def test_a_mask_per_frame_and_a_sheet(tmp_path):
    frames = folder_of(Film(31), tmp_path / "frames", "shot-{}.png", first=0)
    with open_clip(frames) as clip:
        files, sheet = save_clip(predictor(3), clip, "the red one", tmp_path / "out", progress=False)
        expected = list(predictor(3).predict_clip(clip, "the red one"))
    assert [path.name for path in files] == [f"shot-{number}.png" for number in range(31)]
    assert sorted(tmp_path.glob("out/*")) == [tmp_path / "out" / name for name in (MASKS, ABOUT, SHEET)]
    assert all(np.array_equal(file, mask.numpy() * np.uint8(255)) for file, mask in zip(saved(files), expected))
    about = json.loads((tmp_path / "out" / ABOUT).read_text())
    assert (about["clip"], about["frames"], about["expression"]) == ("frames", 31, "the red one")
    assert str(tmp_path) not in json.dumps(about)
    assert Image.open(tmp_path / "out" / SHEET).width == 6 * (W + 22) + 22
    assert sheet.startswith("24 frames with the prediction for “the red one”. shot-0")
    assert "nothing" in sheet and "shot-30" in sheet


def test_a_stopped_run_goes_on_and_only_with_what_is_missing(tmp_path):
    frames, out = folder_of(Film(13), tmp_path / "frames"), tmp_path / "out"

    class Stops(Listener):
        def forward(self, batch):
            if len(self.targets) == 5:
                raise KeyboardInterrupt
            return super().forward(batch)

    with open_clip(frames) as clip:
        with pytest.raises(KeyboardInterrupt):
            save_clip(predictor(3, model=Stops()), clip, "red", out, progress=False)
        begun = {path.name: path.stat().st_mtime_ns for path in (out / MASKS).iterdir()}
        assert sorted(begun) == [f"{number:05d}.png" for number in range(1, 6)]
        again = predictor(3)
        files, _ = save_clip(again, clip, "red", out, progress=False)
        assert len(again.model.targets) == 8
        assert {path.name: path.stat().st_mtime_ns for path in files[:5]} == begun
        whole, _ = save_clip(predictor(3), clip, "red", tmp_path / "whole", progress=False)
        assert all(np.array_equal(a, b) for a, b in zip(saved(files), saved(whole), strict=True))
        half = files[7].read_bytes()
        files[7].write_bytes(half[: len(half) - 40])  # cut short, into the picture itself
        files[2].unlink()
        third = predictor(3)
        save_clip(third, clip, "red", out, progress=False)
        assert [window[target] for window, target in zip(third.model.windows, third.model.targets)] == [2, 7]


def test_masks_of_another_expression_or_network_are_made_anew(tmp_path):
    frames, out = folder_of(Film(5), tmp_path / "frames"), tmp_path / "out"
    other = Listener()
    nn.init.constant_(other.bias, -3.0)
    runs = [(predictor(), "red"), (predictor(), "the red"), (predictor(model=other), "the red"), (predictor(3), "red")]
    with open_clip(frames) as clip:
        for network, expression in runs:
            save_clip(network, clip, expression, out, progress=False)
            assert len(network.model.targets) == 5
            assert json.loads((out / ABOUT).read_text())["expression"] == expression


def test_a_stop_never_leaves_masks_beside_another_expression(tmp_path):
    """Killed at its first frame, a run with a new expression has removed the masks of the old one."""
    frames, out = folder_of(Film(5), tmp_path / "frames"), tmp_path / "out"

    class Stops(Listener):
        def forward(self, batch):
            raise KeyboardInterrupt

    with open_clip(frames) as clip:
        save_clip(predictor(), clip, "red", out, progress=False)
        with pytest.raises(KeyboardInterrupt):
            save_clip(predictor(model=Stops()), clip, "the red", out, progress=False)
    assert not list((out / MASKS).iterdir()) and not (out / SHEET).exists()
    assert json.loads((out / ABOUT).read_text())["expression"] == "the red"


def test_what_is_there_is_not_overwritten(tmp_path):
    frames = folder_of(Film(2), tmp_path / "frames")
    for number, (name, content, sentence) in enumerate(
        [
            ("", "a file", "is a file: name a folder"),
            ("holiday.png", "mine", "holds other files and no readable"),
            (ABOUT, "[1]", "holds other files and no readable"),
            (ABOUT, "{", "holds other files and no readable"),
        ]
    ):
        out = tmp_path / str(number)
        write_text(out / name, content)
        before = sorted(out.rglob("*"))
        with open_clip(frames) as clip, pytest.raises(RefsegError, match=sentence) as caught:
            save_clip(predictor(), clip, "red", out, progress=False)
        assert "\n" not in str(caught.value)
        assert sorted(out.rglob("*")) == before and (out / name).read_text() == content


def test_frames_and_another_clips_masks_are_not_overwritten(tmp_path):
    frames, others = folder_of(Film(2), tmp_path / "frames"), folder_of(Film(3), tmp_path / "others")
    with open_clip(frames) as clip:
        with pytest.raises(RefsegError, match="holds other files"):
            save_clip(predictor(), clip, "red", frames, progress=False)
        save_clip(predictor(), clip, "red", tmp_path / "out", progress=False)
    with open_clip(others) as clip, pytest.raises(RefsegError, match="holds the masks of another clip"):
        save_clip(predictor(), clip, "red", tmp_path / "out", progress=False)


def test_no_words_and_nothing_is_written(tmp_path):
    with open_clip(folder_of(Film(2), tmp_path / "frames")) as clip, pytest.raises(RefsegError, match="no word"):
        save_clip(predictor(), clip, " . ", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_mp4(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(7):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, : 8 * number, 0] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with open_clip(path) as clip:
        files, _ = save_clip(predictor(3), clip, "red", tmp_path / "out", progress=False)
    assert [path.name for path in files] == [f"{number:05d}.png" for number in range(1, 8)]
    shares = [mask.mean() / 255 for mask in saved(files)]
    assert shares == pytest.approx([number / 8 for number in range(7)], abs=0.06)


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_refuses_in_one_sentence(refseg, tiny_checkpoint, tmp_path):
    words = ("predict", "--checkpoint", tiny_checkpoint, "--expression", "the red circle")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no film")
    for more, sentence in [
        ((), "either a photo with --image or a clip with --video"),
        (("--image", "a.png", "--video", "b"), "either a photo with --image or a clip with --video"),
        (("--video", tmp_path / "nowhere"), "There is no clip at"),
        (("--video", tmp_path / "empty"), "holds no images"),
        (("--video", tmp_path / "text.mp4"), "is not a readable video"),
    ]:
        status, out, err = refseg(*words, *more, "--out", tmp_path / "out")
        assert (status, out, err.count("\n")) == (2, "", 1) and sentence in err, err
    assert not (tmp_path / "out").exists()
