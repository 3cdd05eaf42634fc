"""All or nothing: what stands at a place after success, an error, a full disk and a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from refseg.errors import RefsegError
from refseg.files import filled, last_complete, write_text, written


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
    with pytest.raises(ValueError), filled(folder, replace=True) as temporary:
        raise ValueError
    assert (folder / "a").read_text() == "1"
    with filled(folder, replace=True) as temporary:
        (temporary / "b").write_text("2")
    assert names(folder) == ["b"] and names(folder.parent) == ["folder"]
    (tmp_path / "empty").mkdir()
    with filled(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("1")
    assert names(tmp_path / "empty") == ["a"]


def test_a_place_filled_by_another_process_meanwhile_is_kept(tmp_path):
    with pytest.raises(RefsegError, match="could not be written"), filled(tmp_path / "folder"):
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
        with filled(folder, replace=True) as temporary:
            (temporary / "a").write_text("2")
        assert last_complete(folder) == folder and names(tmp_path) == ["folder"]
        folder.rename(tmp_path / "folder.previous")


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
