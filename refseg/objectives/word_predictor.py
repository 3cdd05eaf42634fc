"""The network that names hidden words from the other words, the image and the mask; Mask Grounding trains with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import sine_positions, sines


class WordPredictor(nn.Module):
    """Predictor([O; P; C]): a transformer over words, regions and one token for the mask, and a head that names words.

    The mask encoder C is an MLP on the centre of the referent, written in the same sines as the places of the regions.
    The image feature at that centre is added; and C is not only a token of its own, it is also added
    to every word. All of this is ours: by attention alone it took more than 500 steps of the lessons, and no end in
    sight, to find the mask's token among 150 and then the region at its place.

    Args:
        channels: widths of what it reads, words and pixels.
        words: number of words that it can name.
        dim: its width, a multiple of 4 and of ``heads``.
        layers, heads: of the transformer.
        grid: finer feature maps are pooled to this many regions per side.
    """

    def __init__(self, channels: tuple[int, int], words: int, dim: int, layers: int, heads: int, grid: int):
        super().__init__()
        self.grid = grid
        self.from_words = nn.Linear(channels[0], dim)
        self.from_pixels = nn.Linear(channels[1], dim)
        self.from_centre = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.kind = nn.Parameter(torch.zeros(3, dim))  # word, region, mask
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, words)

    def forward(self, words: Tensor, words_valid: Tensor, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head names words from, [B,L,D].

        Args:
            words: [B,L,Cw].
            words_valid: [B,L] bool.
            pixels: [B,Cp,h,w].
            mask: [B,1,H,W] bool, the referent; None hides it, and so does an empty mask.
        """
        tokens = [self.from_words(words) + self.kind[0], self._regions(pixels)]
        valid = [words_valid, words_valid.new_ones(tokens[1].shape[:2])]
        if mask is not None:
            centre, found = mask_centre(mask)
            code = self.from_centre(place_code(centre, self.kind.shape[1])) + self.kind[2]
            code = ((code + self.from_pixels(feature_at(pixels, centre))) * found[:, None])[:, None]
            tokens = [tokens[0] + code, tokens[1], code]
            valid.append(found[:, None])
        read = self.layers(torch.cat(tokens, 1), src_key_padding_mask=~torch.cat(valid, 1))  # torch: True = padding
        return read[:, : words.shape[1]]

    def _regions(self, pixels: Tensor) -> Tensor:
        """[B,Cp,h,w] -> [B,R,D], with their places."""
        h, w = pixels.shape[-2:]
        grid = min(h, self.grid), min(w, self.grid)
        pooled = F.adaptive_avg_pool2d(pixels, grid).flatten(2).mT
        places = sine_positions(grid, self.kind.shape[1], pixels)
        return self.from_pixels(pooled) + places + self.kind[1]


def mask_centre(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean position of the referent's pixels, [B,2], x and y from 0 to 1, and whether there are any, [B] bool.

    Args:
        mask: [B,1,H,W] bool.
    """
    H, W = mask.shape[-2:]
    area = mask.sum((1, 2, 3))
    columns = (torch.arange(W, device=mask.device) + 0.5) / W
    rows = (torch.arange(H, device=mask.device) + 0.5) / H
    x, y = (mask[:, 0].sum(1) * columns).sum(1), (mask[:, 0].sum(2) * rows).sum(1)
    return torch.stack([x, y], dim=1) / area.clamp(min=1)[:, None], area > 0


def feature_at(pixels: Tensor, place: Tensor) -> Tensor:
    """A map [B,C,h,w] at a place [B,2], x and y from 0 to 1, interpolated between the regions: [B,C]."""
    where = 2 * place[:, None, None].to(pixels.dtype) - 1
    return F.grid_sample(pixels, where, padding_mode="border", align_corners=False)[:, :, 0, 0]


def place_code(place: Tensor, channels: int) -> Tensor:
    """Sines and cosines of a place, as ``sine_positions`` writes the end of a region: [B,2] -> [B,C], rows first."""
    return sines(2 * torch.pi * place.flip(1), channels // 2).flatten(1)
