"""The state as data: every value is checked, and every file that somebody may hand in."""

import json
from pathlib import Path

import pytest

from refseg.errors import RefsegError
from refseg.explorer.state import ExplorerState, load, save

STATE = ExplorerState(expression="the red star", cell=(1, 2), struck=(0, 2))
SAMPLE = {"source": "refshapes/val", "sample_id": "7_30"}
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
    "guessing": [1],
    "step": [-1],
}


def test_a_dict_and_back():
    given = json.loads(json.dumps(STATE.to_dict()))
    assert ExplorerState.from_dict(given) == STATE
    older = {name: value for name, value in given.items() if name not in ("guessing", "step")}
    assert ExplorerState.from_dict(older) == STATE, "findings from before there were guesses and steps"


def test_a_wrong_value_is_named():
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(RefsegError, match=f"wrong '{name}'"):
                ExplorerState.from_dict(STATE.to_dict() | {name: value})
    for given in (None, [], "state", {}, STATE.to_dict() | {"more": 1}, STATE.to_dict() | {3: 1}):
        with pytest.raises(RefsegError, match="not a state of the explorer"):
            ExplorerState.from_dict(given)


def test_a_finding_is_saved_and_read(tmp_path):
    path = tmp_path / "finding.json"
    save(path, STATE, SAMPLE, {"iou": 0.5}, "“left” moves the mask most")
    assert load(path) == (STATE, SAMPLE)
    assert json.loads(path.read_text(encoding="utf-8"))["note"] == "“left” moves the mask most"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RefsegError, match="could not be written"):
        save(path / "x.json", STATE, SAMPLE, {}, "")


def test_a_finding_of_an_older_explorer_is_read():
    """Written by the first version, with neither guesses nor steps."""
    state, sample = load(Path(__file__).with_name("finding_1.json"))
    assert (state.expression, state.layer, state.struck) == ("the white cross on the far left", "word", (6,))
    assert sample == {"source": "refshapes/val", "sample_id": "23970_32006"}


def finding(**changes) -> bytes:
    return json.dumps({"format": "refseg-explorer/1", "sample": SAMPLE, "state": STATE.to_dict()} | changes).encode()


BROKEN = {
    "nothing": b"",
    "half": finding()[:50],
    "no text": b"\xff\xfe\x00",
    "another format": finding(format="refseg-explorer/9"),
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "no sample": finding(sample=None),
    "a strange sample": finding(sample={"source": 1, "sample_id": "x"}),
    "no state": finding(state=None),
    "a wrong word": finding(state=STATE.to_dict() | {"word": -4}),
    "NaN": finding().replace(b'"word": 0', b'"word": NaN'),
    "huge": b" " * 1_000_001,
}


def test_a_broken_finding_gets_one_sentence(tmp_path):
    for name, content in BROKEN.items():
        path = tmp_path / "finding.json"
        path.write_bytes(content)
        with pytest.raises(RefsegError) as caught:
            load(path)
        told = str(caught.value)
        assert str(path) in told and told.endswith(".") and "\n" not in told, f"{name}: {told}"
    with pytest.raises(RefsegError, match="No such file"):
        load(tmp_path / "nothing.json")
    with pytest.raises(RefsegError, match="cannot be read"):
        load(tmp_path)
