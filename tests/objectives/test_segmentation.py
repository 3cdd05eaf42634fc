"""Mask losses at the size of the input, whatever the stride of the head; and what every region shows."""

from math import log

import pytest
import torch
from torch import nn

from refseg.errors import RefsegError
from refseg.objectives import MaskLossConfig, ObjectiveConfig, SemanticsConfig, build_objective
from refseg.objectives.segmentation import IGNORED, region_classes
from refseg.types import Annotations, Prediction, RefBatch

B, H, W = 2, 12, 20
MASKS = build_objective(ObjectiveConfig((MaskLossConfig(),)))


class Constant(nn.Module):
    """Says the same logit everywhere, at a stride; its backbone's features are all ones."""

    visual_channels = {"backbone/c3": 5, "backbone/c4": 7, "temporal/c5": 11}
    trace_channels: dict = {}

    def __init__(self, logit: float = 0.0, stride: int = 4, dtype: torch.dtype = torch.float32, earlier=()):
        super().__init__()
        self.logits = nn.Parameter(torch.full((B, 1, H // stride, W // stride), logit, dtype=dtype))
        self.earlier = nn.Parameter(torch.tensor(earlier))

    def forward(self, batch):
        trace = {name: torch.ones(B, C, 3, 5) for name, C in self.visual_channels.items()}
        trace |= {f"masks/{n}": logit.expand(B, 1, 3, 5) for n, logit in enumerate(self.earlier)}
        return Prediction(self.logits, trace)


def batch(mask: torch.Tensor, pixel_valid: torch.Tensor | None = None) -> RefBatch:
    ids = torch.ones(B, 3, dtype=torch.int64)
    names = [str(i) for i in range(B)]
    return RefBatch(
        torch.zeros(B, 1, 3, H, W),
        torch.zeros(B, dtype=torch.int64),
        ids,
        ids > 0,
        mask,
        torch.ones_like(mask) if pixel_valid is None else pixel_valid,
        ["red"] * B,
        list(mask[:, 0]),
        [(H, W)] * B,
        names,
        names,
        [Annotations()] * B,
    )


def left_half() -> torch.Tensor:
    mask = torch.zeros(B, 1, H, W, dtype=torch.bool)
    mask[..., : W // 2] = True
    return mask


def test_values_by_hand_at_every_stride():
    for stride in (1, 4):
        prediction, losses = MASKS(Constant(0.0, stride), batch(left_half()))
        assert prediction.mask_logits.shape == (B, 1, H // stride, W // stride)  # the prediction itself is not touched
        assert losses["bce"].item() == pytest.approx(log(2))
        assert losses["dice"].item() == pytest.approx(1 - (120 + 1) / (120 + 120 + 1))


def test_logits_are_scaled_bilinearly_with_half_pixel_centres():
    model = Constant()
    with torch.no_grad():
        model.logits[..., 0] = -40.0  # the first of 5 columns, centre at 2 pixels; the next centre is at 6
    _, losses = MASKS(model, batch(torch.zeros_like(left_half())))
    expected = torch.tensor([-40.0, -40, -35, -25, -15, -5] + [0.0] * 14)
    assert losses["bce"].item() == pytest.approx(nn.functional.softplus(expected).mean().item(), rel=1e-5)


def test_padding_is_not_scored():
    valid, everywhere = left_half(), torch.ones(B, 1, H, W, dtype=torch.bool)
    _, one = MASKS(Constant(1.0), batch(everywhere, valid))
    _, other = MASKS(Constant(1.0), batch(valid, valid))  # differs in the padding only
    assert one["bce"] == other["bce"] and one["dice"] == other["dice"]


def test_half_precision_logits_are_compared_in_full():
    model = Constant(dtype=torch.bfloat16)
    _, losses = MASKS(model, batch(left_half()))
    assert losses["bce"].dtype == losses["dice"].dtype == torch.float32
    sum(losses.values()).backward()
    assert model.logits.grad.isfinite().all() and model.logits.grad[..., 0].max() < 0


def test_deep_supervision_is_a_mean_over_the_masks_of_all_steps():
    deep = build_objective(ObjectiveConfig((MaskLossConfig(deep_supervision=True),)))
    model = Constant(-2.0, earlier=(0.0, 1.0))
    _, losses = deep(model, batch(left_half()))
    alone = [MASKS(Constant(logit), batch(left_half()))[1] for logit in (0.0, 1.0, -2.0)]
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(sum(each[name].item() for each in alone) / 3, rel=1e-6)
    assert MASKS(model, batch(left_half()))[1]["bce"] == alone[2]["bce"]
    sum(losses.values()).backward()
    assert model.earlier.grad.abs().min() > 0 and model.logits.grad.abs().min() > 0


# ---- semantics: what every region shows --------------------------------------------------------------------------


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
    objective = build_objective(ObjectiveConfig((SemanticsConfig(0.5),)), Constant(), classes=(3, 1))
    assert objective.weights == {"semantics": 0.5} and [p.shape[0] for p in objective.parameters()] == [6] * 6
    for parameter in objective.parameters():
        nn.init.zeros_(parameter)
    _, losses = objective(Constant(), batch_with_objects())
    assert losses["semantics"].item() == pytest.approx((log(4) + log(2)) / 2)  # no idea: four classes, and two
    with torch.no_grad():
        for classifier in objective.terms[0].classifiers.values():
            classifier.bias[4] = 30.0  # sure that nothing has the second attribute: wrong for 2 of 5 columns
    _, losses = objective(Constant(), batch_with_objects())
    assert losses["semantics"].item() == pytest.approx((log(4) + 0.4 * 30) / 2, rel=1e-5)


def test_semantics_says_what_it_lacks():
    config = ObjectiveConfig((SemanticsConfig(),))
    with pytest.raises(RefsegError, match="SemanticsConfig needs a data set that knows its objects: remove this term"):
        build_objective(config, Constant())
    with pytest.raises(RefsegError, match="build its data set with objects=True"):
        build_objective(config, Constant(), classes=(3,))(Constant(), batch(left_half()))
