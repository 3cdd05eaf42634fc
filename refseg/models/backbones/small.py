"""A backbone that trains from scratch on two CPU cores while a class waits. Ours, for the lessons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refseg.models.backbones.base import LEVELS, Backbone, BackboneConfig, ResidualBlock
from refseg.models.serialise import rename_weights


@dataclass(frozen=True)
class SmallBackboneConfig(BackboneConfig):
    """Widths, depths and grids of the four stages: c2 at stride 4, then stride 8 with a wider and wider view."""

    channels: tuple[int, int, int, int, int] = (32, 48, 80, 96, 96)  # stem, c2, c3, c4, c5
    blocks: tuple[int, int, int, int] = (1, 2, 1, 1)  # residual blocks of c2, c3, c4, c5
    frozen: bool = False  # fixed weights and statistics, for training that begins with those of another network
    strides: tuple[int, int, int, int] = (2, 2, 1, 1)  # of the first block of each stage; the stem has 2
    dilations: tuple[int, int, int, int] = (1, 1, 2, 4)

    def build(self) -> SmallBackbone:
        return SmallBackbone(self)


# For the lessons on MagNet and AlignFormer: as in Swin, every stage but the last halves the grid, none is dilated.
HALVING = SmallBackboneConfig((32, 32, 64, 80, 80), (1, 1, 1, 1), strides=(2, 2, 2, 1), dilations=(1, 1, 1, 1))


class SmallBackbone(Backbone):
    """A stem at stride 2, then four stages of residual blocks.

    Args:
        config: widths, depths and grids.
    """

    def __init__(self, config: SmallBackboneConfig):
        super().__init__()
        width, *widths = config.channels
        self.channels = dict(zip(LEVELS, widths, strict=True))
        self.stem = Stem(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.stages, self.strides, stride = nn.ModuleDict(), {}, 2
        for level, depth, step, dilation in zip(LEVELS, config.blocks, config.strides, config.dilations, strict=True):
            channels = self.channels[level]
            first = ResidualBlock(width, channels, step, dilation)
            rest = [ResidualBlock(channels, channels, 1, dilation) for _ in range(depth - 1)]
            self.stages[level] = nn.Sequential(first, *rest)
            self.strides[level] = stride = stride * step
            width = channels
        if config.frozen:
            self.freeze()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Older checkpoints of MagNet and AlignFormer call the stem "first"."""
        rename_weights(state_dict, prefix, {"first.": "stem."})
        super()._load_from_state_dict(state_dict, prefix, *args)


class Stem(nn.Sequential):
    """Channels last: faster convolutions on a CPU, and the regions [B,R,C] of the attention need no copy."""

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,C,H/2,W/2]."""
        return super().forward(images.contiguous(memory_format=torch.channels_last))
