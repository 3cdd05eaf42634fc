"""Tensors and masks to text and back: how much is lost, and that zero stays zero."""

import json

import pytest
import torch

from refseg.explorer.wire import pack, pack_mask, picture_from_uri, picture_uri, unpack, unpack_mask


@pytest.mark.parametrize("bits, off", [(16, 1e-3), (8, 0.04)])
def test_attention_keeps_its_order_and_nearly_its_values(bits, off):
    values = torch.randn(3, 5, 7).mul(3).softmax(-1)
    again = unpack(json.loads(json.dumps(pack(values, bits, log=True))))
    assert again.shape == values.shape
    assert (again / values - 1).abs().max() < off
    if bits == 16:
        assert torch.equal(again.flatten().argsort(), values.flatten().argsort())


def test_zero_stays_zero_and_what_is_next_to_nothing_becomes_it():
    values = torch.tensor([0.0, 1e-12, 0.5, 1.0])
    assert unpack(pack(values, 16, log=True)).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0], rel=1e-3)
    assert unpack(pack(torch.zeros(2, 3), 8, log=True)).tolist() == [[0.0] * 3] * 2


def test_one_value_only():
    assert unpack(pack(torch.full((2, 2), 0.25), 8, log=True)).tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert unpack(pack(torch.full((2, 2), 0.25))).tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_shares_on_a_straight_scale():
    values = torch.rand(4, 4)
    assert (unpack(pack(values)) - values).abs().max() < 1 / 255
    assert (unpack(pack(values, 16)) - values).abs().max() < 1 / 65535


def test_masks_come_back_as_they_were():
    mask = torch.rand(7, 11) < 0.4
    assert torch.equal(unpack_mask(json.loads(json.dumps(pack_mask(mask)))), mask)


def test_a_small_picture_comes_back_pixel_by_pixel_and_a_large_one_nearly():
    small, large = (torch.randint(0, 256, (3, side, side + 4), dtype=torch.uint8) for side in (20, 200))
    assert torch.equal(picture_from_uri(picture_uri(small)), small)
    smooth = torch.nn.functional.interpolate(small[None].float(), size=(200, 204), mode="bilinear")[0].to(torch.uint8)
    again = picture_from_uri(picture_uri(smooth))
    assert picture_uri(smooth).startswith("data:image/jpeg") and again.shape == large.shape
    assert (again.float() - smooth.float()).abs().mean() < 6
