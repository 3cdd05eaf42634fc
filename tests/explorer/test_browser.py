"""The JavaScript module in a real Chromium: a page from a file with every request refused, and a fake kernel.

What is asserted is what a person sees, hears or feels: words, numbers, pixels of the canvas, milliseconds.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from seen import (
    CIVIDIS,
    FRAME,
    choose,
    drawing,
    even,
    hover,
    hover_times,
    is_lightest,
    is_nothing,
    pixel,
    slowed,
    stages,
    values,
    verdict,
)

from refseg.checkpoint import load_checkpoint
from refseg.explorer import Explorer, page
from refseg.explorer.scene import Scene
from refseg.explorer.wire import pack, pack_mask

FAKE = """
class FakeModel {
  constructor(content, view) { this.values = { content, view, fresh: [] }; this.listeners = {}; this.sent = []; }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  save_changes() { this.saved = (this.saved ?? 0) + 1; }
  on(name, listener) { (this.listeners[name] ??= new Set()).add(listener); }
  off(name, listener) { this.listeners[name]?.delete(listener); }
  send(message) { this.sent.push(message); }
  fire(name, value) { for (const listener of this.listeners[name] ?? []) listener(value); }
}
"""


@pytest.fixture
def shown(explorer, tmp_path, open_page):
    """``shown(...)`` exports the explorer and opens the page."""

    def show(given: Explorer | None = None, **options):
        path = (given or explorer).export_html(tmp_path / "page.html")
        return open_page(path, **options)

    return show


@pytest.fixture
def fake(explorer, tmp_path, open_page):
    """``fake(how_many)`` opens a page with that many explorers, whose kernels only note what they are asked."""

    def show(count: int = 1, content: dict | None = None, **changes):
        content = content or explorer.content
        text = page.render(content, dict(explorer.view) | changes)
        begin, _, end = text.partition("render({ model: new StillModel")
        models = f"window.fakes = [];\nfor (let n = 0; n < {count}; n++) {{\n"
        models += 'const model = new FakeModel(read("content"), read("view"));\nwindow.fakes.push(model);\n'
        models += 'const el = document.getElementById("explorer").appendChild(document.createElement("div"));\n'
        models += "(window.removers ??= []).push(render({ model, el }));\n}\n"
        path = tmp_path / "fake.html"
        path.write_text(begin + FAKE + models + end.partition("\n")[2], encoding="utf-8")
        return open_page(path)

    return show


def test_the_page_asks_for_nothing_and_is_there_at_once(shown):
    opened = shown()
    assert opened.asked == []
    assert opened.get_by_role("heading", level=1).inner_text().startswith("“")
    paint = opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000 * slowed(), f"first paint after {paint:.0f} ms"


def test_without_javascript_the_page_is_a_sheet_of_pictures_words_and_numbers(shown, explorer):
    opened, reading = shown(java_script_enabled=False), explorer.reading
    assert opened.asked == [] and opened.locator(".rx").count() == 0
    image = opened.locator("figure img").first
    assert image.is_visible() and image.bounding_box()["width"] > 300
    seen = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB")).reshape(-1, 3)
    yellow = np.abs(seen - np.array(CIVIDIS(255, bytes=True)[:3], int)).max(1) < 60
    assert yellow.sum() > 20, "the maps are drawn"
    told = opened.locator("figure").inner_text()
    assert f"IoU {reading.iou:.2f}" in told and "JavaScript is switched off" in opened.locator("main").inner_text()
    for n, word in enumerate(reading.words):
        numbers = f"{reading.map(n, 'c3').max():.1f} × even"
        line = rf"^{word}\s+{numbers}\s.*{reading.strikes[n,].iou:.2f}$"
        assert re.search(line, told, re.MULTILINE), f"{word} with its numbers"


def test_every_picture_of_a_page_has_a_sheet(tiny_checkpoint, sample, shown):
    explorer = Explorer.of_scenes(tiny_checkpoint, [Scene([sample], True), Scene([replace(sample)], True)])
    opened = shown(explorer, java_script_enabled=False, width=400)
    assert opened.locator("figure").count() == 2
    assert all(image.is_visible() for image in opened.locator("figure img").all())
    assert opened.locator("main").bounding_box()["width"] <= 400


def test_hover_tells_the_words_of_a_region(shown, explorer):
    opened, reading = shown(), explorer.reading
    hover(stages(opened).first, 0.6, 0.1)  # of 4 x 4 regions the third in the first row
    maps = [reading.map(n, "c3")[0, 2].item() for n in range(len(reading.words))]
    assert values(opened) == [even(value) for value in maps]
    best = reading.words[int(np.argmax(maps))]
    assert opened.locator(".rx-reading").inner_text().startswith(f"Row 1, column 3 of 4 × 4: “{best}”")
    choose(opened, "per position over words")
    shares = [int(text.strip("<% ")) for text in values(opened)]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
    choose(opened, "Region")
    beta = reading.frames[0].levels["c3"].beta[0, 2]
    assert [int(text.strip("<% ")) for text in values(opened)] == pytest.approx((100 * beta).tolist(), abs=1.01)
    assert "it looks most at row" in opened.locator(".rx-reading").inner_text()


@pytest.mark.parametrize("layer", ["Word", "Region"])
def test_hover_answers_within_a_frame(shown, layer):
    """Layout and drawing included. The fastest quarter of the steps counts: the others tell of the machine's load."""
    opened = shown()
    choose(opened, layer)
    times = hover_times(stages(opened).first)
    assert np.quantile(times, 0.25) < FRAME * slowed(), f"{np.quantile(times, [0, 0.25, 0.5])} ms"
    print("hover, ms, fastest, quarter, half:", np.quantile(times, [0, 0.25, 0.5]).round(1))


def test_a_word_shows_its_map(shown, explorer):
    opened, reading = shown(), explorer.reading
    choose(opened, "c5")
    for n in (0, len(reading.words) - 1):
        opened.locator(".rx-words input").nth(n).check(force=True)
        shown_map = reading.map(n, "c5")
        row, column = divmod(int(shown_map.argmax()), 4)
        assert opened.locator("figcaption strong").nth(1).inner_text() == f"Where “{reading.words[n]}” looks"
        assert opened.locator(".rx-ends").first.inner_text().endswith(f"{even(shown_map.max().item())} × even")
        peak = pixel(stages(opened).nth(1), (column + 0.5) / 4, (row + 0.5) / 4)
        assert is_lightest(peak)


def test_a_click_holds_the_region(shown):
    opened = shown()
    place = stages(opened).nth(1)
    box = place.bounding_box()
    place.click(position={"x": 0.9 * box["width"], "y": 0.9 * box["height"]})
    hover(place, 0.1, 0.1)
    assert opened.locator(".rx-reading").inner_text().startswith("Row 4, column 4 of 4 × 4, held")
    place.click(position={"x": 0.9 * box["width"], "y": 0.9 * box["height"]})
    hover(place, 0.1, 0.1)
    assert opened.locator(".rx-reading").inner_text().startswith("Row 1, column 1 of 4 × 4:")


def test_the_whole_tour_by_keyboard(shown, explorer):
    opened, words = shown(), explorer.reading.words
    heard = opened.locator("[aria-live=polite]")
    stage = stages(opened).first
    stage.focus()
    for key in ("ArrowUp",) * 4 + ("ArrowLeft",) * 4 + ("ArrowRight", "ArrowDown", "Enter"):
        opened.keyboard.press(key)
    assert "Row 2, column 2 of 4 × 4, held" in heard.inner_text()
    opened.keyboard.press("]")
    assert "level c4" in heard.inner_text() and opened.get_by_role("radio", name="c4").is_checked()
    opened.keyboard.press("[")
    opened.keyboard.press("[")
    assert "level c3" in heard.inner_text()
    opened.locator(".rx-words input:checked").focus()
    before = opened.locator(".rx-words input:checked").get_attribute("value")
    opened.keyboard.press("ArrowDown")
    now = int(opened.locator(".rx-words input:checked").get_attribute("value"))
    assert now == (int(before) + 1) % len(words) and f"Word “{words[now]}”" in heard.inner_text()
    assert opened.evaluate("document.activeElement.value") == str(now), "the focus stays on the word"
    opened.keyboard.press("a")
    assert f"Struck out: “{words[now]}”" in heard.inner_text()
    opened.keyboard.press("Escape")
    assert "Struck out" not in heard.inner_text() and "held" not in heard.inner_text()
    outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is visible"


def test_everything_is_reached_with_tab(shown):
    opened, reached = shown(), []
    for _ in range(60):
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.dataset.key ?? document.activeElement.name ?? ''"))
    text = " ".join(reached)
    for part in ("sentence0", "compare", "-layer", "-level", "-norm", "stage", "-word0", "strike0", "save", "keys"):
        assert part in text, f"{part} cannot be reached"


def test_a_word_struck_out_changes_mask_and_iou(shown, explorer):
    opened, words = shown(), explorer.reading.words
    strikes = [explorer.reading.strikes[n,].iou for n in range(len(words))]
    assert opened.locator(".rx-strike span").all_inner_texts() == [f"{iou:.2f}" for iou in strikes]
    opened.locator(".rx-words label").nth(2).click(modifiers=["Shift"])
    told = f"IoU {explorer.reading.iou:.2f} → {strikes[2]:.2f} without “{words[2]}”"
    assert verdict(opened) == told
    struck = opened.locator(".rx-words label span").nth(2)
    assert "line-through" in struck.evaluate("one => getComputedStyle(one).textDecoration")
    opened.get_by_role("button", name="Strike out", exact=False).first.click()
    assert opened.locator(".rx-struck").count() == 1, "a page holds the masks without one word at a time"
    opened.keyboard.press("Escape")
    assert verdict(opened) == f"IoU {explorer.reading.iou:.2f}"


def test_the_mask_is_drawn_where_it_is(shown, explorer, sample):
    """Along the border of the true mask there is its colour, far from every border the picture's own."""
    opened = shown()
    colours = opened.evaluate("""() => { const canvas = document.querySelector("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let [orange, blue] = [0, 0];
        for (let n = 0; n < data.length; n += 4) {
            if (data[n] === 0xE6 && data[n + 1] === 0x9F && data[n + 2] === 0) orange++;
            if (data[n] === 0x56 && data[n + 1] === 0xB4 && data[n + 2] === 0xE9) blue++;
        }
        return [orange, blue]; }""")
    assert min(colours) > 100
    row, column = 2, 93  # a corner
    own = sample.frames[0, :, row, column].tolist()
    seen = pixel(stages(opened).first, (column + 0.5) / 96, (row + 0.5) / 96)
    if not explorer.reading.frames[0].mask[:8, -8:].any():
        assert np.abs(np.subtract(seen, own)).max() < 30


def test_two_sentences_and_their_difference(explorer, shown):
    explorer.read("the star")
    opened = shown()
    opened.get_by_role("button", name="Compare").click()
    assert opened.locator(".rx-words").count() == 2 and stages(opened).count() == 4
    assert opened.locator("figcaption strong").all_inner_texts()[3] == "Difference, A minus B"
    choose(opened, "Mask")
    first, second = explorer.reading.frames[0].prob, explorer.scene.readings[0, "the star"].frames[0].prob
    place = divmod(int((first - second).abs().argmax()), first.shape[1])
    y, x = ((at + 0.5) / side for at, side in zip(place, first.shape))
    red, _, blue = pixel(stages(opened).nth(3), x, y)
    more_in_first = bool(first[place] > second[place])
    assert (red > blue) == more_in_first
    ends = opened.locator(".rx-ends").last.inner_text().split("\n")
    assert ends[0].replace("−", "+") == ends[2] and ends[1] == "0", "zero lies in the middle"
    same = opened.get_by_label("Sentence B")
    same.select_option(explorer.state.expression)
    assert is_nothing(pixel(stages(opened).nth(3), 0.3, 0.3))
    opened.get_by_role("button", name="Stop comparing").click()
    assert opened.locator(".rx-words").count() == 1


def test_two_networks(tiny_checkpoint, sample, shown):
    opened = shown(Explorer(tiny_checkpoint, sample, other_model=tiny_checkpoint))
    assert opened.get_by_label("Network B").evaluate("e => e.selectedOptions[0].text") == "tiny"
    assert is_nothing(pixel(stages(opened).nth(3), 0.5, 0.2)), "one and the same network twice"

    loaded = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(-1)
    both = Explorer(tiny_checkpoint, sample, other_model=loaded)
    opened = shown(both)
    assert opened.get_by_label("Network B").evaluate("e => e.selectedOptions[0].text") == "loaded network"
    assert verdict(opened) == f"A: IoU {both.reading.iou:.2f}. B: IoU {both.second_reading.iou:.2f}"
    choose(opened, "Mask")
    first, second = (reading.frames[0].prob for reading in (both.reading, both.second_reading))
    place = divmod(int((first - second).abs().argmax()), first.shape[1])
    y, x = ((at + 0.5) / side for at, side in zip(place, first.shape))
    red, _, blue = pixel(stages(opened).nth(3), x, y)
    assert (red > blue) == bool(first[place] > second[place]) and abs(red - blue) > 40


def test_gates_are_views_of_their_own(shown, explorer):
    opened = shown()
    for name, part in (("Memory gate", "memory"), ("Reset gate", "reset")):
        choose(opened, name)
        stages(opened).first.focus()
        opened.keyboard.press("ArrowUp")
        row, column = explorer.state.cell
        gate = getattr(explorer.reading.frames[0].levels["c3"], part)
        opened.keyboard.press("ArrowDown")
        told = opened.locator(".rx-reading").inner_text()
        at = [int(word.strip(",:")) - 1 for word in told.split()[1:4:2]]
        assert f"{name.lower()} {gate[tuple(at)].item():.2f}" in told
        assert "GMLF" in opened.locator(".rx-about").first.inner_text()


def test_what_is_shown_is_said(shown):
    opened = shown()
    about = opened.locator(".rx-about")
    for words in ("Level c3, 4 × 4 regions", "Query", "Aggregation", "Normalisation: per word over positions"):
        assert words in about.first.inner_text()
    assert "Not measured for this network" in about.last.inner_text()
    choose(opened, "per position over words")
    assert "Normalisation: per position over words" in about.first.inner_text()


def test_pointing_scores_stand_beside_the_words(shown, explorer):
    opened = shown()
    scores = explorer.reading.points["c3"]["positions"]
    cells = opened.locator(".rx-row:not(.rx-head)")
    for n, score in enumerate(scores):
        told = cells.nth(n).inner_text()
        assert (("hit" if score.hit else "miss") in told) if score else ("hit" not in told and "miss" not in told)


def test_a_clip_has_a_slider_and_weights_of_its_frames(tiny_checkpoint, sample, shown):
    from refseg.models import build_model
    from refseg.models.blocks.cfsa import CFSAConfig
    from refseg.predict import Predictor

    loaded = load_checkpoint(tiny_checkpoint)
    model = build_model(
        replace(loaded.model.config, temporal=CFSAConfig(dim=12, heads=6)), len(loaded.tokenizer)
    ).eval()
    frames = torch.cat([sample.frames, sample.frames.flip(-1), sample.frames.flip(-2)])
    clip = replace(sample, frames=frames, target_frame=1, objects=None)
    explorer = Explorer(Predictor(replace(loaded, model=model), "cpu"), clip)
    opened = shown(explorer)
    assert opened.locator("output").inner_text() == "2 of 3, annotated"
    before = pixel(stages(opened).first, 0.3, 0.1)
    opened.get_by_label("Frame", exact=True).focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("output").inner_text() == "3 of 3"
    opened.wait_for_function("() => document.querySelector('output').textContent === '3 of 3'")
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("output").inner_text() == "1 of 3"
    opened.wait_for_timeout(50)
    assert pixel(stages(opened).first, 0.3, 0.1) != before
    choose(opened, "Frames")
    hover(stages(opened).first, 0.1, 0.1)
    looks = explorer.reading.looks["c3"][:, 0, 0]
    told = opened.locator(".rx-reading").inner_text()
    shares = ", ".join(f"frame {t + 1} {round(100 * share.item())} %" for t, share in enumerate(looks))
    assert told.endswith(f"it looks at {shares}.")
    assert "CFSA" in opened.locator(".rx-about").first.inner_text()


def test_several_pictures_in_one_page(tiny_checkpoint, sample, tiny_refshapes, shown):
    from refseg.datasets import build_dataset

    data = build_dataset("refshapes", "val", objects=True)
    second = next(data[n] for n in range(len(data)) if data.image_ids[n] != data.image_ids[0])
    opened = shown(Explorer.of_scenes(tiny_checkpoint, [Scene([sample], True), Scene([second], True)]))
    opened.get_by_role("button", name="Example 2").click()
    assert opened.get_by_label("Sentence").input_value() == second.expression
    assert opened.get_by_role("button", name="Example 2").get_attribute("aria-pressed") == "true"


def test_a_view_is_saved_and_reopened_in_python(shown, explorer, tmp_path):
    opened = shown()
    choose(opened, "c4")
    opened.get_by_role("button", name="Strike out", exact=False).nth(1).click()
    with opened.expect_download() as download:
        opened.get_by_role("button", name="Save this view").click()
    download.value.save_as(tmp_path / "finding.json")
    before = verdict(opened), values(opened), drawing(stages(opened).nth(1))
    explorer.load_state(tmp_path / "finding.json")
    assert explorer.state.level == "c4" and explorer.state.struck == (1,)
    again = shown()
    assert again.get_by_role("radio", name="c4").is_checked() and again.locator(".rx-struck").count() == 1
    assert (verdict(again), values(again), drawing(stages(again).nth(1))) == before, "the same is seen"


def test_words_are_text_and_never_markup(explorer, shown):
    explorer.show("the <img src=x onerror=alert(1)> star")
    opened = shown()
    assert "<" in opened.locator(".rx-words label").nth(1).inner_text()
    assert opened.locator(".rx img[src=x]").count() == 0 and opened.asked == []
    assert "not in the vocabulary" in opened.locator(".rx-words").inner_text().lower()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_serious_for_axe_and_nothing_beside_the_page(shown, explorer, scheme, width):
    explorer.read("the star")
    opened = shown(width=width, color_scheme=scheme)
    opened.get_by_role("button", name="Compare").click()
    opened.locator("summary").click()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(opened).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in serious] == []


# What deuteranopes, protanopes and tritanopes see: Machado, Oliveira and Fernandes, 2009, severity 1, of linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def ramp_content(explorer) -> dict:
    """The explorer's content with a mask whose probability rises from left to right, and no mask to draw over it."""
    content = json.loads(json.dumps(explorer.content))
    frame = content["scenes"][0]["readings"][0]["frames"][0]
    frame["prob"] = pack(torch.linspace(0, 1, 32).expand(8, 32))
    frame["mask"] = pack_mask(torch.zeros(96, 96, dtype=torch.bool))
    return content


def test_the_colours_are_cividis_and_keep_their_order_for_everybody(fake, explorer):
    opened = fake(content=ramp_content(explorer), layer="mask")
    places = np.linspace(0.03, 0.97, 21)
    row = [pixel(stages(opened).nth(1), x, 0.31) for x in places]
    parts = np.clip((places * 32 - 0.5) / 31, 0, 1)
    off_lines = [n for n, part in enumerate(parts) if min(abs(part - level) for level in (0.25, 0.5, 0.75)) > 0.03]
    expected = np.array([CIVIDIS(part, bytes=True)[:3] for part in parts])
    assert np.abs(np.array(row)[off_lines].astype(int) - expected[off_lines]).max() <= 6
    linear = (np.array(row)[off_lines] / 255) ** 2.2
    for name, matrix in BLINDNESS.items():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1) @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(seen) > 0).all(), f"the order is lost ({name})"


def test_differences_keep_their_sides_for_everybody(fake, explorer):
    """From the middle to both ends darker, and which end it is can be told."""
    content = ramp_content(explorer)
    second = json.loads(json.dumps(content["scenes"][0]["readings"][0]))
    frame = second["frames"][0]
    second["expression"], frame["prob"] = "the other", pack(torch.linspace(1, 0, 32).expand(8, 32))
    content["scenes"][0]["readings"].append(second)
    opened = fake(content=content, layer="mask", second_expression="the other")
    ramp = np.array([pixel(stages(opened).nth(3), x, 0.31) for x in np.linspace(0.03, 0.97, 21)])
    linear = (ramp / 255) ** 2.2
    for name, matrix in BLINDNESS.items():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        light = seen @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(light[:11]) > 0).all() and (np.diff(light[10:]) < 0).all(), f"the order is lost ({name})"
        shades = np.abs(seen[2:9] - seen[-3:-10:-1]).max(1)
        assert shades.min() > 0.1, f"minus and plus look the same ({name})"


# ---- with a kernel that only notes -----------------------------------------------------------------------------


def reading_of(explorer, text: str) -> dict:
    reading = explorer.read(text)
    return {"scene": 0, "model": 0, **reading.to_wire()}


def answer(opened, number: int, **message) -> None:
    code = "([n, message]) => { const sent = fakes[0].sent[n]; fakes[0].fire('msg:custom', { ...sent, ...message }); }"
    opened.evaluate(code, [number, message])


def test_enter_runs_the_network_and_unknown_words_are_named(fake, explorer):
    opened = fake()
    field = opened.get_by_label("Sentence")
    field.fill("the unheard star")
    field.press("Enter")
    sent = opened.evaluate("fakes[0].sent")
    assert len(sent) == 1 and (sent[0]["ask"], sent[0]["expression"]) == ("read", "the unheard star")
    assert "The network is reading" in opened.locator(".rx-note").inner_text()
    fresh = [reading_of(explorer, "the unheard star")]
    opened.evaluate("fresh => { fakes[0].values.fresh = fresh; fakes[0].fire('change:fresh'); }", fresh)
    answer(opened, 0, error=None)
    assert opened.locator(".rx-words label").nth(2).inner_text() == "star"
    assert "Not in the vocabulary: “unheard”." in opened.locator(".rx-note").inner_text()
    assert "Truth not known" in opened.locator("figcaption").first.inner_text()
    assert opened.evaluate("fakes[0].values.view.expression") == "the unheard star"


def test_an_older_answer_is_overtaken(fake, explorer):
    opened = fake()
    field = opened.get_by_label("Sentence")
    for text in ("star", "circle"):
        field.fill(text)
        field.press("Enter")
    fresh = [reading_of(explorer, text) for text in ("star", "circle")]
    opened.evaluate("fresh => { fakes[0].values.fresh = fresh; fakes[0].fire('change:fresh'); }", fresh)
    answer(opened, 1, error=None)
    answer(opened, 0, error=None)
    assert opened.evaluate("fakes[0].values.view.expression") == "circle"
    answer(opened, 0, error="This came too late.")
    assert not opened.get_by_role("alert").is_visible()


def test_what_goes_wrong_in_the_network_stands_on_the_screen(fake):
    opened = fake()
    field = opened.get_by_label("Sentence")
    field.fill("the star")
    field.press("Enter")
    answer(opened, 0, error="The network failed with ZeroDivisionError: by nothing")
    assert opened.get_by_role("alert").inner_text() == "The network failed with ZeroDivisionError: by nothing"
    field.fill("  ")
    field.press("Enter")
    assert "no word in it" in opened.get_by_role("alert").inner_text()
    assert opened.evaluate("fakes[0].sent.length") == 1


def test_the_kernel_is_asked_for_a_mask_and_not_for_hovering(fake, explorer):
    from refseg.explorer.reading import strike_to_wire

    opened = fake()
    hover(stages(opened).first, 0.1, 0.1)
    hover(stages(opened).nth(1), 0.6, 0.6)
    assert opened.evaluate("fakes[0].sent") == []
    opened.locator(".rx-strike").nth(0).click()
    opened.locator(".rx-strike").nth(1).click()
    sent = opened.evaluate("fakes[0].sent")
    assert [message["struck"] for message in sent] == [[0], [0, 1]]
    strike = explorer.strike(0, 1)
    answer(opened, 1, error=None, strike=strike_to_wire(strike))
    assert f"→ {strike.iou:.2f} without" in verdict(opened)


def test_two_explorers_on_one_page_do_not_meet(fake):
    opened = fake(2)
    first, second = opened.locator(".rx").all()
    first.get_by_role("radio", name="c5").check(force=True)
    first.locator(".rx-words input").last.check(force=True)
    assert second.get_by_role("radio", name="c3").is_checked()
    assert not second.locator(".rx-words input").last.is_checked()
    first.locator(".rx-stage").first.focus()
    opened.keyboard.press("a")
    assert second.locator(".rx-struck").count() == 0
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(set(ids)) == len(ids)
    opened.evaluate("removers[0]()")
    assert opened.locator(".rx").count() == 1


def test_what_is_being_typed_stays(fake):
    """The view changes under the hands of who types: the words are still there, and Enter sends them."""
    opened = fake()
    field = opened.get_by_label("Sentence")
    field.fill("the green star")
    opened.evaluate("""() => { const [model] = fakes;
        model.set("view", { ...model.get("view"), level: "c4" });
        model.fire("change:view"); }""")
    assert field.input_value() == "the green star"
    field.press("Enter")
    assert opened.evaluate("fakes[0].sent.map(one => one.expression)") == ["the green star"]


def test_the_view_follows_the_kernel(fake):
    opened = fake()
    opened.evaluate("""() => { const [model] = fakes;
        model.set("view", { ...model.get("view"), level: "c4", layer: "reset" });
        model.fire("change:view"); }""")
    assert opened.get_by_role("radio", name="c4").is_checked()
    assert opened.locator("figcaption strong").nth(1).inner_text() == "Reset gate"
