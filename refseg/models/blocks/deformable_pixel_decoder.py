"""The pixel decoder of MagNet: deformable attention over all levels (Zhu et al., Deformable DETR, ICLR 2021).

Every place of every level looks at a few places around itself on every level; where, and how much each counts, is
predicted from the place's own feature. In plain PyTorch (``grid_sample``), nothing to compile. Mask2Former (Cheng et
al., CVPR 2022) lets attention go among the three coarsest levels and adds the finest by a step of a feature pyramid; in
MagNet's release it goes among all four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import at_least_float32, sine_positions
from refseg.models.blocks.layers import feed_forward
from refseg.models.serialise import Config

AfterLayer = Callable[[int, Tensor, Tensor], Tensor]  # number of the layer, tokens [B,S,D], places [S,D] -> tokens


@dataclass(frozen=True)
class DeformableConfig(Config):
    """The values are those of the release."""

    dim: int = 256  # a multiple of 4, of ``heads`` and of ``groups``
    levels: int = 4  # this many of the coarsest levels attend to each other; finer ones are added after them, by an FPN
    layers: int = 4
    heads: int = 8
    points: int = 4  # per head and level
    inner: int = 1024  # width of the feed-forward part
    groups: int = 32  # of the group normalisation


class DeformablePixelDecoder(nn.Module):
    """Levels in, the same levels that know of each other out, and one embedding per pixel of the finest.

    Args:
        channels: {level: width}, from the coarsest to the finest.
        config: widths and depths.
    """

    def __init__(self, channels: dict[str, int], config: DeformableConfig):
        super().__init__()
        attended, added = list(channels)[: config.levels], list(channels)[config.levels :]
        self.project = nn.ModuleDict({level: _projection(channels[level], config) for level in attended})
        self.level_embedding = nn.ParameterDict({level: torch.randn(config.dim) for level in attended})
        self.layers = nn.ModuleList(DeformableLayer(len(attended), config) for _ in range(config.layers))
        self.add = nn.ModuleDict({level: PyramidStep(channels[level], config) for level in added})
        self.pixels = nn.Conv2d(config.dim, config.dim, 1)

    def forward(
        self, features: dict[str, Tensor], after_layer: AfterLayer | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The levels after all layers of attention, and the pixels.

        Args:
            features: {level: [B,C,h,w]}.
            after_layer: what happens to the tokens after each layer, see ``AfterLayer``.

        Returns:
            pixels [B,D,h,w] of the finest level, and {level: [B,D,h,w]} of those that attend
        """
        levels = {level: project(features[level]) for level, project in self.project.items()}
        grids = [x.shape[-2:] for x in levels.values()]
        tokens = torch.cat([x.flatten(2).mT for x in levels.values()], dim=1)  # [B,S,D], S places of all levels
        places = torch.cat(
            [sine_positions(x.shape[-2:], x.shape[1], x) + self.level_embedding[level] for level, x in levels.items()]
        )  # [S,D]
        references = reference_points(grids, tokens)
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, places, references, grids)
            if after_layer is not None:
                tokens = after_layer(number, tokens, places)
        parts = tokens.split([h * w for h, w in grids], dim=1)
        levels = {level: part.mT.unflatten(2, grid) for level, part, grid in zip(levels, parts, grids, strict=True)}
        finest = list(levels.values())[-1]
        for level, step in self.add.items():
            finest = step(features[level], finest)
        return self.pixels(finest), levels


class PyramidStep(nn.Module):
    """A finer level is added to the coarser one (Lin et al., FPN, CVPR 2017): [B,C,h,w], [B,D,h/2,w/2] -> [B,D,h,w]."""

    def __init__(self, width: int, config: DeformableConfig):
        super().__init__()
        self.lateral = nn.Sequential(
            nn.Conv2d(width, config.dim, 1, bias=False), nn.GroupNorm(config.groups, config.dim)
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False),
            nn.GroupNorm(config.groups, config.dim),
            nn.ReLU(),
        )

    def forward(self, finer: Tensor, coarser: Tensor) -> Tensor:
        """[B,C,h,w] and [B,D,h',w'] -> [B,D,h,w]."""
        enlarged = F.interpolate(coarser, finer.shape[-2:], mode="bilinear", align_corners=False)
        return self.smooth(self.lateral(finer) + enlarged)


class DeformableLayer(nn.Module):
    """Deformable attention and a feed-forward part, each normalised after its residual."""

    def __init__(self, levels: int, config: DeformableConfig):
        super().__init__()
        self.attention = DeformableAttention(levels, config)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.feed_forward = feed_forward(config.dim, config.inner)
        self.feed_forward_norm = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tensor, places: Tensor, references: Tensor, grids: Sequence[Sequence[int]]) -> Tensor:
        """tokens [B,S,D], places [S,D], references [S,2] -> [B,S,D]."""
        tokens = self.attention_norm(tokens + self.attention(tokens + places, tokens, references, grids))
        return self.feed_forward_norm(tokens + self.feed_forward(tokens))


class DeformableAttention(nn.Module):
    """Each query reads ``points`` places per head and level, at offsets from its own.

    Args:
        levels: how many.
        config: width, heads and points.
    """

    def __init__(self, levels: int, config: DeformableConfig):
        super().__init__()
        self.shape = config.heads, levels, config.points  # K heads, M levels, P points
        samples = math.prod(self.shape)
        self.offsets = nn.Linear(config.dim, 2 * samples)
        self.scores = nn.Linear(config.dim, samples)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.data = star_of_offsets(*self.shape).flatten()
        for parameter in (self.scores.weight, self.scores.bias, self.value.bias, self.out.bias):
            nn.init.zeros_(parameter)

    def forward(self, queries: Tensor, tokens: Tensor, references: Tensor, grids: Sequence[Sequence[int]]) -> Tensor:
        """queries [B,S,D], tokens [B,S,D], references [S,2] in [0,1] -> [B,S,D]."""
        places, weights = self.samples(queries, references, grids)
        values = self.value(tokens).split([h * w for h, w in grids], dim=1)
        read = [
            read_places(value, grid, places[:, :, :, m], weights[:, :, :, m])
            for m, (value, grid) in enumerate(zip(values, grids, strict=True))
        ]
        return self.out(sum(read))

    def samples(self, queries: Tensor, references: Tensor, grids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Where each query looks and how much each place counts: [B,S,K,M,P,2], x and y in [0,1], and [B,S,K,M,P]."""
        sizes = torch.tensor([(w, h) for h, w in grids], device=queries.device, dtype=queries.dtype)
        offsets = self.offsets(queries).unflatten(2, (*self.shape, 2)) / sizes[:, None]  # in cells of each level
        heads, levels, points = self.shape
        weights = self.scores(queries).unflatten(2, (heads, levels * points)).softmax(-1)
        return references[:, None, None, None] + offsets, weights.unflatten(3, (levels, points))


def read_places(values: Tensor, grid: Sequence[int], places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of one level's values at fractional places, zero outside of it.

    Args:
        values: [B,h*w,D].
        places: [B,S,K,P,2], x and y from 0 (left, top) to 1.
        weights: [B,S,K,P].

    Returns:
        [B,S,D]
    """
    B, S, K, P = weights.shape  # K heads, P points
    maps = at_least_float32(values).mT.unflatten(2, grid).unflatten(1, (K, -1)).flatten(0, 1)  # [B*K,D/K,h,w]
    where = 2 * at_least_float32(places).transpose(1, 2).flatten(0, 1) - 1  # [B*K,S,P,2]
    read = F.grid_sample(maps, where, align_corners=False)  # [B*K,D/K,S,P]
    read = (read * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return read.unflatten(0, (B, K)).flatten(1, 2).mT


def reference_points(grids: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """The centre of every place of every level, [S,2], x and y from 0 to 1."""
    centres = []
    for h, w in grids:
        y, x = ((torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side for side in (h, w))
        centres.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1))
    return torch.cat(centres)


def star_of_offsets(heads: int, levels: int, points: int) -> Tensor:
    """Offsets to begin with, [K,M,P,2]: every head looks in a direction of its own, point p at p + 1 cells away."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    distances = torch.arange(1.0, points + 1)
    return (directions[:, None, None] * distances[:, None]).expand(heads, levels, points, 2).contiguous()


def _projection(width: int, config: DeformableConfig) -> nn.Module:
    convolution = nn.Conv2d(width, config.dim, 1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.get_parameter("bias"))
    return nn.Sequential(convolution, nn.GroupNorm(config.groups, config.dim))
