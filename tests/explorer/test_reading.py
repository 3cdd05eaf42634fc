"""What is read is what the network gives: the same maps, masks and scores, with padding cut away."""

import json
from dataclasses import replace

import pytest
import torch

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.metrics import mask_iou
from refseg.evaluation.pointing import point_words, relative_word_maps, word_ablations, word_maps
from refseg.explorer.reading import Crop, Reader, Reading
from refseg.inference import predict_masks
from refseg.models import build_model
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.models.blocks.cross_modal import ConcatenationMeanConfig
from refseg.predict import Predictor


@pytest.fixture
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture
def reader(loaded):
    return Reader(Predictor(loaded, "cpu"))


@pytest.fixture
def prepared(loaded, sample):
    return build_transform(loaded.image_size)(sample)


def batch_of(loaded, *samples):
    return Collate(loaded.tokenizer)(samples)


def other(reader, **parts):
    """A reader of an untrained network with other parts."""
    loaded = reader.predictor.loaded
    model = build_model(replace(loaded.model.config, **parts), len(loaded.tokenizer)).eval()
    return Reader(Predictor(replace(loaded, model=model), "cpu"))


def test_everything_is_the_networks_own(reader, loaded, sample, prepared):
    reading = reader.read(sample, known=True)
    batch = batch_of(loaded, prepared)
    with torch.inference_mode():
        (mask,) = predict_masks(loaded.model, batch)
        shown = loaded.model.explain(batch, loaded.model(batch), region_rows=True)
        maps, rows, gates = shown.word_maps, shown.region_rows, shown.gates
    assert torch.equal(reading.frames[0].mask, mask)
    assert reading.iou == mask_iou(mask, sample.original_mask)
    assert reading.words == loaded.tokenizer.split(sample.expression) and reading.unknown == []
    for name, level in reading.frames[0].levels.items():
        assert level.extent == (0.0, 0.0, 1.0, 1.0)
        assert torch.equal(level.maps, maps[name][0])
        assert torch.equal(level.alpha.flatten(2).flatten(0, 1), rows[name][0])
        assert torch.equal(level.beta.flatten(0, 1), shown.region_words[name][0].mT)
        assert torch.equal(level.memory, gates[name][0][0, 0]) and torch.equal(level.reset, gates[name][1][0, 0])


def test_pointing_scores_are_those_of_the_pointing_game(reader, loaded, sample, prepared):
    reading = reader.read(sample, known=True)
    batch, scored = batch_of(loaded, prepared), 0
    for name, maps_of in (("positions", word_maps), ("words", relative_word_maps)):
        for one in point_words(loaded.model, batch, loaded.tokenizer, maps_of):
            score = reading.points[one.level][name][one.position]
            assert (score.hit, score.chance, score.object_chance) == (
                one.score.hit,
                one.score.chance,
                one.score.object_chance,
            )
            scored += 1
    assert scored == sum(s is not None for by in reading.points.values() for scores in by.values() for s in scores) > 0


def test_striking_words_out_is_the_word_ablation(reader, loaded, sample, prepared):
    reading = reader.read(sample, known=True, strikes=True)
    whole, without = word_ablations(loaded.model, prepared, loaded.tokenizer)
    assert reading.iou == pytest.approx(whole, abs=1e-6)
    assert [reading.strikes[n,].iou for n in range(len(without))] == pytest.approx(
        [iou for _, iou in without], abs=1e-6
    )
    with pytest.raises(RefsegError, match="leave at least one"):
        reader.strike(sample, range(len(without)), True)


def test_maps_as_they_are_shown(reader, sample):
    reading = reader.read(sample, known=True)
    maps = [reading.map(n, "c4") for n in range(len(reading.words))]
    shares = [reading.map(n, "c4", "words") for n in range(len(reading.words))]
    assert all(float(x.mean()) == pytest.approx(1, abs=1e-5) for x in maps)
    assert torch.allclose(torch.stack(shares).sum(0), torch.ones_like(maps[0]), atol=1e-5)


def test_text_and_back(reader, sample):
    reading = reader.read(sample, known=True, strikes=True)
    again = Reading.from_wire(json.loads(json.dumps(reading.to_wire())))
    assert (again.expression, again.words, again.iou, again.points) == (
        reading.expression,
        reading.words,
        reading.iou,
        reading.points,
    )
    assert torch.equal(again.frames[0].mask, reading.frames[0].mask) and torch.equal(again.truth, reading.truth)
    assert torch.equal(again.strikes[1,].masks[0], reading.strikes[1,].masks[0])
    for name, level in reading.frames[0].levels.items():
        assert torch.allclose(again.frames[0].levels[name].maps, level.maps, rtol=1e-3)
        assert torch.allclose(again.frames[0].levels[name].beta, level.beta, atol=1e-4)


def test_without_a_truth_nothing_is_scored(reader, sample):
    reading = reader.read(replace(sample, expression="the unheard of star"), known=False)
    assert reading.iou is None and reading.truth is None and reading.points == {}
    assert {"unheard"} <= set(reading.unknown) and reading.cut == 0


def test_only_the_words_that_are_read_are_listed(reader, sample):
    reading = reader.read(replace(sample, expression="star " * 30), known=False)
    assert len(reading.words) == 20 and reading.cut == 10


def test_a_sample_that_was_transformed_is_refused(reader, prepared):
    with pytest.raises(RefsegError, match="without any"):
        reader.read(prepared, known=True)


def test_a_network_without_attention_has_a_mask_only(reader, sample):
    reading = other(reader, cross_modal=ConcatenationMeanConfig()).read(sample, known=True)
    assert reading.frames[0].levels == {} and reading.points == {} and reading.iou is not None


@pytest.mark.parametrize("height, width", [(64, 20), (15, 64), (33, 47)])
def test_the_grid_lies_where_the_picture_is(reader, sample, height, width):
    """The regions that are kept cover the picture, and no row or column of them lies outside it."""
    frames = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 2 :, width // 2 :] = True
    size = {"original_size": (height, width), "original_mask": mask, "mask": mask}
    reading = reader.read(replace(sample, frames=frames, objects=None, **size), known=True)
    for level in reading.frames[0].levels.values():
        left, top, right, bottom = level.extent
        h, w = level.maps.shape[-2:]
        assert left <= 0 and top <= 0 and right >= 1 and bottom >= 1
        assert -left < (right - left) / w and right - 1 < (right - left) / w
        assert -top < (bottom - top) / h and bottom - 1 < (bottom - top) / h
        assert level.maps.sum((1, 2)) == pytest.approx(torch.ones(len(reading.words)), abs=1e-4)
        assert level.alpha.shape == (h, w, h, w)


def test_cutting_by_hand():
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[3:5] = True  # a picture of 8 x 2 pixels in a square
    crop = Crop(valid, (4, 4))
    assert crop(torch.arange(16.0).view(4, 4)).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert crop.extent == (0.0, -0.5, 1.0, 1.5)


def test_a_clip_is_read_frame_by_frame(reader, sample):
    """Every frame is the target once; a network with CFSA says where in time the annotated one looks."""
    frames = torch.cat([sample.frames, sample.frames.flip(-1), sample.frames.flip(-2)])
    clip = replace(sample, frames=frames, target_frame=1, objects=None)
    reading = other(reader, temporal=CFSAConfig(dim=12, heads=6)).read(clip, known=True, strikes=True)
    assert len(reading.frames) == 3 and len(reading.strikes[0,].masks) == 3
    assert reading.iou == mask_iou(reading.frames[1].mask, sample.original_mask)
    for looks in reading.looks.values():
        assert looks.shape[0] == 3 and torch.allclose(looks.sum(0), torch.ones_like(looks[0]), atol=1e-5)
    pictures_only = reader.read(clip, known=True)
    assert len(pictures_only.frames) == 3 and pictures_only.looks == {}
