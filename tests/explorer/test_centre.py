"""Pixels around the centre of AlignFormer, step by step, and both directions of its attention: read, said, and seen in
a real Chromium on a page from a file; without a centre there is no trace of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from refseg.datasets import Collate, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.metrics import centre_auc
from refseg.explorer import Explorer
from refseg.explorer.reading import Reader, Reading
from refseg.explorer.state import ExplorerState
from refseg.models import build_model
from refseg.models.blocks.vlba import VLBAConfig
from refseg.predict import Predictor

STEPS = 4  # of the lesson's generator: the sentence alone, and three looks


@pytest.fixture
def centred(tiny_alignformer, sample):
    return Explorer(tiny_alignformer, sample)


def other_vlba(explorer, sample, **directions) -> Reading:
    loaded = explorer._reader(0).predictor.loaded
    model = build_model(replace(loaded.model.config, vlba=VLBAConfig(**directions)), len(loaded.tokenizer)).eval()
    return Reader(Predictor(replace(loaded, model=model), "cpu")).read(sample, known=True)


def test_everything_is_the_networks_own(centred, sample):
    loaded = centred._reader(0).predictor.loaded
    batch = Collate(loaded.tokenizer)([build_transform(loaded.image_size)(sample)])
    with torch.inference_mode():
        shown = loaded.model.explain(batch, loaded.model(batch))
    centre, words, maps = shown.centre_maps, shown.region_words, shown.word_maps
    frame = centred.reading.frames[0]
    assert torch.equal(frame.centre.similarity, centre[0]) and len(frame.centre.similarity) == STEPS
    assert frame.centre.areas == centre_auc(centre[0], batch.mask[0], batch.pixel_valid[0])
    assert frame.centre.among == centre_auc(centre[0], batch.mask[0], batch.objects[0] > 0) != [None] * STEPS
    assert centred.reading.asking == "word" and frame.levels.keys() == maps.keys()
    for name, level in frame.levels.items():
        assert torch.equal(level.maps, maps[name][0]) and level.alpha is None
        assert torch.equal(level.beta.flatten(0, 1), words[name][0].mT)


def test_text_and_back(centred):
    wire = json.loads(json.dumps(centred.reading.to_wire()))
    back, here = Reading.from_wire(wire), centred.reading
    assert back.asking == "word" and back.frames[0].centre.areas == here.frames[0].centre.areas
    assert back.frames[0].centre.among == here.frames[0].centre.among
    assert torch.allclose(back.frames[0].centre.similarity, here.frames[0].centre.similarity, atol=1e-4)
    assert torch.allclose(back.frames[0].levels["c2"].beta, here.frames[0].levels["c2"].beta, atol=1e-4)


def test_padding_is_cut_away(centred, sample):
    frames = torch.randint(0, 256, (1, 3, 20, 64), dtype=torch.uint8)
    mask = torch.zeros(20, 64, dtype=torch.bool)
    wide = replace(sample, frames=frames, mask=mask, original_size=(20, 64), original_mask=mask, objects=None)
    centre = centred._reader(0).read(wide, known=False).frames[0].centre
    h, w = centre.similarity.shape[1:]
    left, top, right, bottom = centre.extent
    assert w == 24 and 7 <= h <= 9 and (left, right) == (0, 1) and top <= 0 and bottom >= 1
    assert centre.areas == centre.among == [None] * STEPS


def test_without_words_that_meet_pixels_there_is_still_a_centre(centred, sample):
    reading = other_vlba(centred, sample, words_to_pixels=False, pixels_to_words=False)
    assert reading.frames[0].levels == {} and len(reading.frames[0].centre.areas) == STEPS


def test_without_a_centre_there_is_no_trace(explorer):
    wire = explorer.reading.to_wire()
    assert explorer.reading.frames[0].centre is None and "centre" not in wire["frames"][0]
    assert explorer.reading.asking == Reading.from_wire(wire).asking == "pair"
    older = {name: value for name, value in wire.items() if name != "asking"}
    assert Reading.from_wire(older).asking == "pair"


def test_the_step_in_words(centred):
    assert centred.state.step == STEPS - 1, "it opens on what the mask is made of"
    centre = centred.reading.frames[0].centre
    said = centred.show(layer="centre", step=0).sentence()
    low, high = centre.similarity[0].min(), centre.similarity[0].max()
    assert f"Cosine with the centre of the sentence alone: from {low:.2f} to {high:.2f}" in said
    assert f"AUC {centre.areas[0]:.3f}, among objects {centre.among[0]:.3f}." in said
    assert "after look 2 of 3" in centred.show(step=2).sentence()
    assert "Cosine" not in centred.show(layer="word").sentence()
    with pytest.raises(RefsegError, match="names step 4 of the centre: the last one is 3"):
        centred.show(step=4)


def test_the_sheet_says_what_its_maps_are_of(centred, explorer, monkeypatch):
    captions = []
    for one in (centred, explorer):
        real = one.sheet
        monkeypatch.setattr(one, "sheet", lambda *a, real=real, **k: captions.append(k["caption"]) or real(*a, **k))
        one.contact_sheet()
    assert ["mean over the query regions" in caption for caption in captions] == [False, True]


def test_the_state():
    assert ExplorerState().step_centre(4, 1).step == 1 and ExplorerState(step=3).step_centre(4, 1).step == 3
    assert ExplorerState().step_centre(4, -1).step == 0
    older = {name: value for name, value in ExplorerState().to_dict().items() if name != "step"}
    assert ExplorerState.from_dict(older).step == 0
    with pytest.raises(RefsegError, match="wrong 'step'"):
        ExplorerState.from_dict(older | {"step": -1})


def test_a_finding_keeps_the_step(centred, tmp_path):
    path = centred.show(layer="centre", step=1).save_state(tmp_path / "finding.json")
    assert "after look 1 of 3" in json.loads(path.read_text(encoding="utf-8"))["seen"]["sentence"]
    centred.show(layer="word", step=0)
    centred.load_state(path)
    assert (centred.state.layer, centred.state.step) == ("centre", 1)


# ---- in a browser ------------------------------------------------------------------------------------------------


def show(explorer, tmp_path, open_page):
    return open_page(explorer.export_html(tmp_path / "page.html"))


def minus(value: float) -> str:
    return ("<0.01" if value > 0 else ">−0.01") if 0 < abs(value) < 0.005 else f"{value:.2f}".replace("-", "−")


def test_steps_by_switch_and_by_key(centred, tmp_path, open_page):
    opened = show(centred, tmp_path, open_page)
    assert opened.asked == []
    opened.get_by_role("group", name="Map of").get_by_label("Centre").check(force=True)
    steps, centre = opened.get_by_role("group", name="Step"), centred.reading.frames[0].centre
    assert steps.get_by_role("radio").count() == STEPS and steps.get_by_label("look 3").is_checked()
    low, high = (minus(float(x)) for x in (centre.similarity.min(), centre.similarity.max()))
    for step, name in ((3, "look 3 of 3"), (0, "sentence alone"), (1, "look 1 of 3")):
        steps.get_by_role("radio").nth(step).check(force=True)
        image = opened.get_by_role("img", name=f"Similarity to the centre, {name}: from {low} to {high}.")
        assert image.count() == 1, "the scale is that of all steps"
        heard = opened.locator("[aria-live=polite]").inner_text()
        area = f"AUC {centre.areas[step]:.3f}, among objects {centre.among[step]:.3f}."
        assert f"Similarity to the centre, {name}." in heard and area in heard
        assert area in opened.locator(".rx-under").inner_text()
    opened.keyboard.press("]")
    assert steps.get_by_label("look 2").is_checked()
    for _ in range(3):
        opened.keyboard.press("[")
    assert steps.get_by_label("sentence alone").is_checked()
    serious = [v["id"] for v in Axe().run(opened).response["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_a_region_says_its_cosine_at_every_step(centred, tmp_path, open_page):
    opened = show(centred.show(layer="centre", level="c2", cell=(0, 3)), tmp_path, open_page)
    here = centred.reading.frames[0].centre.similarity[:, 0:2, 6:8].mean((1, 2))  # twice as fine as the level
    told = ", ".join(f"{f'look {n}' if n else 'sentence alone'} {minus(float(x))}" for n, x in enumerate(here))
    assert f"cosine with the centre, {told}." in opened.locator(".rx-reading").inner_text()


def test_both_directions_of_one_score_map(centred, tmp_path, open_page):
    opened = show(centred.show(level="c2", cell=(1, 2), word=0), tmp_path, open_page)
    words, level = centred.reading.words, centred.reading.frames[0].levels["c2"]
    assert (
        "Of the same score map “Region” shows the softmax along the words." in opened.locator(".rx-under").inner_text()
    )
    opened.get_by_role("group", name="Map of").get_by_label("Region").check(force=True)
    shares = [f"{share:.0%}".replace("%", " %") for share in level.beta[1, 2].tolist()]
    assert opened.locator(".rx-value").all_inner_texts() == shares
    assert opened.get_by_role("img", name=f"How much regions read “{words[0]}”").count() == 1
    assert "the one along the words" in opened.locator(".rx-under").inner_text()
    opened.locator(".rx-stage").first.press("ArrowRight")
    shares = [f"{share:.0%}".replace("%", " %") for share in level.beta[1, 3].tolist()]
    assert opened.locator(".rx-value").all_inner_texts() == shares
    opened.locator(".rx-words input").nth(1).check(force=True)  # a click on a word: where it looks
    assert opened.get_by_role("img", name=f"Where “{words[1]}” looks").count() == 1


@pytest.mark.parametrize(
    "first, second", [("tiny_checkpoint", "tiny_alignformer"), ("tiny_alignformer", "tiny_grounded")]
)
def test_networks_that_do_not_have_the_same_maps_are_compared(first, second, request, sample, tmp_path, open_page):
    """Where the second lacks what is asked for, its mask stands there; whatever goes wrong fails in ``open_page``."""
    one, other = (request.getfixturevalue(name) for name in (first, second))
    opened = show(Explorer(one, sample, other_model=other), tmp_path, open_page)
    layers = opened.get_by_role("group", name="Map of").get_by_role("radio")
    for n in range(layers.count()):
        layers.nth(n).check(force=True)
        opened.locator(".rx-stage").first.press("ArrowRight")
        assert opened.get_by_role("img", name=re.compile("^B: ")).count() == 1
    lacking = opened.get_by_role("img", name=re.compile("^B: Probability of the mask"))
    assert lacking.count() == 1, "the last layer, the reset gate or the centre"


def test_a_page_without_a_centre_has_nothing_of_it(explorer, tmp_path, open_page):
    opened = show(explorer.show(layer="centre"), tmp_path, open_page)
    assert opened.get_by_role("group", name="Map of").get_by_label("Centre").count() == 0
    assert opened.get_by_role("group", name="Step").count() == 0
    assert opened.get_by_role("img", name="Probability of the mask").count() == 1
