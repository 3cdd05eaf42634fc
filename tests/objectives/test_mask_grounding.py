"""Mask Grounding: what is hidden, what is asked, what the model keeps of it."""

from dataclasses import replace
from math import log

import pytest
import torch
from torch import nn

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.alignformer import AlignFormerConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.magnet import MagNetConfig
from refseg.models.text import SentenceVectorConfig
from refseg.objectives import (
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    PixelAlignmentConfig,
    build_objective,
)
from refseg.objectives.mask_grounding import NOT_HIDDEN, hide_some, hideable_ids
from refseg.tokenizer import WordVocabulary
from refseg.types import Annotations, Prediction, RefBatch

H, W = 12, 20
TOKENIZER = WordVocabulary(["the", "red", "star", "left", "of", "circle", "big", "small", "blue"])
CONFIG = MaskGroundingConfig(dim=16, heads=2, layers=1)
MODELS = {
    "magnet": (MagNetConfig.lesson(), "fused/c5"),
    "cmsa": (CMSANetConfig.lesson(), "pixels"),
    "cmsa in the release's form": (CMSANetConfig.release_lesson(), "pixels"),
    "alignformer": (AlignFormerConfig.lesson(), "fused/c5"),
}


def build(model, config=CONFIG):
    """The objective of this one term, and the term."""
    objective = build_objective(ObjectiveConfig((config,)), model, (), TOKENIZER)
    return objective, objective.terms[0]


def guess(model, grounding, given, hidden, **seen):
    """Probabilities of the words where ``hidden`` is True."""
    read = grounding.hide(given, hidden)
    return grounding.logits(model(read), read, model, hidden, **seen).softmax(-1)


def batch(*expressions, mask=None, height=H, width=W):
    ids = [TOKENIZER.encode(expression) for expression in expressions]
    length, count = max(map(len, ids)), len(ids)
    token_ids = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    if mask is None:
        mask = torch.zeros(count, 1, height, width, dtype=torch.bool)
        mask[..., : height // 2, : width // 2] = True
    names = [str(index) for index in range(count)]
    return RefBatch(
        frames=torch.randn(count, 1, 3, height, width),
        target_frame=torch.zeros(count, dtype=torch.long),
        token_ids=token_ids,
        token_valid=token_ids > 0,
        mask=mask,
        pixel_valid=torch.ones_like(mask),
        expressions=list(expressions),
        original_masks=list(mask[:, 0]),
        original_sizes=[(height, width)] * count,
        sample_ids=names,
        image_ids=names,
        annotations=[Annotations()] * count,
    )


class Reading(nn.Module):
    """Gives fixed pixels, and words that hold nothing but the ids that it was given."""

    trace_channels = {"words": 1, "sentence": 3, "pixels": 4}
    visual_channels: dict = {}

    def __init__(self):
        super().__init__()
        self.pixels = nn.Parameter(torch.randn(1, 4, 3, 5))

    def forward(self, batch):
        count = len(batch)
        words = batch.token_ids[..., None].float() * batch.token_valid[..., None]
        trace = {"words": words, "words_valid": batch.token_valid, "sentence": torch.ones(count, 3)}
        trace["pixels"] = self.pixels.expand(count, -1, -1, -1)
        return Prediction(trace["pixels"].sum(1, keepdim=True), trace)


# ---- hiding ------------------------------------------------------------------------------------------------------


def test_only_words_that_say_something_are_hidden():
    hideable = hideable_ids(TOKENIZER)
    assert [word for word, may in zip(TOKENIZER.words, hideable) if not may] == ["<pad>", "<unk>", "the", "of"]


def test_about_the_share_is_hidden_and_at_least_one():
    candidates = torch.rand(4000, 11) < 0.7
    hidden = hide_some(candidates, 0.15)
    assert not (hidden & ~candidates).any() and (hidden.any(1) == candidates.any(1)).all()
    many = candidates.sum(1) > 5
    count = candidates[many].sum(1)
    expected = 0.15 + 0.85**count / count  # the one at random where none was drawn
    assert (hidden[many].sum(1) / count).mean().item() == pytest.approx(expected.mean().item(), abs=0.01)
    assert (hide_some(candidates, 0.0).sum(1) == candidates.any(1)).all()
    assert torch.equal(hide_some(candidates, 1.0), candidates)
    places = hide_some(torch.ones(6000, 3, dtype=torch.bool), 0.0).float().mean(0)
    assert places.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_hidden_words_are_replaced_and_a_tenth_stays():
    many = batch(*["the red star left of the circle"] * 3000)
    read = build(Reading())[1].prepare(many)
    hidden, changed = read.hidden_words != NOT_HIDDEN, read.token_ids != many.token_ids
    assert torch.equal(read.hidden_words[hidden], many.token_ids[hidden])
    assert not (changed & ~hidden).any() and (read.token_ids[changed] == TOKENIZER.hidden_id).all()
    assert (changed.sum() / hidden.sum()).item() == pytest.approx(0.9, abs=0.02)
    assert torch.equal(read.frames, many.frames) and not (hidden & (many.token_ids == TOKENIZER.ids["of"])).any()


def test_in_some_samples_nothing_is_hidden():
    read = build(Reading(), replace(CONFIG, samples=0.25))[1].prepare(batch(*["red star"] * 4000))
    hidden = (read.hidden_words != NOT_HIDDEN).any(1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_nothing_to_hide_costs_nothing_and_breaks_nothing():
    model = Reading()
    objective, grounding = build(model)
    _, losses = objective(model, batch("the", "the of"))
    assert losses["ground"].item() == 0
    losses["ground"].backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in grounding.predictor.head.parameters())


# ---- what is asked -----------------------------------------------------------------------------------------------


def test_without_an_idea_the_loss_is_the_log_of_the_vocabulary():
    model = Reading()
    objective, grounding = build(model)
    for parameter in grounding.predictor.head.parameters():
        nn.init.zeros_(parameter)
    _, losses = objective(model, batch("red star", "the big circle"))
    assert losses["ground"].item() == pytest.approx(log(len(TOKENIZER)))
    with torch.no_grad():
        grounding.predictor.head.bias[TOKENIZER.ids["red"]] = 50.0  # always says red
    _, losses = objective(model, batch("red", "red"))
    assert losses["ground"].item() == pytest.approx(0, abs=1e-6)


def test_the_model_does_not_see_the_hidden_word():
    model, hidden = Reading(), torch.tensor([[False, True, False]])
    _, grounding = build(model)
    red, blue = (guess(model, grounding, batch(f"the {colour} star"), hidden) for colour in ("red", "blue"))
    assert torch.equal(red, blue) and red.shape == (1, len(TOKENIZER))
    star = guess(model, grounding, batch("the blue circle"), hidden)
    assert not torch.allclose(red, star)  # its neighbours it does see


def test_the_mask_can_be_left_out():
    model = Reading()
    _, grounding = build(model)
    hidden, here = torch.tensor([[True, False]]), batch("red star")
    elsewhere = replace(here, mask=here.mask.flip(-1))

    def asked(given, **seen):
        return guess(model, grounding, given, hidden, **seen)

    assert not torch.allclose(asked(here), asked(elsewhere))
    blind = asked(here, see_mask=False)
    assert torch.equal(blind, asked(elsewhere, see_mask=False))
    with torch.no_grad():
        model.pixels.add_(1.0)
    assert not torch.allclose(blind, asked(here, see_mask=False))  # the image is seen


def test_in_some_samples_the_mask_is_not_shown():
    """Then the loss of the hidden words does not depend on where it lies."""
    model, here = Reading(), batch("red star", "big circle")
    for share, differs in ((1.0, False), (0.0, True)):
        objective, _ = build(model, replace(CONFIG, mask_dropout=share, hidden=1.0, unreplaced=0.0))
        _, one = objective(model, here)
        _, other = objective(model, replace(here, mask=here.mask.flip(-1)))
        assert (one["ground"] != other["ground"]).item() is differs, share


def test_an_empty_referent_says_nothing_and_is_finite():
    model = Reading()
    objective, grounding = build(model)
    empty = batch("red star", "big circle", mask=torch.zeros(2, 1, H, W, dtype=torch.bool))
    hidden = torch.tensor([[True, False], [False, True]])
    assert torch.allclose(
        guess(model, grounding, empty, hidden), guess(model, grounding, empty, hidden, see_mask=False), atol=1e-6
    )
    assert objective(model, empty)[1]["ground"].isfinite()


# ---- with real models, and MagNet's other losses ------------------------------------------------------------------


@pytest.fixture(params=MODELS, ids=str)
def trained(request):
    config, pixels = MODELS[request.param]
    model = build_model(config, len(TOKENIZER))
    terms = (
        MaskLossConfig(deep_supervision=True),
        replace(CONFIG, pixels=pixels),
        PixelAlignmentConfig(referent_pixels=7, other_pixels=11),
    )
    return model, build_objective(ObjectiveConfig(terms), model, (), TOKENIZER)


def test_it_trains_every_model_and_leaves_nothing_in_it(trained):
    model, objective = trained
    before = list(model.state_dict())
    shapes = batch("the red star", "big circle left of the small star", height=40, width=56)
    _, losses = objective(model, shapes)
    assert losses.keys() == objective.weights.keys() == {"bce", "dice", "ground", "pixel_to_pixel", "pixel_to_text"}
    losses["ground"].backward(retain_graph=True)
    for part in (model.text, model.backbone):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    objective.total(losses).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    own, heads = {id(p) for p in model.parameters()}, {id(p) for p in objective.parameters()}
    assert not own & heads and list(model.state_dict()) == before


def test_half_precision_is_finite_and_losses_stay_in_full(trained):
    model, objective = trained
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = objective(model, batch("the red star", "big circle", height=40, width=56))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *objective.parameters()))


def test_without_the_mask_no_model_knows_where_the_referent_is(trained):
    """CMSA pools its words over the referent: without the mask over the whole image."""
    model, objective = trained
    model.eval()
    hidden, here = torch.tensor([[True, False]]), batch("red star", height=40, width=56)
    both = here, replace(here, mask=here.mask.flip(-1))
    one, other = (guess(model, objective.terms[1], given, hidden, see_mask=False) for given in both)
    assert torch.equal(one, other)
    one, other = (guess(model, objective.terms[1], given, hidden) for given in both)
    assert not torch.equal(one, other)


def test_awkward_samples_are_trained_on(trained):
    """Of one, in odd sizes, too long, without words to hide; the referent empty, of one pixel, everywhere."""
    model, objective = trained
    texts = (("red",), ("star " * 30, "of the"), ("the", "red star"), ("quite unheard-of", "red star"))
    for expressions in texts:
        for rows, columns in ((slice(0), slice(0)), (30, 51), (slice(None), slice(None))):
            mask = torch.zeros(len(expressions), 1, 37, 53, dtype=torch.bool)
            mask[:1, :, rows, columns] = True
            samples = batch(*expressions, mask=mask, height=37, width=53)
            assert samples.token_ids.shape[1] <= 20
            _, losses = objective(model, samples)
            assert all(loss.isfinite() for loss in losses.values()), expressions
            sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *objective.parameters()))


def test_what_is_missing_is_said_in_a_sentence():
    with pytest.raises(RefsegError, match="MaskGroundingConfig needs a model whose trace has words, pixels: remove"):
        build(None)
    with pytest.raises(RefsegError, match="MaskGroundingConfig needs the tokenizer"):
        build_objective(ObjectiveConfig((CONFIG,)), Reading())
    with pytest.raises(RefsegError, match="PixelAlignmentConfig needs a model whose trace has sentence"):
        build_objective(ObjectiveConfig((PixelAlignmentConfig(),)))
    model = build_model(replace(CMSANetConfig.lesson(), text=SentenceVectorConfig()), len(TOKENIZER))
    with pytest.raises(RefsegError, match="one feature per expression"):
        build(model)[0](model, batch("red star", height=40, width=56))
