"""A2D-Sentences: small made sets, the genuine texts and masks, and every broken file with its sentence."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import product

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from refseg.datasets import DATASETS, build_dataset
from refseg.datasets.a2d_files import open_masks
from refseg.datasets.obtain.check import check_data
from refseg.errors import RefsegError

HEIGHT, WIDTH, FRAMES = 5, 7, 6
MASKS = "text_annotations/a2d_annotation_with_instances"
DASH, TEST, BARE = "-abc", "xyz", "missed"


def box(top, left, bottom, right):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


LARGE, SMALL, CORNER = box(0, 0, 5, 4), box(1, 1, 3, 3), box(3, 5, 5, 7)


def write_masks(folder, video, frame, masks):
    """``masks``: instance -> [H,W], laid out as MATLAB does it: transposed, and without a dimension of one."""
    path = folder / "text_annotations/a2d_annotation_with_instances" / video / f"{frame:05d}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = np.stack([mask.T for mask in masks.values()])
    with h5py.File(path, "w") as file:
        file["instance"] = np.array(list(masks), dtype=np.float64)
        file["reMask"] = stacked[0] if len(masks) == 1 else stacked
    return path


def write_frames(folder, video):
    (folder / video).mkdir(parents=True)
    for number in range(1, FRAMES + 1):
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 0, 0)).save(folder / video / f"{number:05d}.png")


def videos(*subsets):
    return "".join(f"{v},1,0:00,0:05,{HEIGHT},{WIDTH},{FRAMES},2,{s}\n" for v, s in subsets)


def tiny(folder, frames="Release/frames"):
    """One video for training and one for testing; instance 3 of the first is in frame 2 only."""
    (folder / "Release").mkdir(parents=True)
    (folder / "Release/videoset.csv").write_text(videos((DASH, 0), (TEST, 1), (BARE, 0)))
    write_masks(folder, DASH, 2, {0: LARGE, 3: CORNER})
    write_masks(folder, DASH, 5, {0: SMALL})
    write_masks(folder, TEST, 6, {7: SMALL, 1: LARGE})
    texts = folder / "text_annotations"
    (texts / "a2d_missed_videos.txt").write_text(f"{BARE}\n")
    (texts / "a2d_annotation.txt").write_text(
        "video_id,instance_id,query\n"
        f"{DASH},0, A  dog in red \n{DASH},3,the ball\n{DASH},1 (copy),bird standing in the beach\n{TEST},1,a cat\n"
    )
    for video in (DASH, TEST):
        write_frames(folder / frames, video)
    return folder


def frame_2(folder):
    return folder / MASKS / DASH / "00002.h5"


# ------------------------------------------------------------------------------------------ sound files


def test_a_sample_for_every_sentence_and_frame_that_shows_its_instance(tmp_path):
    data = build_dataset("a2d", "train", root=tiny(tmp_path))
    assert data.sample_ids == ["v_-abc_f_2_i_0", "v_-abc_f_5_i_0", "v_-abc_f_2_i_3"]
    assert data.expressions == ["A dog in red", "A dog in red", "the ball"]
    assert data.image_ids == ["-abc/2", "-abc/5", "-abc/2"]
    assert len(data.left_out) == 1 and "'1 (copy)' of -abc (bird standing in the beach)" in data.left_out[0]
    for sample, (frame, mask) in zip(data, [(2, LARGE), (5, SMALL), (2, CORNER)], strict=True):
        assert sample.frames.shape == (1, 3, HEIGHT, WIDTH) and sample.frames.dtype == torch.uint8
        assert sample.frames[0, 0, 0, 0] == 10 * frame  # frames are counted from 1
        assert sample.mask.dtype == torch.bool and np.array_equal(sample.mask.numpy(), mask)
        assert sample.original_mask.equal(sample.mask) and sample.original_size == (HEIGHT, WIDTH)
        assert sample.source == "a2d/train" and sample.pixel_valid is None and sample.objects is None
        assert sample.annotations.video_id == "-abc" and sample.annotations.frame == frame
    assert [s.sample_id for s in build_dataset("a2d", "test", root=tmp_path)] == ["v_xyz_f_6_i_1"]
    assert data.referent_ids == ["-abc/2/0", "-abc/5/0", "-abc/2/3"]


def test_windows(tmp_path):
    for n, (cache_images, (num_frames, stride, first, last)) in enumerate(
        product(
            [False, True],
            [
                (1, 1, [2], [5]),
                (3, 1, [1, 2, 3], [4, 5, 6]),
                (3, 2, [2, 4], [3, 5]),
                (5, 1, [1, 2, 3, 4], [3, 4, 5, 6]),
            ],
        )
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        options = {"num_frames": num_frames, "frame_stride": stride, "cache_images": cache_images}
        data = build_dataset("a2d", "train", root=tiny(folder), **options)
        for _ in range(2):  # the second time from the cache, which the first must not reach
            for sample, frames, annotated in zip(data, (first, last, first), (2, 5, 2)):
                assert sample.frames[:, 0, 0, 0].tolist() == [10 * n for n in frames]
                assert frames[sample.target_frame] == annotated and sample.mask.any()
                sample.frames.fill_(99)
                sample.mask.fill_(False)


def test_windows_without_a_middle(tmp_path):
    for n, (num_frames, stride) in enumerate([(2, 1), (0, 1), (-1, 1), (3, 0)]):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(RefsegError, match="num_frames must be odd"):
            build_dataset("a2d", "train", root=tiny(folder), num_frames=num_frames, frame_stride=stride)


def test_frames_are_found_where_people_put_them(tmp_path):
    for n, frames in enumerate(["Release/pngs320H", "frames", "Release/clips320H", "Release/CLIPS320"]):
        folder = tmp_path / str(n)
        folder.mkdir()
        tiny(folder / "a2d_sentences", frames)
        assert build_dataset("a2d", "train", root=folder)[0].frames[0, 0, 0, 0] == 20
        (folder / "a2d_sentences" / frames).rename(folder / "elsewhere")
        assert build_dataset("a2d", "train", root=folder, image_root=folder / "elsewhere")[0].frames[0, 0, 0, 0] == 20


def test_default_root_and_transform(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    tiny(tmp_path / "a2d_sentences")
    assert build_dataset("a2d", "test", transform=lambda sample: sample.sample_id)[0] == "v_xyz_f_6_i_1"


def test_mp4_clips(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: no video files")
    shutil.rmtree(tiny(tmp_path) / "Release/frames")
    (tmp_path / "Release/clips320H").mkdir()
    height, width = 6, 8  # H.264 wants even numbers
    path = tmp_path / "Release/clips320H/-abc.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(1, FRAMES + 1):
            pixels = np.full((height, width, 3), 30 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    write_masks(tmp_path, DASH, 2, {0: np.ones((height, width), np.uint8), 3: np.eye(height, width, dtype=np.uint8)})
    write_masks(tmp_path, DASH, 5, {0: np.ones((height, width), np.uint8)})
    sample = build_dataset("a2d", "train", root=tmp_path, num_frames=3)[1]
    assert ((sample.frames.float().mean(dim=(1, 2, 3)) - torch.tensor([120.0, 150.0, 180.0])).abs() < 10).all()
    assert sample.target_frame == 1 and sample.mask.all()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RefsegError, match="-abc.mp4 is cut short") as refusal:
        build_dataset("a2d", "train", root=tmp_path)[0]
    report = check_data("a2d", "train", tmp_path)
    assert report.findings.broken == [str(refusal.value)]


def test_the_lists_of_mttr_and_losh(tmp_path):
    for n, rows in enumerate(
        [
            [["a dog", DASH, 5, 0], ["the ball", DASH, 2, 3]],
            [["a dog", "dog", DASH, 5, "0"], ["the ball", "ball", DASH, 2, "3"]],
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        (tiny(folder) / "list.json").write_text(json.dumps(rows))
        data = build_dataset("a2d", "train", root=folder, sample_list=folder / "list.json")
        assert data.sample_ids == ["v_-abc_f_5_i_0", "v_-abc_f_2_i_3"] and data.expressions == ["a dog", "the ball"]
        assert np.array_equal(data[1].mask.numpy(), CORNER)
        with pytest.raises(RefsegError, match="holds the video -abc, which is not of split 'test'"):
            build_dataset("a2d", "test", root=folder, sample_list=folder / "list.json")


def test_lists_that_are_wrong(tmp_path):
    for n, (content, sentence) in enumerate(
        [
            ("[[1, 2]]", "not MTTR's list"),
            ('[["a", "../../x", 1, 0]]', "names a video '../../x'"),
            ('[["a", "-abc", 0, 0]]', "not MTTR's list"),
            ('[["a", "-abc", 2, 0], ["b", "-abc", 2, 0]]', "holds the sample v_-abc_f_2_i_0 twice"),
            ("[]", "leads to no sample"),
            ("{", "not valid JSON"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        (tiny(folder) / "list.json").write_text(content)
        with pytest.raises(RefsegError, match=sentence):
            build_dataset("a2d", "train", root=folder, sample_list=folder / "list.json")


def test_a_list_that_the_masks_contradict(tmp_path):
    (tiny(tmp_path) / "list.json").write_text(json.dumps([["a", DASH, 5, 3]]))
    with pytest.raises(RefsegError, match="00005.h5 has no mask of instance 3"):
        build_dataset("a2d", "train", root=tmp_path, sample_list=tmp_path / "list.json")[0]


# ------------------------------------------------------------------------------------------ objects and annotations


def with_objects(folder):
    """Instance 0 a large red box, 3 a blue ball; what is known of every sentence."""
    texts = folder / "text_annotations"
    (folder / "Release/videoset.csv").write_text(videos((DASH, 2), (TEST, 1)))
    (texts / "facts.json").write_text(json.dumps({f"{DASH}/3": {"kind": "motion"}}))
    objects = {DASH: {"0": {"shape": "box", "colour": "red"}, "3": {"shape": "ball", "colour": "blue"}}}
    attributes = {"shape": ["ball", "box", "star"], "colour": ["blue", "red"]}
    (texts / "attributes.json").write_text(json.dumps({"attributes": attributes, "objects": objects}))
    write_masks(folder, DASH, 2, {3: SMALL, 0: LARGE})  # the small one lies over the large one
    return folder


def test_what_every_pixel_shows(tmp_path):
    for n, cache_images in enumerate([False, True]):
        folder = tmp_path / str(n)
        folder.mkdir()
        data = build_dataset(
            "refshapes_video", "val", root=with_objects(tiny(folder)), objects=True, cache_images=cache_images
        )
        assert data.class_names == {"shape": ("ball", "box", "star"), "colour": ("blue", "red")}
        for _ in range(2):
            sample = data[2]
            assert sample.sample_id == "v_-abc_f_2_i_3" and sample.source == "refshapes_video/val"
            assert sample.annotations.kind == "motion" and sample.annotations.object_ids == [0, 3]
            assert sample.object_classes.tolist() == [[0, 0], [2, 2], [1, 1]]  # none, the box, the ball upon it
            assert sample.objects.dtype == torch.uint8 and np.array_equal(sample.objects == 2, SMALL == 1)
            assert np.array_equal(sample.objects == 1, (LARGE == 1) & (SMALL == 0))
            sample.objects.fill_(9)
            sample.mask.fill_(True)
        plain = build_dataset("refshapes_video", "val", root=folder)
        assert (
            plain[2].objects is None and plain[2].annotations.object_ids is None and plain[0].annotations.kind is None
        )


def test_objects_without_what_they_need(tmp_path):
    for n, (spoil, sentence) in enumerate(
        [
            (lambda c: c["objects"]["-abc"].pop("3"), "says nothing about instance 3 of -abc"),
            (lambda c: c["objects"]["-abc"]["3"].pop("shape"), "does not name every object's attributes"),
            (lambda c: c["objects"]["-abc"]["3"].update(shape="cup"), "does not name every object's attributes"),
            (lambda c: c.pop("attributes"), "does not name every object's attributes"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = with_objects(tiny(folder)) / "text_annotations/attributes.json"
        content = json.loads(path.read_text())
        spoil(content)
        path.write_text(json.dumps(content))
        with pytest.raises(RefsegError, match=sentence):
            build_dataset("refshapes_video", "val", root=folder, objects=True)[0]
        path.unlink()
        with pytest.raises(RefsegError, match="read it without objects"):
            build_dataset("refshapes_video", "val", root=folder, objects=True)


# ------------------------------------------------------------------------------------------ broken files


def edit(name, old, new):
    def spoil(folder):
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


TEXT, VIDEOS = "text_annotations/a2d_annotation.txt", "Release/videoset.csv"


def test_texts_that_are_wrong(tmp_path):
    for n, (spoil, sentence) in enumerate(
        [
            (edit(TEXT, "video_id,instance_id,query\n", ""), "does not begin with the header"),
            (edit(TEXT, f"{DASH},3,", "../../etc,3,"), r"Line 3 of .* names a video '../../etc'"),
            (edit(TEXT, f"{DASH},3,", "a/b,3,"), "names a video 'a/b'"),
            (edit(TEXT, f"{DASH},3,", "unknown,3,"), "about the video unknown, but see videoset.csv does not hold it"),
            (edit(TEXT, f"{DASH},3,", f"{BARE},3,"), "about the video missed, but see a2d_missed_videos.txt"),
            (edit(TEXT, ",3,the ball", ",three,the ball"), "names an instance 'three', which is not a number"),
            (edit(TEXT, ",3,the ball", ",0,the ball"), "a second sentence for instance 0 of -abc"),
            (edit(TEXT, ",3,the ball", ",3, "), "has no words"),
            (edit(TEXT, ",3,the ball", ",3,the ball,again"), "Line 3 of .* has 4 columns"),
            (edit(VIDEOS, f"{DASH},1,", "vid,"), "Line 1 of .* is not a row of nine columns"),
            (edit(VIDEOS, ",2,0\n", ",2,train\n"), "is not a row of nine columns that ends with 0, 1 or 2"),
            (edit(VIDEOS, DASH, "../x"), "names a video '../x'"),
            (lambda folder: (folder / VIDEOS).unlink(), "There is no .*videoset.csv"),
            (lambda folder: (folder / TEXT).unlink(), "There is no .*a2d_annotation.txt of a2d"),
            (lambda folder: (folder / TEXT).write_bytes(b"\xff\xfe\x00"), "is not a readable text"),
            (lambda folder: shutil.rmtree(frame_2(folder).parent), "There is no folder of masks"),
            (
                lambda folder: frame_2(folder).rename(frame_2(folder).with_name("b.h5")),
                "b.h5 is not named by the number",
            ),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        spoil(tiny(folder))
        with pytest.raises(RefsegError, match=sentence):
            build_dataset("a2d", "train", root=folder)
        report = check_data("a2d", "train", folder)
        assert not report.ok and "[FAIL]" in str(report)


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(RefsegError, match="holds no split 'val' but only: train, test"):
        build_dataset("refshapes_video", "val", root=tiny(tmp_path))
    with pytest.raises(RefsegError, match="a2d .gavrilyuk. has no split 'val': choose one of train, test"):
        check_data("a2d", "val", tmp_path)
    with pytest.raises(RefsegError, match="refshapes, a2d, jhmdb"):
        check_data("coco", "val", tmp_path)


def rewrite(change):
    """Breaks the masks of frame 2 of the training video."""

    def spoil(folder):
        with h5py.File(frame_2(folder), "a") as file:
            change(file)

    return spoil


def replaced(name, **content):
    def change(file):
        del file[name]
        if content:
            file.create_dataset(name, **content)

    return rewrite(change)


def linked(file):
    del file["reMask"]
    file["reMask"] = h5py.ExternalLink("00005.h5", "/reMask")


def stored_elsewhere(file):
    del file["reMask"]
    file.create_dataset("reMask", (2, WIDTH, HEIGHT), "u1", external=[("/etc/hostname", 0, 70)])


BROKEN_MASKS = [
    (lambda folder: frame_2(folder).write_text("<html>"), "not a readable file of masks"),
    (lambda folder: frame_2(folder).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "not a readable file of masks"),
    (replaced("instance"), "it holds no instance"),
    (replaced("reMask"), "it holds no reMask"),
    (replaced("reMask", shape=(2, 10**6, 10**6), dtype="u1", chunks=(1, 64, 64)), "declares the absurd shape"),
    (replaced("reMask", shape=(3, WIDTH, HEIGHT), dtype="u1"), r"2 instances but reMask of shape \(3, 7, 5\)"),
    (replaced("reMask", shape=(WIDTH, HEIGHT), dtype="u1"), r"2 instances but reMask of shape \(7, 5\)"),
    (replaced("reMask", data="masks"), "its reMask is not a table of numbers"),
    (replaced("instance", data=[0.5, 3.0]), "its instances are not whole numbers"),
    (replaced("instance", data=[float("nan"), 3.0]), "its instances are not whole numbers"),
    (replaced("instance", shape=(10**9,), dtype="u1", chunks=(64,)), "it lists 1000000000 instances"),
    (rewrite(linked), "it holds no reMask"),
    (rewrite(stored_elsewhere), "its reMask is not a table of numbers"),
]


def test_masks_that_are_wrong(tmp_path):
    for n, (spoil, sentence) in enumerate(BROKEN_MASKS):
        folder = tmp_path / str(n)
        folder.mkdir()
        spoil(tiny(folder))
        with pytest.raises(RefsegError, match=f"00002.h5 .*{sentence}") as refusal:
            build_dataset("a2d", "train", root=folder)
        assert str(refusal.value) in check_data("a2d", "train", folder).findings.broken
        assert len(build_dataset("a2d", "test", root=folder)) == 1


def test_masks_cut_short(tmp_path):
    path = frame_2(tiny(tmp_path))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 211):
        path.write_bytes(whole[:length])
        with pytest.raises(RefsegError, match="not a readable file of masks"):
            build_dataset("a2d", "train", root=tmp_path)[0]


COUNTS = {"videos": 1, "sentences": 2, "frames": 2, "samples": 3}


def report_on(folder, monkeypatch, **options):
    splits = {"gavrilyuk": {"train": COUNTS}}
    monkeypatch.setitem(DATASETS, "a2d", replace(DATASETS["a2d"], splits=splits))
    return check_data("a2d", "train", folder, **options)


def test_a_sound_set_is_reported_as_such(tmp_path, monkeypatch):
    report = report_on(tiny(tmp_path), monkeypatch, num_frames=7)
    assert report.ok and report.found == COUNTS and report.findings.broken == []
    assert "[OK]   samples         3   official       3" in str(report)
    assert "[OK]   all 1 clips are there and whole" in str(report) and "expected folders" not in str(report)
    assert "-abc: 6 frames, shorter than the window, padded." in str(report)
    assert "left out: Line 4" in str(report)
    assert "shorter" not in str(report_on(tmp_path, monkeypatch, num_frames=5))


def remove(folder, *numbers):
    for number in numbers:
        (folder / "Release/frames" / DASH / f"{number:05d}.png").unlink()


BROKEN_CLIPS = [
    (lambda f: remove(f, 3), 0, "lacks 1 frames, the first is number 3"),
    (lambda f: remove(f, 5, 6), 1, "Frame 5 of -abc is annotated but lies outside of its clip .*, of which 4 frames"),
    (lambda f: Image.new("RGB", (5, 7)).save(f / "Release/frames/-abc/00003.png"), 0, "Frame 3 of the clip .* 5 x 7"),
    (lambda f: write_masks(f, DASH, 5, {0: SMALL.T}), 1, "00005.h5 has masks of 5 x 7 pixels but the clip's .* 7 x 5"),
    (lambda f: (f / "Release/frames/-abc/00002.png").write_text("x"), 0, "00002.png is not a readable image"),
]


def test_broken_clips_are_listed_and_refused_with_the_same_words(tmp_path, monkeypatch):
    for n, (spoil, index, sentence) in enumerate(BROKEN_CLIPS):
        folder = tmp_path / str(n)
        folder.mkdir()
        spoil(tiny(folder))
        with pytest.raises(RefsegError, match=sentence) as refusal:
            build_dataset("a2d", "train", root=folder, num_frames=3)[index]
        report = report_on(folder, monkeypatch)
        assert not report.ok and len(report.findings.broken) == 1
        broken = report.findings.broken[0]
        assert broken[:60] == str(refusal.value)[:60] and broken in str(report)
        assert "[FAIL] 1 things to fix" in str(report) and "expected folders" in str(report)


def test_a_missing_clip(tmp_path, monkeypatch):
    shutil.rmtree(tiny(tmp_path) / "Release/frames" / DASH)
    with pytest.raises(RefsegError, match=r"The clip -abc.mp4 .* is in none of .*frames: give image_root"):
        build_dataset("a2d", "train", root=tmp_path)[0]
    report = report_on(tmp_path, monkeypatch)
    assert len(report.findings.missing) == 1 and "[FAIL] 1 of 1 clips are missing. The clip -abc.mp4" in str(report)
    with pytest.raises(RefsegError, match="is not a folder"):
        build_dataset("a2d", "train", root=tmp_path, image_root=tmp_path / "nowhere")


def test_nothing_there_prints_tree_and_hosts_once(refseg, tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    status, out, _ = refseg("check-data", "a2d")
    assert status == 1 and out.count("[FAIL]") == 1 and "There is no text_annotations/a2d_annotation.txt of a2d" in out
    assert "Release/clips320H/VIDEO.mp4" in out and "kgavrilyuk.github.io" in out


def test_the_command_reports_every_split(refseg, tmp_path):
    status, out, _ = refseg("check-data", "a2d", "--root", tiny(tmp_path), "--num-frames", "9")
    assert status == 1 and "a2d (gavrilyuk) train in" in out and "a2d (gavrilyuk) test in" in out
    assert out.count("shorter than the window") == 2


# ------------------------------------------------------------------------------------------ genuine files


@pytest.fixture(scope="module")
def genuine(shared_dir, tmp_path_factory):
    """The official texts, and a videoset.csv made from the official split."""
    source = shared_dir / "data/a2d_sentences"
    if not source.is_dir():
        pytest.skip("no genuine A2D texts")
    root = tmp_path_factory.mktemp("a2d")
    (root / "Release").mkdir()
    (root / "text_annotations").mkdir()
    for name in ("a2d_annotation.txt", "a2d_missed_videos.txt"):
        shutil.copyfile(source / name, root / "text_annotations" / name)
    with (source / "DERIVED_split_by_video.csv").open() as file:
        split = list(csv.reader(file))
    (root / "Release/videoset.csv").write_text(videos(*split))
    return source, root


@pytest.fixture(scope="module")
def true_masks(genuine):
    return json.loads((genuine[0] / "a2d_sentences_test_annotations_in_coco_format.json").read_text())


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_official_sizes(genuine, true_masks, split):
    source, root = genuine
    sample_list = source / f"a2d_sentences_single_frame_{split}_annotations.losh5.json"
    data = build_dataset("a2d", split, root=root, sample_list=sample_list)
    assert data.counts() == DATASETS["a2d"].splits["gavrilyuk"][split]
    assert len(data.left_out) == (split == "train")
    assert all(data.sentences[row.video, row.instance] == row.expression for row in data.rows)
    if split == "test":
        assert data.sample_ids == [image["id"] for image in true_masks["images"]]


def test_genuine_masks(genuine, true_masks, shared_dir, tmp_path):
    """All samples of 13 genuine annotated frames: which there are, in which order, and every pixel."""
    masks = shared_dir / "data/a2d_h5" / MASKS
    if not masks.is_dir():
        pytest.skip("no genuine masks")
    manifest = json.loads((shared_dir / "data/a2d_h5/MANIFEST.json").read_text())
    frames = {f"v_{video}_f_{frame}_i_" for video, frame, *_ in manifest}
    truth = {a["image_id"]: a["segmentation"] for a in true_masks["annotations"]}
    expected = [image["id"] for image in true_masks["images"] if image["id"].rpartition("_i_")[0] + "_i_" in frames]
    shutil.copytree(genuine[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / MASKS).symlink_to(masks)
    data = build_dataset("a2d", "test", root=tmp_path, strict=False)
    assert all("There is no folder of masks" in problem for problem in data.problems)  # of the other 734 videos
    rows = data.rows
    assert [row.sample_id for row in rows] == expected and len(rows) > 20
    for row in rows:
        with open_masks(masks / row.video / f"{row.frame:05d}.h5") as (instances, size, read):
            mask = read(instances.index(row.instance))
        assert mask.shape == size == tuple(truth[row.sample_id]["size"])
        assert np.array_equal(mask.numpy(), coco_mask.decode(truth[row.sample_id]) == 1)
