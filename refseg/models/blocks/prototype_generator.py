"""AlignFormer's centre embedding, refined step by step into the kernel that finds its pixels.

In AlignFormer "the linguistic feature is a centre embedding" that groups pixels; the later version, LGFormer, whose
released code this follows, calls it a query that becomes a prototype. The state looks at one level after the other.
Before the first look and after every one, a head computes a kernel from it: a vector of the pixels' width and a bias.
Pixels near the vector are the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.models.blocks.attention import keys_and_values
from refseg.models.blocks.layers import CrossAttentionLayer
from refseg.models.serialise import Config


@dataclass(frozen=True)
class PrototypeConfig(Config):
    """The values are those of the release."""

    dim: int = 768  # of the state
    layers: int = 6
    heads: int = 8
    inner: int = 2048  # width of the feed-forward part


class PrototypeGenerator(nn.Module):
    """From the sentence and the decoder's levels to one kernel per step.

    Args:
        sentence_channels: of the sentence.
        dim: D, of levels and pixels.
        levels: names of the levels in the order in which the layers look at them, again and again.
        config: depth and widths.
    """

    def __init__(self, sentence_channels: int, dim: int, levels: list[str], config: PrototypeConfig):
        super().__init__()
        self.levels = levels
        self.begin = nn.Linear(sentence_channels, config.dim)
        self.query_position = nn.Parameter(torch.randn(config.dim))
        self.level_embedding = nn.ParameterDict({level: torch.randn(dim) for level in levels})
        size = (config.dim, config.heads, config.inner, dim)
        self.layers = nn.ModuleList(CrossAttentionLayer(*size) for _ in range(config.layers))
        first, second = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.head = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(config.dim, dim + 1))

    def forward(
        self, sentence: Tensor, features: dict[str, Tensor], region_valid: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The centre as the sentence alone gives it, and after every look.

        Args:
            sentence: [B,C].
            features: {level: [B,D,h,w]}.
            region_valid: {level: [B,h,w]}.

        Returns:
            kernels [B,S,D] and biases [B,S], S = layers + 1 steps, the answer last
        """
        state = self.begin(sentence)[:, None]  # [B,1,Dq]
        states = [state]
        for number, layer in enumerate(self.layers):
            level = self.levels[number % len(self.levels)]
            keys, values = keys_and_values(features[level], self.level_embedding[level])
            state = layer(state, self.query_position, keys, values, ~region_valid[level].flatten(1))
            states.append(state)
        kernels = self.head(torch.cat(states, dim=1))
        return kernels[..., :-1], kernels[..., -1]
