"""AlignFormer: masks are pixels around a centre, step by step; sizes, directions, padding and bad inputs."""

from dataclasses import replace

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.alignformer import AlignFormer, AlignFormerConfig, centre_similarity, masks_around
from refseg.models.backbones import LEVELS
from refseg.models.blocks.language_guided_pixel_decoder import DecoderWordsConfig
from refseg.models.blocks.prototype_generator import PrototypeConfig, PrototypeGenerator
from refseg.models.blocks.vlba import VLBAConfig
from refseg.objectives import (
    InstanceContrastConfig,
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    build_objective,
)
from refseg.tokenizer import WordVocabulary

VOCABULARY = 11
CONTRAST = ObjectiveConfig((MaskLossConfig(deep_supervision=True), InstanceContrastConfig()))
LESSON = AlignFormerConfig.lesson()


def lesson(**parts) -> AlignFormer:
    return build_model(replace(LESSON, **parts), VOCABULARY).eval()


def millions(module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


# ---- the mathematics ---------------------------------------------------------------------------------------------


def test_masks_and_similarities_by_hand():
    pixels = torch.tensor([[3.0, 0.0], [4.0, 2.0]])[None, :, None]  # two pixels, (3, 4) and (0, 2)
    centres, biases = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[0.5, -5.0]])
    assert masks_around(pixels, centres, biases).tolist() == [[[[3.5, 0.5]], [[3.0, -1.0]]]]
    assert torch.allclose(centre_similarity(pixels, centres), torch.tensor([[[[0.6, 0.0]], [[0.8, 1.0]]]]))


def test_every_step_has_a_mask_and_a_centre(make_batch):
    prediction = lesson()(make_batch([5, 2]))
    trace, steps = prediction.trace, LESSON.generator.layers + 1
    assert trace["centres"].shape == (2, steps, 48) and torch.equal(trace["centres"][:, -1], trace["centre"])
    masks = [trace[f"masks/{step}"] for step in range(steps - 1)] + [prediction.mask_logits]
    assert f"masks/{steps - 1}" not in trace
    for step, mask in enumerate(masks):
        around = torch.einsum("bdhw,bd->bhw", trace["pixels"], trace["centres"][:, step])[:, None]
        bias = mask - around
        assert mask.shape == (2, 1, 20, 28) and (bias - bias[:, :, :1, :1]).abs().max() < 1e-4


def test_the_first_centre_is_the_sentences_alone():
    """With no look at the picture, whatever is in it."""
    generator = PrototypeGenerator(7, 8, ["c5", "c4"], PrototypeConfig(dim=12, layers=3, heads=2, inner=5)).eval()
    sentence, valid = torch.randn(2, 7), {level: torch.ones(2, 3, 5, dtype=torch.bool) for level in ("c5", "c4")}
    one, other = ({level: torch.randn(2, 8, 3, 5) for level in ("c5", "c4")} for _ in range(2))
    kernels, biases = generator(sentence, one, valid)
    assert kernels.shape == (2, 4, 8) and biases.shape == (2, 4)
    other["c5"] = one["c5"]  # what the first and the third layer look at
    again, _ = generator(sentence, other, valid)
    assert torch.equal(kernels[:, :2], again[:, :2]) and (kernels[:, 2] - again[:, 2]).abs().max() > 1e-3


def test_the_generator_does_not_look_at_padding():
    generator = PrototypeGenerator(7, 8, ["c5"], PrototypeConfig(dim=12, layers=2, heads=2, inner=5)).eval()
    sentence, features = torch.randn(2, 7), torch.randn(2, 8, 3, 5)
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[1, :, 3:] = False
    noise = torch.where(valid[:, None], features, torch.randn_like(features))
    for one, other in zip(
        generator(sentence, {"c5": features}, {"c5": valid}), generator(sentence, {"c5": noise}, {"c5": valid})
    ):
        assert torch.equal(one, other)


# ---- parts -------------------------------------------------------------------------------------------------------


def test_the_lesson_has_about_a_million_parameters():
    assert millions(build_model(AlignFormerConfig.lesson(), VOCABULARY)) == pytest.approx(1.0, abs=0.2)


def test_sizes_of_the_release():
    """Its parts in millions of parameters; ours lack a few without effect, and the gates of the last level."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = build_model(AlignFormerConfig.paper(), 30522)
    assert millions(model.pixel_decoder) == pytest.approx(15.0, abs=0.1)
    assert millions(model.generator) == pytest.approx(28.4 + 2.0, abs=0.1)
    assert millions(model.vlba) == pytest.approx(32.1 - (2 * 1024**2 + 2 * 768**2) / 1e6, abs=0.1)


def test_closed_gates_leave_the_backbone_alone(make_batch):
    model, batch = lesson(), make_batch([5, 2])
    for level in LEVELS[:-1]:
        torch.nn.init.zeros_(model.vlba[level].pixel_gate.gate[2].weight)
    trace, plain = model(batch).trace, model.backbone(batch.images)
    for level in LEVELS:
        assert torch.allclose(trace[f"backbone/{level}"], plain[level], atol=1e-5)


def test_without_vlba_the_levels_are_the_backbones_own(make_batch):
    model, batch = lesson(vlba=VLBAConfig(words_to_pixels=False, pixels_to_words=False)), make_batch([5, 2])
    trace, plain = model(batch).trace, model.backbone(batch.images)
    for level in LEVELS:
        expected = model.norms[level](plain[level].movedim(1, -1)).movedim(-1, 1)
        assert torch.allclose(trace[f"fused/{level}"], expected, atol=1e-5)
    words, _ = model.text(batch.token_ids, batch.token_valid)
    assert torch.allclose(trace["words"], words, atol=1e-6)


def test_pixels_change_the_words_only_where_words_look(make_batch):
    batch = make_batch([5, 2])
    other = replace(batch, frames=torch.randn_like(batch.frames))
    for both_ways in (True, False):
        model = lesson(vlba=VLBAConfig(pixels_to_words=both_ways))
        change = (model(batch).trace["words"] - model(other).trace["words"]).abs().max()
        assert change > 1e-3 if both_ways else change == 0


def test_one_picture_of_several_expressions_is_seen_once(make_batch):
    model, batch = lesson().double(), make_batch([5, 2], dtype=torch.float64)
    batch = replace(batch, frames=batch.frames[:1].expand(2, -1, -1, -1, -1))
    shared = model(replace(batch, image_ids=["a", "a"])).mask_logits
    assert torch.allclose(shared, model(batch).mask_logits)
    assert (shared[0] - shared[1]).abs().max() > 1e-4


# ---- looking at it -----------------------------------------------------------------------------------------------


def test_both_directions_and_the_pixels_around_the_centre_can_be_looked_at(make_batch):
    model, batch = lesson(), make_batch([5, 2])
    batch.pixel_valid[1, :, 24:] = False
    prediction = model(batch)
    shown = model.explain(batch, prediction)
    for level, maps in shown.word_maps.items():
        assert maps[1, 0, -1].abs().max() == 0, "padding of the image"
        assert shown.region_words[level][1, 2:].abs().max() == 0, "padding of the words"
    trace = prediction.trace
    assert torch.equal(shown.centre_maps, centre_similarity(trace["pixels"], trace["centres"]))
    assert shown.centre_maps.abs().max() <= 1.00001


# ---- with its objectives -----------------------------------------------------------------------------------------


def test_alignment_trains_it_and_leaves_nothing_in_it(make_batch):
    model = build_model(LESSON, VOCABULARY).train()
    names = set(model.state_dict())
    objective = build_objective(CONTRAST, model)
    _, losses = objective(model, make_batch([5, 2, 3]))
    assert losses.keys() == {"bce", "dice", "contrast"} == objective.weights.keys()
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert set(model.state_dict()) == names


def test_mask_grounding_works_on_it(make_batch):
    model = build_model(LESSON, VOCABULARY).train()
    tokenizer = WordVocabulary(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    config = MaskGroundingConfig(dim=16, layers=1, heads=2, grid=5)
    objective = build_objective(ObjectiveConfig((config,)), model, tokenizer=tokenizer)
    _, losses = objective(model, make_batch([5, 2, 3], vocabulary_size=len(tokenizer)))
    assert losses["ground"].isfinite()
    losses["ground"].backward()
    looking = model.vlba["c5"].to_words.value.weight
    assert looking.grad.abs().max() > 0  # words that look at the picture are what it teaches


def test_half_precision_trains(make_batch):
    model = build_model(LESSON, VOCABULARY).train()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = build_objective(CONTRAST, model)(model, make_batch([5, 2]))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ---- bad inputs --------------------------------------------------------------------------------------------------


def test_odd_sizes_and_a_batch_of_one(make_batch):
    for height, width in [(33, 57), (41, 30), (17, 17)]:
        model = build_model(LESSON, VOCABULARY).train()
        batch = make_batch([3], height=height, width=width)
        _, losses = build_objective(CONTRAST, model)(model, batch)
        assert all(loss.isfinite() for loss in losses.values())


def test_any_size_is_answered(make_batch):
    for height, width in [(1, 3), (7, 130)]:
        prediction = lesson()(make_batch([3, 1], height=height, width=width))
        assert prediction.mask_logits.isfinite().all() and prediction.mask_logits.shape[:2] == (2, 1)


def test_an_empty_referent_costs_no_contrast(make_batch):
    model, batch = build_model(LESSON, VOCABULARY).train(), make_batch([3, 2])
    batch.mask[:] = False
    _, losses = build_objective(CONTRAST, model)(model, batch)
    sum(losses.values()).backward()
    assert losses["contrast"].item() == 0 and losses["bce"].isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_an_expression_that_is_too_long(make_batch):
    with pytest.raises(RefsegError, match="has 21 words, the text encoder knows 20: cut them in the tokenizer"):
        lesson()(make_batch([21]))
    with pytest.raises(RefsegError, match="has 9 words, the pixel decoder knows 8: cut them in the tokenizer"):
        lesson(decoder_words=DecoderWordsConfig(heads=4, inner=96, max_words=8))(make_batch([9]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_paper_size_forward_and_backward(make_batch):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    paper = AlignFormerConfig.paper()
    shallow = {"backbone": replace(paper.backbone, depths=(2, 2, 2, 2)), "text": replace(paper.text, layers=4)}
    model = build_model(replace(paper, **shallow), 997).train()  # full width; full depth would take gigabytes
    batch = make_batch([20], height=128, width=128, vocabulary_size=997)
    objective = build_objective(CONTRAST, model)
    prediction, losses = objective(model, batch)
    assert prediction.mask_logits.shape == (1, 1, 32, 32) and prediction.trace["centres"].shape == (1, 7, 256)
    sum(objective.weights[name] * loss for name, loss in losses.items()).backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learning)
