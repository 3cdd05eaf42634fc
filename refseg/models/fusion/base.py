"""What every way to fuse the levels of a backbone has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from refseg.models.serialise import Config


@dataclass(frozen=True)
class FusionConfig(Config):
    """Base of the fusions' configs: the width common to all levels (the release: 500)."""

    dim: int = 500

    def build(self, levels: Sequence[str]) -> nn.Module:
        """The fusion: ``channels`` wide, ``forward({level: X [B,dim,h,w]}) -> [B,channels,h,w]``.

        Args:
            levels: names of the levels, the finest first.
        """
        raise NotImplementedError
