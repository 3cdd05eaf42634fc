"""Cross-frame self-attention: the target frame asks the other frames what has changed. A RECONSTRUCTION of ours.

Ye et al., TPAMI 2021, name the module ("cross-frame self-attention (CFSA) module to effectively integrate temporal
information in consecutive frames"); its equations were not at hand and no code of it was found. What stands here is
what we would build from that sentence: every region of the target frame attends to all regions of all T frames,

    q_p = W_q x_p,  k_tp' = W_k x_tp',  g_tp' = W_v x_tp'
    x^_p = x_p + W_o sum_{t,p'} softmax_{t,p'}(q_p . k_tp' / sqrt(d)) g_tp',

several heads side by side. Unlike in CMSA, x_tp' is not a sum of a part of t and a part of p', so this softmax does
not factorise; with one target frame it is linear in T all the same.

Self-attention cannot tell before from after, nor left from right: a shuffled clip has the same keys. ``offsets`` adds
to every x_tp' sines of its row, its column, and of how many frames it lies from the target; without them a thing
that moves left looks like one that moves right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError

WAVES = 4  # frequencies per axis in ``where_and_when``; each gives a sine and a cosine


@dataclass
class CFSAConfig:
    """Width and heads; where the block stands; whether it knows places and times."""

    dim: int = 64  # of queries, keys and values, all heads together
    heads: int = 4
    before_cmsa: bool = False  # on visual features before the words come in; else on CMSA outputs before the fusion
    offsets: bool = True  # keys, queries and values know row, column and distance in time

    def __post_init__(self):
        if self.dim % self.heads:
            raise RefsegError(f"dim {self.dim} cannot be shared by {self.heads} heads: use a multiple.")


class CrossFrameSelfAttention(nn.Module):
    """The features of T frames in, those of the target frame out, with what the clip adds to them.

    ``out`` starts at zero: at first the block hands the target frame through, so it can be put into a trained network.

    Args:
        channels: C of the features.
        config: see there.
    """

    def __init__(self, channels: int, config: CFSAConfig):
        super().__init__()
        self.heads = config.heads
        self.offsets = config.offsets
        inputs = channels + (3 * 2 * WAVES if config.offsets else 0)
        self.query = nn.Linear(inputs, config.dim)
        self.key = nn.Linear(inputs, config.dim, bias=False)  # a bias would shift all scores of a query alike
        self.value = nn.Linear(inputs, config.dim)
        self.out = nn.Linear(config.dim, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, region_valid: Tensor | None = None
    ) -> Tensor:
        """The attended target frame.

        Args:
            x: [B,T,C,h,w], one feature map per frame.
            target_frame: [B] int64.
            frame_valid: [B,T] bool, True = a real frame.
            region_valid: [B,h,w] bool, True = a real part of the picture, in every frame; None means all are.

        Returns:
            [B,C,h,w]
        """
        query, key, value, key_valid = self._projected(x, target_frame, frame_valid, region_valid)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_valid[:, None, None])
        update = self.out(attended.transpose(1, 2).flatten(2))  # [B,R,C]
        return at_target(x, target_frame) + update.mT.unflatten(2, x.shape[-2:])

    def attention_row(
        self,
        x: Tensor,
        target_frame: Tensor,
        frame_valid: Tensor,
        query_region: int,
        region_valid: Tensor | None = None,
    ) -> Tensor:
        """The weights of one region of the target frame over all frames and regions, one map per head.

        Args:
            query_region: row * w + column; the rest as in ``forward``.

        Returns:
            [B,heads,T,h,w]; each head sums to one
        """
        query, key, _, key_valid = self._projected(x, target_frame, frame_valid, region_valid)
        scores = query[:, :, query_region, None] @ key.mT / math.sqrt(key.shape[-1])  # [B,heads,1,T*R]
        weights = scores.masked_fill(~key_valid[:, None, None], -math.inf).softmax(-1)
        return weights[:, :, 0].unflatten(2, (x.shape[1], *x.shape[-2:]))

    def frame_weights(
        self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, region_valid: Tensor | None = None
    ) -> Tensor:
        """Where in time every region of the target frame looks, averaged over the heads: [B,T,h,w], sums to one over T.

        Arguments as in ``forward``. Frame by frame, so that memory does not grow with T.
        """
        query, key, _, key_valid = self._projected(x, target_frame, frame_valid, region_valid)
        h, w = x.shape[-2:]
        totals = []  # per frame: log of the sum of exponentials, [B,heads,R]
        for keys, valid in zip(key.split(h * w, dim=2), key_valid.split(h * w, dim=1), strict=True):
            scores = query @ keys.mT / math.sqrt(key.shape[-1])
            totals.append(scores.masked_fill(~valid[:, None, None], -math.inf).logsumexp(-1))
        return torch.stack(totals, 1).softmax(1).mean(2).unflatten(2, (h, w))

    def _projected(
        self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, region_valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """query [B,heads,R,d], key and value [B,heads,T*R,d], key_valid [B,T*R]."""
        B, T, _, h, w = x.shape
        if self.offsets:
            x = torch.cat([x, where_and_when(T, h, w, target_frame).to(x.dtype)], dim=2)
        every = x.flatten(3).mT.flatten(1, 2)  # [B,T*R,C]
        own = at_target(x, target_frame).flatten(2).mT  # [B,R,C]
        query, key, value = (
            linear(features).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, features in ((self.query, own), (self.key, every), (self.value, every))
        )
        regions = torch.ones(B, h * w, dtype=torch.bool, device=x.device)
        if region_valid is not None:
            regions = region_valid.flatten(1)
        return query, key, value, (frame_valid[:, :, None] & regions[:, None]).flatten(1)


def at_target(x: Tensor, target_frame: Tensor) -> Tensor:
    """The target frame's part of [B,T,...], [B,...]."""
    return x[torch.arange(len(x), device=x.device), target_frame]


def where_and_when(T: int, h: int, w: int, target_frame: Tensor) -> Tensor:
    """Sines and cosines of row, column, and frame minus target frame: [B,T,3*2*WAVES,h,w].

    The wavelengths double from 4 cells (frames) on: the shortest tells neighbours apart, with a sign; the longest
    spans the map. Row and column are counted from the upper left corner, in cells.
    """
    device = target_frame.device
    frame = torch.arange(T, device=device) - target_frame[:, None]  # [B,T]
    B = len(target_frame)
    row, column = torch.arange(h, device=device), torch.arange(w, device=device)
    axes = [
        waves(row)[None, None, :, :, None].expand(B, T, -1, h, w),
        waves(column)[None, None, :, None, :].expand(B, T, -1, h, w),
        waves(frame).movedim(0, -1)[..., None, None].expand(B, T, -1, h, w),
    ]
    return torch.cat(axes, dim=2)


def waves(position: Tensor) -> Tensor:
    """[...] -> [2*WAVES,...]: sine and cosine at wavelengths 4, 8, 16, ..."""
    lengths = 4.0 * 2.0 ** torch.arange(WAVES, device=position.device)
    angles = 2 * math.pi * position / lengths.view(-1, *[1] * position.ndim)
    return torch.cat([angles.sin(), angles.cos()])


@dataclass
class FrameMeanConfig:
    """The control: the mean over the frames, without attention."""

    before_cmsa: bool = False


class FrameMean(nn.Module):
    """The control without attention: mean over the real frames.

    Args:
        channels: of the features; not used.
        config: empty but for its place.
    """

    def __init__(self, channels: int, config: FrameMeanConfig):
        super().__init__()

    def forward(
        self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, region_valid: Tensor | None = None
    ) -> Tensor:
        """As ``CrossFrameSelfAttention.forward``; only ``frame_valid`` plays a part."""
        share = frame_valid / frame_valid.sum(1, keepdim=True)
        return (x * share[:, :, None, None, None].to(x.dtype)).sum(1)


TEMPORAL = {CFSAConfig: CrossFrameSelfAttention, FrameMeanConfig: FrameMean}
