"""One query: where it looks, that self-attention of one is two linear maps, and the answers of every layer."""

import torch
import torch.nn.functional as F
from torch import nn

from refseg.models.blocks.layers import CrossAttentionLayer
from refseg.models.blocks.mask2former_decoder import Mask2FormerDecoder, MaskDecoderConfig, outside

CONFIG = MaskDecoderConfig(layers=4, heads=3, inner=7)


def test_the_query_looks_where_the_mask_is():
    logits = torch.full((3, 1, 4, 6), -1.0)
    logits[0, 0, :2, :2] = 3.0
    logits[2] = 1.0
    hidden = outside(logits, (2, 3))
    assert hidden[0].tolist() == [False, True, True, True, True, True]
    assert not hidden[1].any(), "an empty mask: everywhere"
    assert not hidden[2].any()


def test_hidden_regions_are_not_read():
    layer = CrossAttentionLayer(12, heads=3, inner=7, lone_query=True).eval()
    query, regions = torch.randn(2, 1, 12), torch.randn(2, 5, 12)
    hidden = torch.tensor([[False, True, True, False, True]] * 2)
    other = torch.where(hidden[..., None], torch.randn(2, 5, 12), regions)
    place, places = torch.randn(12), torch.randn(5, 12)
    one, two = (layer(query, place, x + places, x, hidden) for x in (regions, other))
    assert torch.allclose(one, two, atol=1e-6)


def test_self_attention_of_one_query_is_two_linear_maps():
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    query, position = torch.randn(5, 1, 12), torch.randn(12)
    expected, _ = attention(query + position, query + position, query)
    value = F.linear(query, attention.in_proj_weight[24:], attention.in_proj_bias[24:])
    assert torch.allclose(attention.out_proj(value), expected, atol=1e-6)


def test_an_answer_after_every_layer():
    for upsampling in [1, 3]:
        config = MaskDecoderConfig(**{**vars(CONFIG), "upsampling": upsampling})
        decoder = Mask2FormerDecoder(12, ["c5", "c4", "c3"], config)
        levels = {"c5": torch.randn(2, 12, 2, 3), "c4": torch.randn(2, 12, 3, 5), "c3": torch.randn(2, 12, 5, 7)}
        masks = decoder(torch.randn(2, 12, 11, 13), levels)
        assert len(masks) == 5 and {tuple(mask.shape) for mask in masks} == {(2, 1, 11 * upsampling, 13 * upsampling)}


def test_a_pixel_is_in_the_mask_where_it_agrees_with_the_query():
    decoder = Mask2FormerDecoder(12, ["c5"], CONFIG)
    query, pixels = torch.randn(2, 1, 12), torch.randn(2, 12, 3, 5)
    vector = decoder.to_pixels(decoder.norm(query))[:, 0]
    expected = (vector[:, :, None, None] * pixels).sum(1, keepdim=True)
    assert torch.allclose(decoder.mask_logits(query, pixels), expected, atol=1e-5)


def test_finer_logits_have_a_vector_each():
    decoder = Mask2FormerDecoder(12, ["c5"], MaskDecoderConfig(**{**vars(CONFIG), "upsampling": 2}))
    query, pixels = torch.randn(1, 1, 12), torch.randn(1, 12, 3, 5)
    logits = decoder.mask_logits(query, pixels)
    vectors = decoder.to_pixels(decoder.norm(query)).view(4, 12)
    for row, column, vector in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)):
        expected = torch.einsum("d,bdhw->bhw", vectors[vector], pixels)
        assert torch.allclose(logits[:, 0, row::2, column::2], expected, atol=1e-5)


def test_levels_take_turns():
    decoder = Mask2FormerDecoder(12, ["c5", "c4"], MaskDecoderConfig(layers=1, heads=3, inner=7)).eval()
    pixels = torch.randn(1, 12, 5, 7)
    levels = {"c5": torch.randn(1, 12, 2, 3), "c4": torch.randn(1, 12, 3, 5)}
    other = {**levels, "c4": torch.randn(1, 12, 3, 5)}  # one layer looks at the coarsest only
    assert torch.equal(decoder(pixels, levels)[-1], decoder(pixels, other)[-1])
