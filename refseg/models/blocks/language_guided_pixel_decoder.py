"""AlignFormer's pixel decoder: MagNet's deformable attention among levels, with a look at the words after every layer.

As in the authors' released code of the later version, LGFormer. What the decoder of AlignFormer itself looked like was
not at hand, and the look at the words may be new in the later version: a config can omit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import first_positions
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig, DeformablePixelDecoder
from refseg.models.blocks.layers import CrossAttentionLayer
from refseg.models.serialise import Config, rename_weights


@dataclass(frozen=True)
class DecoderWordsConfig(Config):
    """How the decoder's places look at the words; the values are those of the release."""

    heads: int = 8
    inner: int = 2048  # width of the feed-forward part
    max_words: int = 20  # size of the position table, the release's longest sentence


class LanguageGuidedPixelDecoder(nn.Module):
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
        super().__init__()
        self.upsampling = upsampling
        self.decoder = DeformablePixelDecoder(channels, config)
        self.decoder.pixels = nn.Conv2d(config.dim, config.dim * upsampling**2, 1)
        self.word_positions: nn.Parameter | None = None
        self.read_words = nn.ModuleList()
        if words is not None:
            self.word_positions = nn.Parameter(torch.randn(words.max_words, word_channels))
            size = (config.dim, words.heads, words.inner, word_channels)
            self.read_words = nn.ModuleList(CrossAttentionLayer(*size) for _ in range(config.layers))

    def forward(
        self, features: dict[str, Tensor], words: Tensor, token_valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What ``DeformablePixelDecoder`` gives, with a look at the words after every layer.

        Args:
            features: {level: [B,C,h,w]}.
            words: [B,L,Cl].
            token_valid: [B,L].

        Raises:
            RefsegError: more than ``max_words`` token positions.
        """
        if self.word_positions is None:
            pixels, levels = self.decoder(features)
        else:
            keys = words + first_positions(self.word_positions, words.shape[1], "pixel decoder")
            look = lambda n, tokens, places: self.read_words[n](tokens, places, keys, words, ~token_valid)  # noqa: E731
            pixels, levels = self.decoder(features, look)
        return F.pixel_shuffle(pixels, self.upsampling), levels

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Older checkpoints have the weights of ``decoder`` here."""
        parts = ("project.", "level_embedding.", "layers.", "add.", "pixels.")
        rename_weights(state_dict, prefix, {part: f"decoder.{part}" for part in parts})
        super()._load_from_state_dict(state_dict, prefix, *args)
