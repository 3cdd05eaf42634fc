"""Archives: unpacked whole into their place or not at all, and hostile ones not one byte outside of it."""

import io
import stat
import tarfile
import zipfile
from collections import namedtuple
from itertools import product

import numpy as np
import pytest

from refseg.datasets.obtain import unpack as module
from refseg.datasets.obtain.unpack import BadArchive, is_archive, unpack
from refseg.errors import RefsegError

NOISE = np.random.default_rng(1).bytes(50_000)
FILES = {"top/refcoco/instances.json": b"{}", "top/refcoco/refs(unc).p": b"x" * 5000, "top/refcoco/sub/a.bin": NOISE}
KEYS = ("instances.json",)


def make_zip(path, files=FILES, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


def make_tar(path, files=FILES, mode="w:gz", kinds=()):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in kinds:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "instances.json"
            archive.addfile(info)
    return path


def tree(folder) -> dict:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(tmp_path):
    return tmp_path / "data" / "refcoco"


@pytest.fixture(params=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def archive(request, tmp_path):
    path = tmp_path / f"a.{request.param}"
    modes = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    return make_zip(path) if request.param == "zip" else make_tar(path, mode=modes[request.param])


def test_the_folder_that_is_meant_appears_in_its_place(archive, place):
    assert is_archive(archive)
    unpack(archive, place, KEYS)
    assert tree(place) == {name.removeprefix("top/refcoco/"): content for name, content in FILES.items()}
    assert [path.name for path in place.parent.iterdir()] == ["refcoco"]


def test_a_half_archive_leaves_nothing(archive, place):
    archive.write_bytes(archive.read_bytes()[:-20_000])
    with pytest.raises(BadArchive, match="is not a sound archive") as told:
        unpack(archive, place, KEYS)
    assert "\n" not in str(told.value) and list(place.parent.iterdir()) == []


def test_damaged_bytes_leave_nothing(place, tmp_path):
    for n, name in enumerate(["a.zip", "a.tar.gz", "a.tar.bz2"]):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = make_zip(folder / name) if name == "a.zip" else make_tar(
            folder / name, mode="w:gz" if name.endswith("gz") else "w:bz2"
        )  # fmt: skip
        content = bytearray(path.read_bytes())
        content[20_000:20_100] = bytes(100)
        path.write_bytes(content)
        with pytest.raises(BadArchive, match="is not a sound archive"):
            unpack(path, place, KEYS)
        assert list(place.parent.iterdir()) == []


def test_members_that_leave_the_folder_are_refused(place, tmp_path):
    for n, (kind, name) in enumerate(
        product(["zip", "tar"], ["../evil", "top/../../evil", "/tmp/refseg-evil", "C:/evil", "..\\evil", "\\evil"])
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        files = {**FILES, name: b"evil"}
        path = make_zip(folder / "a.zip", files) if kind == "zip" else make_tar(folder / "a.tar.gz", files)
        before = set(tmp_path.rglob("*"))
        with pytest.raises(BadArchive, match="leads out of its folder: do not use this archive"):
            unpack(path, place, KEYS)
        assert set(tmp_path.rglob("*")) - before <= {place.parent}, name
        assert not list(place.parent.iterdir())


def test_links_and_devices_in_a_tar_are_refused(place, tmp_path):
    for n, kind in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = make_tar(folder / "a.tar", kinds=[("top/refcoco/x", kind)], mode="w")
        with pytest.raises(BadArchive, match="'top/refcoco/x', which is a link or a device"):
            unpack(path, place, KEYS)
        assert list(place.parent.iterdir()) == []


def test_links_in_a_zip_are_refused(place, tmp_path):
    with pytest.raises(BadArchive, match="a link or a device"):
        unpack(make_zip(tmp_path / "a.zip", links=["top/refcoco/x"]), place, KEYS)


def test_a_zip_that_unpacks_to_more_than_the_disk_holds_is_refused_at_once(place, tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", {"instances.json": bytes(30_000_000)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(module, "free_bytes", lambda _: 20_000_000)
    with pytest.raises(RefsegError, match=r"No room.* and 0.0 GB are needed"):
        unpack(path, place, KEYS)
    assert list(place.parent.iterdir()) == []


def test_a_full_disk_while_unpacking(place, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(RefsegError, match="No space left on device.*make room") as told:
        unpack(make_zip(tmp_path / "a.zip"), place, KEYS)
    assert not isinstance(told.value, BadArchive) and list(place.parent.iterdir()) == []


def test_interrupted_it_leaves_nothing(place, tmp_path, monkeypatch):
    path, really = make_zip(tmp_path / "a.zip"), zipfile.ZipFile.extract

    def stop(self, member, folder):
        if member.filename.endswith(".p"):
            raise KeyboardInterrupt
        return really(self, member, folder)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", stop)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, place, KEYS)
    assert list(place.parent.iterdir()) == []
    unpack(path, place, KEYS)
    assert (place / "instances.json").read_bytes() == b"{}"


def test_another_archive_and_a_place_that_is_taken(place, tmp_path):
    path = make_zip(tmp_path / "a.zip")
    with pytest.raises(BadArchive, match=r"holds no folder with videoset.csv or \*.h5 in it"):
        unpack(path, place, ("videoset.csv", "*.h5"))
    place.mkdir(parents=True)
    unpack(path, place, KEYS)  # an empty folder is no obstacle
    (place / "instances.json").unlink()
    with pytest.raises(RefsegError, match="is in the way"):
        unpack(path, place, KEYS)
    assert (place / "refs(unc).p").is_file()


def test_litter_of_macos_and_passwords_and_pages(place, tmp_path):
    files = {"refcoco/instances.json": b"{}", "__MACOSX/refcoco/instances.json": b"-", "refcoco/.DS_Store": b"-"}
    unpack(make_zip(tmp_path / "a.zip", files), place, KEYS)
    assert tree(place) == {"instances.json": b"{}"}
    locked = make_zip(tmp_path / "b.zip", {"instances.json": b"{}"}).read_bytes()
    # bit 0 of the flags: encrypted
    locked = locked.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01")
    locked = locked.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    (tmp_path / "b.zip").write_bytes(locked)
    with pytest.raises(BadArchive, match="password"):
        unpack(tmp_path / "b.zip", place.with_name("other"), KEYS)
    for content in (b"<!DOCTYPE html>" * 99, b"", NOISE):
        (tmp_path / "page").write_bytes(content)
        assert not is_archive(tmp_path / "page")


def test_room_is_asked_of_the_nearest_folder_that_is_there(tmp_path, monkeypatch):
    asked, usage = [], namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or usage(7))
    assert module.free_bytes(tmp_path / "a" / "b") == 7 and asked == [tmp_path]
