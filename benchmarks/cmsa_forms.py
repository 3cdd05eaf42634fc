"""The forms of the CMSA block that ``cmsa.py`` compares, on random inputs of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from refseg.models.blocks.attention import SPATIAL_CHANNELS, masked_mean
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.blocks.cross_modal import mean_multimodal_feature, multimodal_parts, project_parts
from refseg.models.blocks.word_average import word_by_word_weights


@dataclass(frozen=True)
class Point:
    """One size: regions P, words N, attention width d (also the width of the features of images and words), batch."""

    positions: int = 1600
    words: int = 20
    dim: int = 512
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"

    def grid(self) -> tuple[int, int]:
        """The most square h x w with h * w = positions."""
        h = max(n for n in range(1, int(self.positions**0.5) + 1) if self.positions % n == 0)
        return h, self.positions // h

    def literal_operations(self) -> float:
        """Multiply-adds of one forward pass of the literal form."""
        return 2.0 * self.batch * (self.positions * self.words) ** 2 * self.dim

    def literal_gib(self) -> float:
        """Forward and backward hold the scores about four times."""
        return 4 * 4 * self.batch * (self.positions * self.words) ** 2 / 2**30


class PlainBlock(nn.Module):
    """Non-local block over regions: the same visual width and attention width as CMSA, and no words."""

    def __init__(self, visual_channels: int, dim: int):
        super().__init__()
        channels = visual_channels + SPATIAL_CHANNELS
        self.query, self.key, self.value = (nn.Linear(channels, dim) for _ in range(3))
        self.out = nn.Linear(dim, channels)

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """``words`` are ignored."""
        v, _, s = multimodal_parts(pixels, words)
        f = torch.cat([v, s.expand(len(v), -1, -1)], dim=-1)
        weights = (self.query(f) @ self.key(f).mT).softmax(-1)
        return (self.out(weights @ self.value(f)) + f).transpose(1, 2)


def attended_per_word(block: CrossModalSelfAttention, pixels: Tensor, words: Tensor, valid: Tensor) -> Tensor:
    """The attended value averaged over the query words, one softmax per query word, [B,R,d]."""
    parts = multimodal_parts(pixels, words)
    value_p, value_n = project_parts(block.value, *parts)
    scores_pp, scores_np, scores_pn, scores_nn = block.scores(*parts, valid, None)
    alpha = word_by_word_weights(scores_pp, scores_np, valid)
    beta = word_by_word_weights(scores_pn, scores_nn, valid)
    return alpha @ value_p + beta @ value_n


def attended_literal(
    block: CrossModalSelfAttention,
    pixels: Tensor,
    words: Tensor,
    valid: Tensor,
    fused: bool,
    rows: Tensor | None = None,
) -> Tensor:
    """The same by the joint softmax over all word-region pairs; ``rows`` restricts the query regions."""
    parts = multimodal_parts(pixels, words)
    pairs = []
    for linear in (block.query, block.key, block.value):
        part_p, part_n = project_parts(linear, *parts)
        if linear is block.query and rows is not None:
            part_p = part_p[:, rows]
        pairs.append(part_n[:, :, None] + part_p[:, None])  # [B,L,R,d]
    query, key, value = (pair.flatten(1, 2) for pair in pairs)
    if fused:
        attended = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=block.scale)[:, 0]
    else:
        attended = (block.scale * query @ key.mT).softmax(-1) @ value
    return masked_mean(attended.unflatten(1, pairs[0].shape[1:3]), valid[:, :, None, None], dim=1)


def attended(form: str, block: CrossModalSelfAttention, *inputs: Tensor) -> Tensor:
    """The attended value [B,R,d] by the named form."""
    if form == "rank_n":
        pixels, words, valid = inputs
        return block.factorised(*multimodal_parts(pixels, words), valid, None)
    if form == "per_word":
        return attended_per_word(block, *inputs)
    return attended_literal(block, *inputs, fused=form == "literal_sdpa")


def whole_block(form: str, block: nn.Module, *inputs: Tensor) -> Tensor:
    """The output of the whole module by the named form."""
    if form in ("plain", "rank_n"):
        return block(*inputs)
    fused = block.out(attended(form, block, *inputs)) + mean_multimodal_feature(*inputs)
    return fused.transpose(1, 2)


def make(point: Point, form: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    """A block with the weights of ``seed``, and inputs that ask for gradients."""
    torch.manual_seed(seed)
    pixels = torch.randn(point.batch, point.dim, *point.grid())
    words = torch.randn(point.batch, point.words, point.dim)
    block = PlainBlock(point.dim, point.dim)
    if form != "plain":
        block = CrossModalSelfAttention(point.dim, point.dim, CMSAConfig(point.dim))
    inputs = [x.to(point.device).requires_grad_() for x in (pixels, words)]
    valid = torch.ones(point.batch, point.words, dtype=torch.bool, device=point.device)
    return block.to(point.device), (*inputs, valid)


def run(point: Point, form: str, block: nn.Module, inputs: tuple[Tensor, ...], backward: bool) -> None:
    """One pass; under autocast where the point asks for a short type."""
    short = point.dtype != "float32"
    with torch.set_grad_enabled(backward), torch.autocast(point.device, getattr(torch, point.dtype), enabled=short):
        output = whole_block(form, block, *inputs)
    if backward:
        output.float().square().mean().backward()
    if point.device == "cuda":
        torch.cuda.synchronize()
