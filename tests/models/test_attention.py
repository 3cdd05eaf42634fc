"""The shared functions against numbers worked out by hand and the release's own coordinates."""

import numpy as np
import pytest
import torch

from refseg.models.blocks.attention import (
    l2_normalize,
    masked_mean,
    masked_softmax,
    spatial_coordinates,
)
from refseg_course.word_measures import mutual_information


def test_l2_normalize_makes_length_one_and_keeps_zero():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = l2_normalize(vectors)
    assert torch.allclose(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    unit.sum().backward()
    assert vectors.grad.isfinite().all()


def test_l2_normalize_takes_the_named_dimension():
    assert torch.allclose(l2_normalize(torch.tensor([[3.0], [4.0]]), dim=0), torch.tensor([[0.6], [0.8]]))


def test_masked_softmax_shares_out_among_the_valid():
    scores = torch.tensor([0.0, 1e4, float(np.log(3.0))])
    weights = masked_softmax(scores, torch.tensor([True, False, True]))
    assert torch.allclose(weights, torch.tensor([0.25, 0.0, 0.75]))


def test_masked_softmax_without_a_valid_entry_is_zero_and_has_a_gradient_of_zero():
    scores = torch.randn(2, 3, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[False] * 3, [True] * 3]))
    assert weights[0].tolist() == [0, 0, 0]
    assert weights[1].sum().item() == pytest.approx(1)
    weights.square().sum().backward()
    assert scores.grad[0].tolist() == [0, 0, 0]


def test_masked_softmax_of_huge_scores_is_finite():
    scores = torch.randn(5, 7) * 1e30
    weights = masked_softmax(scores, torch.rand(5, 7) < 0.7, dim=0)
    assert weights.isfinite().all()


def test_masked_mean_leaves_padding_out():
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0], [float("nan"), 7.0]])
    valid = torch.tensor([[True], [True], [False]])
    assert masked_mean(values, valid, dim=0).tolist() == [2, 20]
    assert masked_mean(values, ~torch.ones_like(valid), dim=0).tolist() == [0, 0]


def test_mutual_information_by_hand():
    product = torch.outer(torch.tensor([0.25, 0.75]), torch.tensor([0.2, 0.3, 0.5]))
    diagonal = torch.eye(3) / 3  # each word has a region of its own
    mixed = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]])  # not normalised: 1/4, 1/4, 1/2
    assert mutual_information(product).item() == pytest.approx(0, abs=1e-7)
    information = mutual_information(torch.stack([diagonal, torch.zeros(3, 3)]))
    assert information.tolist() == pytest.approx([np.log(3), 0])
    # words 1/2, 1/2; regions 1/4, 3/4: sum of p log(p / (word region))
    expected = 0.25 * np.log(0.25 / 0.125) + 0.25 * np.log(0.25 / 0.375) + 0.5 * np.log(0.5 / 0.375)
    assert mutual_information(mixed).item() == pytest.approx(expected)


def test_mutual_information_of_float32_products_is_zero_within_float():
    words, regions = torch.rand(5, 17, 1), torch.rand(5, 1, 101)
    information = mutual_information(words * regions)
    assert information.dtype == torch.float32 and information.max() < 1e-12


def test_spatial_coordinates_by_hand():
    coords = spatial_coordinates(2, 4)
    assert coords.shape == (8, 2, 4)
    # second row, third column: x from 0 to 0.5, y from 0 to 1
    assert coords[:, 1, 2].tolist() == [0, 0, 0.5, 1, 0.25, 0.5, 0.25, 0.5]


def test_spatial_coordinates_equal_the_release(shared_dir):
    release = np.load(shared_dir / "parity" / "spatial_release.npz")
    assert len(release.files) == 3
    for name in release.files:
        _, _, h, w = name.split("_")
        expected = torch.from_numpy(release[name]).double().permute(0, 3, 1, 2)
        ours = spatial_coordinates(int(h), int(w), dtype=torch.float64)
        assert torch.allclose(ours.expand_as(expected), expected, atol=1e-6), name
