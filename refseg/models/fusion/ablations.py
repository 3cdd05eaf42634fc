"""Four other ways to fuse the levels, to compare the gates with: sum, pyramid pooling, deconvolution, ConvLSTM.

The last three are rows of the ablation in Ye et al. (CVPR 2019), which names them and leaves open how they were built:
where the levels join, in which order they enter, kernel sizes, widths and normalisation. What follows is our
choice of the smallest block that deserves the name; nothing is normalised, as in the gated fusion. The sum is the
floor below all of them: no parameter, and nothing is chosen.

All have the signature of ``GatedMultiLevelFusion``: built from (levels, config), ``channels`` wide, and
``forward({level: X [B,dim,h,w]}) -> [B,dim,h,w]``. They have no gates to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import Kept
from refseg.models.fusion.base import Fusion, FusionConfig


@dataclass(frozen=True)
class SumFusionConfig(FusionConfig):
    """The width common to all levels."""

    def build(self, levels: Sequence[str]) -> SumFusion:
        return SumFusion(levels, self)


class SumFusion(Fusion):
    """The sum of the levels, which is also what gated fusion becomes when every reset gate is 0.

    Args:
        levels: names of the levels, the finest first.
        config: the common width.
    """

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> [B,dim,h,w]."""
        return reduce(torch.add, (x[level] for level in self.levels))


@dataclass(frozen=True)
class PPMFusionConfig(FusionConfig):
    """The width common to all levels, and the grids of the pyramid."""

    bins: tuple[int, ...] = (1, 2, 3, 6)  # those of PSPNet

    def build(self, levels: Sequence[str]) -> PPMFusion:
        return PPMFusion(levels, self)


class PPMFusion(Fusion):
    """The levels' sum, then the pyramid pooling module of PSPNet (Zhao et al., CVPR 2017, Sec. 3.2).

    The sum is averaged over coarse grids; each average passes a 1x1 convolution to dim / number of grids, is enlarged
    again, and all are concatenated with the sum for one 3x3 convolution. PSPNet has batch normalisation in it and one
    input; that the levels are summed first is our choice.

    Args:
        levels: names of the levels, the finest first.
        config: the common width and the grids.
    """

    def __init__(self, levels: Sequence[str], config: PPMFusionConfig):
        super().__init__(levels, config)
        self.bins = config.bins
        narrow = max(1, config.dim // len(config.bins))
        self.narrow = nn.ModuleList(nn.Conv2d(config.dim, narrow, 1) for _ in config.bins)
        self.join = nn.Conv2d(config.dim + narrow * len(config.bins), config.dim, 3, padding=1)

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> [B,dim,h,w]."""
        total = reduce(torch.add, (x[level] for level in self.levels))
        pyramid = [total]
        for grid, narrow in zip(self.bins, self.narrow, strict=True):
            coarse = narrow(F.adaptive_avg_pool2d(total, grid)).relu()
            pyramid.append(F.interpolate(coarse, total.shape[-2:], mode="bilinear", align_corners=False))
        return self.join(torch.cat(pyramid, dim=1))


@dataclass(frozen=True)
class DeconvFusionConfig(FusionConfig):
    """The width common to all levels."""

    def build(self, levels: Sequence[str]) -> DeconvFusion:
        return DeconvFusion(levels, self)


class DeconvFusion(Fusion):
    """From the deepest level to the finest: a transposed 3x3 convolution with a ReLU, then the next level is added.

    A deconvolution network (Noh et al., ICCV 2015) enlarges the grid at every step. Our backbones are dilated and their
    levels share one grid, so the stride is 1 here. Kernel, ReLU and adding (not concatenating) are our choice.

    Args:
        levels: names of the levels, the finest first.
        config: the common width.
    """

    def __init__(self, levels: Sequence[str], config: DeconvFusionConfig):
        super().__init__(levels, config)
        self.deconv = nn.ModuleDict(
            {level: nn.ConvTranspose2d(config.dim, config.dim, 3, padding=1) for level in reversed(levels[:-1])}
        )

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> [B,dim,h,w]."""
        fused = x[self.levels[-1]]
        for level, deconv in self.deconv.items():
            fused = deconv(fused).relu() + x[level]
        return fused


@dataclass(frozen=True)
class ConvLSTMFusionConfig(FusionConfig):
    """The width common to all levels."""

    def build(self, levels: Sequence[str]) -> ConvLSTMFusion:
        return ConvLSTMFusion(levels, self)


class ConvLSTMFusion(Fusion):
    """The levels as the steps of a convolutional LSTM (Shi et al., NeurIPS 2015), the deepest first; the last h is out.

    One 3x3 convolution of input and state, the same at every level, gives all four maps of the cell. Omitted are the
    peepholes of Shi et al.; the order of the levels is our choice.

    Args:
        levels: names of the levels, the finest first.
        config: the common width.
    """

    def __init__(self, levels: Sequence[str], config: ConvLSTMFusionConfig):
        super().__init__(levels, config)
        self.cell = nn.Conv2d(2 * config.dim, 4 * config.dim, 3, padding=1)

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> [B,dim,h,w], every value in (-1, 1)."""
        hidden = memory = torch.zeros_like(x[self.levels[-1]])
        for level in reversed(self.levels):
            enter, forget, release, new = self.cell(torch.cat([x[level], hidden], dim=1)).chunk(4, dim=1)
            memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
            hidden = release.sigmoid() * memory.tanh()
        return hidden
