"""Parquet files laid out as jxu124's: what is made of them loads like the original, and bad ones are one sentence."""

import json
import pickle
import sys

import pyarrow
import pytest
import torch
from pyarrow.parquet import write_table

from refseg.datasets import DATASETS, build_dataset
from refseg.datasets.obtain.parquet import convert_parquet
from refseg.errors import RefsegError


def row(number: int, split: str, **changes) -> dict:
    """One ref about annotation 100 + number in image 10 + number // 2, with the columns of jxu124/refcoco."""
    image = 10 + number // 2
    annotation = {
        "id": 100 + number, "image_id": image, "category_id": 3, "iscrowd": 0, "area": 8.0,
        "segmentation": [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0], [number, 5, number + 2, 5, number + 2, 7]],
        "bbox": [0, 0, 4, 4],
    }  # fmt: skip
    info = {"id": image, "file_name": f"COCO_train2014_{image:012d}.jpg", "height": 29, "width": 37}
    sentences = [
        {"raw": f"A Thing {k}!", "sent": f"a thing {k}", "sent_id": 10 * number + k, "tokens": ["a", "thing", str(k)]}
        for k in range(1 + number % 2)
    ]
    return {
        "sent_ids": [s["sent_id"] for s in sentences], "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "ann_id": 100 + number, "ref_id": number, "image_id": image, "split": split, "sentences": sentences,
        "category_id": 3, "raw_anns": json.dumps(annotation), "raw_image_info": json.dumps(info),
        "raw_sentences": json.dumps(sentences), "image_path": "coco/train2014/x.jpg", "bbox": [0.0, 0.0, 4.0, 4.0],
        "captions": ["a thing"], "global_image_id": f"coco.{image}", "anns_id": f"a{number}",
        **changes,
    }  # fmt: skip


def write(folder, name="refcoco", refs=None):
    """A file per split; the rows call the first test split "testA", as the refs do, or "test"."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, (split, ours) in enumerate(DATASETS[name].parquet.items()):
        rows = [row(10 * n + k, ours if k else split.replace("validation", "val")) for k in range(3)]
        rows = rows if refs is None or split != "train" else refs
        write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001-0123456789abcdef.parquet")
    return folder


def test_what_is_made_is_read_by_the_loader(tmp_path):
    for n, (name, owner) in enumerate([("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")]):
        folder = tmp_path / str(n)
        folder.mkdir()
        source, folder = write(folder / "source" / "data", name).parent, folder / name
        folder.mkdir()
        convert_parquet(name, source, folder)
        for n, split in enumerate(DATASETS[name].parquet.values()):
            dataset = build_dataset(name, split, root=folder, split_by=owner)
            numbers = [10 * n, 10 * n + 1, 10 * n + 1, 10 * n + 2]
            assert [ref["ref_id"] for ref in dataset.refs] == [10 * n + k for k in range(3)]
            assert dataset.expressions == ["a thing 0", "a thing 0", "a thing 1", "a thing 0"]
            assert dataset.sample_ids == [f"{r}_{10 * r + k}" for r, k in zip(numbers, (0, 0, 1, 0))]
            assert dataset.image_ids == [10 + r // 2 for r in numbers]
        assert {path.name for path in folder.iterdir()} == {"instances.json", f"refs({owner}).json"}
        instances = json.loads((folder / "instances.json").read_text())
        assert len({record["id"] for record in instances["images"]}) == len(instances["images"])  # each image once


def test_the_genuine_samples_survive_the_way_there_and_back(shared_dir, tmp_path):
    """RefCOCOg's four genuine refs as parquet files: the same sentences, images and masks as from the pickle."""
    root = shared_dir / "data/refcocog_real4/refcocog"
    if not root.is_dir():
        pytest.skip("no genuine samples")
    genuine = build_dataset("refcocog", "val", root=root, split_by="google")
    instances = json.loads((root / "instances.json").read_text())
    annotations = {a["id"]: json.dumps(a) for a in instances["annotations"]}
    images = {i["id"]: json.dumps(i) for i in instances["images"]}
    refs = pickle.loads((root / "refs(google).p").read_bytes())
    rows = [
        ref | {"split": "val", "raw_anns": annotations[ref["ann_id"]], "raw_image_info": images[ref["image_id"]]}
        for ref in refs
    ]
    for split in DATASETS["refcocog"].parquet:
        given = rows if split == "validation" else [row(900 + len(split), split)]
        write_table(pyarrow.Table.from_pylist(given), tmp_path / f"{split}-00000-of-00001.parquet")
    (tmp_path / "refcocog").mkdir()
    convert_parquet("refcocog", tmp_path, tmp_path / "refcocog")
    ours = build_dataset("refcocog", "val", root=tmp_path / "refcocog", image_root=root.parent)
    assert ours.expressions == genuine.expressions and ours.image_ids == genuine.image_ids
    for mine, theirs in zip(ours, genuine, strict=True):
        assert torch.equal(mine.original_mask, theirs.original_mask) and torch.equal(mine.frames, theirs.frames)


def test_other_contents_are_one_sentence(tmp_path):
    for n, (changes, message) in enumerate(
        [
            ({"raw_anns": "{"}, "is not laid out as the files of jxu124/refcoco"),
            ({"raw_anns": "[" * 100_000}, "is not laid out"),
            ({"raw_anns": '{"id": 7}'}, "two different records of 100"),
            ({"raw_image_info": "3"}, "is not laid out"),
            ({"split": "val"}, "is train but holds a ref of 'val'"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        source = write(folder / "source", refs=[row(0, **{"split": "train", **changes})])
        with pytest.raises(RefsegError, match=message) as told:
            convert_parquet("refcoco", source, folder)
        assert "\n" not in str(told.value) and len(str(told.value)) < 500
        assert not (folder / "instances.json").exists()


def test_a_image_of_two_kinds_a_missing_column_and_no_parquet(tmp_path):
    other = json.dumps({"id": 10, "file_name": "x.jpg", "height": 5, "width": 5})
    source = write(tmp_path / "a", refs=[row(0, "train"), row(1, "train", raw_image_info=other)])
    with pytest.raises(RefsegError, match="two different records of 10"):
        convert_parquet("refcoco", source, tmp_path)
    without = [{key: value for key, value in row(0, "train").items() if key != "raw_anns"}]
    with pytest.raises(RefsegError, match="no column raw_anns"):
        convert_parquet("refcoco", write(tmp_path / "b", refs=without), tmp_path)
    source = write(tmp_path / "c")
    (source / "train-00000-of-00001-0123456789abcdef.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RefsegError, match="is not laid out"):
        convert_parquet("refcoco", source, tmp_path)


def test_files_that_are_missing_doubled_or_of_another_data_set(tmp_path):
    source = write(tmp_path / "a")
    with pytest.raises(RefsegError, match="referit is not known as parquet files"):
        convert_parquet("referit", source, tmp_path)
    twin = source / "test-00000-of-00001-82af0c1b600890ac.parquet"
    twin.write_bytes(next(source.glob("test-*")).read_bytes())
    with pytest.raises(RefsegError, match="are the same part of refcoco: keep the newer one"):
        convert_parquet("refcoco", source, tmp_path)
    twin.rename(source / "test-00000-of-00002.parquet")
    next(source.glob("test-00000-of-00001-*")).unlink()
    with pytest.raises(RefsegError, match="lacks parquet files of refcoco testA: get all of train-00000"):
        convert_parquet("refcoco", source, tmp_path)
    with pytest.raises(RefsegError, match="lacks parquet files of refcoco train, val, testA, testB"):
        convert_parquet("refcoco", tmp_path / "nothing", tmp_path)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RefsegError, match="pip install pyarrow"):
        convert_parquet("refcoco", write(tmp_path / "a"), tmp_path)
