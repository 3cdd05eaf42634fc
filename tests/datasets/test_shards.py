"""Tar shards: the very same samples, readable by WebDataset's rules, and every fault with its sentence."""

import io
import json
import pickle
import tarfile
from dataclasses import replace

import pytest
import torch

from refseg.datasets import build_dataset, build_transform
from refseg.datasets.shards import write as module
from refseg.datasets.shards.read import INDEX, ShardedImages
from refseg.datasets.shards.write import splits_there, write_shards
from refseg.errors import RefsegError


@pytest.fixture
def source(tmp_path, small_refcoco):
    return small_refcoco(tmp_path / "source")


@pytest.fixture
def sharded(source, tmp_path):
    """Two images fit into a shard, so there are three shards."""
    sizes = [path.stat().st_size for path in (source / "images" / "train2014").iterdir()]
    most = (1.2 * max(sizes) + 2048) / 1_000_000
    assert write_shards(splits_there("refcoco", source), tmp_path / "shards", most) == 3
    return tmp_path / "shards"


def load(root, split="train"):
    return build_dataset("refcoco", split, root=root, transform=build_transform(32))


# ---- sound shards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split, count", [("train", 6), ("val", 4)])
def test_the_same_samples_as_from_single_files(source, sharded, split, count):
    one, other = load(source, split), load(sharded, split)
    assert len(one) == len(other) == count and one.sample_ids == other.sample_ids
    for left, right in zip(one, other):
        assert torch.equal(left.frames, right.frames) and torch.equal(left.mask, right.mask)
        assert left.expression == right.expression and left.annotations == right.annotations
    assert sorted(p.name for p in sharded.iterdir()) == [
        "instances.json", "pictures-00000.tar", "pictures-00001.tar", "pictures-00002.tar", "refs(unc).json", INDEX,
    ]  # fmt: skip


def test_a_shard_is_what_webdataset_reads(source, sharded):
    """Members that share the name up to the first dot follow each other: an image as it was, and its JSON."""
    with tarfile.open(sharded / "pictures-00000.tar") as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert [name for name, _ in members] == ["100.jpg", "100.json", "101.jpg", "101.json"]
    assert members[0][1] == (source / "images" / "train2014" / "COCO_train2014_000000000100.jpg").read_bytes()
    about = json.loads(members[1][1])
    assert about["image"]["width"] == 60 and about["refs"][0]["sentences"][1]["sent"] == "box 1 of 0"
    assert about["segmentations"] == {"0": [[10, 10, 30, 10, 30, 25, 10, 25]]}


def test_the_same_images_make_the_same_bytes(source, sharded, tmp_path):
    most = (sharded / "pictures-00000.tar").stat().st_size
    write_shards(splits_there("refcoco", source), tmp_path / "again", 512)
    write_shards(splits_there("refcoco", sharded), tmp_path / "third", 512)  # shards of shards
    (one,) = (tmp_path / "again").glob("*.tar")
    assert one.stat().st_size > most and one.read_bytes() == (tmp_path / "third" / one.name).read_bytes()


def test_worker_processes_read_them(source, sharded):
    """Forked while a shard is open, and started from a pickle."""
    data = load(sharded)
    data[0]
    assert torch.equal(pickle.loads(pickle.dumps(data))[1].frames, data[1].frames)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    for index, sample in enumerate(loader):
        assert torch.equal(sample.frames, load(source)[index].frames)


# ---- faults ------------------------------------------------------------------------------------------------------


def spoil(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


def flipped(content):
    content[1000] ^= 1
    return content


def test_a_corrupt_shard_is_named_and_the_others_are_read(sharded):
    for change, sentence in [
        (flipped, r"The shard .*pictures-00000\.tar is damaged at image 100: download it again"),
        (lambda content: content[:700], r"pictures-00000\.tar is cut short, image 100 lies after its end"),
        (lambda content: b"", r"pictures-00000\.tar is cut short"),
    ]:
        spoil(sharded / "pictures-00000.tar", change)
        data = load(sharded)
        with pytest.raises(RefsegError, match=sentence):
            data[0]
        assert data[5].frames.shape == (1, 3, 32, 32)
        (told,) = ShardedImages(sharded).check()
        assert "pictures-00000.tar" in told and "download it again" in told


def test_a_missing_shard_is_named(sharded):
    (sharded / "pictures-00001.tar").unlink()
    with pytest.raises(RefsegError, match=r"The shard .*pictures-00001.tar cannot be read \(No such file"):
        load(sharded, "val")[0]
    assert len(list(ShardedImages(sharded).check())) == 1


def test_sound_shards_have_no_complaint(sharded):
    assert list(ShardedImages(sharded).check()) == []


def test_members_that_leave_the_folder_are_refused(sharded):
    for name in ["../outside.jpg", "/etc/passwd", "a\\..\\..\\b"]:
        with tarfile.open(sharded / "pictures-00001.tar", "a") as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"bad"))
        (told,) = ShardedImages(sharded).check()
        assert "leads out of its folder: do not use this archive" in told


def test_a_link_is_refused(sharded):
    with tarfile.open(sharded / "pictures-00001.tar", "a") as archive:
        member = tarfile.TarInfo("x.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    (told,) = ShardedImages(sharded).check()
    assert "which is a link or a device" in told


def test_a_damaged_index_is_refused(sharded):
    for change in [
        lambda index: index["shards"].__setitem__(0, "../pictures-00000.tar"),
        lambda index: index["shards"].pop(),
        lambda index: index["pictures"].__setitem__("100", [0, -5, 3, 4, "jpg"]),
        lambda index: index["pictures"].__setitem__("100", "all"),
        lambda index: index.__setitem__("format", 2),
        lambda index: index.pop("pictures"),
    ]:
        index = json.loads((sharded / INDEX).read_text())
        change(index)
        (sharded / INDEX).write_text(json.dumps(index))
        with pytest.raises(RefsegError, match=r"shards\.json is .*(damaged|not the index)"):
            load(sharded)
    (sharded / INDEX).write_text("[" * 100_000)  # deeper than Python recurses
    with pytest.raises(RefsegError, match=r"shards\.json is not valid JSON"):
        load(sharded)


def test_a_missing_image_leaves_nothing_behind(source, tmp_path):
    (source / "images" / "train2014" / "COCO_train2014_000000000102.jpg").unlink()
    with pytest.raises(RefsegError, match="COCO_train2014_000000000102.jpg of refcoco is in none of"):
        write_shards(splits_there("refcoco", source), tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add", full)
    with pytest.raises(RefsegError, match="No space left on device.*make room"):
        write_shards(splits_there("refcoco", source), tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_in_the_way_stays(source, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.txt").write_text("mine")
    with pytest.raises(RefsegError, match="is in the way"):
        write_shards(splits_there("refcoco", source), tmp_path / "shards")
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["mine.txt"]


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_writes_then_checks(source, tmp_path, refseg):
    words = ["shard", "refcoco", "--root", source, "--out", tmp_path / "shards"]
    status, out, _ = refseg(*words)
    assert status == 0 and out.startswith("1 shards are in ")
    status, out, _ = refseg(*words)
    assert status == 0 and "is whole: 1 shards with 5 images" in out
    spoil(tmp_path / "shards" / "pictures-00000.tar", flipped)
    status, out, _ = refseg(*words)
    assert status == 1 and out.startswith("[FAIL] The shard ") and "damaged at 100.jpg (1 images)" in out


def test_genuine_images(shared_dir, tmp_path):
    """RefCOCOg's sample, shards in place of its images."""
    root = shared_dir / "data" / "refcocog_real4"
    if not root.is_dir():
        pytest.skip("no RefCOCOg sample")
    datasets = splits_there("refcocog", root, split_by="google")
    assert write_shards(datasets, tmp_path / "shards") == 1
    options = {"split_by": "google", "transform": build_transform(320)}
    one = build_dataset("refcocog", datasets[0].split, root=root, **options)
    other = build_dataset("refcocog", datasets[0].split, root=tmp_path / "shards", **options)
    assert len(one) == len(other) > 3
    assert all(torch.equal(left.frames, right.frames) for left, right in zip(one, other))


def test_training_reads_shards_and_leaves_out_a_corrupt_one(tiny_experiment, source, sharded, tmp_path):
    from refseg.training.log import read_log
    from refseg.training.loop import train

    data = replace(tiny_experiment.data, name="refcoco", root=str(sharded), val_samples=None, workers=1)
    optim = replace(tiny_experiment.optim, steps=4, eval_every=4, save_every=4)
    experiment = replace(tiny_experiment, data=data, optim=optim)
    runs = {"files": replace(experiment, data=replace(data, root=str(source))), "shards": experiment}
    for name, run in runs.items():
        train(run, tmp_path / name, device="cpu", progress=False)
    rows = {name: [row.get("loss") for row in read_log(tmp_path / name / "log.jsonl")] for name in runs}
    assert rows["files"] == rows["shards"]

    spoil(sharded / "pictures-00000.tar", flipped)
    with pytest.raises(RefsegError, match=r"pictures-00000\.tar is damaged at image 100.* --skip-unreadable"):
        train(experiment, tmp_path / "stopped", device="cpu", progress=False)
    experiment = replace(experiment, data=replace(data, skip_unreadable=True))
    train(experiment, tmp_path / "stopped", device="cpu", progress=False)
    lines = [row for row in read_log(tmp_path / "stopped" / "log.jsonl") if "unreadable" in row]
    assert sum(row["unreadable"] for row in lines) == 8  # two sentences in each of four epochs
    (name,) = sum((row["unreadable_samples"] for row in lines), [])
    assert "pictures-00000.tar is damaged at image 100" in name
