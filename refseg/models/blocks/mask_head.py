"""Mask heads: from fused features to mask logits.

All share one signature: ``forward(fused [B,C,h,w], features) -> mask_logits [B,1,h',w']``, ``features`` being what
the backbone returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.backbones import ResidualBlock
from refseg.models.serialise import Config


@dataclass(frozen=True)
class HeadConfig(Config):
    """Base of the mask heads' configs."""

    def build(self, in_channels: int, backbone_channels: dict[str, int]) -> nn.Module:
        """The head, for fused features of ``in_channels`` and a backbone with these widths by level."""
        raise NotImplementedError


@dataclass(frozen=True)
class MaskHeadConfig(HeadConfig):
    """The head of the paper; it has nothing to choose."""

    def build(self, in_channels: int, backbone_channels: dict[str, int]) -> MaskHead:
        return MaskHead(in_channels)


class MaskHead(nn.Module):
    """One 3x3 convolution to one logit per region, stride 8 (Ye et al., CVPR 2019, Eq. 6).

    Args:
        fused_channels: C.
    """

    def __init__(self, fused_channels: int):
        super().__init__()
        self.logits = nn.Conv2d(fused_channels, 1, 3, padding=1)

    def forward(self, fused: Tensor, features: dict[str, Tensor]) -> Tensor:
        """[B,C,h,w] -> [B,1,h,w]."""
        return self.logits(fused)


@dataclass(frozen=True)
class ReleaseMaskHeadConfig(HeadConfig):
    """The head of the release: ``upsampling`` is the factor from regions to pixels."""

    upsampling: int = 8

    def build(self, in_channels: int, backbone_channels: dict[str, int]) -> ReleaseMaskHead:
        return ReleaseMaskHead(in_channels, self)


class ReleaseMaskHead(MaskHead):
    """``MaskHead``, then enlarged inside the network, as the authors' release does.

    The release trains through TensorFlow 1's ``resize_bilinear``, which puts pixel j at j/8 on the grid of regions, 3.5
    pixels off the usual half-pixel centres. Weights trained through it have learned to allow for that, so
    a converted network must be enlarged the same way.

    Args:
        fused_channels: C.
        config: the factor.
    """

    def __init__(self, fused_channels: int, config: ReleaseMaskHeadConfig):
        super().__init__(fused_channels)
        self.upsampling = config.upsampling

    def forward(self, fused: Tensor, features: dict[str, Tensor]) -> Tensor:
        """[B,C,h,w] -> [B,1,f*h,f*w], f the upsampling."""
        return enlarge_from_the_corner(self.logits(fused), self.upsampling)


def enlarge_from_the_corner(x: Tensor, factor: int) -> Tensor:
    """Bilinear, destination j taken from j/factor, the last value held: TensorFlow 1's default, [B,C,h,w].

    With the last row and column repeated once it is what torch calls align_corners.
    """
    h, w = x.shape[-2:]
    longer = F.pad(x, (0, 1, 0, 1), mode="replicate")
    size = (factor * h + 1, factor * w + 1)
    return F.interpolate(longer, size, mode="bilinear", align_corners=True)[..., :-1, :-1]


@dataclass(frozen=True)
class SkipMaskHeadConfig(HeadConfig):
    """Sharper masks for the lessons (ours): ``dim`` is the width in between."""

    dim: int = 32
    dilations: tuple[int, ...] = (2, 4)  # of the residual blocks at stride 8 that let candidates be compared

    def build(self, in_channels: int, backbone_channels: dict[str, int]) -> SkipMaskHead:
        return SkipMaskHead(self, in_channels, backbone_channels)


class SkipMaskHead(nn.Module):
    """A wide view of the fused features, then the finer c2 at stride 4, then four logits per place at stride 2. Ours.

    "The leftmost star" is found by comparing stars, and which things are stars is known only after the words have met
    the regions. The dilated blocks look across the image at that stage; the paper's head, a single 3x3 convolution,
    cannot (``benchmarks/controls.py --heads`` measures what that costs).

    A small object of a 96-pixel image covers two regions at stride 8; its outline is only in c2. The last
    convolution computes a 2x2 square of logits at once (pixel shuffle), which costs a quarter of doing it at stride 2.

    Args:
        config: width and dilations.
        fused_channels: C.
        feature_channels: widths of the backbone's levels, "c2" among them.
    """

    def __init__(self, config: SkipMaskHeadConfig, fused_channels: int, feature_channels: dict[str, int]):
        super().__init__()
        self.compare = nn.Sequential(*[ResidualBlock(fused_channels, fused_channels, 1, d) for d in config.dilations])
        self.from_fused = nn.Conv2d(fused_channels, config.dim, 1)
        self.from_c2 = nn.Conv2d(feature_channels["c2"], config.dim, 1, bias=False)  # the other bias is enough
        self.block = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.dim),
            nn.ReLU(inplace=True),
        )
        self.logits = nn.Conv2d(config.dim, 4, 3, padding=1)

    def forward(self, fused: Tensor, features: dict[str, Tensor]) -> Tensor:
        """[B,C,h,w] at stride 8 -> [B,1,4h,4w] at stride 2."""
        c2 = features["c2"]
        compared = self.from_fused(self.compare(fused))
        coarse = F.interpolate(compared, c2.shape[-2:], mode="bilinear", align_corners=False)
        joined = self.block(coarse + self.from_c2(c2))
        return torch.pixel_shuffle(self.logits(joined), 2)
