"""The gated fusion of the authors' release: gates with a value per channel, of the level that receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from refseg.models.blocks.attention import Kept
from refseg.models.fusion.base import Fusion, FusionConfig, Gates


@dataclass(frozen=True)
class ReleaseGMLFConfig(FusionConfig):
    """The width common to all levels (the release: 500)."""

    def build(self, levels: Sequence[str]) -> ReleaseGatedMultiLevelFusion:
        return ReleaseGatedMultiLevelFusion(levels, self)


class ReleaseGatedMultiLevelFusion(Fusion):
    """The fusion of the authors' release (lwye/CMSA-Net, 2019), a cell in the manner of a simple recurrent unit.

    For level i and the other two, a before b: one 3x3 convolution of X^i gives u, f and r; f and r go through
    a sigmoid whose argument is raised by 1, c = share f X^a + (1 - share) f X^b + (1 - f) u and
    out^i = r tanh(c) + (1 - r) X^i.

    Args:
        levels: names of the three levels, the finest first. The deeper of two others is a.
        config: the common width.
    """

    def __init__(self, levels: Sequence[str], config: ReleaseGMLFConfig):
        super().__init__(levels, config)
        self.others = {level: [other for other in reversed(levels) if other != level] for level in levels}
        cells = {level: nn.Conv2d(config.dim, 3 * config.dim, 3, padding=1) for level in levels}
        self.cell = nn.ModuleDict(cells)
        self.share = nn.ParameterDict({level: nn.Parameter(torch.tensor(0.5)) for level in levels})
        for convolution in cells.values():
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.get_parameter("bias"))

    def gates(self, x: dict[str, Tensor]) -> Gates:
        """{level: (memory_gate [B,dim,h,w], reset_gate [B,dim,h,w])}, all in (0, 1), one value per channel.

        ``memory_gate`` of a level says how much of its mixture comes from the others (in the paper's form: what it
        gives to them); ``reset_gate`` says how much of the mixture replaces the level's own feature.
        """
        return {level: cell[1:] for level, cell in self._cells(x).items()}

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> sum of the fused levels [B,dim,h,w]."""
        cells, fused = self._cells(x), []
        if kept is not None:
            kept["gates"] = {level: cell[1:] for level, cell in cells.items()}
        for level, (a, b) in self.others.items():
            own, memory_gate, reset_gate = cells[level]
            received = self.share[level] * x[a] + (1 - self.share[level]) * x[b]
            mixture = memory_gate * received + (1 - memory_gate) * own
            fused += [reset_gate * mixture.tanh(), (1 - reset_gate) * x[level]]
        return reduce(torch.add, fused)

    def _cells(self, x: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        cells = {}
        for level, convolution in self.cell.items():
            own, memory_gate, reset_gate = convolution(x[level]).chunk(3, dim=1)
            cells[level] = own, (memory_gate + 1).sigmoid(), (reset_gate + 1).sigmoid()
        return cells
