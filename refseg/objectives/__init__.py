"""What training minimises: each objective is a class, (model, batch) -> prediction, {name: loss}.

Auxiliary heads live in the objective, so that the weights a user loads hold nothing that inference does not need.
"""

from __future__ import annotations

from torch import nn

from refseg.objectives.segmentation import Segmentation, SegmentationConfig

OBJECTIVES = {SegmentationConfig: Segmentation}


def build_objective(config: SegmentationConfig) -> nn.Module:
    """The objective whose config this is."""
    return OBJECTIVES[type(config)](config)
