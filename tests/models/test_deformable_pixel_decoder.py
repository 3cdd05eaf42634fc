"""Deformable attention against reading by hand, and the shapes of the pixel decoder."""

import math

import pytest
import torch
from torch import nn

from refseg.models.blocks.attention import sine_positions
from refseg.models.blocks.deformable_pixel_decoder import (
    DeformableAttention,
    DeformableConfig,
    DeformablePixelDecoder,
    read_places,
    reference_points,
    star_of_offsets,
)

SMALL = DeformableConfig(dim=12, layers=2, heads=3, points=2, inner=7, groups=4)


def test_places_are_read_between_cells_by_hand():
    values = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]])  # rows 1 2 3 and 4 5 6
    places = torch.tensor([[0.5 / 3, 0.25], [1 / 3, 0.5], [2.5 / 3, 0.75], [0.0, 0.25], [-0.3, 0.2]])
    read = read_places(values, (2, 3), places.view(1, 5, 1, 1, 2), torch.ones(1, 5, 1, 1))
    # the centre of the first; between 1 2 4 5; the centre of the last; half outside; outside
    assert torch.allclose(read.flatten(), torch.tensor([1.0, 3.0, 6.0, 0.5, 0.0]), atol=1e-5)


def test_reading_by_loops():
    B, S, K, P, D, (h, w) = 2, 3, 2, 5, 4, (5, 7)
    values, weights = torch.randn(B, h * w, D), torch.rand(B, S, K, P)
    places = torch.rand(B, S, K, P, 2) * 1.4 - 0.2
    expected = torch.zeros(B, S, D)
    for b in range(B):
        for s in range(S):
            for k in range(K):
                for p in range(P):
                    x, y = places[b, s, k, p, 0] * w - 0.5, places[b, s, k, p, 1] * h - 0.5
                    for row in (math.floor(y), math.floor(y) + 1):
                        for column in (math.floor(x), math.floor(x) + 1):
                            if 0 <= row < h and 0 <= column < w:
                                near = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, s, k, p]
                                own = slice(2 * k, 2 * k + 2)
                                expected[b, s, own] += near * values[b, row * w + column, own]
    assert torch.allclose(read_places(values, (h, w), places, weights), expected, atol=1e-5)


def test_references_are_the_centres():
    points = reference_points([(1, 2), (2, 1)], torch.zeros(1))
    assert points.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


def test_heads_begin_in_directions_of_their_own():
    star = star_of_offsets(4, 3, 2)
    assert star.shape == (4, 3, 2, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(2):
        assert torch.allclose(star[:, 1, point], expected * (point + 1), atol=1e-6)


def test_attention_reads_the_neighbour_that_its_offset_names():
    """One head, one level, one point, an offset of one cell to the right, identity maps."""
    attention = DeformableAttention(1, DeformableConfig(dim=4, heads=1, points=1))
    for layer in (attention.value, attention.out):
        nn.init.eye_(layer.weight)
    tokens = torch.randn(1, 6, 4)
    read = attention(tokens, tokens, reference_points([(2, 3)], tokens), [(2, 3)])
    rows = tokens.view(1, 2, 3, 4)
    assert torch.allclose(read.view(1, 2, 3, 4)[:, :, :2], rows[:, :, 1:], atol=1e-5)
    assert read.view(1, 2, 3, 4)[:, :, 2].abs().max() < 1e-5  # nothing lies beyond the border


def test_shapes_with_and_without_a_pyramid_step():
    for levels in [4, 3]:
        channels = {"c5": 13, "c4": 11, "c3": 7, "c2": 5}
        grids = {"c5": (2, 3), "c4": (3, 5), "c3": (5, 7), "c2": (11, 13)}
        decoder = DeformablePixelDecoder(channels, DeformableConfig(**{**vars(SMALL), "levels": levels}))
        features = {level: torch.randn(2, channels[level], *grids[level]) for level in channels}
        pixels, read = decoder(features)
        assert pixels.shape == (2, 12, 11, 13)
        assert {level: tuple(x.shape[-2:]) for level, x in read.items()} == dict(list(grids.items())[:levels])
        assert len(decoder.add) == 4 - levels


def test_a_place_knows_the_other_levels():
    channels = {"c3": 7, "c2": 5}
    decoder = DeformablePixelDecoder(channels, DeformableConfig(**{**vars(SMALL), "levels": 2})).eval()
    features = {"c3": torch.randn(1, 7, 3, 5), "c2": torch.randn(1, 5, 5, 7)}
    before, _ = decoder(features)
    after, _ = decoder({**features, "c3": features["c3"] + torch.randn(1, 7, 3, 5)})
    assert (before - after).abs().max() > 1e-4


def test_sines_by_hand():
    sines = sine_positions((2, 3), 8, torch.zeros(()))
    assert sines.shape == (6, 8)
    row, column = 2 * math.pi * 1 / 2, 2 * math.pi * 2 / 3  # the first of two rows, the second of three columns
    expected = [math.sin(row), math.cos(row), math.sin(row / 100), math.cos(row / 100)]
    expected += [math.sin(column), math.cos(column), math.sin(column / 100), math.cos(column / 100)]
    assert sines[1].tolist() == pytest.approx(expected, abs=1e-4)
