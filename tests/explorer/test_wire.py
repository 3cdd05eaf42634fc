"""Tensors, masks, images and readings to text and back: how much is lost, and that zero stays zero."""

import json

import pytest
import torch

from refseg.explorer import Explorer
from refseg.explorer.reading import Reading
from refseg.explorer.wire import (
    from_wire,
    image_from_uri,
    image_uri,
    pack,
    pack_mask,
    to_wire,
    unpack,
    unpack_mask,
)


def travelled(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_attention_keeps_its_order_and_nearly_its_values():
    values = torch.randn(3, 5, 7).mul(3).softmax(-1)
    for bits, off in ((16, 1e-3), (8, 0.04)):
        again = unpack(travelled(pack(values, bits, log=True)))
        assert again.shape == values.shape and (again / values - 1).abs().max() < off
    assert torch.equal(unpack(pack(values, 16, log=True)).flatten().argsort(), values.flatten().argsort())
    for bits, steps in ((8, 255), (16, 65535)):
        assert (unpack(pack(values, bits)) - values).abs().max() < 1 / steps


def test_zero_stays_zero_and_one_value_is_enough():
    values = torch.tensor([0.0, 1e-12, 0.5, 1.0])
    assert unpack(pack(values, 16, log=True)).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0], rel=1e-3)
    assert unpack(pack(torch.zeros(2, 3), 8, log=True)).tolist() == [[0.0] * 3] * 2
    for log in (True, False):
        assert unpack(pack(torch.full((2, 2), 0.25), 8, log=log)).tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_masks_and_small_images_come_back_as_they_were_and_large_images_nearly():
    mask = torch.rand(7, 11) < 0.4
    assert torch.equal(unpack_mask(travelled(pack_mask(mask))), mask)
    small = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8)
    assert torch.equal(image_from_uri(image_uri(small)), small)
    smooth = torch.nn.functional.interpolate(small[None].float(), size=(200, 204), mode="bilinear")[0].to(torch.uint8)
    assert image_uri(smooth).startswith("data:image/jpeg")
    assert (image_from_uri(image_uri(smooth)).float() - smooth.float()).abs().mean() < 6


def test_readings_come_back(tiny_checkpoint, tiny_alignformer, tiny_grounded, sample):
    """Of networks with region rows and gates, with a centre, and with guesses; the mask and the scores exactly."""
    for folder in (tiny_checkpoint, tiny_alignformer, tiny_grounded):
        explorer = Explorer(folder, sample)
        explorer.strike(1)
        here = explorer.reading
        again = from_wire(Reading, travelled(to_wire(here)))
        for name in ("expression", "words", "unknown", "cut", "pairs", "iou", "points"):
            assert getattr(again, name) == getattr(here, name), name
        assert torch.equal(again.truth, here.truth) and torch.equal(again.frames[0].mask, here.frames[0].mask)
        assert torch.equal(again.strikes[1,].masks[0], here.strikes[1,].masks[0])
        assert again.strikes[1,].iou == here.strikes[1,].iou
        assert again.frames[0].levels.keys() == here.frames[0].levels.keys()
        for name, level in here.frames[0].levels.items():
            assert torch.allclose(again.frames[0].levels[name].maps, level.maps, rtol=1e-3)
            assert level.beta is None or torch.allclose(again.frames[0].levels[name].beta, level.beta, atol=1e-4)
        assert again.guesses.keys() == here.guesses.keys()
        for place, by_way in here.guesses.items():
            for way, best in by_way.items():
                assert again.guesses[place][way] == best
        if centre := here.frames[0].centre:
            back = again.frames[0].centre
            assert (back.areas, back.among) == (centre.areas, centre.among)
            assert torch.allclose(back.similarity, centre.similarity, atol=1e-4)
