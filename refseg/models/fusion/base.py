"""What every way to fuse the levels of a backbone has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from refseg.models.blocks.attention import Kept
from refseg.models.serialise import Config


@dataclass(frozen=True)
class FusionConfig(Config):
    """Base of the fusions' configs: the width common to all levels (the release: 500)."""

    dim: int = 500

    def build(self, levels: Sequence[str]) -> Fusion:
        """The fusion of ``levels``, which are named from the finest to the deepest."""
        raise NotImplementedError


Gates = dict[str, tuple[Tensor, Tensor]]  # level -> (memory gate, reset gate), each [B,1,h,w] or [B,C,h,w]


class Fusion(nn.Module):
    """Base of the fusions: the levels, of one width and grid, become one map. ``channels`` is the width of the result.

    A fusion with gates puts them into ``kept``, as "gates".
    """

    def __init__(self, levels: Sequence[str], config: FusionConfig):
        super().__init__()
        self.levels, self.channels = levels, config.dim

    def forward(self, x: dict[str, Tensor], kept: Kept = None) -> Tensor:
        """{level: X [B,dim,h,w]} -> [B,channels,h,w]; ``kept`` receives what ``explain`` needs, by name."""
        raise NotImplementedError
