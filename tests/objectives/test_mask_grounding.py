"""Mask Grounding and the alignment losses: what is hidden, what is asked, what the model keeps of it."""

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
from refseg.objectives import MaskGroundingConfig, build_objective
from refseg.objectives.mask_grounding import (
    feature_at,
    hide_some,
    hideable_ids,
    mask_centre,
    place_code,
    sample_pixels,
)
from refseg.tokenizer import WordVocabulary
from refseg.types import Annotations, Prediction, RefBatch

B, L, H, W = 2, 5, 12, 20
TOKENIZER = WordVocabulary(["the", "red", "star", "left", "of", "circle", "big", "small", "blue"])
SIZES = {"dim": 16, "heads": 2, "layers": 1, "referent_pixels": 7, "other_pixels": 11}
CONFIG = MaskGroundingConfig(**SIZES)
MODELS = {
    "magnet": (MagNetConfig.lesson(), "fused/c5"),
    "cmsa": (CMSANetConfig.lesson(), "pixels"),
    "cmsa in the release's form": (CMSANetConfig.release_lesson(), "pixels"),
    "alignformer": (AlignFormerConfig.lesson(), "fused/c5"),
}


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
    expected = 0.15 + 0.85 ** candidates[many].sum(1) / candidates[many].sum(
        1
    )  # the one at random where none was drawn
    share = hidden[many].sum(1) / candidates[many].sum(1)
    assert share.mean().item() == pytest.approx(expected.mean().item(), abs=0.01)
    assert (hide_some(candidates, 0.0).sum(1) == candidates.any(1)).all()
    assert torch.equal(hide_some(candidates, 1.0), candidates)
    places = hide_some(torch.ones(6000, 3, dtype=torch.bool), 0.0).float().mean(0)
    assert places.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_hidden_words_are_replaced_and_a_tenth_stands():
    objective = build_objective(replace(CONFIG, kept=0.1), Reading(), (), TOKENIZER)
    many = batch(*["the red star left of the circle"] * 3000)
    read, hidden = objective.hide(many)
    changed = read.token_ids != many.token_ids
    assert not (changed & ~hidden).any() and (read.token_ids[changed] == TOKENIZER.hidden_id).all()
    assert (changed.sum() / hidden.sum()).item() == pytest.approx(0.9, abs=0.02)
    assert torch.equal(read.frames, many.frames) and not (hidden & (many.token_ids == TOKENIZER.ids["of"])).any()


def test_in_some_samples_nothing_is_hidden():
    objective = build_objective(replace(CONFIG, samples=0.25), Reading(), (), TOKENIZER)
    hidden = objective.hide(batch(*["red star"] * 4000))[1].any(1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_nothing_to_hide_costs_nothing_and_breaks_nothing():
    model = Reading()
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    _, losses = objective(model, batch("the", "the of"))
    assert losses["ground"].item() == 0
    losses["ground"].backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in objective.predictor.head.parameters())


# ---- what is asked -----------------------------------------------------------------------------------------------


def test_without_an_idea_the_loss_is_the_log_of_the_vocabulary():
    model = Reading()
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    for parameter in objective.predictor.head.parameters():
        nn.init.zeros_(parameter)
    _, losses = objective(model, batch("red star", "the big circle"))
    assert losses["ground"].item() == pytest.approx(log(len(TOKENIZER)))
    with torch.no_grad():
        objective.predictor.head.bias[TOKENIZER.ids["red"]] = 50.0  # always says red
    _, losses = objective(model, batch("red", "red"))
    assert losses["ground"].item() == pytest.approx(0, abs=1e-6)


def test_the_model_does_not_see_the_hidden_word():
    model = Reading()
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    hidden = torch.tensor([[False, True, False]])
    red, blue = (objective.guess(model, batch(f"the {colour} star"), hidden) for colour in ("red", "blue"))
    assert torch.equal(red, blue) and red.shape == (1, len(TOKENIZER))
    star = objective.guess(model, batch("the blue circle"), hidden)
    assert not torch.allclose(red, star)  # its neighbours it does see


def test_the_mask_and_the_picture_can_be_left_away():
    model = Reading()
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    hidden, here = torch.tensor([[True, False]]), batch("red star")
    elsewhere = replace(here, mask=here.mask.flip(-1))
    seen = objective.guess(model, here, hidden)
    assert not torch.allclose(seen, objective.guess(model, elsewhere, hidden))
    blind = objective.guess(model, here, hidden, mask=False)
    assert torch.equal(blind, objective.guess(model, elsewhere, hidden, mask=False))
    words_alone = objective.guess(model, here, hidden, mask=False, picture=False)
    with torch.no_grad():
        model.pixels.add_(1.0)
    assert torch.equal(words_alone, objective.guess(model, here, hidden, mask=False, picture=False))
    assert not torch.allclose(blind, objective.guess(model, here, hidden, mask=False))


def test_without_the_mask_no_model_knows_where_the_referent_is(trained):
    """CMSA pools its words over the referent: without the mask over the whole picture."""
    model, objective = trained
    model.eval()
    hidden, here = torch.tensor([[True, False]]), batch("red star", height=40, width=56)
    elsewhere = replace(here, mask=here.mask.flip(-1))
    one, other = (objective.guess(model, given, hidden, mask=False) for given in (here, elsewhere))
    assert torch.equal(one, other)
    one, other = (objective.guess(model, given, hidden) for given in (here, elsewhere))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("untold, differs", [(1.0, False), (0.0, True)])
def test_in_some_samples_the_mask_is_not_told(untold, differs):
    """Then the loss of the hidden words does not depend on where it lies."""
    model = Reading()
    objective = build_objective(replace(CONFIG, untold=untold, hidden=1.0, kept=0.0), model, (), TOKENIZER)
    here = batch("red star", "big circle")
    _, one = objective(model, here)
    _, other = objective(model, replace(here, mask=here.mask.flip(-1)))
    assert (one["ground"] != other["ground"]).item() is differs


def test_the_centre_by_hand():
    mask = torch.zeros(3, 1, 4, 10, dtype=torch.bool)
    mask[0, 0, 1, 2:5] = True  # row 1 of 4: 3/8; columns 2, 3, 4 of 10: 0.35
    mask[1, 0, :, :] = True
    centre, found = mask_centre(mask)
    assert torch.allclose(centre, torch.tensor([[0.35, 0.375], [0.5, 0.5], [0.0, 0.0]]))
    assert found.tolist() == [True, True, False]


def test_a_place_is_written_like_a_region():
    from refseg.models.blocks.attention import sine_positions

    code = place_code(
        torch.tensor([[2 / 5, 1 / 3]]), 12
    )  # where the second column of five and the first row of three end
    assert torch.allclose(code[0], sine_positions(3, 5, 12)[:, 0, 1], atol=1e-5)


def test_what_the_picture_shows_at_a_place():
    pixels = torch.arange(8.0).view(1, 1, 2, 4)
    places = torch.tensor([[[0.625, 0.25]], [[0.5, 0.5]], [[0.0, 1.0]], [[1.0, 0.0]]])
    # The middle of the third region of the first row; between four regions; and two corners of the picture.
    assert [feature_at(pixels, place).item() for place in places] == pytest.approx([2.0, 3.5, 4.0, 3.0])


def test_an_empty_referent_tells_nothing_and_is_finite():
    model = Reading()
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    empty = batch("red star", "big circle", mask=torch.zeros(2, 1, H, W, dtype=torch.bool))
    hidden = torch.tensor([[True, False], [False, True]])
    assert torch.allclose(
        objective.guess(model, empty, hidden), objective.guess(model, empty, hidden, mask=False), atol=1e-6
    )
    _, losses = objective(model, empty)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["pixel_to_pixel"] == losses["pixel_to_text"] == 0


# ---- the pixels that are compared --------------------------------------------------------------------------------


def test_pixels_are_drawn_from_either_side():
    marked = batch("red star")
    marked.pixel_valid[..., 16:] = False  # the last column of five
    pixels = torch.zeros(1, 2, 3, 5)
    inside = nn.functional.adaptive_avg_pool2d(marked.mask.float(), (3, 5))[0, 0] > 0.5
    pixels[0, 0][inside], pixels[0, 1][~inside] = 1.0, 1.0
    referent, others, in_referent, in_others = sample_pixels(pixels, marked, None, 4, 50)
    assert in_referent.sum() == min(4, inside.sum()) and in_others.sum() == (~inside[:, :4]).sum()
    assert (referent[in_referent] == torch.tensor([1.0, 0.0])).all()
    assert (others[in_others] == torch.tensor([0.0, 1.0])).all()


def test_half_of_the_others_are_the_hardest():
    marked = batch("red star", mask=torch.zeros(1, 1, H, W, dtype=torch.bool))
    pixels = torch.arange(15.0).view(1, 1, 3, 5)
    for _ in range(5):
        _, others, _, in_others = sample_pixels(pixels, marked, torch.ones(1, 1), 3, 6)
        assert in_others.all() and others[0, :3, 0].sort().values.tolist() == [12.0, 13.0, 14.0]
        assert len(set(others.flatten().tolist())) == 6


# ---- with real models --------------------------------------------------------------------------------------------


@pytest.fixture(params=MODELS, ids=str)
def trained(request):
    config, pixels = MODELS[request.param]
    model = build_model(config, len(TOKENIZER))
    return model, build_objective(replace(CONFIG, pixels=pixels), model, (), TOKENIZER)


def test_it_trains_every_model_and_leaves_nothing_in_it(trained):
    model, objective = trained
    before = list(model.state_dict())
    shapes = batch("the red star", "big circle left of the small star", height=40, width=56)
    prediction, losses = objective(model, shapes)
    assert losses.keys() == objective.weights.keys() >= {"bce", "dice", "ground", "pixel_to_pixel", "pixel_to_text"}
    sum(objective.weights[name] * loss for name, loss in losses.items()).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    own, heads = {id(p) for p in model.parameters()}, {id(p) for p in objective.parameters()}
    assert not own & heads and list(model.state_dict()) == before
    assert sum(map(torch.numel, build_model(model.config, len(TOKENIZER)).parameters())) == sum(
        map(torch.numel, model.parameters())
    )


def test_ground_reaches_the_words_and_the_picture(trained):
    model, objective = trained
    _, losses = objective(model, batch("the red star", "big circle", height=40, width=56))
    losses["ground"].backward()
    for part in (model.text, model.backbone):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_half_precision_is_finite_and_the_alignment_stays_in_full(trained):
    model, objective = trained
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = objective(model, batch("the red star", "big circle", height=40, width=56))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *objective.parameters()))


def test_a_batch_of_one_and_odd_sizes(trained):
    model, objective = trained
    model.eval()  # BatchNorm cannot train on a single place
    _, losses = objective(model, batch("red star", height=37, width=53))
    assert all(loss.isfinite() for loss in losses.values())


AWKWARD = {
    "longer than 20 words": ("the red star left of the big circle " * 4, "red star"),
    "no word that may be hidden": ("the of the", "left of the"),
    "in one sample no word that may be hidden": ("the", "red star"),
    "unknown words only": ("quite unheard-of", "red star"),
}


@pytest.mark.parametrize("referent", ["empty", "in one sample empty", "one pixel", "everything"])
@pytest.mark.parametrize("expressions", AWKWARD.values(), ids=AWKWARD)
def test_awkward_samples_are_trained_on(trained, expressions, referent):
    model, objective = trained
    mask = torch.zeros(2, 1, 37, 53, dtype=torch.bool)
    if referent == "everything":
        mask[:] = True
    elif referent != "empty":
        mask[:1, :, 30, 51] = True
    samples = batch(*expressions, mask=mask, height=37, width=53)
    assert samples.token_ids.shape[1] <= 20
    _, losses = objective(model, samples)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *objective.parameters()))


def test_deep_supervision_is_a_mean_over_all_masks():
    model = build_model(MagNetConfig.lesson(), len(TOKENIZER))
    plain = replace(CONFIG, ground=0.0, pixel_to_pixel=0.0, pixel_to_text=0.0)
    objective, shapes = build_objective(plain, model), batch("red star", "big circle", height=40, width=56)
    prediction, losses = objective(model, shapes)
    masks = [prediction.trace[f"masks/{i}"] for i in range(3)] + [prediction.mask_logits]
    each = []
    for logits in masks:
        logits = nn.functional.interpolate(logits, (40, 56), mode="bilinear", align_corners=False)
        each.append(nn.functional.binary_cross_entropy_with_logits(logits, shapes.mask.float()))
    assert losses.keys() == {"bce", "dice"} and list(objective.parameters()) == []
    assert losses["bce"].item() == pytest.approx(sum(each).item() / 4, rel=1e-5)


def test_cmsa_is_asked_before_the_mean_over_words(make_pairs):
    """The mean over words of the pooled words is the mean over regions of what the block gives."""
    block, pixels, words, valid = make_pairs
    shares = torch.full((2, 35), 1 / 35, dtype=torch.float64)
    pooled = block.pooled_words(pixels, words, valid, None, shares)
    mean = (pooled * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    assert torch.allclose(mean, block(pixels, words, valid).mean((2, 3)))
    one = torch.zeros(2, 35, dtype=torch.float64)
    one[:, 13] = 1.0
    pooled = block.pooled_words(pixels, words, valid, None, one)
    mean = (pooled * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    assert torch.allclose(mean, block(pixels, words, valid).flatten(2)[..., 13])


@pytest.fixture
def make_pairs():
    from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention

    block = CrossModalSelfAttention(11, 3, CMSAConfig(dim=7)).double()
    valid = torch.tensor([[True, True, False], [True, True, True]])
    words = torch.randn(2, 3, 3, dtype=torch.float64) * valid[..., None]
    return block, torch.randn(2, 11, 5, 7, dtype=torch.float64), words, valid


# ---- what it says when something is missing ----------------------------------------------------------------------


def test_what_is_missing_is_said_in_a_sentence():
    with pytest.raises(RefsegError, match="ground needs a model whose trace has words, pixels"):
        build_objective(CONFIG, None, (), TOKENIZER)
    with pytest.raises(RefsegError, match="ground needs the tokenizer"):
        build_objective(CONFIG, Reading())
    with pytest.raises(RefsegError, match="pixel_to_text needs a model whose trace has sentence"):
        build_objective(replace(CONFIG, ground=0.0), None)
    model = build_model(replace(CMSANetConfig.lesson(), text=SentenceVectorConfig()), len(TOKENIZER))
    objective = build_objective(CONFIG, model, (), TOKENIZER)
    with pytest.raises(RefsegError, match="one feature per sentence"):
        objective(model, batch("red star", height=40, width=56))
