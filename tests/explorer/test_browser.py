"""The JavaScript modules in a real Chromium: a page from a file with every request refused, and a fake kernel.

What is asserted is what a person sees, hears or feels: words, numbers, pixels of the canvas, milliseconds. A page is
opened once and reloaded between the checks of a test, which take the state that a reload brings back.
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
    click,
    drawing,
    even,
    heard,
    hover,
    hover_times,
    is_lightest,
    is_nothing,
    line,
    minus,
    pixel,
    slowed,
    stages,
    title,
    values,
    verdict,
)

from refseg.checkpoint import load_checkpoint
from refseg.datasets import build_dataset
from refseg.explorer import Explorer, page
from refseg.explorer.scene import Scene
from refseg.explorer.wire import pack, pack_mask, to_wire
from refseg.models import build_model
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.predict import Predictor

FAKE = """
class FakeModel {
  constructor(content, view) { this.values = { content, view, fresh: [] }; this.listeners = {}; this.sent = []; }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  save_changes() { this.saved = (this.saved ?? 0) + 1; }
  on(name, listener) { (this.listeners[name] ??= new Set()).add(listener); }
  off(name, listener) { this.listeners[name]?.delete(listener); }
  send(message) { if (this.dead) throw new Error("dead"); this.sent.push(message); }
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


def row_column(shown_map) -> tuple[int, int]:
    return divmod(int(shown_map.argmax()), shown_map.shape[1])


def serious(opened) -> list:
    found = Axe().run(opened).response["violations"]
    return [
        (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


# ---- a page of one image ---------------------------------------------------------------------------------------


def it_asks_for_nothing_and_is_there_at_once(opened):
    assert opened.asked == []
    assert opened.get_by_role("heading", level=1).inner_text().startswith("“")
    assert opened.get_by_role("button", name="Compare").count() == 0, "there is nothing to compare with"
    paint = opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000 * slowed(), f"first paint after {paint:.0f} ms"


def hover_shows_the_words_of_a_region(opened, reading):
    hover(stages(opened).first, 0.6, 0.1)  # of 4 x 4 regions the third in the first row
    maps = [reading.map(n, "c3")[0, 2].item() for n in range(len(reading.words))]
    assert values(opened) == [even(value) for value in maps]
    best = reading.words[int(np.argmax(maps))]
    assert line(opened).startswith(f"Row 1, column 3 of 4 × 4: “{best}”")
    choose(opened, "per position over words")
    shares = [int(text.strip("<% ")) for text in values(opened)]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
    choose(opened, "Region")
    beta = reading.frames[0].levels["c3"].beta[0, 2]
    assert [int(text.strip("<% ")) for text in values(opened)] == pytest.approx((100 * beta).tolist(), abs=1.01)
    assert "it looks most at row" in line(opened)
    before = drawing(stages(opened).nth(1))
    hover(stages(opened).first, 0.1, 0.9)
    assert title(opened, 1) == "Where row 4, column 1 looks" and drawing(stages(opened).nth(1)) != before


def hover_answers_within_a_frame(opened, _):
    """Layout and drawing included. The fastest quarter counts: the others depend on the machine's load."""
    for layer in ("Word", "Region"):
        choose(opened, layer)
        times = hover_times(stages(opened).first)
        assert np.quantile(times, 0.25) < FRAME * slowed(), f"{layer}: {np.quantile(times, [0, 0.25, 0.5])} ms"


def a_word_shows_its_map(opened, reading):
    choose(opened, "c5")
    for n in (0, len(reading.words) - 1):
        opened.locator(".rx-words input").nth(n).check(force=True)
        shown_map = reading.map(n, "c5")
        row, column = row_column(shown_map)
        assert title(opened, 1) == f"Where “{reading.words[n]}” looks"
        assert opened.locator(".rx-ends").first.inner_text().endswith(f"{even(shown_map.max().item())} × even")
        assert is_lightest(pixel(stages(opened).nth(1), (column + 0.5) / 4, (row + 0.5) / 4))


def a_click_holds_the_region(opened, _):
    place = stages(opened).nth(1)
    click(place, 0.9, 0.9)
    hover(place, 0.1, 0.1)
    assert line(opened).startswith("Row 4, column 4 of 4 × 4, held")
    click(place, 0.9, 0.9)
    hover(place, 0.1, 0.1)
    assert line(opened).startswith("Row 1, column 1 of 4 × 4:")


def gates_are_views_of_their_own(opened, reading):
    hover(stages(opened).first, 0.6, 0.1)
    for name, part in (("Memory gate", "memory"), ("Reset gate", "reset")):
        choose(opened, name)
        gate = getattr(reading.frames[0].levels["c3"], part)[0, 2].item()
        assert f"{name.lower()} {gate:.2f}; “" in line(opened)
        assert "GMLF" in opened.locator(".rx-about").first.inner_text()


def what_is_shown_is_said(opened, reading):
    about = opened.locator(".rx-about")
    for words in ("Level c3, 4 × 4 regions", "Query", "Aggregation", "Normalisation: per word over positions"):
        assert words in about.first.inner_text()
    assert "Not measured for this network" in about.last.inner_text()
    choose(opened, "per position over words")
    assert "Normalisation: per position over words" in about.first.inner_text()
    cells = opened.locator(".rx-row:not(.rx-head)")
    for n, score in enumerate(reading.points["c3"]["words"]):
        told = cells.nth(n).inner_text()
        assert (("hit" if score.hit else "miss") in told) if score else ("hit" not in told and "miss" not in told)


def a_word_struck_out_changes_mask_and_iou(opened, reading):
    strikes = [reading.strikes[n,].iou for n in range(len(reading.words))]
    assert opened.locator(".rx-strike span").all_inner_texts() == [f"{iou:.2f}" for iou in strikes]
    opened.locator(".rx-words label").nth(2).click(modifiers=["Shift"])
    assert verdict(opened) == f"IoU {reading.iou:.2f} → {strikes[2]:.2f} without “{reading.words[2]}”"
    struck = opened.locator(".rx-words label span").nth(2)
    assert "line-through" in struck.evaluate("one => getComputedStyle(one).textDecoration")
    opened.get_by_role("button", name="Strike out", exact=False).first.click()
    assert opened.locator(".rx-struck").count() == 1, "a page holds the masks without one word at a time"
    opened.keyboard.press("Escape")
    assert verdict(opened) == f"IoU {reading.iou:.2f}"


def the_masks_are_drawn(opened, _):
    """Prediction and ground truth in their colours."""
    counts = opened.evaluate("""() => { const canvas = document.querySelector("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let [orange, blue] = [0, 0];
        for (let n = 0; n < data.length; n += 4) {
            if (data[n] === 0xE6 && data[n + 1] === 0x9F && data[n + 2] === 0) orange++;
            if (data[n] === 0x56 && data[n + 1] === 0xB4 && data[n + 2] === 0xE9) blue++;
        }
        return [orange, blue]; }""")
    assert min(counts) > 100


def a_page_without_centre_and_guesses_has_nothing_of_them(opened, _):
    assert opened.get_by_role("radio", name="Centre").count() == 0
    assert opened.get_by_role("group", name="Step").count() == 0
    opened.locator(".rx-words input:checked").focus()
    opened.keyboard.press("h")
    assert opened.locator(".rx-guesses").count() == 0
    opened.get_by_text("Keys", exact=True).click()
    assert "hide" not in opened.locator(".rx-foot").inner_text().lower()


def test_one_image_by_pointer(shown, explorer, sample):
    opened, reading = shown(), explorer.reading
    it_asks_for_nothing_and_is_there_at_once(opened)
    own, seen = sample.frames[0, :, 2, 93].tolist(), pixel(stages(opened).first, 93.5 / 96, 2.5 / 96)
    if not reading.frames[0].mask[:8, -8:].any():
        assert np.abs(np.subtract(seen, own)).max() < 30, "far from every border there is the image's own colour"
    checks = (hover_shows_the_words_of_a_region, hover_answers_within_a_frame, a_word_shows_its_map)
    checks += (a_click_holds_the_region, gates_are_views_of_their_own, what_is_shown_is_said)
    checks += (a_word_struck_out_changes_mask_and_iou, the_masks_are_drawn)
    for check in (*checks, a_page_without_centre_and_guesses_has_nothing_of_them):
        opened.reload()
        check(opened, reading)


def test_one_image_by_keyboard(shown, explorer):
    """The whole tour, and everything is reached with Tab."""
    opened, words = shown(), explorer.reading.words
    stages(opened).first.focus()
    for key in ("ArrowUp",) * 4 + ("ArrowLeft",) * 4 + ("ArrowRight", "ArrowDown", "Enter"):
        opened.keyboard.press(key)
    assert "Row 2, column 2 of 4 × 4, held" in heard(opened)
    opened.keyboard.press("]")
    assert "level c4" in heard(opened) and opened.get_by_role("radio", name="c4").is_checked()
    opened.keyboard.press("[")
    opened.keyboard.press("[")
    assert "level c3" in heard(opened)
    opened.locator(".rx-words input:checked").focus()
    before = opened.locator(".rx-words input:checked").get_attribute("value")
    opened.keyboard.press("ArrowDown")
    now = int(opened.locator(".rx-words input:checked").get_attribute("value"))
    assert now == (int(before) + 1) % len(words) and f"Word “{words[now]}”" in heard(opened)
    assert opened.evaluate("document.activeElement.value") == str(now), "the focus stays on the word"
    opened.keyboard.press("a")
    assert f"Struck out: “{words[now]}”" in heard(opened)
    opened.keyboard.press("Escape")
    assert "Struck out" not in heard(opened) and "held" not in heard(opened)
    outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is visible"
    opened.reload()
    reached = []
    for _ in range(12 + len(words)):
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.dataset.key ?? document.activeElement.name ?? ''"))
    text = " ".join(reached)
    for part in ("expression0", "-layer", "-level", "-norm", "stage", "-word0", "strike0", "save", "keys"):
        assert part in text, f"{part} cannot be reached"


def test_words_are_text_and_never_markup(explorer, shown):
    explorer.show("the <img src=x onerror=alert(1)> star")
    opened = shown()
    assert "<" in opened.locator(".rx-words label").nth(1).inner_text()
    assert opened.locator(".rx img[src=x]").count() == 0 and opened.asked == []
    assert "not in the vocabulary" in opened.locator(".rx-words").inner_text().lower()


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


# ---- pages of several images, expressions, networks, frames ----------------------------------------------------


def test_without_javascript_a_page_is_sheets_of_images_words_and_numbers(tiny_checkpoint, sample, shown):
    explorer = Explorer(tiny_checkpoint, scenes=[Scene([sample], True), Scene([replace(sample)], True)])
    opened, reading = shown(explorer, java_script_enabled=False), explorer.reading
    assert opened.asked == [] and opened.locator(".rx").count() == 0 and opened.locator("figure").count() == 2
    image = opened.locator("figure img").first
    assert image.bounding_box()["width"] > 300
    assert all(one.is_visible() for one in opened.locator("figure img").all())
    seen = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB")).reshape(-1, 3)
    yellow = np.abs(seen - np.array(CIVIDIS(255, bytes=True)[:3], int)).max(1) < 60
    assert yellow.sum() > 20, "the maps are drawn"
    told = opened.locator("figure").first.inner_text()
    assert f"IoU {reading.iou:.2f}" in told and "JavaScript is switched off" in opened.locator("main").inner_text()
    for n, word in enumerate(reading.words):
        numbers = f"{reading.map(n, 'c3').max():.1f} × even"
        assert re.search(rf"^{word}\s+{numbers}\s.*{reading.strikes[n,].iou:.2f}$", told, re.MULTILINE), word
    opened.set_viewport_size({"width": 400, "height": 900})
    assert opened.locator("main").bounding_box()["width"] <= 400


def test_several_images_in_one_page(tiny_checkpoint, sample, tiny_refshapes, shown):
    """Those of a long strip, too: the chosen one stays in sight."""
    data = build_dataset("refshapes", "val", objects=True)
    second = next(data[n] for n in range(len(data)) if data.image_ids[n] != data.image_ids[0])
    scenes = [Scene([sample], True), *(Scene([replace(second, sample_id=str(n))], True) for n in range(19))]
    opened = shown(Explorer(tiny_checkpoint, scenes=scenes))
    twentieth = opened.get_by_role("button", name="Example 20")
    twentieth.click()
    assert opened.get_by_label("Expression").input_value() == second.expression
    assert twentieth.get_attribute("aria-pressed") == "true"
    opened.locator(".rx-words input").last.check(force=True)
    box = twentieth.bounding_box()
    assert 0 <= box["x"] and box["x"] + box["width"] <= 1280, "the strip stays where it was scrolled to"


def test_two_expressions_and_their_difference(explorer, shown):
    """On the way also: nothing serious for axe, and nothing sticks out of the page, wide or narrow, light or dark."""
    explorer.read("the star")
    opened = shown()
    opened.get_by_role("button", name="Compare").click()
    assert opened.locator(".rx-words").count() == 2 and stages(opened).count() == 4
    assert title(opened, 3) == "Difference, A minus B"
    opened.locator("summary").click()
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "dark"), (400, "light")):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.emulate_media(color_scheme=scheme)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert serious(opened) == [], f"{width} pixels, {scheme}"
    opened.set_viewport_size({"width": 1280, "height": 900})

    choose(opened, "Region")
    stages(opened).first.focus()
    before = drawing(stages(opened).nth(2))
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("ArrowUp")
    assert opened.evaluate("document.activeElement.dataset.key") == "stage", "the focus stays on the image"
    assert drawing(stages(opened).nth(2)) != before and opened.locator(".rx-cell").nth(2).bounding_box()["width"] > 20
    choose(opened, "Mask")
    first, second = explorer.reading.frames[0].prob, explorer.scene.readings[0, "the star"].frames[0].prob
    place = row_column((first - second).abs())
    y, x = ((at + 0.5) / side for at, side in zip(place, first.shape))
    red, _, blue = pixel(stages(opened).nth(3), x, y)
    assert (red > blue) == bool(first[place] > second[place])
    ends = opened.locator(".rx-ends").last.inner_text().split("\n")
    assert ends[0].replace("−", "+") == ends[2] and ends[1] == "0", "zero lies in the middle"
    opened.get_by_label("Expression B").select_option(explorer.state.expression)
    assert is_nothing(pixel(stages(opened).nth(3), 0.3, 0.3))
    opened.get_by_role("button", name="Stop comparing").click()
    assert opened.locator(".rx-words").count() == 1


def test_two_networks(tiny_checkpoint, sample, shown):
    loaded = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(-1)
    both = Explorer(tiny_checkpoint, sample, other_model=loaded)
    other = both.read(sample.expression, model=1)
    opened = shown(both)
    network = opened.get_by_label("Network B")
    assert network.evaluate("e => [...e.options].map(one => one.text)") == ["tiny", "loaded network"]
    assert verdict(opened) == f"A: IoU {both.reading.iou:.2f}. B: IoU {other.iou:.2f}"
    choose(opened, "Mask")
    first, second = (reading.frames[0].prob for reading in (both.reading, other))
    place = row_column((first - second).abs())
    y, x = ((at + 0.5) / side for at, side in zip(place, first.shape))
    red, _, blue = pixel(stages(opened).nth(3), x, y)
    assert (red > blue) == bool(first[place] > second[place]) and abs(red - blue) > 40
    network.select_option("0")
    assert is_nothing(pixel(stages(opened).nth(3), 0.5, 0.2)), "one and the same network twice"


def test_networks_that_do_not_have_the_same_maps(tiny_checkpoint, tiny_alignformer, tiny_grounded, sample, shown):
    """Where B lacks what is asked for, its mask stands there; maps of different kinds have no common scale.

    Whatever goes wrong fails in ``open_page``.
    """
    for first, second in ((tiny_checkpoint, tiny_alignformer), (tiny_alignformer, tiny_grounded)):
        opened = shown(Explorer(first, sample, other_model=second))
        layers = opened.get_by_role("group", name="Map of").get_by_role("radio")
        for n in range(layers.count()):
            layers.nth(n).check(force=True)
            stages(opened).first.press("ArrowRight")
            assert opened.get_by_role("img", name=re.compile("^B: ")).count() == 1
        lacking = opened.get_by_role("img", name=re.compile("^B: Probability of the mask"))
        assert lacking.count() == 1, "the last layer, the reset gate or the centre"
        choose(opened, "Region")
        assert stages(opened).count() == 3, "no difference of weights and shares, or of a map and a mask"


def test_a_level_with_other_regions_shows_the_same_place(tiny_alignformer, sample, shown):
    """From 12 x 12 regions to 6 x 6 the chosen one stays where it was in the image."""
    opened = shown(Explorer(tiny_alignformer, sample).show(level="c2", cell=(9, 2)))
    assert line(opened).startswith("Row 10, column 3 of 12 × 12")
    choose(opened, "c3")
    assert line(opened).startswith("Row 5, column 2 of 6 × 6")


def test_a_clip_has_a_slider_and_weights_of_its_frames(tiny_checkpoint, sample, shown):
    loaded = load_checkpoint(tiny_checkpoint)
    config = replace(loaded.model.config, temporal=CFSAConfig(dim=12, heads=6))
    model = build_model(config, len(loaded.tokenizer)).eval()
    frames = torch.cat([sample.frames, sample.frames.flip(-1), sample.frames.flip(-2)])
    clip = replace(sample, frames=frames, target_frame=1, objects=None)
    explorer = Explorer(Predictor(replace(loaded, model=model), "cpu"), clip)
    opened = shown(explorer)
    assert opened.locator("output").inner_text() == "2 of 3, annotated"
    before = pixel(stages(opened).first, 0.3, 0.1)
    opened.get_by_label("Frame", exact=True).focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("output").inner_text() == "3 of 3"
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("output").inner_text() == "1 of 3"
    opened.wait_for_timeout(50)
    assert pixel(stages(opened).first, 0.3, 0.1) != before
    slider = opened.get_by_label("Frame", exact=True)
    box = slider.bounding_box()
    opened.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    opened.mouse.down()
    for part in (0.3, 0.6, 0.98):
        opened.mouse.move(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
    opened.mouse.up()
    assert opened.locator("output").inner_text() == "3 of 3", "it can be dragged"
    choose(opened, "Frames")
    hover(stages(opened).first, 0.1, 0.1)
    looks = explorer.reading.looks["c3"][:, 0, 0]
    shares = ", ".join(f"frame {t + 1} {round(100 * share.item())} %" for t, share in enumerate(looks))
    assert line(opened).endswith(f"it looks at {shares}.")
    assert "CFSA" in opened.locator(".rx-about").first.inner_text()


# ---- centres and guesses ---------------------------------------------------------------------------------------


def test_steps_of_the_centre_and_both_directions_of_one_score_matrix(tiny_alignformer, sample, shown):
    explorer = Explorer(tiny_alignformer, sample).show(level="c2", cell=(0, 3), word=0)
    opened, reading = shown(explorer), explorer.reading
    words, level, centre = reading.words, reading.frames[0].levels["c2"], reading.frames[0].centre
    under = opened.locator(".rx-under")
    assert "“Region” shows the softmax over the words of the same score matrix." in under.inner_text()
    choose(opened, "Region")
    shares = [f"{share:.0%}".replace("%", " %") for share in level.beta[0, 3].tolist()]
    assert values(opened) == shares and "the one over the words" in under.inner_text()
    assert opened.get_by_role("img", name=f"How much each region reads “{words[0]}”").count() == 1
    stages(opened).first.press("ArrowRight")
    assert values(opened) == [f"{share:.0%}".replace("%", " %") for share in level.beta[0, 4].tolist()]
    opened.locator(".rx-words input").nth(1).check(force=True)  # a click on a word: where it looks
    assert opened.get_by_role("img", name=f"Where “{words[1]}” looks").count() == 1
    stages(opened).first.press("ArrowLeft")

    choose(opened, "Centre")
    here = centre.similarity[:, 0:2, 6:8].mean((1, 2))  # twice as fine as the level
    cosines = ", ".join(f"{f'look {n}' if n else 'sentence alone'} {minus(float(x))}" for n, x in enumerate(here))
    assert f"cosine with the centre, {cosines}." in line(opened)
    steps = opened.get_by_role("group", name="Step")
    assert steps.get_by_role("radio").count() == 4 and steps.get_by_label("look 3").is_checked()
    low, high = (minus(float(x)) for x in (centre.similarity.min(), centre.similarity.max()))
    for step, name in ((3, "look 3 of 3"), (0, "sentence alone"), (1, "look 1 of 3")):
        steps.get_by_role("radio").nth(step).check(force=True)
        image = opened.get_by_role("img", name=f"Similarity to the centre, {name}: from {low} to {high}.")
        assert image.count() == 1, "the scale is that of all steps"
        area = f"AUC {centre.areas[step]:.3f}, among objects {centre.among[step]:.3f}."
        assert f"Similarity to the centre, {name}." in heard(opened) and area in heard(opened)
        assert area in under.inner_text()
    opened.keyboard.press("]")
    assert steps.get_by_label("look 2").is_checked()
    for _ in range(3):
        opened.keyboard.press("[")
    assert steps.get_by_label("sentence alone").is_checked()
    assert serious(opened) == []


def test_a_word_is_hidden_and_guessed(tiny_grounded, sample, shown):
    """With a key or a button; the guesses follow the chosen word."""
    explorer = Explorer(tiny_grounded, sample)
    guesses, words = explorer.reading.guesses, explorer.reading.words
    place = max(guesses)
    opened = shown(explorer.show(word=place))
    assert opened.asked == [] and opened.locator(".rx-guesses ol").count() == 0
    opened.locator(".rx-words input:checked").focus()
    opened.keyboard.press("h")
    for way, name in page.WAYS.items():
        listed = opened.get_by_role("list", name=name, exact=True).get_by_role("listitem")
        assert [text.split()[0] for text in listed.all_inner_texts()] == [word for word, _ in guesses[place][way]]
        assert f"{name}: “{guesses[place][way][0][0]}”" in heard(opened)
    blanked = " ".join("____" if n == place else one for n, one in enumerate(words))
    assert blanked in opened.locator(".rx-guesses").inner_text()
    opened.keyboard.press("Escape")
    assert opened.locator(".rx-guesses ol").count() == 0
    opened.get_by_role("button", name=f"Hide “{words[place]}” and guess it").click()
    assert opened.locator(".rx-guesses ol").count() == 3
    button = opened.get_by_role("button", name=f"Show “{words[place]}” again")
    assert button.get_attribute("aria-pressed") == "true" and button.evaluate("b => b === document.activeElement")
    assert serious(opened) == []
    for n in range(len(words)):
        opened.locator(".rx-words input").nth(n).check(force=True)
        text = opened.locator(".rx-guesses").inner_text()
        assert (guesses[n]["words alone"][0][0] if n in guesses else f"“{words[n]}” is never hidden") in text


# ---- colours ---------------------------------------------------------------------------------------------------


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
    """From the middle to both ends darker, and one can see which end it is."""
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


def arrive(opened, explorer, *texts: str) -> None:
    """The kernel sends readings."""
    fresh = [{"scene": 0, "model": 0, **to_wire(explorer.read(text))} for text in texts]
    opened.evaluate("fresh => { fakes[0].values.fresh = fresh; fakes[0].fire('change:fresh'); }", fresh)


def answer(opened, number: int, **message) -> None:
    code = "([n, message]) => { const sent = fakes[0].sent[n]; fakes[0].fire('msg:custom', { ...sent, ...message }); }"
    opened.evaluate(code, [number, message])


def change_view(opened, **changes) -> None:
    code = "changes => { const [model] = fakes; model.set('view', { ...model.get('view'), ...changes });"
    opened.evaluate(f"{code} model.fire('change:view'); }}", changes)


def enter(opened, text: str) -> None:
    field = opened.get_by_label("Expression")
    field.fill(text)
    field.press("Enter")


def test_an_expression_is_typed_and_answered(fake, explorer):
    opened = fake()
    enter(opened, "the unheard star")
    sent = opened.evaluate("fakes[0].sent")
    assert len(sent) == 1 and (sent[0]["ask"], sent[0]["expression"]) == ("read", "the unheard star")
    assert "The network is reading" in opened.locator(".rx-note").inner_text()
    arrive(opened, explorer, "the unheard star")
    answer(opened, 0, error=None)
    assert opened.locator(".rx-words label").nth(2).inner_text() == "star"
    assert "Not in the vocabulary: “unheard”." in opened.locator(".rx-note").inner_text()
    assert "No ground truth" in opened.locator("figcaption").first.inner_text()
    assert opened.evaluate("fakes[0].values.view.expression") == "the unheard star"

    opened.reload()  # an older answer is overtaken
    for text in ("star", "circle"):
        enter(opened, text)
    arrive(opened, explorer, "star", "circle")
    answer(opened, 1, error=None)
    answer(opened, 0, error=None)
    assert opened.evaluate("fakes[0].values.view.expression") == "circle"
    answer(opened, 0, error="This came too late.")
    assert not opened.get_by_role("alert").is_visible()


def test_what_maps_are_worth_is_said_where_it_was_measured(fake, explorer):
    """The numbers of the checkpoint's folder; of an image that is none of that data set they say so."""
    content = json.loads(json.dumps(explorer.content))
    numbers = {"N": 1234, "pointing": 0.5, "chance": 0.1, "object_chance": 0.25}
    pointing = {"data": "refshapes", "of": "RefShapes val", "note": "They were trained to.", "scores": {}}
    pointing["scores"]["positions"] = {"c3": numbers}
    content["models"][0]["pointing"] = pointing
    worth = fake(content=content).locator(".rx-about").last.inner_text()
    for told in ("1,234 words of RefShapes val", "50.0 %", "10.0 %", "25.0 %", "They were trained to."):
        assert told in worth
    assert "Not measured" not in worth
    content["scenes"][0]["source"] = "picture"
    assert "Not measured on images like this one." in fake(content=content).locator(".rx-about").last.inner_text()


def test_what_goes_wrong_stands_on_the_screen(fake):
    opened = fake()
    alert = opened.get_by_role("alert")
    enter(opened, "the star")
    answer(opened, 0, error="The network failed with ZeroDivisionError: by nothing")
    assert alert.inner_text() == "The network failed with ZeroDivisionError: by nothing"
    enter(opened, "  ")
    assert "has no words" in alert.inner_text()
    assert opened.evaluate("fakes[0].sent.length") == 1
    opened.evaluate("() => { fakes[0].dead = true; }")
    enter(opened, "the circle")
    assert "The kernel no longer knows this explorer" in alert.inner_text()
    assert "reading" not in opened.locator(".rx-note").inner_text()


def test_the_kernel_is_asked_for_a_mask_and_not_for_hovering(fake, explorer):
    opened = fake()
    hover(stages(opened).first, 0.1, 0.1)
    hover(stages(opened).nth(1), 0.6, 0.6)
    assert opened.evaluate("fakes[0].sent") == []
    opened.locator(".rx-strike").nth(0).click()
    opened.locator(".rx-strike").nth(1).click()
    sent = opened.evaluate("fakes[0].sent")
    assert [message["struck"] for message in sent] == [[0], [0, 1]]
    strike = explorer.strike(0, 1)
    answer(opened, 1, error=None, strike=to_wire(strike))
    assert f"→ {strike.iou:.2f} without" in verdict(opened)


def test_the_view_follows_the_kernel_and_what_is_being_typed_stays(fake):
    """The view changes while somebody types: the words are still there, and Enter sends them."""
    opened = fake()
    field = opened.get_by_label("Expression")
    field.fill("the green star")
    change_view(opened, level="c4", layer="reset")
    assert opened.get_by_role("radio", name="c4").is_checked() and title(opened, 1) == "Reset gate"
    assert field.input_value() == "the green star"
    field.press("Enter")
    assert opened.evaluate("fakes[0].sent.map(one => one.expression)") == ["the green star"]


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
