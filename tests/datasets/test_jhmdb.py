"""J-HMDB-Sentences: the official texts and list, small made clips, and every broken file with its sentence."""

import json
import shutil
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from refseg.datasets import DATASETS, build_dataset, jhmdb
from refseg.datasets.obtain.check import check_data
from refseg.errors import RefsegError

scipy_io = pytest.importorskip("scipy.io", reason="SciPy is not installed: no puppet masks")

CATCH, ODD = "Ball_catch_np1_0", "Day_@_7_(!)_+_catch"
HEIGHT, WIDTH, FRAMES, MASKS = 5, 7, 6, 4


def masks_of(seed):
    return (np.random.default_rng(seed).random((HEIGHT, WIDTH, MASKS)) < 0.5).astype(np.uint8)


def save_masks(folder, video, masks, key="part_mask"):
    path = folder / "puppet_mask/catch" / video / "puppet_mask.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, {key: masks})
    return path


def listed(video, frame, query, count=MASKS, action="catch"):
    base = f"./jhmdb_sentences/Rename_Images/{action}/{video}/{frame:05d}.png"
    return [video, base, f"./jhmdb_sentences/puppet_mask/{action}/{video}/puppet_mask.mat", count, query]


def tiny(folder, rows=None):
    """Two clips of six frames, the last two of which have no mask."""
    for seed, video in enumerate((CATCH, ODD)):
        frames = folder / "Rename_Images/catch" / video
        frames.mkdir(parents=True)
        for number in range(1, FRAMES + 1):
            Image.new("RGB", (WIDTH, HEIGHT), (10 * number + seed, 0, 0)).save(frames / f"{number:05d}.png")
        masks = masks_of(seed)
        masks[:, :, 3] = 0  # the person has left
        save_masks(folder, video, masks)
    (folder / "jhmdb_annotation.txt").write_text(
        f"video_id,query\n{CATCH}, Man in red catching  a ball\n{ODD},girl on the left\n"
    )
    words = "man in red catching a ball"
    rows = rows or [listed(CATCH, 1, words), listed(CATCH, 3, words), listed(ODD, 4, "girl on the left")]
    (folder / "jhmdb_sentences_samples_metadata.json").write_text(json.dumps(rows))
    return folder


def test_samples_of_the_list_in_its_order(tmp_path):
    data = build_dataset("jhmdb", "test", root=tiny(tmp_path), num_frames=5)
    assert data.sample_ids == [f"v_{CATCH}_f_1", f"v_{CATCH}_f_3", f"v_{ODD}_f_4"]
    assert data.expressions[0] == "Man in red catching a ball" and data[0].source == "jhmdb/test"
    for index, (seed, frames, target) in enumerate([(0, [1, 2, 3], 0), (0, [1, 2, 3, 4], 2), (1, [2, 3, 4], 2)]):
        sample = data[index]
        assert sample.frames[:, 0, 0, 0].tolist() == [10 * n + seed for n in frames]  # 5 and 6 have no mask: not used
        assert sample.target_frame == target and sample.original_size == (HEIGHT, WIDTH)
        expected = masks_of(seed)[:, :, frames[target] - 1] if index < 2 else np.zeros((HEIGHT, WIDTH))
        assert np.array_equal(sample.mask.numpy(), expected) and sample.original_mask.equal(sample.mask)
    assert (
        data[2].annotations.video_id == ODD and data[2].annotations.frame == 4 and data[2].annotations.action == "catch"
    )


def test_the_folder_above_and_other_places_will_do(tmp_path, monkeypatch):
    tiny(tmp_path / "jhmdb_sentences")
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    (tmp_path / "jhmdb_sentences/Rename_Images").rename(tmp_path / "frames")
    (tmp_path / "jhmdb_sentences/jhmdb_sentences_samples_metadata.json").rename(tmp_path / "list.json")
    where = {"image_root": tmp_path / "frames", "sample_list": tmp_path / "list.json"}
    for options in (where, where | {"root": tmp_path}):
        assert len(build_dataset("jhmdb", "test", **options)[0].frames) == 1


def test_it_is_for_testing_only(tmp_path):
    with pytest.raises(RefsegError, match="jhmdb .gavrilyuk. has no split 'train': choose one of test"):
        build_dataset("jhmdb", "train", root=tiny(tmp_path))


# ------------------------------------------------------------------------------------------ broken files


COUNTS = {"videos": 2, "sentences": 2, "frames": 3, "samples": 3}


def report_on(folder, monkeypatch, **options):
    splits = {"gavrilyuk": {"test": COUNTS}}
    monkeypatch.setitem(DATASETS, "jhmdb", replace(DATASETS["jhmdb"], splits=splits))
    return check_data("jhmdb", "test", folder, **options)


def test_a_sound_set_is_reported_as_such(tmp_path, monkeypatch):
    report = report_on(tiny(tmp_path), monkeypatch, num_frames=5)
    assert report.ok and report.found == COUNTS
    assert "[OK]   all 2 clips are there and whole" in str(report) and "expected folders" not in str(report)
    assert f"{ODD}: only the first 4 of 6 frames have a mask and are used." in str(report)
    assert f"{CATCH}: 4 frames, shorter than the window, padded." in str(report)


def frames_of(folder, video=CATCH):
    return folder / "Rename_Images/catch" / video


def without_frame(folder):
    (frames_of(folder) / "00002.png").unlink()


def without_last_frames(folder):
    for number in (3, 4, 5, 6):
        (frames_of(folder) / f"{number:05d}.png").unlink()


def other_size(folder):
    save_masks(folder, CATCH, np.zeros((WIDTH, HEIGHT, MASKS), np.uint8))


def giant(folder):
    path = save_masks(folder, CATCH, masks_of(0))
    small, large = struct.pack("<3i", HEIGHT, WIDTH, MASKS), struct.pack("<3i", 50000, 50000, MASKS)
    assert path.read_bytes().count(small) == 1
    path.write_bytes(path.read_bytes().replace(small, large))


def cut(folder):
    path = save_masks(folder, CATCH, np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, MASKS), np.uint8))
    path.write_bytes(path.read_bytes()[:-60])


def text_for_masks(folder):
    save_masks(folder, CATCH, masks_of(0)).write_text("<html>404</html>")


def no_masks(folder):
    save_masks(folder, CATCH, masks_of(0)).unlink()


BROKEN = [
    (without_frame, "lacks 1 frames, the first is number 2"),
    (without_last_frames, "has 2 frames but 4 masks: frames are missing"),
    (other_size, "masks of 5 x 7 pixels but the clip's frames are 7 x 5"),
    (giant, r"not a readable MAT file of masks \(its part_mask is of shape \(50000, 50000, 4\)\)"),
    (text_for_masks, "not a readable MAT file of masks"),
    (no_masks, "There is no file of masks"),
    (lambda f: save_masks(f, CATCH, masks_of(0), key="mask"), r"its part_mask is nothing"),
    (lambda f: save_masks(f, CATCH, np.array([["a", 1]], object)), r"its part_mask is cell"),
    (lambda f: save_masks(f, CATCH, masks_of(0)[:, :, :2]), "annotated but lies outside of its clip .* of which 2"),
]


def test_broken_clips_are_listed_and_refused_with_the_same_words(tmp_path, monkeypatch):
    for n, (spoil, sentence) in enumerate(BROKEN):
        folder = tmp_path / str(n)
        folder.mkdir()
        spoil(tiny(folder))
        data = build_dataset("jhmdb", "test", root=folder)
        with pytest.raises(RefsegError, match=sentence) as refusal:
            data[1]
        assert not data[2].mask.any()  # the other clip is sound
        report = report_on(folder, monkeypatch)
        assert not report.ok and report.findings.broken and str(refusal.value) in str(report)


def test_masks_cut_short_are_found_when_read(tmp_path):
    cut(tiny(tmp_path))
    with pytest.raises(RefsegError, match="not a readable MAT file of masks"):
        build_dataset("jhmdb", "test", root=tmp_path)[0]


def test_a_missing_clip(tmp_path, monkeypatch):
    shutil.rmtree(frames_of(tiny(tmp_path)))
    with pytest.raises(RefsegError, match=f"There is no folder of frames .*{CATCH}: give image_root"):
        build_dataset("jhmdb", "test", root=tmp_path)[0]
    report = report_on(tmp_path, monkeypatch)
    assert len(report.findings.missing) == 1 and "[FAIL] 1 of 2 clips are missing. There is no folder" in str(report)


def test_lists_that_are_wrong(tmp_path):
    for n, (row, sentence) in enumerate(
        [
            (listed(CATCH, 1, "another sentence"), "with the words 'another sentence' but"),
            (listed("Nobody", 1, "a"), "holds Nobody with the words 'a' but jhmdb_annotation.txt has None"),
            (listed("..", 1, "a", action=".."), "names a video"),
            (listed(CATCH, 1, "a", action=".."), "names a video '..'"),
            ([CATCH, f"../../{CATCH}/00001.png", "x", 4, "a"], "not MTTR's list"),
            ([CATCH, f"/Rename_Images/catch/{CATCH}/00001.png", "x", 4, "a"], "not MTTR's list"),
            ([CATCH, listed(CATCH, 1, "")[1], "./jhmdb_sentences/puppet_mask/x/puppet_mask.mat", 4, "a"], "not what"),
            ([CATCH, "", "", 4, "a"], "not MTTR's list"),
            ([CATCH, 4], "not MTTR's list"),
            ("word", "not MTTR's list"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(RefsegError, match=sentence):
            build_dataset("jhmdb", "test", root=tiny(folder, rows=[row]))


def test_the_list_says_how_many_masks_there_are(tmp_path):
    data = build_dataset(
        "jhmdb", "test", root=tiny(tmp_path, rows=[listed(CATCH, 1, "man in red catching a ball", count=3)])
    )
    with pytest.raises(RefsegError, match="has 4 masks but the list of samples says 3"):
        data[0]


def test_nothing_there_prints_tree_and_hosts(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    text = str(check_data("jhmdb", "test"))
    assert "[FAIL] There is no jhmdb_annotation.txt of jhmdb in" in text
    assert "puppet_mask/ACTION/VIDEO/puppet_mask.mat" in text and "jhmdb.is.tue.mpg.de" in text


def test_no_scipy(tmp_path, monkeypatch):
    data = build_dataset("jhmdb", "test", root=tiny(tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(RefsegError, match="read by SciPy, which is not installed"):
        data[0]


def test_limits_of_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(jhmdb, "MAX_FRAMES", 3)
    with pytest.raises(RefsegError, match="its part_mask is of shape"):
        build_dataset("jhmdb", "test", root=tiny(tmp_path))[0]


# ------------------------------------------------------------------------------------------ genuine files


@pytest.fixture
def genuine(shared_dir):
    folder = shared_dir / "data/jhmdb_sentences"
    if not folder.is_dir():
        pytest.skip("no genuine J-HMDB texts")
    return folder


def test_the_official_sizes(genuine):
    data = build_dataset("jhmdb", "test", root=genuine)
    assert data.counts() == DATASETS["jhmdb"].splits["gavrilyuk"]["test"]
    assert len(set(data.sentences.values())) == 616 and sum(data.mask_counts.values()) == 31838


def test_the_genuine_clip_with_masks_made_here(genuine, tmp_path):
    name = "Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2"
    path = tmp_path / "puppet_mask/catch" / name / "puppet_mask.mat"
    path.parent.mkdir(parents=True)
    masks = np.zeros((240, 320, 40), np.uint8)
    masks[100:211, 53:97] = 1
    scipy_io.savemat(path, {"part_mask": masks}, do_compression=True)
    for file in ("jhmdb_annotation.txt", "jhmdb_sentences_samples_metadata.json"):
        shutil.copyfile(genuine / file, tmp_path / file)
    data = build_dataset("jhmdb", "test", root=tmp_path, image_root=genuine / "Rename_Images", num_frames=3)
    indices = [n for n, row in enumerate(data.rows) if row.video == name]
    assert len(indices) == 3
    for sample in (data[n] for n in indices):
        assert sample.frames.shape == (3, 3, 240, 320) and sample.mask.sum() == 111 * 44
    elsewhere = next(n for n, row in enumerate(data.rows) if "_@_7_" in row.video and row.frame > 1)
    with pytest.raises(RefsegError, match="There is no file of masks|is no folder of frames"):
        data[elsewhere]
