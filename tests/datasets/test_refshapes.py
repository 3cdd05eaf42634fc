"""RefShapes: every expression means exactly one object, the image alone does not tell which, all of it repeats."""

import hashlib
import json
from collections import defaultdict
from random import Random

import numpy as np
import pytest

from refseg.datasets import build_dataset
from refseg.datasets.refshapes import ensure
from refseg.errors import RefsegError
from refshapes import EXPRESSIONS_PER_IMAGE, IMAGES, SEED, _invent, scene_rng
from refshapes.language import KINDS, find_form, referents
from refshapes.scene import (
    COLOURS,
    HELD_OUT,
    MIN_VISIBLE,
    SHAPES,
    SIDE,
    Thing,
    draw_scene,
    paint,
    rasterise,
)
from refshapes.wording import MAX_WORDS, SYNONYMS

# Of the refs and instances of five train and three val scenes.
DIGEST = "f1cddc09b032db9722ab641b46c58ef202f72ce217dc8dab7b65f5938dc75110"
SMALL = {"train": 40, "val": 11, "testA": 13, "testB": 17, "testC": 19}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure(tmp_path_factory.mktemp("data") / "refshapes", SMALL)


@pytest.fixture(scope="module")
def refs(root):
    return json.loads((root / "refs(refseg).json").read_text())


@pytest.fixture(scope="module")
def annotations(root):
    return {entry["id"]: entry for entry in json.loads((root / "instances.json").read_text())["annotations"]}


@pytest.fixture(scope="module")
def scenes(annotations):
    """image id -> {annotation id: Thing}, as the files tell it."""
    scenes = defaultdict(dict)
    for entry in annotations.values():
        scenes[entry["image_id"]][entry["id"]] = Thing(**entry["thing"])
    return scenes


def thing(shape="circle", colour="red", size="small", texture="plain", x=50.0, y=50.0, radius=8.0):
    return Thing(shape, colour, size, texture, x, y, radius, angle=0.0)


def test_referents_of_every_form_by_hand():
    things = [
        thing("circle", "red", x=20, y=30),
        thing("circle", "blue", x=40, y=10, radius=12),
        thing("star", "red", x=60, y=50),
        thing("circle", "red", x=80, y=70, radius=16),
    ]
    circles, star = {"filter": {"shape": "circle"}}, {"filter": {"shape": "star"}}
    assert referents({"filter": {}}, things) == {0, 1, 2, 3}
    assert referents({"filter": {"shape": "circle", "colour": "red"}}, things) == {0, 3}
    assert [referents({"most": axis, "of": circles}, things) for axis in ("left", "right", "top", "bottom")] == [
        {0},
        {3},
        {1},
        {3},
    ]
    assert [referents({"most": axis, "of": circles}, things) for axis in ("small", "large")] == [{0}, {3}]
    assert referents({"nth": 2, "from": "left", "of": circles}, things) == {1}
    assert referents({"nth": 2, "from": "right", "of": {"filter": {}}}, things) == {2}
    assert referents({"nth": 4, "from": "left", "of": circles}, things) == set()
    for relation, expected in {"left of": {0, 1}, "right of": {3}, "above": {0, 1}, "below": {3}}.items():
        assert referents({"related": relation, "of": circles, "to": star}, things) == expected
    nearest = {"related": "nearest to", "of": circles, "to": star}
    assert referents(nearest, things) == {3}  # 28.3 away; the blue one is 44.7 away
    assert referents({"related": "above", "of": circles, "to": nearest}, things) == {0, 1}  # two steps
    with pytest.raises(ValueError, match="means 3 things"):
        referents({"related": "above", "of": star, "to": circles}, things)


def test_every_expression_means_exactly_its_referent(refs, scenes):
    checked = 0
    for ref in refs:
        scene = scenes[ref["image_id"]]
        ids, things = list(scene), list(scene.values())
        for sentence in ref["sentences"]:
            assert [ids[i] for i in referents(sentence["form"], things)] == [ref["ann_id"]], sentence["sent"]
            checked += 1
    assert checked == EXPRESSIONS_PER_IMAGE * sum(SMALL.values())


@pytest.mark.slow
def test_all_of_the_benchmark_is_unambiguous():
    """The whole of RefShapes, invented again without painting it: each of the 40,000 expressions means one object."""
    for split, number in [(split, n) for split, count in IMAGES.items() for n in range(count)]:
        things, expressions = _invent(split, scene_rng(SEED, split, number))
        assert len(expressions) == EXPRESSIONS_PER_IMAGE
        for _, form, referent, words in expressions:
            assert referents(form, things) == {referent}, " ".join(word.text for word in words)
        assert len({referent for _, _, referent, _ in expressions}) >= 2


def test_wording_says_what_the_form_says(refs):
    """Attribute words of the text, synonyms undone, are those of the form, no more and no less."""
    plain = {spoken: value for value, options in SYNONYMS.items() for spoken in options}
    plain |= {"stripes": "striped", "dots": "dotted"}

    def attributes(form):
        yield from form.get("filter", {}).values()
        for part in ("of", "to"):
            if part in form:
                yield from attributes(form[part])

    values = {value for ref in refs for s in ref["sentences"] for value in attributes(s["form"])}
    for ref in refs:
        for sentence in ref["sentences"]:
            spoken = [plain.get(word, word) for word in sentence["tokens"]]
            assert sorted(word for word in spoken if word in values) == sorted(attributes(sentence["form"]))
            assert sentence["sent"] == " ".join(sentence["tokens"]) and len(spoken) <= MAX_WORDS


def test_words_know_what_they_are_true_of(refs, scenes):
    plain = {spoken: value for value, options in SYNONYMS.items() for spoken in options}
    seen = 0
    for ref in refs:
        scene = scenes[ref["image_id"]]
        for sentence in ref["sentences"]:
            assert len(sentence["word_objects"]) == len(sentence["tokens"])
            for word, true_of in zip(sentence["tokens"], sentence["word_objects"]):
                if word == "the":
                    assert true_of is None
                value = plain.get(word, word)
                if true_of and value in ("red", "blue", "star", "square", "small", "striped"):
                    expected = [i for i, t in scene.items() if value in (t.shape, t.colour, t.size, t.texture)]
                    assert true_of == expected, (sentence["sent"], word)
                    seen += 1
    assert seen > 50


def test_the_image_alone_cannot_give_the_answer(refs):
    referents_of = defaultdict(set)
    for ref in refs:
        referents_of[ref["image_id"]].add(ref["ann_id"])
    several = sum(len(ids) >= 2 for ids in referents_of.values())
    assert several == len(referents_of) == sum(SMALL.values())  # the promise is 60 %; it is all of them


def test_splits_hold_what_they_promise(refs, scenes):
    kinds = defaultdict(set)
    for ref in refs:
        kinds[ref["split"]] |= {sentence["kind"] for sentence in ref["sentences"]}
        pairs = {(t.colour, t.shape) for t in scenes[ref["image_id"]].values()}
        referent = scenes[ref["image_id"]][ref["ann_id"]]
        if ref["split"] == "testC":
            assert (referent.colour, referent.shape) in HELD_OUT
        else:
            assert not pairs & HELD_OUT
    assert kinds["train"] == set(KINDS)
    assert kinds["testA"] <= {"attribute", "superlative", "position", "ordinal"}
    assert kinds["testB"] == {"relation", "two-step"}
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS) and {shape for _, shape in HELD_OUT} == set(SHAPES)


def test_the_one_loader_reads_it(root, annotations):
    for split in SMALL:
        data = build_dataset("refshapes", split, root=root)
        assert len(data) == EXPRESSIONS_PER_IMAGE * SMALL[split]
        sample = data[len(data) - 1]
        assert sample.frames.shape == (1, 3, SIDE, SIDE) and sample.original_size == (SIDE, SIDE)
        assert int(sample.mask.sum()) == annotations[sample.annotations.ann_id]["area"]
        assert sample.annotations.kind and sample.annotations.form and sample.annotations.word_objects


def test_masks_are_the_visible_part_of_the_outline(root, annotations):
    """What is in front hides what is behind: masks of one image never overlap and stay inside their outlines."""
    data = build_dataset("refshapes", "train", root=root)
    taken, hidden = defaultdict(lambda: np.zeros((SIDE, SIDE), int)), 0
    masks = {data[i].annotations.ann_id: data[i].mask.numpy() for i in range(len(data))}
    for ann_id, mask in masks.items():
        entry = annotations[ann_id]
        outline = rasterise(Thing(**entry["thing"]).outline())
        assert not (mask & ~outline).any() and mask.sum() >= MIN_VISIBLE * outline.sum()
        taken[entry["image_id"]] += mask
        hidden += mask.sum() < outline.sum()
        assert isinstance(entry["segmentation"], dict) == bool(mask.sum() < outline.sum())
    assert max(layer.max() for layer in taken.values()) == 1
    assert hidden > 0  # occlusion happens


def test_the_painted_thing_has_its_colour_inside_its_mask():
    green = thing("square", "green", "large", x=48, y=40, radius=15)
    image = paint([green], seed=3)
    inside = image[rasterise(green.outline())].mean(0)
    assert inside.argmax() == 1 and image.std() > 5


def test_the_same_seed_draws_the_same_benchmark(root, tmp_path):
    again = ensure(tmp_path / "again", {"train": 5, "val": 3})
    digest = hashlib.sha256((again / "refs(refseg).json").read_bytes() + (again / "instances.json").read_bytes())
    other = ensure(tmp_path / "other", {"train": 5, "val": 3}, seed=1)
    assert (other / "refs(refseg).json").read_bytes() != (again / "refs(refseg).json").read_bytes()
    # A scene depends on the seed and its own number only, not on how many others are drawn: the first of the
    # larger benchmark is the first of the smaller one, to the pixel.
    assert (again / "images/000001.png").read_bytes() == (root / "images/000001.png").read_bytes()
    changed = "expressions or outlines changed: raise VERSION in refshapes/__init__.py"
    assert digest.hexdigest() == DIGEST, changed


def test_ensure_draws_once_and_guards_what_is_not_its_own(root, tmp_path):
    before = (root / "refs(refseg).json").stat().st_mtime_ns
    assert ensure(root, SMALL) == root and (root / "refs(refseg).json").stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(RefsegError, match="holds thesis.txt, which was not written there"):
        ensure(tmp_path / "mine", {"train": 1})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose me"


def test_a_killed_drawing_is_drawn_anew(root, tmp_path):
    folder = tmp_path / "refshapes"
    ensure(folder, {"train": 2})
    for marker in ('{"version": 0}', "[" * 100_000):  # an older version; deeper than Python recurses
        (folder / "refshapes.json").write_text(marker)
        (folder / "instances.json").unlink()
        ensure(folder, {"train": 2})
        assert (folder / "instances.json").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_full_disk_says_so_and_leaves_nothing(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refshapes.Image.Image.save", full)
    with pytest.raises(RefsegError, match="No space left on device.*make room"):
        ensure(tmp_path / "refshapes", {"train": 1})
    assert list(tmp_path.iterdir()) == []


def test_held_out_scenes_show_two_of_them():
    for seed in range(7):
        pairs = [(t.colour, t.shape) in HELD_OUT for t in draw_scene(Random(seed), held_out=True)]
        assert sum(pairs) == 2


def test_forms_are_only_used_where_they_are_needed():
    """The attributes beside a superlative, position, ordinal or relation fit at least two things."""
    for kind in KINDS:
        found = 0
        for seed in range(23):
            rng = Random(seed)
            things = draw_scene(rng)
            form, referent = find_form(kind, things, rng) or (None, None)
            if form is None:
                continue
            found += 1
            assert referents(form, things) == {referent}
            if "of" in form:
                assert len(referents(form["of"], things)) >= 2
        assert found > 5
