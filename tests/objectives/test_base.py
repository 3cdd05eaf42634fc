"""An objective is the sum of its terms; a term of one's own is a config and a class; objectives of older runs."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from refseg.errors import RefsegError
from refseg.models.serialise import config_to_dict
from refseg.objectives import (
    ImageContrastConfig,
    InstanceContrastConfig,
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    PixelAlignmentConfig,
    PixelContrastConfig,
    SemanticsConfig,
    SupervisedWordMapsConfig,
    Term,
    TermConfig,
    build_objective,
    objective_from_dict,
)
from refseg.paths import checkpoints_dir
from refseg.types import Prediction


@dataclass(frozen=True)
class SmallWordsConfig(TermConfig):
    """Words of another package: they are read halved, and should be small."""

    weight: float = 3.0

    def build(self, context):
        return SmallWords({"small": self.weight}, context.trace_channels["words"])


class SmallWords(Term):
    def __init__(self, weights, channels):
        super().__init__(weights)
        self.scale = nn.Parameter(torch.ones(channels))

    def prepare(self, batch):
        return batch / 2

    def forward(self, prediction, batch, model):
        return {"small": (self.scale * prediction.trace["words"]).abs().mean() + batch.mean()}


class Echo(nn.Module):
    trace_channels, visual_channels = {"words": 2}, {}

    def forward(self, batch):
        return Prediction(batch, {"words": batch})


def test_a_term_of_ones_own():
    config = ObjectiveConfig((SmallWordsConfig(), replace(SmallWordsConfig(), weight=0.0)))
    with pytest.raises(RefsegError, match="Two terms of the objective give the loss small: remove one"):
        build_objective(config, Echo())
    config = ObjectiveConfig(config.terms[:1])
    objective = build_objective(config, Echo())
    prediction, losses = objective(Echo(), torch.full((1, 2), 4.0))
    assert prediction.mask_logits.max() == 2 and losses["small"] == 4  # what the model read
    assert objective.weights == {"small": 3.0} and objective.total(losses) == 12
    assert objective_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_terms_are_changed_and_removed_by_their_kind():
    config = ObjectiveConfig((MaskLossConfig(), SemanticsConfig()))
    assert config.changed(SemanticsConfig, weight=2.0) == ObjectiveConfig((MaskLossConfig(), SemanticsConfig(2.0)))
    assert config.needs_objects and not config.without(SemanticsConfig).needs_objects


# ---- older runs --------------------------------------------------------------------------------------------------

PLAIN = {"bce": 1.0, "dice": 0.5, "semantics": 0.0}
CONTRAST = PLAIN | {"type": "AlignmentConfig", "contrast": 0.5, "pixel_wise": False, "temperature": 0.07}
GROUNDING = PLAIN | {
    "type": "MaskGroundingConfig", "ground": 1.0, "pixel_to_pixel": 0.1, "pixel_to_text": 0.0, "hidden": 0.4,
    "kept": 0.2, "samples": 0.5, "untold": 0.3, "pixels": "fused/c3", "grid": 9, "dim": 8, "layers": 1, "heads": 2,
    "temperature": 0.1, "referent_pixels": 64, "other_pixels": 256,
}  # fmt: skip
MASKS, DEEP = MaskLossConfig(), MaskLossConfig(deep_supervision=True)
HIDING = MaskGroundingConfig(
    hidden=0.4, unreplaced=0.2, samples=0.5, mask_dropout=0.3, pixels="fused/c3", grid=9, dim=8, layers=1, heads=2
)
PIXELS = PixelAlignmentConfig(0.1, 0.0, 0.1, 64, 256)
OLDER = (
    (PLAIN | {"type": "SegmentationConfig", "semantics": 2.0}, (MASKS, SemanticsConfig(2.0))),
    (PLAIN | {"type": "TaughtMapsConfig", "maps": 0.25}, (MASKS, SupervisedWordMapsConfig(0.25))),
    (CONTRAST, (DEEP, InstanceContrastConfig())),
    (CONTRAST | {"other_samples": False}, (DEEP, ImageContrastConfig())),
    (CONTRAST | {"other_samples": False, "pixel_wise": True}, (DEEP, PixelContrastConfig())),
    (CONTRAST | {"contrast": 0.0}, (DEEP,)),
    (GROUNDING, (DEEP, HIDING, PIXELS)),
    (GROUNDING | {"ground": 0.0}, (DEEP, PIXELS)),
    (GROUNDING | {"pixel_to_pixel": 0.0}, (DEEP, HIDING)),
)


def test_objectives_of_older_runs_have_the_same_terms():
    for older, terms in OLDER:
        assert objective_from_dict(older) == ObjectiveConfig(terms), older
    for path in checkpoints_dir().glob("*/config.json"):
        assert objective_from_dict(json.loads(path.read_text())["record"]["experiment"]["objective"]).terms


def test_what_is_not_an_objective_is_refused():
    for bad in (None, [], {}, "x", {"type": "SegmentationConfig", "bce": 1.0}, {"type": "Other", "terms": [{}]}):
        with pytest.raises(RefsegError):
            objective_from_dict(bad)


def test_heads_of_older_runs_find_their_terms():
    """They stood side by side, without the number of their term."""
    model = Echo()
    model.trace_channels = {"sentence": 3, "pixels": 5}
    objective = build_objective(ObjectiveConfig((MASKS, InstanceContrastConfig())), model)
    older = {name.removeprefix("terms.1."): x + 1 for name, x in objective.state_dict().items()}
    assert set(older) == {"log_temperature", "project.weight", "project.bias"}
    objective.load_state_dict(older)
    assert torch.equal(objective.terms[1].project.weight, older["project.weight"])
