"""MagNet as a whole: what goes where, the released form, sizes, and the paper's widths on a CPU."""

from dataclasses import replace

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.blocks.cross_modal_alignment import CAMConfig
from refseg.models.magnet import MagNetConfig

LESSON = MagNetConfig.lesson()


def test_the_lesson_has_about_a_million_parameters():
    count = sum(parameter.numel() for parameter in build_model(LESSON, 11).parameters())
    assert 0.9e6 < count < 1.2e6


def test_the_paper_has_the_released_sizes():
    """Millions counted in the release, less what no mask depends on: the last gate, queries and keys of one query."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = build_model(MagNetConfig.paper(), 30522)
    counts = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    last_gate = 2 * 1024**2 / 1e6
    assert counts["align_pixels"] + counts["gates"] + last_gate == pytest.approx(65.9, abs=0.05)
    assert counts["pixel_decoder"] == pytest.approx(3.6, abs=0.05)
    assert counts["decoder"] + 9 * (2 * 256 * 257) / 1e6 == pytest.approx(14.4, abs=0.05)


@torch.no_grad()
def test_a_picture_of_several_samples_goes_through_the_first_stage_once(make_batch):
    model, batch = build_model(LESSON, 11).eval(), make_batch([5, 2])
    batch.frames[1], batch.image_ids = batch.frames[0], ["same", "same"]
    seen = []
    model.backbone.stages["c2"].register_forward_hook(lambda module, inputs, x: seen.append(len(x)))
    shared = model(batch).mask_logits
    apart = model(replace(batch, image_ids=["0", "1"])).mask_logits
    assert seen == [1, 2] and torch.allclose(shared, apart, atol=1e-5)


@torch.no_grad()
def test_words_change_what_the_next_stage_sees_and_the_other_way_round(make_batch):
    model, batch = build_model(LESSON, 11).double().eval(), make_batch([5, 2], dtype=torch.float64)
    one = model(batch).trace
    words = model(replace(batch, token_ids=torch.where(batch.token_valid, (batch.token_ids + 1) % 11, 0))).trace
    assert torch.equal(one["backbone/c2"], words["backbone/c2"])
    assert all(not torch.equal(one[f"backbone/{level}"], words[f"backbone/{level}"]) for level in ("c3", "c4", "c5"))
    pictures = model(replace(batch, frames=batch.frames.flip(-1))).trace
    assert not torch.allclose(one["words"], pictures["words"])
    plain = build_model(replace(LESSON, alignment=CAMConfig(pixels_to_words=False)), 11).eval()
    shapes = make_batch([5, 2])
    assert torch.equal(
        plain(shapes).trace["words"], plain(replace(shapes, frames=shapes.frames.flip(-1))).trace["words"]
    )


@torch.no_grad()
def test_padding_of_the_picture_is_not_seen_by_the_words(make_batch):
    model, batch = build_model(LESSON, 11).double().eval(), make_batch([5], 64, 64, dtype=torch.float64)
    batch.pixel_valid[..., 32:] = False
    seen = []
    model.align_words["c4"].attend.register_forward_hook(lambda module, inputs, x: seen.append(inputs[3]))
    model(batch)
    assert seen[0].view(4, 4).tolist() == [[True, True, False, False]] * 4


@torch.no_grad()
def test_word_maps_are_the_weights_of_the_words_side(make_batch):
    model, batch = build_model(LESSON, 11).double().eval(), make_batch([5, 2], dtype=torch.float64)
    batch.pixel_valid[1, ..., 32:] = False
    prediction = model(batch)
    maps = model.explain(batch, prediction).word_maps
    assert maps.keys() == {"c2", "c3", "c4"}
    assert maps["c2"][1, :, :, 8:].abs().max() == 0, "padding of the picture"
    without = build_model(replace(LESSON, alignment=CAMConfig(pixels_to_words=False)), 11)
    assert without.explain(batch, without(make_batch([2]))).word_maps == {}


@torch.no_grad()
def test_the_released_form_counts_its_padding(make_batch):
    model = build_model(replace(LESSON, alignment=CAMConfig(expansion=1, released_words=True)), 11).double().eval()
    batch = make_batch([5, 2], dtype=torch.float64)
    prediction = model(batch)
    assert prediction.trace["words"].shape[:2] == prediction.trace["words_valid"].shape == (2, 20)
    noise = batch.token_ids.masked_fill(~batch.token_valid, 7)
    assert not torch.equal(model(replace(batch, token_ids=noise)).mask_logits, prediction.mask_logits)
    ours = build_model(LESSON, 11).double().eval()
    assert torch.allclose(ours(replace(batch, token_ids=noise)).mask_logits, ours(batch).mask_logits)


def test_any_size_of_picture(make_batch):
    for size in [(96, 96), (37, 53), (1, 3), (7, 130)]:
        prediction = build_model(LESSON, 11).eval()(make_batch([3], *size))
        assert prediction.mask_logits.isfinite().all() and prediction.mask_logits.shape[:2] == (1, 1)


def test_more_words_than_positions_are_named(make_batch):
    with pytest.raises(RefsegError, match="The batch has 21 words, the text encoder knows 20"):
        build_model(LESSON, 11)(make_batch([21]))
    released = replace(LESSON, alignment=CAMConfig(released_words=True))
    with pytest.raises(RefsegError, match="The batch has 21 words"):
        build_model(released, 11)(make_batch([21]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_paper_size_runs_forward_and_backward(make_batch):
    for config in [MagNetConfig.paper(), MagNetConfig.release()]:
        pytest.importorskip("timm")
        pytest.importorskip("transformers")
        shallow = {"backbone": replace(config.backbone, depths=(2, 2, 2, 2)), "text": replace(config.text, layers=4)}
        model = build_model(replace(config, **shallow), 997)  # full width; full depth and vocabulary would take 8 GB
        prediction = model(make_batch([9], 128, 128, 997))
        assert prediction.mask_logits.shape == (1, 1, 32, 32) and prediction.trace["masks/8"].isfinite().all()
        prediction.mask_logits.square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert model.backbone.patch.proj.weight.grad.abs().max() > 0
        del model, prediction  # two at a time would take 4 GB
