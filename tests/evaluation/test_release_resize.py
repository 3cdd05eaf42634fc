"""The resizing of the authors' release of CMSA, against what scikit-image 0.14.5 gave it."""

import numpy as np
import pytest
import torch

from refseg.evaluation.release_resize import release_resize, release_resize_and_crop, release_resize_and_pad

PAIRS = "abce"  # scaled down twice, not at all, up


@pytest.fixture(scope="module")
def released(shared_dir):
    return np.load(shared_dir / "parity" / "image_release.npz")


def difference(ours, theirs):
    return np.abs(ours.numpy() - theirs).max()


def test_halving_takes_the_mean_of_the_two_in_the_middle():
    values = torch.tensor([[0, 4, 8, 0], [2, 6, 0, 4]])  # columns of the result lie between columns 0 | 1 and 2 | 3
    assert release_resize(values, (2, 2)).tolist() == [[2, 4], [4, 2]]


def test_quartering_looks_at_two_places_only():
    assert release_resize(torch.tensor([[9, 1, 3, 9]]), (1, 1)).tolist() == [[2]]  # no antialiasing


def test_doubling_fades_to_zero_beyond_the_border():
    assert release_resize(torch.tensor([[0.0, 8.0]]), (1, 4)).tolist() == [[0, 2, 6, 6]]  # 8 * 3/4 + 0 * 1/4 at the end


def test_a_resized_image_stays_in_the_range_of_its_values():
    assert release_resize(torch.full((1, 3), 5.0), (1, 6)).tolist() == [[5] * 6]


@pytest.mark.parametrize("pair", PAIRS)
def test_images_and_masks_equal_the_release(released, pair):
    image = torch.from_numpy(released[f"{pair}_image"]).permute(2, 0, 1) / torch.tensor(255.0, dtype=torch.float64)
    padded = release_resize_and_pad(image, 48)
    assert difference(padded, released[f"{pair}_image_pad"].transpose(2, 0, 1)) < 1e-12
    # One level apart where a value lies between two: versions of scikit-image differ there as well.
    assert difference((255 * padded).round(), released[f"{pair}_image_pad_ubyte"].transpose(2, 0, 1)) <= 1
    mask = torch.from_numpy(released[f"{pair}_gt"])
    for name in ("gt_pad_f32in", "gt_pad_boolin"):
        assert difference(release_resize_and_pad(mask, 48), released[f"{pair}_{name}"]) < 1e-12


@pytest.mark.parametrize("pair", PAIRS)
def test_predictions_at_the_original_size_equal_the_release(released, pair):
    truth = torch.from_numpy(released[f"{pair}_gt"]).bool()
    cropped = release_resize_and_crop(torch.from_numpy(released[f"{pair}_pred48"]), tuple(truth.shape))
    assert difference(cropped, released[f"{pair}_pred_crop"]) < 1e-12
    if pair != "c":  # at scale one the release's resize leaks values below 1e-15 that its "> 0" then counts
        found = cropped > 0
        assert [(found & truth).sum(), (found | truth).sum()] == released[f"{pair}_IU"].tolist()


def test_a_pair_at_320_pixels_equals_the_release(released):
    truth = torch.from_numpy(released["d_gt"]).bool()
    mask = torch.from_numpy(np.unpackbits(released["d_pred320_bits"]).reshape(320, 320))
    cropped = release_resize_and_crop(mask, (90, 160))
    assert difference(cropped, released["d_pred_crop"]) < 1e-12
    found = cropped > 0
    assert [(found & truth).sum(), (found | truth).sum()] == released["d_IU"].tolist()
