"""Fusing the levels of a backbone into one map: the paper's gates, the release's, and controls."""

from refseg.models.fusion.ablations import (
    ConvLSTMFusion,
    ConvLSTMFusionConfig,
    DeconvFusion,
    DeconvFusionConfig,
    PPMFusion,
    PPMFusionConfig,
    SumFusion,
    SumFusionConfig,
)
from refseg.models.fusion.base import Fusion, FusionConfig
from refseg.models.fusion.gmlf import (
    GatedMultiLevelFusion,
    GMLFConfig,
    ReleaseGatedMultiLevelFusion,
    ReleaseGMLFConfig,
)

__all__ = [
    "ConvLSTMFusion",
    "ConvLSTMFusionConfig",
    "DeconvFusion",
    "DeconvFusionConfig",
    "Fusion",
    "FusionConfig",
    "GMLFConfig",
    "GatedMultiLevelFusion",
    "PPMFusion",
    "PPMFusionConfig",
    "ReleaseGMLFConfig",
    "ReleaseGatedMultiLevelFusion",
    "SumFusion",
    "SumFusionConfig",
]
