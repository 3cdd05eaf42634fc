"""AlignFormer's pixel decoder: MagNet's deformable attention among levels, with a look at the words after every layer.

As in the authors' released code of the later version, LGFormer. What the decoder of AlignFormer itself looked like was
not at hand, and the look at the words may be new in the later version: a config leaves it away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig, DeformablePixelDecoder, reference_points
from refseg.models.serialise import Config


@dataclass(frozen=True)
class DecoderWordsConfig(Config):
    """How the decoder's places look at the words; the values are those of the release."""

    heads: int = 8
    inner: int = 2048  # width of the feed-forward part
    max_words: int = 20  # size of the position table, the release's longest sentence


class LanguageGuidedPixelDecoder(DeformablePixelDecoder):
    """Levels and words in, the same levels that know of each other and of the words out, and one embedding per pixel.

    Args:
        channels: {level: width}, from the coarsest to the finest.
        word_channels: of the words.
        config: widths and depths.
        words: how the places look at the words, or None: they do not.
        upsampling: pixels are finer than the finest level, by that factor (ours, for the lessons).
    """

    def __init__(
        self,
        channels: dict[str, int],
        word_channels: int,
        config: DeformableConfig,
        words: DecoderWordsConfig | None,
        upsampling: int = 1,
    ):
        super().__init__(channels, config)
        self.upsampling = upsampling
        self.pixels = nn.Conv2d(config.dim, config.dim * upsampling**2, 1)
        self.read_words: nn.ModuleList | None = None
        self.word_positions: nn.Parameter | None = None
        if words is not None:
            self.word_positions = nn.Parameter(torch.randn(words.max_words, word_channels))
            self.read_words = nn.ModuleList(WordLayer(config.dim, word_channels, words) for _ in self.layers)

    def forward(
        self, features: dict[str, Tensor], words: Tensor, token_valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the base class gives, from {level: [B,C,h,w]}, words [B,L,Cl] and their validity [B,L]."""
        levels = {level: project(features[level]) for level, project in self.project.items()}
        levels = self.attend(levels, words, token_valid)
        finest = list(levels.values())[-1]
        for level, step in self.add.items():
            finest = step(features[level], finest)
        return F.pixel_shuffle(self.pixels(finest), self.upsampling), levels

    def attend(self, levels: dict[str, Tensor], words: Tensor, token_valid: Tensor) -> dict[str, Tensor]:
        """All layers, among the places and to the words in turn: {level: [B,D,h,w]} to the same shapes.

        Raises:
            RefsegError: more than ``max_words`` token positions.
        """
        grids = [x.shape[-2:] for x in levels.values()]
        tokens = torch.cat([x.flatten(2).mT for x in levels.values()], dim=1)  # [B,S,D], S places of all levels
        places, references = self._positions(levels), reference_points(grids, tokens)
        keys = words if self.word_positions is None else words + first_positions(self.word_positions, words.shape[1])
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, places, references, grids)
            if self.read_words is not None:
                tokens = self.read_words[number](tokens, places, keys, words, token_valid)
        parts = tokens.split([h * w for h, w in grids], dim=1)
        return {level: part.mT.unflatten(2, grid) for level, part, grid in zip(levels, parts, grids, strict=True)}


def first_positions(table: Tensor, L: int) -> Tensor:
    """The first ``L`` rows of a table of positions [M,C].

    Raises:
        RefsegError: the table has fewer.
    """
    if len(table) < L:
        raise RefsegError(f"The batch has {L} words, the pixel decoder knows {len(table)}: cut them in the tokenizer.")
    return table[:L]


class WordLayer(nn.Module):
    """Attention to the words and a feed-forward part, each normalised behind its residual."""

    def __init__(self, dim: int, word_channels: int, config: DecoderWordsConfig):
        super().__init__()
        size = {"kdim": word_channels, "vdim": word_channels, "batch_first": True}
        self.attention = nn.MultiheadAttention(dim, config.heads, **size)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, config.inner), nn.ReLU(), nn.Linear(config.inner, dim))
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, places: Tensor, keys: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """tokens [B,S,D], places [S,D], keys and words [B,L,Cl], valid [B,L] -> [B,S,D]."""
        padded = ~token_valid  # torch's mask says where padding is
        told, _ = self.attention(tokens + places, keys, words, key_padding_mask=padded, need_weights=False)
        tokens = self.attention_norm(tokens + told)
        return self.feed_forward_norm(tokens + self.feed_forward(tokens))
