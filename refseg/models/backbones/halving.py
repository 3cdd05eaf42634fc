"""A small backbone of four stages for the lessons on MagNet and AlignFormer, in the shape of ``SwinBackbone``. Ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.models.backbones.base import LEVELS, Backbone, BackboneConfig, ResidualBlock


@dataclass(frozen=True)
class HalvingBackboneConfig(BackboneConfig):
    """Trains from scratch on two CPU cores; every stage but the last halves the grid, and none is dilated."""

    channels: tuple[int, int, int, int, int] = (32, 32, 64, 80, 80)  # stem, c2, c3, c4, c5
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)  # residual blocks of c2, c3, c4, c5
    strides: tuple[int, int, int, int] = (2, 2, 2, 1)  # of the first block of each; the stem has 2

    def build(self) -> HalvingBackbone:
        return HalvingBackbone(self)


class HalvingBackbone(Backbone):
    """``stem`` at stride 2, then the four ``stages``, each [B,C,h,w] -> [B,C',h',w'].

    Args:
        config: widths, depths and strides.
    """

    def __init__(self, config: HalvingBackboneConfig):
        super().__init__()
        width, *widths = config.channels
        self.channels = dict(zip(LEVELS, widths, strict=True))
        self.first = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages, self.strides, stride = nn.ModuleDict(), {}, 2
        for level, channels, depth, step in zip(LEVELS, widths, config.blocks, config.strides, strict=True):
            rest = [ResidualBlock(channels, channels) for _ in range(depth - 1)]
            self.stages[level] = nn.Sequential(ResidualBlock(width, channels, step), *rest)
            self.strides[level] = stride = stride * step
            width = channels

    def stem(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,C,H/2,W/2]; channels last, because tokens [B,R,C] then need no copy."""
        return self.first(images.contiguous(memory_format=torch.channels_last))
