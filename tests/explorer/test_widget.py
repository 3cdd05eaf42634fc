"""The widget without a browser: its traits, what it answers, what it writes, and what stands in for it on paper."""

import html
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WAYS
from refseg.explorer import Explorer, page, session, state, widget
from refseg.explorer.reading import Reader
from refseg.explorer.scene import Scene
from refseg.explorer.sheet import contact_sheet
from refseg.explorer.state import ExplorerState


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

    monkeypatch.setattr(session, "Predictor", refuse)
    explorer = Explorer()
    assert len(explorer.scenes) == 4 and len(json.dumps(explorer.content)) < 1_500_000
    ious = [scene.readings[0, scene.first.expression].iou for scene in explorer.scenes]
    assert max(ious) > 0.8 and min(ious) < 0.5, "right and wrong ones are shown"
    assert explorer.strike(0).iou is not None
    assert explorer.content["models"][0]["name"] == widget.SHIPPED
    assert "IoU" in repr(explorer) and explorer.content["models"][0]["pointing"]["scores"]["words"]["c3"]["N"] > 1000


def test_the_shipped_examples_are_what_the_shipped_network_gives():
    """A new checkpoint needs new examples: python -m refseg_course.gallery --examples"""
    explorer = Explorer()
    scene = explorer.scene
    stored = explorer.reading
    sample, known = scene.find(stored.expression)
    reading = explorer.session.reader(0).read(sample, known)
    assert reading.iou == pytest.approx(stored.iou, abs=1e-3)
    assert torch.allclose(reading.frames[0].levels["c3"].maps, stored.frames[0].levels["c3"].maps, rtol=0.02, atol=1e-4)


def test_another_expression(explorer):
    words = explorer.reading.words
    explorer.show("the unheard star", word="star", level="c5", normalisation="words")
    assert explorer.reading.unknown == ["unheard"] and explorer.reading.iou is None
    assert [one["expression"] for one in explorer.fresh] == ["the unheard star"]
    assert (explorer.state.word, explorer.state.level) == (2, "c5")
    assert "no ground truth" in repr(explorer) and "of all words'" in repr(explorer)
    with pytest.raises(RefsegError, match="not a word of"):
        explorer.show(word="giraffe")
    with pytest.raises(RefsegError, match="no word in it"):
        explorer.show(" ")
    with pytest.raises(RefsegError, match="shorten it to 1000"):
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


def test_a_shipped_network_is_known_by_its_name(sample, tmp_path, monkeypatch):
    (tmp_path / "magnet_refshapes").mkdir()
    monkeypatch.chdir(tmp_path)  # an empty folder of that name hides nothing
    for name in ("magnet_refshapes", Path("magnet_refshapes")):
        explorer = Explorer(name, sample)
        about = explorer.content["models"][0]
        assert about["name"] == "magnet_refshapes" and explorer.reading.guesses, "with its heads"


def test_a_damaged_score_of_the_maps_is_one_sentence(tiny_checkpoint, sample):
    assert Explorer(tiny_checkpoint, sample).content["models"][0]["pointing"] is None
    (tiny_checkpoint / "pointing.json").write_text("[" * 100_000)
    with pytest.raises(RefsegError, match="pointing.json is not valid JSON"):
        Explorer(tiny_checkpoint, sample)


def test_two_expressions_and_two_networks(tiny_checkpoint, sample):
    both = Explorer(tiny_checkpoint, sample, compare="the star")
    assert both.state.second_expression == "the star" and both.state.comparing
    assert (0, "the star") in both.scene.readings
    networks = Explorer(tiny_checkpoint, sample, other_model=tiny_checkpoint)
    assert networks.state.second_model == 1 and (1, sample.expression) in networks.scene.readings
    assert [model["name"] for model in networks.content["models"]] == ["tiny", "tiny"]


def test_an_image_and_an_expression(tiny_checkpoint, sample, tmp_path):
    from PIL import Image

    array = sample.frames[0].permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "photo.png")
    for image in (tmp_path / "photo.png", sample.frames[0], array, Image.fromarray(array)):
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
    answers = []
    explorer.send = answers.append
    for message in (None, [], {}, {"ask": "rm"}, {"ask": None}):
        explorer._on_message(explorer, message, [])
    explorer._worker.submit(lambda: None).result(timeout=60)
    assert answers == [], "what asks for nothing is not answered"


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


def test_a_finding_of_another_image_is_refused(explorer, tmp_path):
    explorer.save_state(tmp_path / "finding.json")
    stored = json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))
    before = explorer.state
    for changes in (
        {"sample": {"source": "refcoco/val", "sample_id": "1"}},
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
    with pytest.raises(RefsegError, match="counted from 0"):
        explorer.state = replace(explorer.state, scene=1)


def test_a_finding_is_opened_wherever_its_image_is_among_others(explorer, tiny_checkpoint, sample, tmp_path):
    explorer.show(level="c4").save_state(tmp_path / "finding.json")
    scenes = [Scene([replace(sample, sample_id="another")], True), Scene([sample], True)]
    several = Explorer(tiny_checkpoint, scenes=scenes)
    several.load_state(tmp_path / "finding.json")
    assert (several.state.scene, several.state.level) == (1, "c4") and several.scene.first is sample


def test_what_stands_on_paper(explorer):
    """An image, the sentence, and the numbers of every word; the notebook's HTML is the sheet's."""
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
    assert explorer.sentence().endswith(f"Without “{explorer.reading.words[0]}”: IoU {strike.iou:.2f}.")
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
    strike = explorer.strike(0)
    strike.masks[1] = nothing
    marked, bare = (
        np.asarray(contact_sheet(frames[n], reading, replace(explorer.state, frame=n, struck=struck)))
        for n, struck in ((1, ()), (1, (0,)))
    )
    changed = (marked != bare).any(-1).nonzero()
    assert changed[1].max() < 100, "the mask of frame 2 covers the left half"
    pictures = re.findall(
        r'base64,([^"]+)"', explorer.show(struck=()).contact_sheet() + explorer.show(frame=0).contact_sheet()
    )
    assert len(set(pictures)) == 2, "and each frame has its own sheet"


def cells_of(text: str) -> list[list[str]]:
    """The rows of the only table in a text."""
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_contact_sheet_shows_maps_in_cividis(explorer):
    """The largest weight of all is the lightest colour of the sheet's maps."""
    sheet = contact_sheet(explorer.scene.first.frames[0], explorer.reading, explorer.state, caption="a caption")
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
    assert explorer.reading.expression in plain.text.value and 'alt="' in plain.sheet.value
    shown = [plain.image.value]
    for word, level in ((2, "c3"), (2, "c5")):
        plain.word.value, plain.level.value = word, level
        assert (explorer.state.word, explorer.state.level) == (word, level) and plain.image.value not in shown
        shown.append(plain.image.value)
    plain.struck.value = (len(explorer.reading.words) - 1,)  # where the next sentence has no word
    assert "Without" in plain.text.value and "IoU" in plain.text.value
    plain.expression.value = "the star"
    assert explorer.reading.words == ["the", "star"] and [label for label, _ in plain.word.options] == [
        "1 the",
        "2 star",
    ]
    plain.expression.value = ""
    assert "no word in it" in plain.text.value
    assert repr(plain).startswith("PlainExplorer: “the star”")


def test_the_centre_in_words(tiny_alignformer, sample, tmp_path):
    """Step by step, on paper too, and a finding keeps the step; without a centre there is no word of it."""
    explorer = Explorer(tiny_alignformer, sample)
    assert explorer.state.step == 3, "it opens on what the mask is made of"
    centre = explorer.reading.frames[0].centre
    said = explorer.show(layer="centre", step=0).sentence()
    low, high = centre.similarity[0].min(), centre.similarity[0].max()
    assert f"Cosine with the centre of the sentence alone: from {low:.2f} to {high:.2f}" in said
    assert f"AUC {centre.areas[0]:.3f}, among objects {centre.among[0]:.3f}." in said
    assert "after look 2 of 3" in explorer.show(step=2).sentence()
    path = explorer.show(step=1).save_state(tmp_path / "finding.json")
    assert "Cosine" not in explorer.show(layer="word").sentence()
    explorer.load_state(path)
    assert (explorer.state.layer, explorer.state.step) == ("centre", 1)
    with pytest.raises(RefsegError, match="names step 4 of the centre: the last one is 3"):
        explorer.show(step=4)


def test_the_hidden_word_in_words(tiny_grounded, sample):
    explorer = Explorer(tiny_grounded, sample)
    place = next(iter(explorer.reading.guesses))
    (first, share), *_ = explorer.reading.guesses[place]["picture and mask"]
    said = explorer.show(word=place, guessing=True).sentence()
    assert f"is hidden; guessed in its place: “{first}” {share:.0%} (words, image and mask)" in said
    assert "is hidden" not in explorer.show(guessing=False).sentence()


def test_python_and_the_browser_share_their_constants(explorer):
    """Labels, colours and limits are defined once, in Python: the script holds none, the browser receives them."""
    script, content = page.script(), explorer.content
    constants = page.constants()
    assert constants.items() <= content.items()
    labels = constants["labels"]
    assert labels["layers"] is state.LAYERS and labels["normalisations"] is state.NORMALISATIONS
    assert list(labels["ways"]) == list(WAYS)
    colours = constants["colours"]
    for text in (*state.LAYERS.values(), *state.NORMALISATIONS.values(), *labels["ways"].values()):
        assert " " not in text or f'"{text}"' not in script  # a label of one word is a heading elsewhere, too
    for colour in (*colours["cividis"], *colours["diverging"], *(c for c in colours.values() if isinstance(c, str))):
        assert colour.lstrip("#").lower() not in script.lower()
    assert str(state.LONGEST_EXPRESSION) not in script and state.FORMAT not in script
    assert ExplorerState().to_dict().keys() == explorer.view.keys()


def test_the_modules_join_into_one_script():
    """All of them, each small, in an order in which each needs only earlier ones; the joined script loads nothing."""
    files = sorted((page.HERE / "js").glob("*.js"))
    assert sorted(page.MODULES) == [path.stem for path in files]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path.name
        needed = re.findall(r'^import \{[^}]+\} from "\./(\w+)\.js";$', text, re.MULTILINE)
        assert len(needed) == text.count("import {"), f"{path.name}: an import on one line each"
        assert all(page.MODULES.index(name) < page.MODULES.index(path.stem) for name in needed), path.name
    script = page.script()
    assert "import " not in script.replace("// ", "") and script.count("export ") == 1
