"""Cross-frame self-attention: the target frame asks the other frames what has changed. A RECONSTRUCTION of ours.

Ye et al., TPAMI 2021, name the module ("cross-frame self-attention (CFSA) module to effectively integrate temporal
information in consecutive frames"); its equations were not at hand and no code of it was found. What follows is
what we would build from that sentence: every region p of the target frame attends to all regions of all T frames,

    q_p = W_q x_p,  k_tp' = W_k x_tp',  g_tp' = W_v x_tp'
    x^_p = x_p + MLP(sum_{t,p'} a_tp' g_tp'),   a = softmax_{t,p'}(q_p . k_tp' / sqrt(d)),

several heads side by side, on features normalised per region (LayerNorm). Unlike in CMSA, x_tp' is not a sum of a part
of t and a part of p', so this softmax does not factorise; with one target frame it is still linear in T.

So far it cannot tell before from after, nor left from right: shuffle the frames and nothing changes. With ``offsets``
each head also prefers some times and the neighbourhood of p, both learned,

    score += u_h . waves(t - target) - |p' - p|^2 / (2 width_h^2),

and passes on the mean offset of what it looked at, sum a_tp' (p' - p, t - target): an object that was to the right one
frame earlier is moving left. Half of the heads begin by looking back, half by looking ahead, and queries and keys
begin alike, so that a region first finds what looks like itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.attention import Kept
from refseg.models.serialise import Config

WAVES = 4  # wavelengths in ``waves``: 4, 8, 16 and 32 frames
BACK, OWN, AHEAD = -1, WAVES, 1  # the sine of 8 frames falls and rises around the target, the cosine of 4 peaks there
BEGINNINGS = [(wave, width) for width in (0.6, 1.2) for wave in (BACK, OWN, AHEAD)]


@dataclass(frozen=True)
class TemporalConfig(Config):
    """Base of the configs of what looks across the frames of a clip."""

    before_cmsa: bool = False  # on visual features before the words come in; else on CMSA outputs before the fusion

    def build(self, channels: int) -> TemporalBlock:
        """The block of one level, for features of this width."""
        raise NotImplementedError


class TemporalBlock(nn.Module):
    """Base of the blocks: the features of T frames in, those of the target frame out.

    A block with attention puts a ``FrameAttention`` into ``kept``, as "looks".
    """

    def forward(
        self,
        x: Tensor,
        target_frame: Tensor,
        frame_valid: Tensor,
        region_valid: Tensor | None = None,
        kept: Kept = None,
    ) -> Tensor:
        """The target frame, with what the others add to it.

        Args:
            x: [B,T,C,h,w], one feature map per frame.
            target_frame: [B] int64.
            frame_valid: [B,T] bool, True = a real frame.
            region_valid: [B,h,w] bool, True = a real part of the image, in every frame; None means all are.
            kept: receives what ``explain`` needs, by name.

        Returns:
            [B,C,h,w]
        """
        raise NotImplementedError


@dataclass(frozen=True)
class CFSAConfig(TemporalConfig):
    """Width and heads; where the block is; whether it knows places and times."""

    dim: int = 96  # of queries, keys and values, all heads together
    heads: int = 12  # with offsets six kinds of them, see BEGINNINGS
    offsets: bool = True  # heads prefer times and places, and report where they looked

    def __post_init__(self):
        if self.dim % self.heads:
            raise RefsegError(f"dim {self.dim} cannot be shared by {self.heads} heads: use a multiple.")

    def build(self, channels: int) -> CrossFrameSelfAttention:
        return CrossFrameSelfAttention(channels, self)


class FrameAttention(NamedTuple):
    """What the target frame's regions attend with; the scores are query . key."""

    query: Tensor  # [B,heads,R,d]
    key: Tensor  # [B,heads,T*R,d]
    value: Tensor  # [B,heads,T*R,d]
    key_valid: Tensor  # [B,T*R] bool

    def row(self, query_region: int) -> Tensor:
        """The weights of one region over all frames and regions, by head: [B,heads,T,R]; each head sums to one.

        Args:
            query_region: row * w + column.
        """
        scores = self.query[:, :, query_region, None] @ self.key.mT  # [B,heads,1,T*R]
        weights = scores.masked_fill(~self.key_valid[:, None, None], -math.inf).softmax(-1)
        return weights[:, :, 0].unflatten(2, (-1, self.query.shape[2]))

    def frame_weights(self) -> Tensor:
        """Where in time every region of the target frame looks, by head: [B,heads,T,R], sums to one over T.

        Frame by frame, so that memory does not grow with T.
        """
        R = self.query.shape[2]
        totals = []  # per frame: log of the sum of exponentials, [B,heads,R]
        for keys, valid in zip(self.key.split(R, dim=2), self.key_valid.split(R, dim=1), strict=True):
            scores = (self.query @ keys.mT).masked_fill(~valid[:, None, None], -math.inf)
            totals.append(scores.logsumexp(-1))
        return torch.stack(totals, 2).softmax(2)


class CrossFrameSelfAttention(TemporalBlock):
    """The features of T frames in, those of the target frame out, with what the clip adds to them.

    The last layer starts at zero: at first the target frame passes through unchanged, so the block can be
    put into a trained network.

    Args:
        channels: C of the features.
        config: see there.
    """

    def __init__(self, channels: int, config: CFSAConfig):
        super().__init__()
        self.heads = config.heads
        self.offsets = config.offsets
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, config.dim)
        self.key = nn.Linear(channels, config.dim, bias=False)  # a bias would shift all scores of a query alike
        self.value = nn.Linear(channels, config.dim)
        joined = config.dim + 3 * config.heads * config.offsets
        first, last = nn.Linear(joined, config.dim), nn.Linear(config.dim, channels)  # a seed draws them in this order
        self.out = nn.Sequential(first, nn.ReLU(inplace=True), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.zeros_(self.query.bias)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
        if config.offsets:
            kinds = [BEGINNINGS[head % len(BEGINNINGS)] for head in range(config.heads)]
            self.log_width = nn.Parameter(torch.tensor([math.log(width) for _, width in kinds]))  # in regions
            self.time = nn.Parameter(torch.zeros(config.heads, 2 * WAVES))  # u_h
            with torch.no_grad():
                for head, (wave, _) in enumerate(kinds):
                    self.time[head, abs(wave)] = math.copysign(4.0, wave)

    def forward(
        self,
        x: Tensor,
        target_frame: Tensor,
        frame_valid: Tensor,
        region_valid: Tensor | None = None,
        kept: Kept = None,
    ) -> Tensor:
        """The attended target frame, [B,C,h,w]. Kept is "looks"."""
        looks = self.attention(x, target_frame, frame_valid, region_valid)
        if kept is not None:
            kept["looks"] = looks
        mask = looks.key_valid[:, None, None]
        attended = F.scaled_dot_product_attention(looks.query, looks.key, looks.value, mask, scale=1.0)
        if self.offsets:
            h, w = x.shape[-2:]
            attended = torch.cat(
                [attended[..., :-EXTRA], attended[..., -EXTRA : 3 - EXTRA] - own_place(h, w, attended)], -1
            )
        update = self.out(attended.transpose(1, 2).flatten(2))  # [B,R,C]
        return at_target(x, target_frame) + update.mT.unflatten(2, x.shape[-2:])

    def attention(
        self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, region_valid: Tensor | None = None
    ) -> FrameAttention:
        """What ``forward`` attends with on these inputs.

        With ``offsets`` d grows by ``EXTRA``: a quadratic in p' is a scalar product too, so that the fused kernel
        computes the preferences with the rest, and never a matrix of them.
        """
        B, T, _, h, w = x.shape
        normed = self.norm(x.flatten(3).mT)  # [B,T,R,C]
        own, every = at_target(normed, target_frame), normed.flatten(1, 2)
        query, key, value = (
            linear(features).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, features in ((self.query, own), (self.key, every), (self.value, every))
        )
        query = query / math.sqrt(query.shape[-1])
        regions = torch.ones(B, h * w, dtype=torch.bool, device=x.device)
        if region_valid is not None:
            regions = region_valid.flatten(1)
        if self.offsets:
            query = torch.cat([query, self._wanted(h, w, query)], dim=-1)
            key_extra, value_extra = places_and_times(T, h, w, target_frame, query.dtype)
            key = torch.cat([key, key_extra.expand(-1, self.heads, -1, -1)], dim=-1)
            value = torch.cat([value, value_extra.expand(-1, self.heads, -1, -1)], dim=-1)
        return FrameAttention(query, key, value, (frame_valid[:, :, None] & regions[:, None]).flatten(1))

    def _wanted(self, h: int, w: int, like: Tensor) -> Tensor:
        """What queries put against the extra keys, [B,heads,R,EXTRA].

        -|p' - p|^2 / 2 is p . p' - |p'|^2 / 2 and a constant, which the softmax does not see.
        """
        sharpness = (-2 * self.log_width).exp()[:, None, None]
        place = own_place(h, w, like)[..., :2].expand(self.heads, -1, -1)  # [heads,R,2]
        half = torch.full_like(place[..., :1], -0.5)
        time = self.time[:, None].expand(-1, h * w, -1)
        return torch.cat([sharpness * place, sharpness * half, time], -1).expand(len(like), -1, -1, -1).to(like.dtype)


EXTRA = 3 + 2 * WAVES


def own_place(h: int, w: int, like: Tensor) -> Tensor:
    """Row, column and time of the regions of the target frame: [R,3], time zero."""
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([row, column, torch.zeros_like(row)], -1).flatten(0, 1).to(like)


def places_and_times(T: int, h: int, w: int, target_frame: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The extra parts of keys and values, [B,1,T*R,EXTRA] each.

    Keys: row, column, the sum of their squares, ``waves`` of the distance in time. Values: row, column, distance in
    time, zeros.
    """
    B, R = len(target_frame), h * w
    time = torch.arange(T, device=target_frame.device) - target_frame[:, None]  # [B,T]
    place = own_place(h, w, target_frame)[:, :2].to(dtype)  # [R,2]
    place = place.expand(B, T, R, 2)
    square = place.square().sum(-1, keepdim=True)
    in_time = waves(time).to(dtype)[:, :, None].expand(B, T, R, -1)
    keys = torch.cat([place, square, in_time], -1)
    values = torch.cat([place, time.to(dtype)[:, :, None, None].expand(B, T, R, 1), torch.zeros_like(in_time)], -1)
    return keys.flatten(1, 2)[:, None], values.flatten(1, 2)[:, None]


def at_target(x: Tensor, target_frame: Tensor) -> Tensor:
    """The target frame's part of [B,T,...], [B,...]."""
    return x[torch.arange(len(x), device=x.device), target_frame]


def onto_frames(x: Tensor, frame_valid: Tensor) -> Tensor:
    """Real frames [V,...] back to where ``frame_valid`` [B,T] has its V True, zero elsewhere: [B,T,...]."""
    frames = x.new_zeros(*frame_valid.shape, *x.shape[1:])
    frames[frame_valid] = x
    return frames


def waves(time: Tensor) -> Tensor:
    """[...] -> [...,2*WAVES]: sines, then cosines, of ``WAVES`` wavelengths from 4 frames on, each twice the last."""
    lengths = 4.0 * 2.0 ** torch.arange(WAVES, device=time.device)
    angles = 2 * math.pi * time[..., None] / lengths
    return torch.cat([angles.sin(), angles.cos()], -1)


@dataclass(frozen=True)
class FrameMeanConfig(TemporalConfig):
    """The control: the mean over the frames, without attention."""

    def build(self, channels: int) -> FrameMean:
        return FrameMean()


class FrameMean(TemporalBlock):
    """The control without attention: mean over the real frames."""

    def forward(self, x: Tensor, target_frame: Tensor, frame_valid: Tensor, *others: Any) -> Tensor:
        """As every block; only ``frame_valid`` plays a part, and nothing is kept."""
        share = frame_valid / frame_valid.sum(1, keepdim=True)
        return (x * share[:, :, None, None, None].to(x.dtype)).sum(1)
