"""What is read is what the network gives, from one forward pass: the same maps, masks and scores, without padding."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refseg.datasets import Collate, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WAYS, WordGuesser
from refseg.evaluation.metrics import centre_auc, mask_iou
from refseg.evaluation.pointing import point_words, relative
from refseg.explorer.reading import Crop, Reader
from refseg.inference import infer
from refseg.models import build_model
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.models.blocks.cross_modal import ConcatenationMeanConfig
from refseg.models.blocks.vlba import VLBAConfig
from refseg.predict import Predictor
from refseg.types import MASK_THRESHOLD
from refseg_course.word_measures import word_ablations

STEPS = 4  # of AlignFormer's centre: the sentence alone, and three looks


def reader_of(folder: Path) -> Reader:
    predictor = Predictor(folder, "cpu")
    return Reader(predictor, WordGuesser.of(folder, predictor.checkpoint))


def other(reader: Reader, **parts) -> Reader:
    """A reader of an untrained network with other parts."""
    loaded = reader.predictor.checkpoint
    model = build_model(replace(loaded.model.config, **parts), len(loaded.tokenizer)).eval()
    return Reader(Predictor(replace(loaded, model=model), "cpu"))


def clip_of(sample):
    frames = torch.cat([sample.frames, sample.frames.flip(-1), sample.frames.flip(-2)])
    return replace(sample, frames=frames, target_frame=1, objects=None)


@pytest.fixture
def reader(tiny_checkpoint):
    return reader_of(tiny_checkpoint)


def test_everything_is_the_networks_own(reader, tiny_alignformer, sample):
    """Masks are those of ``infer``, maps, gates and centres those of ``explain``."""
    for one in (reader, reader_of(tiny_alignformer)):
        loaded = one.predictor.checkpoint
        reading = one.read(sample, known=True)
        batch = Collate(loaded.tokenizer)([build_transform(loaded.image_size)(sample)])
        with torch.inference_mode():
            (logits,), prediction = infer(loaded.model, batch)
            explained = loaded.model.explain(batch, prediction, region_rows=True)
        (frame,) = reading.frames
        mask = logits > MASK_THRESHOLD
        assert torch.equal(frame.mask, mask)
        assert reading.iou == mask_iou(mask, sample.original_mask)
        assert reading.words == loaded.tokenizer.split(sample.expression) and reading.unknown == []
        assert reading.pairs == explained.pairs and frame.levels.keys() == explained.word_maps.keys()
        for name, level in frame.levels.items():
            assert level.extent == (0.0, 0.0, 1.0, 1.0)
            assert torch.equal(level.maps, explained.word_maps[name][0])
            assert torch.equal(level.beta.flatten(0, 1), explained.region_words[name][0].mT)
            if name in explained.region_rows:
                assert torch.equal(level.alpha.flatten(2).flatten(0, 1), explained.region_rows[name][0])
            if name in explained.gates:
                memory, reset = explained.gates[name]
                assert torch.equal(level.memory, memory[0, 0]) and torch.equal(level.reset, reset[0, 0])
        if explained.centre_maps is None:
            assert frame.centre is None and frame.levels["c3"].alpha is not None
        else:
            maps = explained.centre_maps[0]
            assert torch.equal(frame.centre.similarity, maps) and len(maps) == STEPS
            assert frame.centre.areas == centre_auc(maps, batch.mask[0], batch.pixel_valid[0])
            assert frame.centre.among == centre_auc(maps, batch.mask[0], batch.objects[0] > 0) != [None] * STEPS


def counted(reader: Reader, *args, **options) -> int:
    """How often the backbone runs while something is read."""
    passes = Counter()
    first = next(part for part in reader.model.backbone.modules() if not [*part.children()])
    handle = first.register_forward_hook(lambda *_: passes.update(["backbone"]))
    reader.read(*args, **options)
    handle.remove()
    return passes["backbone"]


def test_one_pass_for_every_frame_expression_and_strike(tiny_checkpoint, tiny_alignformer, tiny_grounded, sample):
    """Whatever is read comes from it; the hidden words of an expression are guessed in one more, together."""
    for folder in (tiny_checkpoint, tiny_alignformer, tiny_grounded):
        reader = reader_of(folder)
        once = 2 if reader.guesser else 1
        assert counted(reader, sample, known=True) == counted(reader, sample, known=False) == once, folder.name
        words = len(reader.tokenizer.split(sample.expression))
        assert counted(reader, sample, known=True, strikes=True) == once + words, folder.name
    clips = other(reader_of(tiny_checkpoint), temporal=CFSAConfig(dim=12, heads=6))
    assert counted(clips, clip_of(sample), known=True) == 3, "one for each frame of a clip"


def test_an_error_inside_the_network_is_not_an_empty_reading(reader, sample, monkeypatch):
    def broken(*args, **options):
        raise AttributeError("a typo in the model")

    monkeypatch.setattr(type(reader.model), "explain", broken)
    with pytest.raises(AttributeError, match="a typo"):
        reader.read(sample, known=True)


def test_pointing_scores_are_those_of_the_pointing_game(reader, sample):
    reading, loaded = reader.read(sample, known=True), reader.predictor.checkpoint
    batch, scored = Collate(loaded.tokenizer)([build_transform(loaded.image_size)(sample)]), 0
    with torch.inference_mode():
        maps = loaded.model.explain(batch, loaded.model(batch)).word_maps
    for name, game in (("positions", maps), ("words", relative(maps, batch.token_valid))):
        for one in point_words(game, batch, loaded.tokenizer):
            score = reading.points[one.level][name][one.position]
            for field in ("hit", "chance", "mass", "object_chance"):
                assert getattr(score, field) == getattr(one.score, field)
            scored += 1
    assert scored == sum(s is not None for by in reading.points.values() for scores in by.values() for s in scores) > 0


def test_striking_words_out_is_the_word_ablation(reader, sample):
    loaded = reader.predictor.checkpoint
    reading = reader.read(sample, known=True, strikes=True)
    whole, without = word_ablations(loaded.model, build_transform(loaded.image_size)(sample), loaded.tokenizer)
    assert reading.iou == pytest.approx(whole, abs=1e-6)
    strikes = [reading.strikes[n,].iou for n in range(len(without))]
    assert strikes == pytest.approx([iou for _, iou in without], abs=1e-6)
    with pytest.raises(RefsegError, match="leave at least one"):
        reader.strike(sample, range(len(without)), True)


def test_maps_as_they_are_shown(reader, sample):
    reading = reader.read(sample, known=True)
    maps = [reading.map(n, "c4") for n in range(len(reading.words))]
    shares = [reading.map(n, "c4", "words") for n in range(len(reading.words))]
    assert all(float(x.mean()) == pytest.approx(1, abs=1e-5) for x in maps)
    assert torch.allclose(torch.stack(shares).sum(0), torch.ones_like(maps[0]), atol=1e-5)


def test_words_without_a_truth_unknown_words_and_words_that_are_cut(reader, sample):
    reading = reader.read(replace(sample, expression="the unheard of unheard star"), known=False)
    assert reading.iou is None and reading.truth is None and reading.points == {} and reading.cut == 0
    assert reading.unknown.count("unheard") == 1, "named once"
    reading = reader.read(replace(sample, expression="star " * 30), known=False)
    assert len(reading.words) == 20 and reading.cut == 10
    with pytest.raises(RefsegError, match="without a transform"):
        reader.read(build_transform(48)(sample), known=True)


def test_a_network_that_lacks_something_shows_the_rest(reader, tiny_alignformer, sample):
    reading = other(reader, cross_modal=ConcatenationMeanConfig()).read(sample, known=True)
    assert reading.frames[0].levels == {} and reading.points == {} and reading.iou is not None
    without = VLBAConfig(words_to_pixels=False, pixels_to_words=False)
    reading = other(reader_of(tiny_alignformer), vlba=without).read(sample, known=True)
    assert reading.frames[0].levels == {} and len(reading.frames[0].centre.areas) == STEPS


def test_the_grid_lies_where_the_image_is(reader, tiny_alignformer, sample):
    """The regions that are kept cover the image, and no row or column of them lies outside it."""
    for height, width in ((64, 20), (15, 64), (33, 47), (20, 64)):
        frames = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[height // 2 :, width // 2 :] = True
        size = {"original_size": (height, width), "original_mask": mask, "mask": mask}
        padded = replace(sample, frames=frames, objects=None, **size)
        reading = reader.read(padded, known=True)
        for level in reading.frames[0].levels.values():
            left, top, right, bottom = level.extent
            h, w = level.maps.shape[-2:]
            assert left <= 0 and top <= 0 and right >= 1 and bottom >= 1
            assert -left < (right - left) / w and right - 1 < (right - left) / w
            assert -top < (bottom - top) / h and bottom - 1 < (bottom - top) / h
            assert level.maps.sum((1, 2)) == pytest.approx(torch.ones(len(reading.words)), abs=1e-4)
            assert level.alpha.shape == (h, w, h, w)
    centre = reader_of(tiny_alignformer).read(padded, known=False).frames[0].centre
    h, w = centre.similarity.shape[1:]
    left, top, right, bottom = centre.extent
    assert w == 24 and 7 <= h <= 9 and (left, right) == (0, 1) and top <= 0 and bottom >= 1
    assert centre.areas == centre.among == [None] * STEPS


def test_cutting_by_hand():
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[3:5] = True  # an image of 8 x 2 pixels in a square
    crop = Crop(valid, (4, 4))
    assert crop(torch.arange(16.0).view(4, 4)).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert crop.extent == (0.0, -0.5, 1.0, 1.5)


def test_a_clip_is_read_frame_by_frame(reader, sample):
    """Every frame is the target once; a network with CFSA says where in time the annotated one looks."""
    clip = clip_of(sample)
    reading = other(reader, temporal=CFSAConfig(dim=12, heads=6)).read(clip, known=True, strikes=True)
    assert len(reading.frames) == 3 and len(reading.strikes[0,].masks) == 3
    assert reading.iou == mask_iou(reading.frames[1].mask, sample.original_mask)
    assert reading.looks.keys() == reading.frames[0].levels.keys()
    for looks in reading.looks.values():
        assert looks.shape[0] == 3 and torch.allclose(looks.sum(0), torch.ones_like(looks[0]), atol=1e-5)
    images_only = reader.read(clip, known=True)
    assert len(images_only.frames) == 3 and images_only.looks == {}


def test_hidden_words_are_guessed_in_three_ways(tiny_grounded, reader, sample, monkeypatch):
    assert reader.read(sample, known=True).guesses == {}, "a network without heads guesses nothing"
    grounded = reader_of(tiny_grounded)
    asked, guess = [], grounded.guesser.guess
    monkeypatch.setattr(grounded.guesser, "guess", lambda batch, hidden: asked.append(batch) or guess(batch, hidden))
    reading = grounded.read(sample, known=True)
    telling = {n for n, word in enumerate(reading.words) if word not in ("the", "of", "to", "that", "is", "which")}
    assert telling - set(reading.guesses) <= {reading.words.index(w) for w in ("with", "on") if w in reading.words}
    assert asked[0].mask.equal(asked[0].mask[:1].expand_as(asked[0].mask)) and asked[0].mask.any()
    for by_way in reading.guesses.values():
        assert list(by_way) == list(WAYS)
        for best in by_way.values():
            shares = [share for _, share in best]
            assert len(best) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.00001
    reading = grounded.read(replace(sample, expression="the red zebra"), known=False)
    assert set(reading.guesses) == {1, 2}, "a word that it does not know is a hidden one"
    found = grounded.model(asked[1]).mask_logits
    assert asked[1].mask.any() == (found > 0).any() and len(asked[1]) == 2, "with the mask that was found"
    assert grounded.read(replace(sample, expression="the of"), known=False).guesses == {}
