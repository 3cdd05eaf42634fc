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
from refseg.models.fusion.gmlf import GatedMultiLevelFusion, GMLFConfig
from refseg.models.fusion.release import ReleaseGatedMultiLevelFusion, ReleaseGMLFConfig
