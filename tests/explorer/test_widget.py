"""The widget without a browser: its traits, what it answers, what it writes, and what stands in for it on paper."""

import html
import json
import re
import threading
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch

from refseg.errors import RefsegError
from refseg.explorer import Explorer, widget
from refseg.explorer.reading import Reader
from refseg.explorer.sheet import contact_sheet


def ask(explorer, **message):
    """What the browser would send; gives the answers once the worker has nothing left to do."""
    answers = []
    explorer.send = answers.append
    sent = {"ask": "read", "slot": 0, "number": 1, "client": "test", "scene": 0, "model": 0, "struck": [0]}
    explorer._on_message(explorer, sent | message, [])
    explorer._worker.submit(lambda: None).result(timeout=60)
    return answers


def test_it_opens_on_the_sample(explorer, sample):
    assert explorer.state.expression == sample.expression
    assert explorer.reading.words[explorer.state.word] in sample.expression
    scene = explorer.content["scenes"][0]
    assert scene["expressions"] == [sample.expression] and scene["readings"][0]["iou"] == explorer.reading.iou
    assert explorer.content["live"] and explorer.fresh == []


def test_what_travels_is_plain_json_and_small(explorer):
    state = {name: getattr(explorer, name) for name in ("content", "fresh", "view")}
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert len(json.dumps(state)) < 1_500_000


def test_the_shipped_examples_open_without_the_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("the checkpoint is loaded although everything was computed before")

    monkeypatch.setattr(widget, "Predictor", refuse)
    explorer = Explorer()
    assert len(explorer.scenes) == 4 and len(json.dumps(explorer.content)) < 1_500_000
    ious = [scene.readings[0, scene.first.expression].iou for scene in explorer.scenes]
    assert max(ious) > 0.8 and min(ious) < 0.5, "right and wrong ones are shown"
    assert explorer.strike(0).iou is not None
    assert "IoU" in repr(explorer) and explorer.content["models"][0]["worth"]["words"]["c3"]["N"] > 1000


def test_the_shipped_examples_are_what_the_shipped_network_gives():
    """A new checkpoint needs new examples: python -m refseg_course.gallery --examples"""
    explorer = Explorer()
    scene = explorer.scene
    stored = explorer.reading
    sample, known = scene.find(stored.expression)
    reading = explorer._reader(0).read(sample, known)
    assert reading.iou == pytest.approx(stored.iou, abs=1e-3)
    assert torch.allclose(reading.frames[0].levels["c3"].maps, stored.frames[0].levels["c3"].maps, rtol=0.02, atol=1e-4)


def test_another_expression(explorer):
    words = explorer.reading.words
    explorer.show("the unheard star", word="star", level="c5", normalisation="words")
    assert explorer.reading.unknown == ["unheard"] and explorer.reading.iou is None
    assert [one["expression"] for one in explorer.fresh] == ["the unheard star"]
    assert (explorer.state.word, explorer.state.level) == (2, "c5")
    assert "truth not known" in repr(explorer) and "of all words'" in repr(explorer)
    with pytest.raises(RefsegError, match="no word of"):
        explorer.show(word="giraffe")
    with pytest.raises(RefsegError, match="no word in it"):
        explorer.show(" ")
    with pytest.raises(RefsegError, match="letters"):
        explorer.show("star " * 400)
    assert explorer.reading.words != words


def test_the_browser_keeps_few_readings(explorer):
    for text in ("star", "circle", "red star", "blue star", "the star", "a star"):
        explorer.show(text)
    assert len(explorer.fresh) <= widget.KEPT_READINGS and explorer.fresh[-1]["expression"] == "a star"


def test_striking_out(explorer):
    word = explorer.reading.words[1]
    strike = explorer.strike(word)
    assert explorer.state.struck == (1,) and strike.iou is not None
    assert explorer.strike(word) is strike
    with pytest.raises(RefsegError, match="leave at least one"):
        explorer.strike(*range(len(explorer.reading.words)))
    assert explorer.state.struck == (1,)


def test_two_expressions_and_two_networks(tiny_checkpoint, sample):
    both = Explorer(tiny_checkpoint, sample, compare="the star")
    assert both.second_reading.words == ["the", "star"] and both.state.comparing
    networks = Explorer(tiny_checkpoint, sample, other_model=tiny_checkpoint)
    assert networks.state.second_model == 1 and networks.second_reading.expression == sample.expression
    assert [model["name"] for model in networks.content["models"]] == ["tiny", "tiny"]


def test_a_picture_and_an_expression(tiny_checkpoint, sample, tmp_path):
    from PIL import Image

    Image.fromarray(sample.frames[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    for image in (tmp_path / "photo.png", sample.frames[0]):
        explorer = Explorer(tiny_checkpoint, image, "the red star")
        assert explorer.reading.iou is None and explorer.reading.words == ["the", "red", "star"]
    with pytest.raises(RefsegError, match="needs an expression"):
        Explorer(tiny_checkpoint, tmp_path / "photo.png")
    with pytest.raises(RefsegError, match="give a sample"):
        Explorer(tiny_checkpoint)


def test_the_browser_asks_for_a_reading(explorer):
    (answer,) = ask(explorer, expression="the star")
    assert answer["error"] is None and answer["number"] == 1 and answer["client"] == "test"
    assert explorer.fresh[-1]["words"] == ["the", "star"]
    assert explorer.state.expression != "the star", "the browser decides what it shows"


def test_the_browser_asks_for_a_mask_without_words(explorer):
    (answer,) = ask(explorer, ask="strike", expression=explorer.state.expression, struck=[0, 1])
    assert answer["struck"] == [0, 1] and answer["strike"]["iou"] is not None and len(answer["strike"]["masks"]) == 1


def test_errors_reach_the_screen(explorer, monkeypatch):
    (answer,) = ask(explorer, expression="...,")
    assert answer["error"] is None  # signs are words
    (answer,) = ask(explorer, expression=".")
    assert "no word in it" in answer["error"]

    def break_down(*args, **options):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(Reader, "read", break_down)
    (answer,) = ask(explorer, expression="the blue star")
    assert answer["error"] == "The network failed with ZeroDivisionError: by nothing"
    assert ask(explorer, expression=3)[0]["error"].startswith("The network failed")


@pytest.mark.parametrize("message", [None, [], {}, {"ask": "rm"}, {"ask": None}])
def test_messages_that_ask_for_nothing_are_passed_over(explorer, message):
    explorer._on_message(explorer, message, [])
    assert explorer._newest == {}


def test_a_newer_request_overtakes_an_older_one(explorer, monkeypatch):
    """Of three in a row the first is being computed, the second is never begun, the third is answered."""
    begun, go_on, read, done = threading.Event(), threading.Event(), Reader.read, []

    def slow(reader, sample, known, strikes=False):
        done.append(sample.expression)
        begun.set()
        go_on.wait(60)
        return read(reader, sample, known)

    monkeypatch.setattr(Reader, "read", slow)
    answers = []
    explorer.send = answers.append
    for number, text in enumerate(("star", "circle", "cross"), 1):
        message = {"ask": "read", "slot": 0, "number": number, "client": "a", "scene": 0, "model": 0}
        explorer._on_message(explorer, message | {"expression": text}, [])
        assert begun.wait(60)
    go_on.set()
    explorer._worker.submit(lambda: None).result(timeout=60)
    assert done == ["star", "cross"] and [answer["number"] for answer in answers] == [3]


def test_a_finding_goes_out_and_comes_back(explorer, tiny_checkpoint, sample, tmp_path):
    explorer.show("the star", level="c4", normalisation="words", word=1)
    explorer.strike(0)
    explorer.save_state(tmp_path / "finding.json", "look at this")
    other = Explorer(tiny_checkpoint, sample)
    other.load_state(tmp_path / "finding.json")
    assert other.state == explorer.state and other.reading.words == ["the", "star"]
    stored = json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))
    assert stored["note"] == "look at this" and stored["seen"]["struck"] == ["the"]


def test_a_finding_of_another_picture_is_refused(explorer, tmp_path):
    explorer.save_state(tmp_path / "finding.json")
    stored = json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))
    before = explorer.state
    for changes in (
        {"sample": {"source": "refcoco/val", "sample_id": "1"}},
        {"state": stored["state"] | {"scene": 7}},
        {"state": stored["state"] | {"word": 99}},
        {"state": stored["state"] | {"struck": [99]}},
        {"state": stored["state"] | {"level": "c9"}},
        {"state": stored["state"] | {"frame": 3}},
        {"state": stored["state"] | {"model": 2}},
    ):
        (tmp_path / "other.json").write_text(json.dumps(stored | changes), encoding="utf-8")
        with pytest.raises(RefsegError):
            explorer.load_state(tmp_path / "other.json")
    assert explorer.state == before


def test_what_stands_on_paper(explorer):
    """A picture, the sentence, and the numbers of every word; the notebook's HTML is the sheet's."""
    data, _ = explorer._repr_mimebundle_()
    assert data["text/plain"] == repr(explorer) and explorer.reading.expression in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data and len(data["text/html"]) < 100_000
    alt = re.search(r'<img alt="([^"]+)"[^>]*src="data:image/png;base64,', data["text/html"]).group(1)
    assert all(word in alt for word in explorer.reading.words)
    assert explorer.sentence() in data["text/html"] and f"IoU {explorer.reading.iou:.2f}" in explorer.sentence()
    shown = cells_of(data["text/html"])
    assert [row[0] for row in shown] == ["word", *explorer.reading.words]
    weights = explorer.reading.map(1, "c3")
    row, column = divmod(int(weights.argmax()), 4)
    assert shown[2][1:3] == [f"{weights.max():.1f} × even", f"{row + 1}, {column + 1}"]
    scores = explorer.reading.points["c3"]["positions"]
    assert [row[3] for row in shown[1:]] == ["" if one is None else "hit" if one.hit else "miss" for one in scores]


def test_the_numbers_on_paper_follow_the_view(explorer):
    for n in range(len(explorer.reading.words)):
        explorer.strike(n)
    explorer.show("the unheard star").show(explorer.scene.first.expression, normalisation="words")
    strike = explorer.strike(0)
    shown = cells_of(explorer.contact_sheet())
    assert [row[-1] for row in shown[1:]] == [f"{one.iou:.2f}" for one in explorer.reading.strikes.values()]
    assert shown[1][1].endswith("% of all words'")
    assert explorer.sentence().endswith(f"Without “{explorer.reading.words[0]}” IoU {strike.iou:.2f}.")
    explorer.show("the unheard star")
    assert "unheard (not in the vocabulary)" in explorer.contact_sheet()


def test_the_sheet_of_a_clip_is_of_the_frame_on_show(tiny_checkpoint, sample):
    frames = torch.cat([sample.frames, sample.frames.flip(-1)])
    explorer = Explorer(tiny_checkpoint, replace(sample, frames=frames, target_frame=1))
    reading = explorer.reading
    nothing = torch.zeros(96, 96, dtype=torch.bool)
    reading.frames[0].mask = nothing
    reading.frames[1].mask = torch.arange(96).expand(96, 96) < 48
    explorer.state = replace(explorer.state, frame=1)
    plain = contact_sheet(frames[1], reading, "c3", "positions", frame=1, mask=nothing)
    seen = np.asarray(explorer.sheet(explorer.state)), np.asarray(plain)
    changed = (seen[0] != seen[1]).any(-1).nonzero()
    assert changed[1].max() < 100, "the mask of frame 2 covers the left half"
    first = np.asarray(explorer.sheet(replace(explorer.state, frame=0)))
    assert (first[28:178, 12:162] != seen[1][28:178, 12:162]).any(), "and the picture is that of frame 2"


def cells_of(text: str) -> list[list[str]]:
    """The rows of the only table in a text."""
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_contact_sheet_shows_maps_in_cividis(explorer):
    """The largest weight of all is the lightest colour of the sheet's maps."""
    sheet = contact_sheet(explorer.scene.first.frames[0], explorer.reading, "c3", "positions", "a caption")
    colours = {colour for _, colour in sheet.getcolors(10**6)}
    lightest = tuple(matplotlib.colormaps["cividis"](255, bytes=True)[:3])
    assert lightest in colours


def test_the_page_holds_everything_and_no_address(explorer, tmp_path):
    explorer.show("the </script><b>star")
    path = explorer.export_html(tmp_path / "x.html")
    text = path.read_text(encoding="utf-8")
    assert "</script><b>" not in text and text.count("</script>") == 3
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"']?https?:", text) and "import(" not in text
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(RefsegError, match="could not be written"):
        explorer.export_html(path / "x.html")


def test_the_plain_explorer_does_the_same(explorer):
    plain = explorer.plain()
    assert explorer.reading.expression in plain.told.value and 'alt="' in plain.sheet.value
    shown = [plain.picture.value]
    for word, level in ((2, "c3"), (2, "c5")):
        plain.word.value, plain.level.value = word, level
        assert (explorer.state.word, explorer.state.level) == (word, level) and plain.picture.value not in shown
        shown.append(plain.picture.value)
    plain.struck.value = (len(explorer.reading.words) - 1,)  # where the next sentence has no word
    assert "Without" in plain.told.value and "IoU" in plain.told.value
    plain.expression.value = "the star"
    assert explorer.reading.words == ["the", "star"] and [label for label, _ in plain.word.options] == [
        "1 the",
        "2 star",
    ]
    plain.expression.value = ""
    assert "no word in it" in plain.told.value
    assert repr(plain).startswith("PlainExplorer: “the star”")


def test_a_state_of_another_explorer_is_refused(explorer):
    with pytest.raises(RefsegError, match="counted from 0"):
        explorer.state = replace(explorer.state, scene=1)
