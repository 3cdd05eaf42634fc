"""Image backbones: pixels to features by level."""

from refseg.models.backbones.base import (
    DEEPLAB_MEAN,
    LEVELS,
    STRIDES,
    Backbone,
    BackboneConfig,
    DeepLabBackbone,
    DeepLabBackboneConfig,
    ResidualBlock,
    ResNet101Backbone,
    ResNet101BackboneConfig,
    SmallBackbone,
    SmallBackboneConfig,
    deeplab_colours,
    pad_same,
    read_safetensors,
)
from refseg.models.backbones.halving import HalvingBackbone, HalvingBackboneConfig
from refseg.models.backbones.swin import SwinBackbone, SwinConfig, SwinStage, padded_first, window_attention

__all__ = [
    "Backbone",
    "BackboneConfig",
    "DEEPLAB_MEAN",
    "DeepLabBackbone",
    "DeepLabBackboneConfig",
    "HalvingBackbone",
    "HalvingBackboneConfig",
    "LEVELS",
    "ResNet101Backbone",
    "ResNet101BackboneConfig",
    "ResidualBlock",
    "STRIDES",
    "SmallBackbone",
    "SmallBackboneConfig",
    "SwinBackbone",
    "SwinConfig",
    "SwinStage",
    "deeplab_colours",
    "pad_same",
    "padded_first",
    "read_safetensors",
    "window_attention",
]
