"""One way from an image to a mask: prepared like a sample of a data set, one forward pass, nothing undefined."""

import pytest
import torch
from torch import nn

from refseg.datasets import Collate, build_transform
from refseg.errors import RefsegError
from refseg.inference import choose_device, in_eval_mode, infer, predict_masks, prepare, to_batch
from refseg.tokenizer import WordVocabulary
from refseg.types import MASK_THRESHOLD, Prediction, RefSample

VOCABULARY = WordVocabulary(["the", "red", "star"])


class Brightness(nn.Module):
    """The first channel, at half the input's size."""

    def forward(self, batch):
        return Prediction(batch.images[:, :1, ::2, ::2], {})


def test_an_image_is_prepared_as_a_sample_is():
    for size in ((13, 29), (29, 13), (32, 32), (1, 97), (64, 64), (300, 7)):
        image, truth = torch.randint(0, 256, (3, *size), dtype=torch.uint8), torch.ones(size, dtype=torch.bool)
        sample = build_transform(32)(RefSample(image[None], truth, "the red star", "1", "toy", size, truth))
        from_sample = Collate(VOCABULARY)([sample])
        batch = to_batch(*prepare(image, 32), size, "the red star", VOCABULARY)
        for name in ("frames", "pixel_valid", "token_ids", "token_valid", "target_frame", "frame_valid"):
            assert torch.equal(getattr(batch, name), getattr(from_sample, name)), (size, name)
        assert torch.equal(prepare(image[None].repeat(3, 1, 1, 1), 32)[0][2], sample.frames[0])
        (mask,), (same,) = predict_masks(Brightness(), batch), predict_masks(Brightness(), from_sample)
        assert mask.shape == size and torch.equal(mask, same), size
        logits, prediction = infer(Brightness(), batch)
        assert torch.equal(next(logits) > MASK_THRESHOLD, mask) and prediction.mask_logits.shape == (1, 1, 16, 16)


def test_undefined_values_are_an_error():
    class Diverged(nn.Module):
        def forward(self, batch):
            return Prediction(torch.full((1, 1, 4, 4), float("nan")), {})

    batch = to_batch(*prepare(torch.zeros(3, 5, 5, dtype=torch.uint8), 8), (5, 5), "star", VOCABULARY)
    for call in (infer, predict_masks):
        with pytest.raises(RefsegError, match="undefined values"):
            call(Diverged(), batch)


def test_every_part_gets_its_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()))
    model.train()
    model[1][0].eval()
    with pytest.raises(KeyError), in_eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_a_device_that_is_not_there_is_one_sentence():
    for device in (None, "auto"):
        assert choose_device(device).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(RefsegError, match=f"no device '{wrong}' here .*: take \"cpu\""):
            choose_device(wrong)
