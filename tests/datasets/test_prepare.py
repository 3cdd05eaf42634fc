"""``refseg prepare`` against a server on this machine: whole or not at all, once, alone, and going on when stopped."""

import hashlib
import io
import json
import multiprocessing
import shutil
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from refseg.datasets import DATASETS, build_dataset
from refseg.datasets.base import Piece
from refseg.datasets.obtain.prepare import downloads_dir, prepare
from refseg.errors import RefsegError

NAMES = [f"COCO_train2014_{n:012d}.jpg" for n in (1, 2, 3)]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def annotations() -> bytes:
    """RefCOCO with three images in every split, and noise, so that it can be cut in two."""
    records = [{"id": n, "file_name": name, "height": 29, "width": 37} for n, name in enumerate(NAMES)]
    objects = [{"id": n, "image_id": n, "segmentation": [[0, 0, 4, 0, 4, 4]]} for n in range(3)]
    refs = [
        {"ref_id": n, "ann_id": n % 3, "image_id": n % 3, "split": split,
         "sentences": [{"sent_id": n, "sent": "a cup"}]}
        for n, split in enumerate(s for s in ("train", "val", "testA", "testB") for _ in range(3))
    ]  # fmt: skip
    files = {
        "instances.json": json.dumps({"images": records, "annotations": objects}),
        "refs(unc).json": json.dumps(refs),
    }
    files["noise"] = np.random.default_rng(0).bytes(200_000)
    return zipped({f"refcoco/{name}": content for name, content in files.items()})


def images() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (37, 29)).save(buffer, "jpeg")
    return zipped({f"train2014/{name}": buffer.getvalue() for name in NAMES})


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def sizes(images, refs, sentences):
    counts = {"images": images, "refs": refs, "sentences": sentences}
    return {owner: dict.fromkeys(splits, counts) for owner, splits in DATASETS["refcoco"].splits.items()}


def change(monkeypatch, name, **fields):
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], **fields))


@pytest.fixture
def small(server, data, monkeypatch):
    """RefCOCO as ``server`` has it: annotations at two addresses, the first of them dead; the published sizes fit."""
    server.files = {"/refcoco.zip": annotations(), "/train2014.zip": images()}
    texts, photos = DATASETS["refcoco"].pieces
    texts = replace(texts, urls=(f"{server.url}/dead/refcoco.zip", f"{server.url}/refcoco.zip"))
    pieces = (texts, replace(photos, urls=(f"{server.url}/train2014.zip",)))
    change(monkeypatch, "refcoco", pieces=pieces, splits=sizes(3, 3, 3))
    return server


def told(name="refcoco", **options) -> tuple[bool, str]:
    lines = []
    ok = prepare(name, say=lines.append, **options)
    return ok, "\n".join(lines)


def files_in(folder) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


# ---- the whole way ---------------------------------------------------------------------------------------------


def test_from_nothing_to_samples_and_the_second_time_nothing(small, data):
    ok, text = told()
    assert ok and "licence" in text and text.count("all 3 images are there") == 4
    assert len(build_dataset("refcoco", "testB")) == 3 and build_dataset("refcoco", "val")[0].mask.any()
    archive = small.files["/refcoco.zip"]
    note = json.loads((downloads_dir() / "refcoco.json").read_text())
    assert note == {
        "url": f"{small.url}/refcoco.zip", "bytes": len(archive), "sha256": hashlib.sha256(archive).hexdigest()
    }  # fmt: skip
    assert not list(data.rglob("*.zip")) and not list(data.rglob("*partial*"))
    before, asked = files_in(data), len(small.asked)
    ok, text = told()
    assert ok and text.count("is there.") == 2 and text.count("all 3 images are there") == 4
    assert files_in(data) == before and len(small.asked) == asked


def test_a_file_that_is_gone_is_found_out(small, data):
    assert told()[0]
    (data / "images/mscoco/images/train2014" / NAMES[0]).unlink()
    ok, text = told()
    assert not ok and "[FAIL] 1 of 3 images are missing" in text


def test_without_images(small, data):
    ok, text = told(images=False)
    assert ok and "3 of 3 images are missing" in text and not (data / "images").exists()
    assert {path for path, *_ in small.asked} == {"/dead/refcoco.zip", "/refcoco.zip"}


def test_wrong_counts_are_no_success(small, monkeypatch):
    change(monkeypatch, "refcoco", splits=sizes(3, 3, 4))
    ok, text = told()
    assert not ok and "[FAIL] sentences       3   official       4" in text


def test_what_was_obtained_by_hand_is_taken_and_stays(small, data):
    downloads_dir().mkdir(parents=True)
    (downloads_dir() / "refcoco.zip").write_bytes(small.files.pop("/refcoco.zip"))
    assert told()[0] and (downloads_dir() / "refcoco.zip").is_file()
    assert {path for path, *_ in small.asked} == {"/train2014.zip"}


def test_images_that_lie_elsewhere_are_found(small, data):
    other = data / "coco" / "train2017"
    other.mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (37, 29)).save(other / name.removeprefix("COCO_train2014_"))
    assert told()[0] and not (data / "images").exists()


def test_parquet_files_instead(small, data, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    instances = json.loads(zipfile.ZipFile(io.BytesIO(annotations())).read("refcoco/instances.json"))
    rows = [
        {"ref_id": n, "ann_id": n, "image_id": n, "category_id": 1, "file_name": "x", "sent_ids": [n],
         "sentences": [{"raw": "A Cup", "sent": "a cup", "sent_id": n, "tokens": ["a", "cup"]}],
         "raw_anns": json.dumps(instances["annotations"][n]), "raw_image_info": json.dumps(instances["images"][n])}
        for n in range(3)
    ]  # fmt: skip
    for split, ours in {"train": "train", "validation": "val", "test": "testA", "testB": "testB"}.items():
        table = pyarrow.Table.from_pylist([{**row, "split": ours} for row in rows])
        write_table(table, tmp_path / f"{split}-00000-of-00001-1a2b.parquet")
    ok, _ = told(parquet=tmp_path)
    assert ok and build_dataset("refcoco", "testA").expressions == ["a cup"] * 3
    with pytest.raises(RefsegError, match="no folder .*gone with parquet files"):
        told(parquet=tmp_path / "gone")


# ---- what goes wrong -------------------------------------------------------------------------------------------


def test_a_cut_network_loses_nothing_and_the_next_run_goes_on(small, data):
    small.faults = [404, ("drop after", 120_000), 500, 500, 500]
    with pytest.raises(RefsegError, match="cut off .* it continues"):
        told()
    assert not (data / "refcoco").exists()
    small.asked.clear()
    assert told()[0]
    assert ("/refcoco.zip", "bytes=120000-", '"one"') in small.asked


def test_an_unpacking_cut_short_is_repeated_without_another_download(small, data, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", stop)
        with pytest.raises(KeyboardInterrupt):
            told()
    assert (downloads_dir() / "refcoco.zip").is_file() and not (data / "refcoco").exists()
    assert told()[0] and not list(downloads_dir().glob("*.zip"))
    assert [path for path, *_ in small.asked].count("/refcoco.zip") == 1


def test_nothing_can_be_had_says_what_to_do(server, data):
    """Every address is dead: one [FAIL] each, with the licence and how to go on; nothing is written but the lock."""
    texts, photos = DATASETS["refcoco"].pieces
    pieces = (replace(texts, urls=(f"{server.url}/a", f"{server.url}/b")), replace(photos, urls=(f"{server.url}/c",)))
    with pytest.MonkeyPatch.context() as patch:
        change(patch, "refcoco", pieces=pieces)
        ok, text = told()
    assert not ok and text.count("[FAIL]") == 2 and "answers 404" in text
    assert f"Put it into {data / 'downloads'} as refcoco (as .zip or .tar.*)" in text
    assert "hf download jxu124/refcoco" in text and "CC BY 4.0" in text and "Flickr" in text
    assert {path.suffix for path in data.rglob("*") if path.is_file()} <= {".lock"}


def test_an_error_page_in_place_of_an_archive_leads_to_the_next_address(small, data):
    small.files["/dead/refcoco.zip"] = b"<!DOCTYPE html><title>Sorry</title>"
    assert told()[0]
    small.files["/refcoco.zip"] = small.files["/dead/refcoco.zip"]
    shutil.rmtree(data)
    ok, text = told()
    assert not ok and "is not an archive, it begins with b'<!DOCTYPE html>" in text
    assert not (data / "refcoco").exists() and not list(downloads_dir().glob("*.zip"))


def test_another_archive_than_the_last_time_is_refused(small, data):
    assert told()[0]
    shutil.rmtree(data / "refcoco")
    small.files["/refcoco.zip"] = annotations() + b"changed"
    ok, text = told()
    assert not ok and "not the file expected: its sha256" in text


def test_a_hostile_archive_is_refused_and_fetched_anew_the_next_time(small, data, tmp_path):
    good = small.files["/refcoco.zip"]
    small.files["/refcoco.zip"] = zipped({"refcoco/instances.json": b"{}", "../../evil": b"evil"})
    ok, text = told()
    assert not ok and "'../../evil', which leads out of its folder" in text
    assert not (data / "refcoco").exists() and not list(tmp_path.rglob("evil"))
    (downloads_dir() / "refcoco.json").unlink()
    small.files["/refcoco.zip"] = good
    assert told()[0]


def test_a_text_file_must_be_the_published_one(server, data, monkeypatch):
    text = b"video_id,query\n"
    piece = Piece("sentences", "jhmdb_sentences/jhmdb_annotation.txt", "none", "jhmdb_annotation.txt",
                  urls=(f"{server.url}/t",), sha256=hashlib.sha256(text).hexdigest())  # fmt: skip
    change(monkeypatch, "jhmdb", pieces=(piece,))
    server.files["/t"] = text + b"x"
    ok, said = told("jhmdb")
    assert not ok and "not the file expected" in said and not (data / piece.place).exists()
    downloads_dir().mkdir(parents=True, exist_ok=True)
    (downloads_dir() / piece.source).write_bytes(text + b"y")
    assert "is not the published file" in told("jhmdb")[1] and not (data / piece.place).exists()
    (downloads_dir() / piece.source).unlink()
    server.files["/t"] = text
    told("jhmdb")
    assert (data / piece.place).read_bytes() == text


def test_a_folder_of_other_files_is_never_touched(small, data):
    (data / "refcoco").mkdir(parents=True)
    (data / "refcoco" / "mine.txt").write_text("mine")
    with pytest.raises(RefsegError, match="is in the way"):
        told()
    assert [path.name for path in (data / "refcoco").iterdir()] == ["mine.txt"]


def test_unknown_data_sets(data):
    with pytest.raises(RefsegError, match="no data set 'coco': choose one of refcoco, .*a2d"):
        told("coco")


# ---- two at once -----------------------------------------------------------------------------------------------


def test_the_second_waits_for_the_first_and_then_has_nothing_to_do(small, data):
    downloads_dir().mkdir(parents=True)
    lock, lines = FileLock(downloads_dir() / "refcoco.lock", thread_local=False), []
    lock.acquire()
    second = threading.Thread(target=prepare, args=("refcoco",), kwargs={"say": lines.append, "images": False})
    second.start()
    for _ in range(500):
        if lines:
            break
        time.sleep(0.02)
    assert "Another refseg prepare is at work at annotations" in lines[0] and small.asked == []
    (data / "refcoco").mkdir()
    for name in ("instances.json", "refs(unc).json"):
        content = zipfile.ZipFile(io.BytesIO(small.files["/refcoco.zip"])).read(f"refcoco/{name}")
        (data / "refcoco" / name).write_bytes(content)
    lock.release()
    second.join(60)
    assert not second.is_alive() and small.asked == [] and "is already there" in lines[1]


def test_two_processes_at_once_make_one_data_set(small, data):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare, args=("refcoco",), kwargs={"say": len}) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    paths = [path for path, *_ in small.asked]
    assert sorted(paths) == ["/dead/refcoco.zip", "/refcoco.zip", "/train2014.zip"]
    assert told()[0]


# ---- the table -------------------------------------------------------------------------------------------------


def test_the_pieces_are_put_where_loaders_look():
    for name, info in DATASETS.items():
        assert bool(info.pieces) != bool(info.draw)
        assert all(piece.licence and (piece.urls or piece.by_hand) for piece in info.pieces)
        assert all(url.startswith(("https://", "http://")) for piece in info.pieces for url in piece.urls)
        if info.pieces and not info.is_clips:
            texts, photos = info.pieces
            assert texts.place == info.root.name and photos.place in info.image_folders and photos.is_images, name


def test_the_checksums_are_those_of_the_genuine_files(shared_dir):
    known = [piece for info in DATASETS.values() for piece in info.pieces if piece.sha256]
    assert len(known) == 4
    for piece in known:
        path = shared_dir / "data" / piece.place.replace("/text_annotations", "")
        if not path.is_file():
            pytest.skip(f"no genuine file at {path}")
        content = path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (piece.size, piece.sha256)
