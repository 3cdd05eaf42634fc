"""The state: every gesture, and every file that somebody may hand in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from refseg.errors import RefsegError
from refseg.explorer.state import ExplorerState, load, save

LEVELS = ["c3", "c4", "c5"]
STATE = ExplorerState(expression="the red star", cell=(1, 2), struck=(0, 2))
SAMPLE = {"source": "refshapes/val", "sample_id": "7_30"}


def test_levels_stop_at_the_ends():
    assert STATE.step_level(LEVELS, 1).level == "c4"
    assert STATE.step_level(LEVELS, -1).level == "c3"
    assert replace(STATE, level="c5").step_level(LEVELS, 1).level == "c5"
    assert replace(STATE, level="gone").step_level(LEVELS, 1).level == "c3"


def test_the_cell_stays_in_the_grid():
    assert STATE.move(-1, 0, (3, 4)).cell == (0, 2)
    assert STATE.move(-1, 0, (3, 4)).move(-1, 1, (3, 4)).cell == (0, 3)
    assert STATE.move(0, 1, (3, 3)).cell == (1, 2)
    assert ExplorerState().move(1, 0, (3, 4)).cell == (1, 2)


def test_a_locked_cell_does_not_follow_the_pointer():
    locked = STATE.lock()
    assert locked.locked and locked.point(0, 0).cell == (1, 2)
    assert locked.lock().point(0, 0).cell == (0, 0)
    assert not ExplorerState().lock().locked


def test_words_go_and_come_back_but_never_all():
    assert STATE.strike(1, 3).struck == (0, 2)  # the last of three stays
    assert STATE.strike(0, 3).struck == (2,)
    assert STATE.strike(1, 4).struck == (0, 1, 2)
    assert STATE.lock().clear() == replace(STATE, struck=())


def test_choosing_a_word_shows_its_map():
    chosen = replace(STATE, layer="memory").choose_word(2)
    assert (chosen.word, chosen.layer) == (2, "word")


def test_a_dict_and_back():
    assert ExplorerState.from_dict(json.loads(json.dumps(STATE.to_dict()))) == STATE


WRONG = {
    "scene": [-1, 1.0, True, "0", None, 10**9],
    "expression": [None, 3, "x" * 1001],
    "layer": ["heat", None, ["word"]],
    "level": [3, "x" * 50],
    "normalisation": ["none", {}],
    "word": [-1, 2.5],
    "cell": [[1], [1, 2, 3], [1, -2], [1, 0.5], "12"],
    "locked": [0, "yes"],
    "struck": [[2, 0], [1, 1], [-1], "0", None, list(range(2000))],
    "frame": [-3, None],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named(name, value):
    with pytest.raises(RefsegError, match=f"wrong '{name}'"):
        ExplorerState.from_dict(STATE.to_dict() | {name: value})


@pytest.mark.parametrize("given", [None, [], "state", {}, STATE.to_dict() | {"more": 1}])
def test_what_is_no_state_is_refused(given):
    with pytest.raises(RefsegError, match="no state of the explorer"):
        ExplorerState.from_dict(given)


def test_a_finding_is_saved_and_read(tmp_path):
    path = tmp_path / "finding.json"
    save(path, STATE, SAMPLE, {"iou": 0.5}, "“left” moves the mask most")
    assert load(path) == (STATE, SAMPLE)
    assert json.loads(path.read_text(encoding="utf-8"))["note"] == "“left” moves the mask most"
    assert list(tmp_path.iterdir()) == [path]


def finding(**changes) -> str:
    sound = {"format": "refseg-explorer/1", "sample": SAMPLE, "state": STATE.to_dict()}
    return json.dumps(sound | changes)


BROKEN = {
    "nothing": b"",
    "half": finding().encode()[:50],
    "no text": b"\xff\xfe\x00",
    "another format": finding(format="refseg-explorer/9").encode(),
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "no sample": finding(sample=None).encode(),
    "a strange sample": finding(sample={"source": 1, "sample_id": "x"}).encode(),
    "no state": finding(state=None).encode(),
    "a wrong word": finding(state=STATE.to_dict() | {"word": -4}).encode(),
    "NaN": finding(state=STATE.to_dict()).replace('"word": 0', '"word": NaN').encode(),
    "huge": b" " * 1_000_001,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_finding_gets_one_sentence(name, tmp_path):
    path = tmp_path / "finding.json"
    path.write_bytes(BROKEN[name])
    with pytest.raises(RefsegError) as caught:
        load(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(RefsegError, match="No such file"):
        load(tmp_path / "nothing.json")
    with pytest.raises(RefsegError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(RefsegError, match="could not be written"):
        save(Path(__file__) / "x.json", STATE, SAMPLE, {}, "")
