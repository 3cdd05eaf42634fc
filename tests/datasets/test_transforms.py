"""Letterbox, normalisation, the mirror and the way back, with numbers one can work out by hand."""

import pytest
import torch

from refseg.datasets.transforms import (
    HorizontalFlip,
    Letterbox,
    Normalize,
    build_transform,
    fit,
    resize_mask,
    swap_left_right,
    undo_letterbox,
)
from refseg.types import Annotations, RefSample


def make_sample(height, width, mask=None, expression="the left cup", frames=1):
    image = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool) if mask is None else mask
    return RefSample(image, mask, expression, "0_0", "test/val", (height, width), mask)


def box(height, width, top, left, bottom, right):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_fit():
    for height, width, inner, padding in [
        (96, 96, (96, 96), [0, 0, 0, 0]),
        (48, 96, (48, 96), [0, 24, 0, 24]),
        (192, 64, (96, 32), [32, 0, 32, 0]),
        (96, 93, (96, 93), [1, 0, 2, 0]),  # the odd pixel goes to the right
        (1, 500, (1, 96), [0, 47, 0, 48]),
        (500, 1, (96, 1), [47, 0, 48, 0]),
        (1, 1, (96, 96), [0, 0, 0, 0]),
        (6000, 8000, (72, 96), [0, 12, 0, 12]),
    ]:
        assert fit(height, width, 96) == (inner, padding)


def test_letterbox_leaves_a_image_of_the_right_size_alone():
    sample = make_sample(31, 31, box(31, 31, 3, 5, 7, 11))
    boxed = Letterbox(31)(sample)
    assert boxed.frames is sample.frames and boxed.mask is sample.mask
    assert boxed.pixel_valid.all() and sample.pixel_valid is None


def test_letterbox_pads_without_touching_pixels_when_no_scaling_is_needed():
    sample = make_sample(7, 31, box(7, 31, 1, 2, 5, 13), frames=2)
    boxed = Letterbox(31)(sample)
    assert boxed.frames.shape == (2, 3, 31, 31)
    assert torch.equal(boxed.frames[:, :, 12:19], sample.frames) and torch.equal(boxed.mask[12:19], sample.mask)
    assert torch.equal(boxed.pixel_valid, box(31, 31, 12, 0, 19, 31))
    assert boxed.frames.sum() == sample.frames.sum() and boxed.mask.sum() == sample.mask.sum()


def test_letterbox_scales_image_and_mask_together():
    sample = make_sample(38, 22, box(38, 22, 6, 4, 26, 16))
    sample.frames[:] = 0
    sample.frames[..., 6:26, 4:16] = 255
    boxed = Letterbox(19)(sample)
    assert torch.equal(boxed.mask, box(19, 19, 3, 6, 13, 12))
    assert torch.equal(boxed.frames[0, 0] > 127, boxed.mask)
    assert boxed.original_mask is sample.original_mask and boxed.original_size == (38, 22)


def test_the_object_map_goes_where_the_image_goes():
    sample = make_sample(38, 22, box(38, 22, 6, 4, 26, 16))
    sample.objects = sample.mask.to(torch.uint8) * 7
    boxed = Letterbox(19)(sample)
    assert torch.equal(boxed.objects, boxed.mask.to(torch.uint8) * 7)
    assert torch.equal(HorizontalFlip()(boxed).objects, boxed.objects.flip(-1))


def test_letterbox_twice_is_refused():
    with pytest.raises(ValueError, match="padded already"):
        Letterbox(19)(Letterbox(19)(make_sample(7, 11)))


def test_extreme_shapes_keep_a_pixel_and_find_the_way_back():
    for height, width in [(1, 1), (1, 500), (500, 1), (2, 997), (997, 2), (53, 59)]:
        sample = make_sample(height, width, torch.ones(height, width, dtype=torch.bool))
        boxed = build_transform(24)(sample)
        assert boxed.frames.shape == (1, 3, 24, 24) and boxed.frames.isfinite().all()
        assert boxed.pixel_valid.any() and torch.equal(boxed.mask, boxed.pixel_valid)
        logits = boxed.mask.float() * 2 - 1
        assert torch.allclose(undo_letterbox(logits, boxed.pixel_valid, (height, width)), torch.ones(height, width))


def test_an_8000_by_6000_image():
    boxed = build_transform(32)(make_sample(6000, 8000, box(6000, 8000, 3000, 4000, 3001, 4001)))
    assert boxed.mask.sum() >= 1 and boxed.pixel_valid.sum() == 24 * 32


def test_a_one_pixel_wide_column_keeps_its_gradient():
    """Torch's own antialiased resize repeats the first row when the result is one pixel wide."""
    column = torch.arange(500).float()[:, None]
    sample = make_sample(500, 1, column > 250)
    boxed = Letterbox(100)(sample)
    assert torch.equal(boxed.mask.nonzero()[:, 0], torch.arange(50, 100))


def test_any_single_pixel_survives_scaling():
    for row, column in [(0, 0), (0, 99), (50, 51), (99, 13)]:
        small = resize_mask(box(100, 100, row, column, row + 1, column + 1), (7, 7))
        assert 1 <= small.sum() <= 4 and small[row * 7 // 100, column * 7 // 100]


def test_a_hairline_stays_in_one_piece():
    small = resize_mask(box(101, 101, 0, 50, 101, 51), (23, 23))
    assert small.any(dim=1).all() and small.sum(dim=1).max() <= 2


def test_scaling_a_large_mask_keeps_its_area():
    mask = box(300, 300, 31, 47, 211, 268)
    assert resize_mask(mask, (97, 97)).sum().item() == pytest.approx(mask.sum().item() * (97 / 300) ** 2, rel=0.02)


def test_an_empty_mask_stays_empty():
    assert not resize_mask(torch.zeros(13, 17, dtype=torch.bool), (5, 7)).any()


def test_normalize_by_hand_and_padding_zero():
    sample = make_sample(1, 2)
    sample.frames[:] = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    boxed = Normalize()(Letterbox(2)(sample))
    assert boxed.frames.dtype == torch.float32
    by_hand = torch.tensor([-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(boxed.frames[0, :, 0, 0], by_hand)
    assert (boxed.frames[:, :, 1] == 0).all() and not boxed.pixel_valid[1].any()


def test_undo_letterbox_cuts_exactly_what_was_added():
    sample = Letterbox(31)(make_sample(7, 31))
    logits = torch.randn(1, 31, 31)
    assert torch.equal(undo_letterbox(logits, sample.pixel_valid, (7, 31)), logits[0, 12:19])


def test_undo_letterbox_has_half_pixel_centres():
    """Doubling [0, 4]: centres lie at -1/4, 1/4, 3/4, 5/4 of the way, and beyond the ends the end value holds."""
    logits = torch.tensor([[0.0, 4.0]])
    assert undo_letterbox(logits, torch.ones(1, 2, dtype=torch.bool), (1, 4)).tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_undo_letterbox_ignores_padding_values_and_batch_padding():
    sample = Letterbox(16)(make_sample(8, 32))
    logits = torch.randn(16, 16)
    noisy = torch.where(sample.pixel_valid, logits, torch.full_like(logits, 1e6))
    want = undo_letterbox(logits, sample.pixel_valid, (8, 32))
    assert torch.equal(undo_letterbox(noisy, sample.pixel_valid, (8, 32)), want)
    grown = torch.nn.functional.pad(logits, (0, 5, 0, 3)), torch.nn.functional.pad(sample.pixel_valid, (0, 5, 0, 3))
    assert torch.equal(undo_letterbox(grown[0][None], grown[1][None], (8, 32)), want)


def test_undo_letterbox_takes_logits_of_the_head():
    sample = Letterbox(16)(make_sample(8, 32))
    logits = torch.randn(1, 4, 4)
    up = torch.nn.functional.interpolate(logits[None], size=(16, 16), mode="bilinear")[0]
    want = undo_letterbox(up, sample.pixel_valid, (8, 32))
    assert torch.equal(undo_letterbox(logits, sample.pixel_valid, (8, 32)), want)


def test_there_and_back_is_nearly_the_same_mask():
    for height, width in [(61, 97), (97, 61), (200, 300)]:
        mask = box(height, width, 11, 13, 43, 47)
        boxed = Letterbox(96)(make_sample(height, width, mask))
        back = undo_letterbox(boxed.mask.float() - 0.5, boxed.pixel_valid, (height, width)) > 0
        assert (back & mask).sum() / (back | mask).sum() > 0.9


def test_swap_left_right():
    for said, mirrored in [
        ("left man", "right man"),
        ("man on the RIGHT", "man on the LEFT"),
        ("Leftmost cup", "Rightmost cup"),
        ("right-hand bright plate", "left-hand bright plate"),
        ("going leftward, lefthand side", "going rightward, righthand side"),
        ("the leftover upright copyright", "the leftover upright copyright"),
        ("left of the one right of it", "right of the one left of it"),
        ("car moving left, then Right", "car moving right, then Left"),
        ("turned all the way to the LEFTMOST side", "turned all the way to the RIGHTMOST side"),
        ("a left-handed boy, topleft, lefty", "a right-handed boy, topleft, lefty"),
    ]:
        assert swap_left_right(said) == mirrored and swap_left_right(mirrored) == said


def test_flip_mirrors_everything_and_twice_is_nothing():
    sample = Letterbox(13)(make_sample(7, 11, box(7, 11, 0, 0, 2, 3)))
    flipped = HorizontalFlip()(sample)
    assert flipped.expression == "the right cup" and flipped.original_mask[0, -1] and not flipped.original_mask[0, 0]
    assert torch.equal(flipped.frames[..., 0], sample.frames[..., -1])
    again = HorizontalFlip()(flipped)
    assert torch.equal(again.frames, sample.frames) and torch.equal(again.mask, sample.mask)
    assert torch.equal(again.pixel_valid, sample.pixel_valid) and again.expression == sample.expression


def test_the_flip_swaps_class_names_too_and_says_that_it_is_a_mirror_image():
    names = {"shape": ("star", "box", "disc"), "motion": ("still", "moving left", "up", "moving right")}
    sample = make_sample(3, 5, frames=2)
    sample.objects = torch.arange(15, dtype=torch.uint8).view(3, 5) % 3
    sample.object_classes = torch.tensor([[0, 0], [3, 2], [1, 4]])
    sample.annotations = Annotations(image_id=7)
    before = sample.object_classes.clone()
    flipped = HorizontalFlip(names)(sample)
    assert flipped.object_classes.tolist() == [[0, 0], [3, 4], [1, 2]] and flipped.objects[0].tolist() == [
        1,
        0,
        2,
        1,
        0,
    ]
    assert torch.equal(flipped.frames, sample.frames.flip(-1))  # both frames of the clip
    assert flipped.annotations == Annotations(image_id=7, mirrored=True) and not sample.annotations.mirrored
    again = HorizontalFlip(names)(flipped)
    assert again.annotations == sample.annotations and torch.equal(again.object_classes, before)
    assert torch.equal(sample.object_classes, before) and torch.equal(again.objects, sample.objects)
    assert torch.equal(HorizontalFlip()(sample).object_classes, before)  # no names, nothing to swap


def test_the_flipped_words_mean_the_flipped_mask():
    """Two things side by side: who reads the words and looks at the pixels finds the mask, before and after."""
    for expression in ["the left thing", "leftmost thing", "thing on the RIGHT", "right-hand thing"]:

        def meant(sample):
            things = (sample.frames[0, 0] > 0).nonzero()[:, 1]
            column = things.min() if "left" in sample.expression.lower() else things.max()
            found = torch.zeros_like(sample.mask)
            found[:, column] = sample.frames[0, 0, :, column] > 0
            return found

        sample = make_sample(3, 11, expression=expression)
        sample.frames[:] = 0
        sample.frames[..., 1, 2], sample.frames[..., 2, 7] = 255, 255
        sample.mask = sample.original_mask = meant(sample)
        flipped = HorizontalFlip()(sample)
        assert flipped.mask.sum() == 1 and not torch.equal(flipped.mask, sample.mask)
        assert torch.equal(flipped.mask, meant(flipped)) and torch.equal(flipped.original_mask, flipped.mask)
