"""Clips from folders and from video files: the right frame at every index, and one sentence for every broken clip."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.datasets import clip_files as video
from refseg.datasets.clip_files import open_clip, plain_name
from refseg.datasets.clips import window
from refseg.errors import RefsegError


def image(path, value, size=(7, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def reds(clip):
    return [int(frame[0, 0, 0]) for frame in clip]


# ------------------------------------------------------------------------------------------ folders


def test_images_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 12):  # 10.png sorts before 2.png as text
        image(tmp_path / f"{number}.png", 10 * number)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    with open_clip(tmp_path) as clip:
        assert len(clip) == 11 and clip.size == (5, 7)
        assert reds(clip) == [10 * n for n in range(1, 12)]
        assert clip.frame(2).shape == (3, 5, 7) and clip.frame(2).dtype == torch.uint8
        clip.check()
        with pytest.raises(IndexError, match="has 11 frames"):
            clip.frame(11)
        with pytest.raises(IndexError):
            clip.frame(-1)


def test_names_with_a_prefix_that_count_from_zero(tmp_path):
    for number in range(3):
        image(tmp_path / f"frame2_{number:03d}.JPG", 0)
    assert len(open_clip(tmp_path)) == 3


def test_folders_that_are_no_whole_clip(tmp_path):
    for n, (names, sentence) in enumerate(
        [
            (["00001.png", "00002.png", "00005.png"], "lacks 2 frames, the first is number 3"),
            (["00002.png", "00003.png"], "lacks 1 frames, the first is number 1"),
            (["999999999.png"], "lacks 999999998 frames"),
            (["1.png", "00001.jpg"], "two images of number 1"),
            (["1.png", "mask.png"], "mask.png is among the frames of a clip but its name ends in no number"),
            ([], "holds no images"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        for name in names:
            image(folder / name, 0)
        with pytest.raises(RefsegError, match=sentence):
            open_clip(folder)


def test_frames_of_differing_size_and_broken_frames(tmp_path):
    for number, size in enumerate([(7, 5), (7, 5), (5, 7), (7, 5)], start=1):
        image(tmp_path / f"{number}.png", 0, size)
    sentence = r"Frame 3 of the clip .* is 5 x 7 pixels but the first one is 7 x 5"
    with open_clip(tmp_path) as clip:
        clip.frame(3)
        with pytest.raises(RefsegError, match=sentence):
            clip.frame(2)
        with pytest.raises(RefsegError, match=sentence):
            clip.check()
    (tmp_path / "3.png").write_text("<html>")
    with pytest.raises(RefsegError, match="3.png is not a readable image"):
        open_clip(tmp_path).check()


def test_nothing_there(tmp_path):
    with pytest.raises(RefsegError, match="There is no clip at"):
        open_clip(tmp_path / "nowhere.mp4")


def test_no_pyav(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RefsegError, match="PyAV, which is not installed: run `pip install av`"):
        open_clip(tmp_path / "a.mp4")


# ------------------------------------------------------------------------------------------ video files

FRAMES = 31


@pytest.fixture(scope="module")
def write_video():
    """Writes a video of FRAMES frames, 22 high and 34 wide, each 8 brighter than the one before."""
    av = pytest.importorskip("av", reason="PyAV is not installed: no video files")

    def write(path, codec="libx264", container=None, frames=FRAMES, **options):
        with av.open(str(path), "w", options=container or {}) as file:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 34, 22, "yuv420p"
            for number in range(frames):
                pixels = np.full((22, 34, 3), 8 * number, dtype=np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(stream.encode())
        return path

    return write


KINDS = {
    "bidirectional.mp4": {"g": "7", "bf": "3"},
    "open-gop.mp4": {"g": "7", "x264-params": "open-gop=1:bframes=3"},
    "header-first.mp4": {"container": {"movflags": "faststart"}},
    "fragments.mp4": {"g": "7", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "old.avi": {"codec": "mpeg4", "g": "7", "bf": "2", "qmin": "1", "qmax": "1"},
    "matroska.mkv": {"g": "7"},
}


def test_every_frame_forwards_and_at_random(write_video, tmp_path):
    for n, name in enumerate(KINDS):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = write_video(folder / name, **KINDS[name])
        with open_clip(path) as clip:
            assert len(clip) == FRAMES and clip.size == (22, 34)
            frames = list(clip)
            assert frames[0].shape == (3, 22, 34) and frames[0].dtype == torch.uint8
            means = torch.stack([frame.float().mean() for frame in frames])
            assert (means - 8 * torch.arange(FRAMES)).abs().max() < 4  # nearer to its own value than to a neighbour's
            clip.check()
            for index in torch.randperm(FRAMES).tolist():
                assert clip.frame(index).equal(frames[index])
            clip._times = None  # as for a file that does not say when its frames are shown
            for index in (5, 3, 30, 0):
                assert clip.frame(index).equal(frames[index])
            with pytest.raises(IndexError):
                clip.frame(FRAMES)


def test_a_video_cut_short(write_video, tmp_path):
    for n, name in enumerate(KINDS):
        folder = tmp_path / str(n)
        folder.mkdir()
        whole = write_video(folder / name, **KINDS[name]).read_bytes()
        path = folder / f"cut{(folder / name).suffix}"
        for length in (1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 40):
            path.write_bytes(whole[:length])
            with pytest.raises(RefsegError, match="is cut short|is not a readable video"):
                open_clip(path)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RefsegError, match="is cut short, as if its transfer had stopped: download it again"):
            open_clip(path)


def test_what_is_no_video(write_video, tmp_path):
    for n, content in enumerate(
        [
            b"",
            b"<html>404</html>",
            b"ffconcat version 1.0\nfile whole.mp4\n",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nwhole.mp4\n#EXT-X-ENDLIST\n",  # leads to other files
            b"RIFF" + bytes(40),
            b"\x1a\x45\xdf\xa3" + bytes(40),
            bytes.fromhex("00000018") + b"ftypisom" + bytes(12),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        write_video(folder / "whole.mp4", frames=2)
        (folder / "odd.mp4").write_bytes(content)
        with pytest.raises(RefsegError, match=r"odd.mp4 (is not a readable video|holds no images)"):
            open_clip(folder / "odd.mp4")


def test_absurd_declared_size(write_video, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 22 * 34 - 1)
    with pytest.raises(RefsegError, match="declares frames of 34 x 22 pixels"):
        open_clip(write_video(tmp_path / "big.mp4", frames=2))


def test_damage_in_the_middle_is_one_sentence_or_a_image(write_video, tmp_path):
    data = bytearray(write_video(tmp_path / "a.mp4", g="7").read_bytes())
    random = np.random.default_rng(0)
    for _ in range(20):
        spoilt = bytearray(data)
        place = int(random.integers(len(data) - 60))
        spoilt[place : place + 60] = random.integers(0, 256, 60, dtype=np.uint8).tobytes()
        (tmp_path / "b.mp4").write_bytes(spoilt)
        try:
            with open_clip(tmp_path / "b.mp4") as clip:
                assert all(frame.shape == (3, *clip.size) for frame in clip)
        except RefsegError as error:
            assert "b.mp4" in str(error)


def test_the_genuine_avi_shows_the_genuine_images(shared_dir):
    pytest.importorskip("av", reason="PyAV is not installed: no video files")
    name, base = "Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2", shared_dir / "data/jhmdb_sentences"
    if not base.is_dir():
        pytest.skip("no genuine J-HMDB clip")
    with (
        open_clip(base / f"ReCompress_Videos/catch/{name}.avi") as film,
        open_clip(base / f"Rename_Images/catch/{name}") as images,
    ):
        assert len(film) == len(images) == 40 and film.size == images.size == (240, 320)
        shown = torch.stack([images.frame(index)[:, ::4, ::4] for index in range(40)]).float()
        for index in (39, 0, 17, 16):
            distance = (film.frame(index)[:, ::4, ::4] - shown).abs().mean(dim=(1, 2, 3))
            assert distance.argmin() == index and distance[index] < 3


# ------------------------------------------------------------------------------------------ names and windows


def test_windows_leave_out_what_is_not_there():
    for length, centre, num_frames, stride, expected in [
        (10, 4, 1, 1, ([4], 0)),
        (10, 4, 3, 2, ([2, 4, 6], 1)),
        (10, 0, 5, 1, ([0, 1, 2], 0)),
        (10, 9, 5, 3, ([3, 6, 9], 2)),
        (2, 1, 7, 1, ([0, 1], 1)),
    ]:
        assert window(length, centre, num_frames, stride) == expected


def test_names_that_lead_elsewhere():
    for name in ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b", " a", "C:a"]:
        with pytest.raises(RefsegError, match="^Here names a video"):
            plain_name(name, "Here")
        assert plain_name("-a@(!)+..b", "Here") == "-a@(!)+..b"
