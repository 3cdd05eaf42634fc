"""Gated multi-level fusion: every level asks the others for what it lacks (Ye et al., CVPR 2019, Sec. 3.3, Eq. 5-6).

The paper does not say how the gates are made. Ours: one 3x3 convolution per level to two maps, then a sigmoid; and
gamma starts at 0.5, the value of the scalar in the authors' release.

The release itself computes another fusion, see ``release``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from refseg.models.blocks.attention import Kept
from refseg.models.fusion.base import Fusion, FusionConfig, Gates


@dataclass(frozen=True)
class GMLFConfig(FusionConfig):
    """The width common to all levels (the release: 500)."""

    def build(self, levels: Sequence[str]) -> GatedMultiLevelFusion:
        return GatedMultiLevelFusion(levels, self)


class GatedMultiLevelFusion(Fusion):
    """Levels of one width and grid in, their gated sum out.

    Args:
        levels: names of the levels, e.g. ("c3", "c4", "c5").
        config: the common width.
    """

    def __init__(self, levels: Sequence[str], config: GMLFConfig):
        super().__init__(levels, config)
        self.gate = nn.ModuleDict({level: nn.Conv2d(config.dim, 2, 3, padding=1) for level in levels})
        self.gamma = nn.ParameterDict({level: nn.Parameter(torch.tensor(0.5)) for level in levels})

    def gates(self, x: dict[str, Tensor]) -> Gates:
        """The maps that decide: {level: (memory_gate [B,1,h,w], reset_gate [B,1,h,w])}, all in (0, 1).

        ``memory_gate`` of a level says how much of it the others receive and how much of itself it gives up;
        ``reset_gate`` says how much of the mixture replaces the level's own feature.
        """
        return {level: self.gate[level](x[level]).sigmoid().split(1, dim=1) for level in self.gate}

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> sum of the fused levels [B,dim,h,w], the input of the last convolution of Eq. 6."""
        gates = self.gates(x)
        if kept is not None:
            kept["gates"] = gates
        offers = {level: self.gamma[level] * gates[level][0] * x[level] for level in gates}
        fused = []
        for level, (memory_gate, reset_gate) in gates.items():
            received = sum(offer for other, offer in offers.items() if other != level)
            mixture = (1 - memory_gate) * x[level] + received  # G, Eq. 5
            fused += [reset_gate * mixture.tanh(), (1 - reset_gate) * x[level]]
        return reduce(torch.add, fused)
