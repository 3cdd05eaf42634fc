"""All or nothing: what stands at a place after success, an error, a full disk and a kill."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refseg.errors import RefsegError
from refseg.files import alone_in, filled, last_complete, leads_out, write_text, written


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with written(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    write_text(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode() and names(path.parent) == ["a.txt"]
    for stop in (ValueError, KeyboardInterrupt):
        with pytest.raises(stop), written(path) as temporary:
            temporary.write_text("half")
            raise stop
    assert path.read_text(encoding="utf-8") == "ä\n" and names(path.parent) == ["a.txt"]


def test_a_folder_is_there_when_it_is_complete(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with filled(folder) as temporary:
        (temporary / "a").write_text("1")
        assert not folder.exists()
    with pytest.raises(RefsegError, match="folder is in the way"), filled(folder):
        pass
    with pytest.raises(ValueError), filled(folder, older=["a", "b"]) as temporary:
        raise ValueError
    assert (folder / "a").read_text() == "1"
    with filled(folder, older=["a", "b"]) as temporary:
        (temporary / "b").write_text("2")
    assert names(folder) == ["b"] and names(folder.parent) == ["folder"]
    (tmp_path / "empty").mkdir()
    with filled(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("1")
    assert names(tmp_path / "empty") == ["a"]


def test_only_an_older_version_of_the_same_is_replaced(tmp_path):
    folder, older = tmp_path / "folder", ["a", "b", "images/"]
    for name, why in (
        *(("folder/mine.txt", "holds mine.txt, which was not written there"), ("folder/a/deep", "holds a/, which")),
        *(("folder/images", "holds images, which"), ("folder/b", "is not whole"), ("folder", "is not a folder")),
    ):
        write_text(tmp_path / name, "mine")
        with pytest.raises(RefsegError, match=why), filled(folder, older=older):
            raise AssertionError("refused before the work")
        assert (tmp_path / name).read_text() == "mine"
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for name in ("folder/a", "folder/images/1", "folder/.DS_Store", "folder.previous/a"):
        write_text(tmp_path / name, "old")
    with filled(folder, older=older) as temporary:
        (temporary / "a").write_text("new")
    assert names(folder) == ["a"] and names(tmp_path / "folder.previous") == ["a"]  # a copy that somebody made
    with pytest.raises(RefsegError, match="holds mine"), filled(folder, older=older) as temporary:
        (folder / "mine").write_text("put there in the meantime")
    assert names(folder) == ["a", "mine"] and (folder / "a").read_text() == "new"


def test_links_stay_and_what_they_point_to_is_written(tmp_path):
    write_text(tmp_path / "there" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "a").read_text() == "new"
    with filled(tmp_path / "folder", older=["a"]) as temporary:
        (temporary / "a").write_text("newer")
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "there" / "a").read_text() == "newer"
    write_text(tmp_path / "there" / "b", "mine")
    with pytest.raises(RefsegError, match="holds b"), filled(tmp_path / "folder", older=["a"]):
        pass
    assert names(tmp_path) == ["folder", "link", "there"] and names(tmp_path / "there") == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
def test_only_regular_files_are_replaced(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's name is short
        server.bind("socket")
    (tmp_path / "to null").symlink_to("/dev/null")
    places = ["fifo", "socket", "to null", "/dev/null", "/dev/stdout", "/dev/fd/1", "."]
    before = [os.lstat(tmp_path / place) for place in places]
    for place in places:
        with pytest.raises(RefsegError, match="is a folder, a device or a pipe: name a file"):
            write_text(tmp_path / place, "text")
    assert [after[:3] for after in (os.lstat(tmp_path / place) for place in places)] == [stat[:3] for stat in before]
    if os.geteuid():  # root may write to everything
        write_text(tmp_path / "kept", "mine")
        (tmp_path / "kept").chmod(0o444)
        with pytest.raises(RefsegError, match="is write-protected"):
            write_text(tmp_path / "kept", "text")


def test_names_from_outside_stay_inside():
    for name in ("../a", "a/../../b", "/etc/passwd", "..", r"..\a", r"a\..\b", r"\\host\a", "C:a", r"c:\a", "a\0b"):
        assert leads_out(name), name
    for name in ("a.jpg", "38/images/38100.jpg", "..a/b..", "a..b", "ä b/c:d", "./a"):
        assert not leads_out(name), name


def test_a_place_filled_by_another_process_meanwhile_is_kept(tmp_path):
    with pytest.raises(RefsegError, match="holds theirs, which was not written there"), filled(tmp_path / "folder"):
        write_text(tmp_path / "folder" / "theirs", "1")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["theirs"]


def test_there_is_always_a_complete_version(tmp_path, monkeypatch):
    """A kill between any two renames: the previous version has another name until the next one has taken its place."""
    folder, rename = tmp_path / "folder", Path.rename
    write_text(folder / "a", "1")

    def watched(path, target):
        assert (last_complete(folder) / "a").read_text() in "12"
        moved = rename(path, target)
        assert (last_complete(folder) / "a").read_text() in "12"
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    for _ in range(2):  # the second time as a kill between the two renames leaves it
        with filled(folder, older=["a"]) as temporary:
            (temporary / "a").write_text("2")
        assert last_complete(folder) == folder and names(tmp_path) == ["folder"]
        folder.rename(tmp_path / ".folder.previous")


def test_a_disk_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    def refusal(path: Path) -> str:
        with pytest.raises(RefsegError) as caught:
            write_text(path, "b")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    write_text(tmp_path / "a", "a")
    assert "a file that is in the way" not in refusal(tmp_path / "a" / "b")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        text = refusal(tmp_path / "a")
        assert text == (
            f"{tmp_path / 'a'} could not be written (No space left on device): make room on its disk, or name a folder "
            "that you may write to."
        )
        patch.setenv("REFSEG_DATA", str(tmp_path))
        assert refusal(tmp_path / "a").endswith("or set REFSEG_DATA to another folder.")
    with pytest.raises(RefsegError, match="No such file or directory: /nowhere/to/read"), written(tmp_path / "a"):
        open("/nowhere/to/read")
    assert (tmp_path / "a").read_text() == "a" and names(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path):
    for function in ("written", "filled"):
        code = f"""
import os, signal, sys
from refseg.files import {function}
with {function}(sys.argv[1]) as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
        subprocess.run([sys.executable, "-c", code, tmp_path / "a[1]"], env={**os.environ, "PYTHONPATH": os.getcwd()})
        (left,) = names(tmp_path)
        living = left.replace(left.split("-")[-1], f"{os.getppid()}.partial")
        (tmp_path / living).write_text("another process is writing this")
        with written(tmp_path / "a[1]") as temporary:
            temporary.write_text("complete")
        assert names(tmp_path) == [living, "a[1]"]
        (tmp_path / living).unlink(), (tmp_path / "a[1]").unlink()


def test_leftovers_of_older_versions_and_other_machines_are_found(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive, ours = os.getppid(), platform.node()
    gone = [
        f".a.{ours}-{dead.pid}.partial",
        f".a.{dead.pid}.partial",
        f"a.partial-{dead.pid}",
        ".a.other-1.partial",
    ]
    kept = [
        f".a.{ours}-{alive}.partial",
        f"a.partial-{alive}",
        ".a.other-2.partial",
        ".a.partial",
        "a.partial-mine",
    ]
    for name in gone + kept:
        write_text(tmp_path / name / "half", "half")
    days = time.time() - 8 * 24 * 3600
    os.utime(tmp_path / ".a.other-1.partial", (days, days))  # its machine may be gone, or have another name now
    write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == sorted(["a", *kept])


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path):
    code = "import sys; from refseg.files import *\nwith alone_in(Path(sys.argv[1])): print('in', flush=True); input()"
    command = [sys.executable, "-c", code, tmp_path / "run"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    first = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "in\n"
    with (
        pytest.raises(RefsegError, match=f"Another process is writing to {tmp_path / 'run'}"),
        alone_in(tmp_path / "run"),
    ):
        pass
    first.kill(), first.communicate()
    for _ in range(2):
        with alone_in(tmp_path / "run"):
            pass
