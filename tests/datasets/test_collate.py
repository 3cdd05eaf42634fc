"""Padding is added here and nowhere else, and says of itself that it is none of the data."""

import pytest
import torch

from refseg.datasets.collate import Collate
from refseg.datasets.transforms import build_transform
from refseg.errors import RefsegError
from refseg.tokenizer import WordVocabulary
from refseg.types import Annotations, RefSample

VOCABULARY = WordVocabulary(["the", "red", "cup"])


def make_sample(height, width, expression, frames=1, name="0_0"):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[-1, -1] = True
    images = torch.rand(frames, 3, height, width)
    return RefSample(
        images, mask, expression, name, "test/val", (height, width), mask, annotations=Annotations(kind=expression)
    )


def test_words_are_padded_behind():
    batch = Collate(VOCABULARY)([make_sample(3, 5, "red cup"), make_sample(3, 5, "the red blue cup")])
    assert batch.token_ids.tolist() == [[3, 4, 0, 0], [2, 3, 1, 4]]
    assert batch.token_valid.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.token_ids.dtype == torch.int64


def test_images_grow_at_the_bottom_and_on_the_right():
    small, large = make_sample(3, 7, "cup"), make_sample(5, 2, "cup")
    batch = Collate(VOCABULARY)([small, large])
    assert batch.frames.shape == (2, 1, 3, 5, 7) and batch.mask.shape == batch.pixel_valid.shape == (2, 1, 5, 7)
    assert torch.equal(batch.frames[0, :, :, :3], small.frames) and (batch.frames[0, :, :, 3:] == 0).all()
    assert torch.equal(batch.frames[1, :, :, :, :2], large.frames) and (batch.frames[1, :, :, :, 2:] == 0).all()
    assert batch.mask.flatten(1).sum(1).tolist() == [1, 1] and batch.mask[0, 0, 2, 6] and batch.mask[1, 0, 4, 1]
    assert batch.pixel_valid[0, 0, :3].all() and batch.pixel_valid.flatten(1).sum(1).tolist() == [21, 10]
    assert batch.mask.dtype == batch.pixel_valid.dtype == torch.bool


def test_the_letterbox_padding_is_kept():
    sample = make_sample(4, 8, "cup")
    sample.frames = (sample.frames * 255).to(torch.uint8)
    batch = Collate(VOCABULARY)([build_transform(8)(sample)])
    assert batch.pixel_valid[0, 0].any(dim=1).tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_objects_travel_if_all_samples_have_them():
    few, many = make_sample(3, 5, "cup"), make_sample(4, 5, "cup")
    assert Collate(VOCABULARY)([few, many]).objects is None
    few.objects, few.object_classes = torch.ones(3, 5, dtype=torch.uint8), torch.tensor([[0, 0], [2, 7]])
    assert Collate(VOCABULARY)([few, many]).objects is None
    many.objects, many.object_classes = few.objects.new_full((4, 5), 2), torch.tensor([[0, 0], [1, 1], [3, 5]])
    batch = Collate(VOCABULARY)([few, many])
    assert batch.objects.shape == (2, 1, 4, 5) and batch.objects[0, 0, :, 0].tolist() == [1, 1, 1, 0]
    assert batch.object_classes.tolist() == [[[0, 0], [2, 7], [0, 0]], [[0, 0], [1, 1], [3, 5]]]


def test_lists_and_target_frames_keep_the_order():
    first, second = make_sample(3, 3, "cup", 3, "a"), make_sample(5, 5, "red cup", 3, "b")
    second.target_frame = 2
    batch = Collate(VOCABULARY)([first, second])
    assert batch.target_frame.tolist() == [0, 2] and batch.sample_ids == ["a", "b"]
    assert batch.expressions == ["cup", "red cup"] and batch.original_sizes == [(3, 3), (5, 5)]
    assert batch.original_masks[1] is second.original_mask and batch.annotations[1].kind == "red cup"
    assert torch.equal(batch.images[1], second.frames[2])


def test_200_words_are_cut_by_the_tokenizer():
    batch = Collate(VOCABULARY)([make_sample(3, 3, "cup " * 200), make_sample(3, 3, "cup")])
    assert batch.token_ids.shape == (2, 20) and batch.token_valid.sum(1).tolist() == [20, 1]


def test_no_words_names_the_sample():
    for expression in ["", "   ", "."]:
        with pytest.raises(RefsegError, match=r"Sample 7_1 of test/val: The expression '.*' has no word in it"):
            Collate(VOCABULARY)([make_sample(3, 3, expression, name="7_1")])


def test_pixels_as_read_are_refused():
    sample = make_sample(3, 3, "cup")
    sample.frames = sample.frames.to(torch.uint8)
    with pytest.raises(RefsegError, match="give the data set a transform"):
        Collate(VOCABULARY)([sample])


def test_shorter_clips_are_padded_behind_their_last_frame():
    short, long = make_sample(3, 3, "cup"), make_sample(3, 3, "cup", 3)
    batch = Collate(VOCABULARY)([short, long])
    assert batch.frame_valid.tolist() == [[True, False, False], [True, True, True]]
    assert torch.equal(batch.frames[0, 0], short.frames[0]) and torch.equal(batch.frames[1], long.frames)
    assert batch.frames[0, 1:].abs().max() == 0


def test_a_worker_process_can_receive_it():
    import pickle

    batch = pickle.loads(pickle.dumps(Collate(VOCABULARY)))([make_sample(3, 3, "cup")])
    assert len(batch) == 1
