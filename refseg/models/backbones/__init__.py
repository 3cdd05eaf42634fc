"""Image backbones: pixels to features by level."""

from refseg.models.backbones.base import LEVELS, Backbone, BackboneConfig, ResidualBlock
from refseg.models.backbones.resnet import DeepLabBackboneConfig, ResNet101BackboneConfig
from refseg.models.backbones.small import HALVING, SmallBackbone, SmallBackboneConfig
from refseg.models.backbones.swin import SwinConfig
