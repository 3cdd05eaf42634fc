"""Samples that share an image: it is looked at once, and nothing else changes."""

from dataclasses import replace

import torch

from refseg.datasets import Collate, build_dataset, build_transform
from refseg.models import build_model
from refseg.tokenizer import WordVocabulary
from refseg.types import Annotations, RefBatch

H, W = 5, 7


def batch(images: list[str], target_frames: list[int] | None = None, T: int = 1) -> RefBatch:
    """Samples showing the named images; frame t of image "c" is filled with 10 * ord("c") + t."""
    B = len(images)
    values = torch.tensor([[10.0 * ord(name) + t for t in range(T)] for name in images])
    ones = torch.ones(B, 1, H, W, dtype=torch.bool)
    ids = torch.ones(B, 2, dtype=torch.int64)
    return RefBatch(
        frames=values[..., None, None, None].expand(B, T, 3, H, W).clone(),
        target_frame=torch.tensor(target_frames or [0] * B),
        token_ids=ids,
        token_valid=ids > 0,
        mask=ones,
        pixel_valid=ones,
        expressions=[f"expression {i}" for i in range(B)],
        original_masks=list(ones[:, 0]),
        original_sizes=[(H, W)] * B,
        sample_ids=[str(i) for i in range(B)],
        image_ids=images,
        annotations=[Annotations()] * B,
    )


def test_distinct_images_lead_back_to_every_sample():
    for images, distinct, shown in [
        ("abc", "abc", [0, 1, 2]),
        ("aaa", "a", [0, 0, 0]),
        ("bab", "ba", [0, 1, 0]),  # order of first appearance, not of the alphabet
        ("cabbacc", "cab", [0, 1, 2, 2, 1, 0, 0]),
    ]:
        one = batch(list(images))
        images, image_of = one.distinct_images()
        assert images.shape == (len(distinct), 3, H, W)
        assert images[:, 0, 0, 0].tolist() == [10 * ord(name) for name in distinct]
        assert image_of.tolist() == shown and image_of.dtype == torch.int64
        assert torch.equal(images[image_of], one.images)


def test_the_target_frame_is_the_image():
    clip = batch(list("aab"), target_frames=[2, 2, 0], T=3)
    clip.image_ids = ["a/2", "a/2", "b/0"]
    assert clip.images[:, 0, 0, 0].tolist() == [972, 972, 980]
    images, image_of = clip.distinct_images()
    assert images[:, 0, 0, 0].tolist() == [972, 980] and image_of.tolist() == [0, 0, 1]


def test_two_frames_of_one_clip_are_two_images(tiny_refshapes):
    sample = build_dataset("refshapes", "val", build_transform(32))[0]
    clip = replace(sample, frames=sample.frames.repeat(3, 1, 1, 1))
    tokenizer = WordVocabulary.build([sample.expression])
    shown = Collate(tokenizer)([replace(clip, target_frame=t) for t in (0, 2, 0)])
    assert shown.distinct_images()[1].tolist() == [0, 1, 0]


def test_samples_without_a_named_image_share_none():
    sample = build_sample()
    tokenizer = WordVocabulary(["red"])
    assert Collate(tokenizer)([sample, replace(sample, sample_id="b")]).distinct_images()[1].tolist() == [0, 1]


def build_sample():
    from refseg.types import RefSample

    mask = torch.ones(H, W, dtype=torch.bool)
    return RefSample(torch.zeros(1, 3, H, W), mask, "red", "a", "made/up", (H, W), mask)


def test_the_answer_does_not_depend_on_sharing(tiny_experiment):
    val = build_dataset("refshapes", "val", build_transform(32))
    tokenizer = WordVocabulary.build(val.expressions)
    shared = Collate(tokenizer)([val[i] for i in (5, 0, 1, 4, 2, 3, 9)])
    assert len(shared.distinct_images()[0]) < len(shared)
    alone = replace(shared, image_ids=[str(i) for i in range(len(shared))])
    model = build_model(tiny_experiment.model, len(tokenizer)).eval()
    with torch.inference_mode():
        one, other = model(shared), model(alone)
        assert torch.allclose(one.mask_logits, other.mask_logits, atol=1e-5)
        assert one.mask_logits.std() > 0
        of_one, of_other = model.explain(shared, one).word_maps, model.explain(alone, other).word_maps
        for maps, same in zip(of_one.values(), of_other.values()):
            assert torch.allclose(maps, same, atol=1e-6)


def test_to_moves_tensors_and_leaves_the_original():
    one = batch(list("ab"))
    moved = one.to("meta")
    assert len(moved) == 2
    assert {moved.frames.device.type, moved.token_ids.device.type, moved.pixel_valid.device.type} == {"meta"}
    assert moved.original_masks[0].device.type == "cpu" and one.frames.device.type == "cpu"


def test_the_parts_of_a_batch_are_the_batch():
    for count, sizes in [(1, [7]), (2, [3, 4]), (3, [2, 2, 3]), (7, [1] * 7), (9, [1] * 7)]:
        whole = batch(list("aabbcca"), target_frames=[0, 1, 0, 1, 0, 1, 0], T=2)
        whole.features = {"c3": whole.frames[:, :, :1, 0]}
        whole.unreadable = ["no image"]
        parts = whole.parts(count)
        assert [len(part) for part in parts] == sizes and [part.unreadable for part in parts] == [
            ["no image"],
            *[[]] * (len(parts) - 1),
        ]
        for name in ("frames", "target_frame", "token_ids", "mask", "frame_valid"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
        assert torch.equal(torch.cat([part.features["c3"] for part in parts]), whole.features["c3"])
        assert sum((part.sample_ids for part in parts), []) == whole.sample_ids
        assert sum((part.image_ids for part in parts), []) == whole.image_ids
