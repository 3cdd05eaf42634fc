"""Fusing the levels of a backbone into one map: the paper's gates, the release's, and controls."""

from refseg.models.fusion.ablations import (
    ABLATIONS,
    ConvLSTMFusion,
    ConvLSTMFusionConfig,
    DeconvFusion,
    DeconvFusionConfig,
    PPMFusion,
    PPMFusionConfig,
    SumFusion,
    SumFusionConfig,
)
from refseg.models.fusion.gmlf import (
    FUSIONS,
    AnyFusionConfig,
    GatedMultiLevelFusion,
    GMLFConfig,
    ReleaseGatedMultiLevelFusion,
    ReleaseGMLFConfig,
)

__all__ = [
    "ABLATIONS",
    "AnyFusionConfig",
    "ConvLSTMFusion",
    "ConvLSTMFusionConfig",
    "DeconvFusion",
    "DeconvFusionConfig",
    "FUSIONS",
    "GMLFConfig",
    "GatedMultiLevelFusion",
    "PPMFusion",
    "PPMFusionConfig",
    "ReleaseGMLFConfig",
    "ReleaseGatedMultiLevelFusion",
    "SumFusion",
    "SumFusionConfig",
]
