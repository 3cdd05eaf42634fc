"""The plain objective: losses at the size of the input, whatever the stride of the head."""

from math import log

import pytest
import torch
from torch import nn

from refseg.errors import RefsegError
from refseg.objectives import OBJECTIVES, SegmentationConfig, build_objective
from refseg.objectives.segmentation import IGNORED, region_classes
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction, RefBatch

B, H, W = 2, 12, 20


class Constant(nn.Module):
    """Says the same logit everywhere, at a stride."""

    def __init__(self, logit: float, stride: int = 1, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.logits = nn.Parameter(torch.full((B, 1, H // stride, W // stride), logit, dtype=dtype))

    def forward(self, batch):
        return Prediction(self.logits, {})


def batch(mask: torch.Tensor, pixel_valid: torch.Tensor | None = None) -> RefBatch:
    valid = torch.ones_like(mask) if pixel_valid is None else pixel_valid
    ids = torch.ones(B, 3, dtype=torch.int64)
    names = [str(i) for i in range(B)]
    frames = torch.zeros(B, 1, 3, H, W)
    return RefBatch(
        frames,
        torch.zeros(B, dtype=torch.int64),
        ids,
        ids > 0,
        mask,
        valid,
        ["red"] * B,
        list(mask[:, 0]),
        [(H, W)] * B,
        names,
        names,
        [{}] * B,
    )


def left_half() -> torch.Tensor:
    mask = torch.zeros(B, 1, H, W, dtype=torch.bool)
    mask[..., : W // 2] = True
    return mask


@pytest.mark.parametrize("stride", [1, 4])
def test_values_by_hand_at_every_stride(stride):
    prediction, losses = build_objective(SegmentationConfig())(Constant(0.0, stride), batch(left_half()))
    assert prediction.mask_logits.shape == (B, 1, H // stride, W // stride)  # the prediction itself is not touched
    assert losses["bce"].item() == pytest.approx(log(2))
    assert losses["dice"].item() == pytest.approx(1 - (120 + 1) / (120 + 120 + 1))


def test_logits_are_scaled_bilinearly_with_half_pixel_centres():
    model = Constant(0.0, stride=4)
    with torch.no_grad():
        model.logits[..., 0] = -40.0  # the first of 5 columns, centre at 2 pixels; the next centre is at 6
    _, losses = build_objective(SegmentationConfig())(model, batch(torch.zeros_like(left_half())))
    expected = torch.tensor([-40.0, -40, -35, -25, -15, -5] + [0.0] * 14)
    assert losses["bce"].item() == pytest.approx(nn.functional.softplus(expected).mean().item(), rel=1e-5)


def test_padding_is_not_scored():
    objective, valid = build_objective(SegmentationConfig()), left_half()
    everywhere = torch.ones(B, 1, H, W, dtype=torch.bool)
    _, one = objective(Constant(1.0, 4), batch(everywhere, valid))
    _, other = objective(Constant(1.0, 4), batch(valid, valid))  # differs in the padding only
    assert one["bce"] == other["bce"] and one["dice"] == other["dice"]


def test_weights_are_the_config_and_every_loss_has_one():
    objective = build_objective(SegmentationConfig(bce=3.0, dice=0.25))
    _, losses = objective(Constant(0.0), batch(left_half()))
    assert objective.weights == {"bce": 3.0, "dice": 0.25} and losses.keys() == objective.weights.keys()
    assert list(objective.parameters()) == []  # nothing here belongs to a checkpoint


def test_half_precision_logits_are_compared_in_full():
    model = Constant(0.0, 4, torch.bfloat16)
    _, losses = build_objective(SegmentationConfig())(model, batch(left_half()))
    assert losses["bce"].dtype == losses["dice"].dtype == torch.float32
    sum(losses.values()).backward()
    assert model.logits.grad.isfinite().all() and model.logits.grad[..., 0].max() < 0


def test_every_config_has_its_objective():
    for config, objective in OBJECTIVES.items():
        assert isinstance(build_objective(config(), Seeing(), tokenizer=WordVocabulary(["red"])), objective)


# ---- semantics: what every region shows --------------------------------------------------------------------------


class Seeing(Constant):
    """A model whose backbone features are all ones."""

    def __init__(self):
        super().__init__(0.0, stride=4)
        self.visual_channels = {"backbone/c3": 5, "backbone/c4": 7, "temporal/c5": 11}
        self.trace_channels = {"words": 3, "sentence": 3, "pixels": 5}

    def forward(self, batch):
        return Prediction(self.logits, {name: torch.ones(B, C, 3, 5) for name, C in self.visual_channels.items()})


def batch_with_objects(pixel_valid: torch.Tensor | None = None) -> RefBatch:
    """Left half: object 1 in the first sample, object 2 in the second."""
    known = batch(left_half(), pixel_valid)
    known.objects = left_half().to(torch.uint8) * torch.tensor([1, 2], dtype=torch.uint8)[:, None, None, None]
    known.object_classes = torch.tensor([[[0, 0], [2, 1], [0, 0]], [[0, 0], [1, 1], [3, 1]]])
    return known


def test_region_classes_by_hand():
    valid = torch.ones(B, 1, H, W, dtype=torch.bool)
    valid[1, :, 8:] = False
    classes = region_classes(batch_with_objects(valid), (3, 5))
    assert classes.shape == (B, 2, 3, 5)
    # Columns of 4 pixels: the centre of the third lies at pixel 10, the first one that shows nothing.
    assert classes[0, :, 1].tolist() == [[2, 2, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert classes[1, :, 1].tolist() == [[3, 3, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert (classes[1, :, 2] == IGNORED).all() and (classes[0] != IGNORED).all()


def test_semantics_by_hand():
    model, config = Seeing(), SegmentationConfig(semantics=0.5)
    objective = build_objective(config, model, classes=(3, 1))
    for classifier in objective.classifiers.values():
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
    _, losses = objective(model, batch_with_objects())
    assert objective.weights["semantics"] == 0.5
    assert losses["semantics"].item() == pytest.approx((log(4) + log(2)) / 2)  # no idea: four classes, and two
    with torch.no_grad():
        for classifier in objective.classifiers.values():
            classifier.bias[4] = 30.0  # sure that nothing has the second attribute: wrong for 2 of 5 columns
    _, losses = objective(model, batch_with_objects())
    assert losses["semantics"].item() == pytest.approx((log(4) + 0.4 * 30) / 2, rel=1e-5)


def test_semantics_belongs_to_the_objective_and_reaches_the_backbone():
    objective = build_objective(SegmentationConfig(semantics=1.0), Seeing(), classes=(3, 1))
    assert [p.shape[0] for p in objective.parameters()] == [6] * 6
    assert sorted(objective.classifiers) == ["backbone/c3", "backbone/c4", "temporal/c5"]


def test_semantics_says_what_it_lacks():
    with pytest.raises(RefsegError, match="needs a model and a data set with objects"):
        build_objective(SegmentationConfig(semantics=1.0))
    objective = build_objective(SegmentationConfig(semantics=1.0), Seeing(), classes=(3,))
    with pytest.raises(RefsegError, match="build its data set with objects=True"):
        objective(Seeing(), batch(left_half()))
