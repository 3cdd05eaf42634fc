"""What training minimises: an objective is a list of weighted terms, see ``objectives.base``."""

from refseg.objectives.base import Objective, ObjectiveConfig, ObjectiveContext, Term, TermConfig, build_objective
from refseg.objectives.contrastive import ImageContrastConfig, InstanceContrastConfig, PixelContrastConfig
from refseg.objectives.mask_grounding import MaskGroundingConfig
from refseg.objectives.older import objective_from_dict
from refseg.objectives.pixel_alignment import PixelAlignmentConfig
from refseg.objectives.segmentation import MaskLossConfig, SemanticsConfig
from refseg.objectives.word_maps import SupervisedWordMapsConfig

__all__ = [
    "ImageContrastConfig", "InstanceContrastConfig", "MaskGroundingConfig", "MaskLossConfig", "Objective",
    "ObjectiveConfig", "ObjectiveContext", "PixelAlignmentConfig", "PixelContrastConfig", "SemanticsConfig",
    "SupervisedWordMapsConfig", "Term", "TermConfig", "build_objective", "objective_from_dict",
]  # fmt: skip
