"""What training minimises: each objective is a class, (model, batch) -> prediction, {name: loss}.

Auxiliary heads live in the objective, so that the weights a user loads hold nothing that inference does not need.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from refseg.objectives.alignment import Alignment, AlignmentConfig
from refseg.objectives.mask_grounding import MaskGrounding, MaskGroundingConfig
from refseg.objectives.segmentation import Segmentation, SegmentationConfig
from refseg.objectives.word_maps import SupervisedWordMaps, SupervisedWordMapsConfig
from refseg.tokenizer import WordVocabulary

OBJECTIVES = {
    SegmentationConfig: Segmentation,
    SupervisedWordMapsConfig: SupervisedWordMaps,
    AlignmentConfig: Alignment,
    MaskGroundingConfig: MaskGrounding,
}


def build_objective(
    config: SegmentationConfig,
    model: nn.Module | None = None,
    classes: Sequence[int] = (),
    tokenizer: WordVocabulary | None = None,
) -> nn.Module:
    """The objective whose config this is; see its class for when it needs ``model``, ``classes`` and ``tokenizer``."""
    kind = OBJECTIVES[type(config)]
    words = {"tokenizer": tokenizer} if kind.reads_words else {}
    return kind(config, model, classes, **words)
