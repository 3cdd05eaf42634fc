"""Downloads from a server that drops connections, ignores what it is asked, or sends something else."""

import errno
import hashlib
import json
from collections import namedtuple

import numpy as np
import pytest

from refseg.datasets.obtain import fetch as module
from refseg.datasets.obtain.fetch import Unavailable, fetch
from refseg.errors import RefsegError

CONTENT = np.random.default_rng(0).bytes(300_007)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def content(server):
    server.files = {"/a.bin": CONTENT}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "a.bin"


def ranges(server) -> list:
    return [wanted for _, wanted, _ in server.asked]


def test_a_whole_file(server, target):
    found = fetch(server.url + "/a.bin", target, len(CONTENT), SHA)
    assert found == {"url": server.url + "/a.bin", "bytes": len(CONTENT), "sha256": SHA}
    assert target.read_bytes() == CONTENT and list(target.parent.iterdir()) == [target]
    assert ranges(server) == [None]


def test_a_dropped_connection_is_taken_up_where_it_broke(server, target):
    server.faults = [("drop after", 100_000), ("drop after", 50_000), 503, None]
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert {tag for _, _, tag in server.asked[1:]} == {'"one"'}


def test_cut_off_for_good_is_one_sentence_and_the_next_call_goes_on(server, target):
    server.faults = [("drop after", 100_000), 500, 500, 500]
    with pytest.raises(
        RefsegError, match=r"cut off \(the server answers 500\) after 0.1 of 0.3 MB.*it continues"
    ) as told:
        fetch(server.url + "/a.bin", target)
    assert not isinstance(told.value, Unavailable) and "\n" not in str(told.value)
    assert not target.exists() and target.with_name("a.bin.part").read_bytes() == CONTENT[:100_000]
    server.asked.clear()
    fetch(server.url + "/a.bin", target)
    assert target.read_bytes() == CONTENT and ranges(server) == ["bytes=100000-"]


def test_progress_begins_the_count_of_failures_anew(server, target):
    server.faults = [("drop after", 10_000)] * 20
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT and len(server.asked) == 21


def test_a_server_that_ignores_ranges_starts_over(server, target):
    server.faults = [("drop after", 100_000), "ignore range"]
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"two"', None])
def test_a_file_that_changed_on_the_server_is_not_mixed_with_its_past(server, target, tag):
    server.faults = [("drop after", 100_000), 500, 500, 500]
    with pytest.raises(RefsegError):
        fetch(server.url + "/a.bin", target)
    server.files["/a.bin"], server.tag = CONTENT[::-1], tag
    fetch(server.url + "/a.bin", target)
    assert target.read_bytes() == CONTENT[::-1]


def test_another_part_than_asked_is_thrown_away(server, target):
    server.faults = [("drop after", 100_000), "wrong part"]
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT


def test_a_shorter_file_by_now(server, target):
    server.faults, server.tag = [("drop after", 100_000), 500, 500, 500], None
    with pytest.raises(RefsegError):
        fetch(server.url + "/a.bin", target)
    server.files["/a.bin"] = CONTENT[:700]  # the server answers 416
    fetch(server.url + "/a.bin", target)
    assert target.read_bytes() == CONTENT[:700]


def test_killed_between_the_last_byte_and_the_name(server, target):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(CONTENT)
    about = {"url": server.url + "/a.bin", "total": len(CONTENT), "version": '"one"'}
    target.with_name("a.bin.part.json").write_text(json.dumps(about))
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT and server.asked == []


@pytest.mark.parametrize("note", ["", "[]", '{"url": "http://else"}', "[" * 100_000], ids=range(4))
def test_a_part_of_nobody_knows_what_is_thrown_away(server, target, note):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(b"x" * 1000)
    target.with_name("a.bin.part.json").write_text(note)
    fetch(server.url + "/a.bin", target)
    assert target.read_bytes() == CONTENT and ranges(server) == [None]


def test_no_length_announced(server, target):
    server.faults = ["no length"]
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("faults", [[("drop after", 100_000)], [None]])
def test_wrong_bytes_are_refused_and_not_kept(server, target, faults):
    server.faults, server.files["/a.bin"] = list(faults), CONTENT[:-1] + b"!"
    with pytest.raises(Unavailable, match="not the file expected: its sha256 is [0-9a-f]{64}"):
        fetch(server.url + "/a.bin", target, sha256=SHA)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("faults", [[], ["no length"]])
def test_another_size_is_refused(server, target, faults):
    server.faults = list(faults)
    with pytest.raises(Unavailable, match="(not of the 300,000|another file than the one of 300,000)"):
        fetch(server.url + "/a.bin", target, size=300_000)
    assert not target.exists()


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_is_not_there_is_asked_for_once(server, target, status):
    server.faults = [status] * 9
    with pytest.raises(Unavailable, match=f"answers {status}"):
        fetch(server.url + "/a.bin", target)
    assert len(server.asked) == 1


def test_redirections_are_followed_but_not_to_a_file_or_in_circles(server, target, tmp_path):
    server.faults = [("redirect", server.url + "/a.bin")]
    server.files["/old"] = b"-"
    fetch(server.url + "/old", target, sha256=SHA)
    (tmp_path / "secret").write_text("secret")
    server.faults = [("redirect", (tmp_path / "secret").as_uri())]
    with pytest.raises(Unavailable, match="302"):
        fetch(server.url + "/old", tmp_path / "b")
    server.faults = [("redirect", server.url + "/old")] * 50
    with pytest.raises(Unavailable, match="302"):
        fetch(server.url + "/old", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_no_server(server, target):
    server.close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        fetch(server.url + "/a.bin", target)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(server, target, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(200_000))
    with pytest.raises(RefsegError, match=r"No room: 0.0 GB .* and 0.0 GB are needed.*continues"):
        fetch(server.url + "/a.bin", target)
    assert not target.exists() and not target.with_name("a.bin.part").exists()


def test_a_disk_that_fills_up_keeps_what_has_come(server, target, monkeypatch):
    server.faults = [("drop after", 100_000)]
    really, calls = module._write, []

    def write(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(*args)

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(RefsegError, match="No space left on device.*make room") as told:
        fetch(server.url + "/a.bin", target)
    assert not isinstance(told.value, Unavailable)
    assert target.with_name("a.bin.part").stat().st_size == 100_000
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT and ranges(server)[-1] == "bytes=100000-"


def test_a_disk_that_is_full_at_once_keeps_what_came_before(server, target, monkeypatch):
    server.faults = [("drop after", 100_000), 500, 500, 500]
    with pytest.raises(RefsegError):
        fetch(server.url + "/a.bin", target)

    def full(path, *_, **__):
        path.open("w").close()  # opened, emptied, and then there is no room for a single byte
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "write_text", full)
        with pytest.raises(RefsegError, match="No space left on device.*make room"):
            fetch(server.url + "/a.bin", target)
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT and ranges(server)[-1] == "bytes=100000-"
    assert list(target.parent.iterdir()) == [target]


def test_control_c_keeps_what_has_come(server, target, monkeypatch):
    really, answers = module._next_bytes, []

    def stop(response):
        answers.append(response)
        if len(answers) == 2:
            raise KeyboardInterrupt
        return really(response)

    monkeypatch.setattr(module, "_next_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url + "/a.bin", target)
    have = target.with_name("a.bin.part").stat().st_size
    assert 0 < have <= len(CONTENT)
    fetch(server.url + "/a.bin", target, sha256=SHA)
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefsegError, match="could not be written"):
        fetch(server.url + "/a.bin", tmp_path / "file" / "a.bin")
