"""CMSA-Net: cross-modal self-attention on three levels, gated fusion, a mask (Ye et al., CVPR 2019, Fig. 2).

With a temporal part it is the network for video (TPAMI 2021, as we reconstruct it, see ``cfsa``); an image is a clip
of one frame.

``CMSANetConfig.paper`` is the network of the paper's equations. The authors' TensorFlow release computes something else
in several places (ReLUs on queries, keys and values, pooled keys, per-channel gates): ``CMSANetConfig.release``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.backbones import BackboneConfig, ResNet101BackboneConfig, SmallBackboneConfig
from refseg.models.base import Explanation, ModelConfig, ReferringModel
from refseg.models.blocks.attention import masked_mean, regions_with_pixels
from refseg.models.blocks.cfsa import TemporalConfig, at_target, onto_frames
from refseg.models.blocks.cmsa import CMSAConfig
from refseg.models.blocks.cmsa_release import CMSAReleaseConfig, CMSAReleaseLevelsConfig
from refseg.models.blocks.cross_modal import CrossModalConfig
from refseg.models.blocks.mask_head import HeadConfig, MaskHeadConfig, ReleaseMaskHeadConfig, SkipMaskHeadConfig
from refseg.models.fusion import FusionConfig, GMLFConfig, ReleaseGMLFConfig
from refseg.models.text import ContextualWordsConfig, TextConfig, WordEmbeddingConfig
from refseg.types import Prediction, RefBatch

LEVELS = ("c3", "c4", "c5")


@dataclass(frozen=True)
class CMSANetConfig(ModelConfig):
    """The parts of the network; the class of each part's config chooses the part."""

    backbone: BackboneConfig
    text: TextConfig
    cross_modal: CrossModalConfig
    fusion: FusionConfig
    head: HeadConfig
    c5_dim: int | None = None  # width to which C5 is projected before the attention; the release: 1000
    normalize_levels: bool = False  # BatchNorm after the 1x1 convolution of each level (ours: small nets learn faster)
    xavier: bool = False  # the 1x1 convolutions and the head start from Xavier weights, as in the release
    temporal: TemporalConfig | None = None  # what looks across the frames of a clip; None: target frame only

    def build(self, vocabulary_size: int) -> CMSANet:
        return CMSANet(self, vocabulary_size)

    @classmethod
    def lesson(cls) -> CMSANetConfig:
        """About 0.9 million parameters: trains from scratch at 96 px on two CPU cores."""
        return cls(
            SmallBackboneConfig(),
            ContextualWordsConfig(dim=64),
            CMSAConfig(dim=64),
            GMLFConfig(dim=64),
            SkipMaskHeadConfig(),
            normalize_levels=True,
        )

    @classmethod
    def paper(cls, weights: str | None = None) -> CMSANetConfig:
        """The paper's widths, for 320 px and 20 words.

        Args:
            weights: of the ResNet-101, see ``ResNet101BackboneConfig``. Given weights stay fixed, as in the release;
                without any the backbone starts at random and learns.
        """
        return cls(
            ResNet101BackboneConfig(weights=weights, frozen=weights is not None),
            WordEmbeddingConfig(dim=1000),
            CMSAConfig(dim=512),
            GMLFConfig(dim=500),
            MaskHeadConfig(),
        )

    @classmethod
    def release(cls, weights: str | None = None) -> CMSANetConfig:
        """What the authors' TensorFlow release computes, for 320 px and 20 words; the arguments are those of ``paper``.

        The backbone is torchvision's ResNet-101; ``refseg convert-cmsa-release`` puts ``DeepLabBackboneConfig`` there.
        """
        return replace(
            cls.paper(weights),
            cross_modal=CMSAReleaseLevelsConfig(),
            fusion=ReleaseGMLFConfig(dim=500),
            head=ReleaseMaskHeadConfig(),
            c5_dim=1000,
            xavier=True,
        )

    @classmethod
    def release_lesson(cls) -> CMSANetConfig:
        """``lesson`` with attention and fusion of the release, everything else alike."""
        return replace(
            cls.lesson(),
            cross_modal=CMSAReleaseLevelsConfig(
                c3=CMSAReleaseConfig(32, 64), c4=CMSAReleaseConfig(32, 64), c5=CMSAReleaseConfig(64)
            ),
            fusion=ReleaseGMLFConfig(dim=64),
        )


class CMSANet(ReferringModel):
    """An image or clip and an expression in, mask logits of the target frame out.

    Args:
        config: the parts.
        vocabulary_size: number of token ids; 12,112 in the release.
    """

    config: CMSANetConfig

    def __init__(self, config: CMSANetConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.text = config.text.build(vocabulary_size)
        widths = {level: self.backbone.channels[level] for level in LEVELS}
        self.project_c5 = nn.Identity()
        if config.c5_dim is not None:
            self.project_c5 = nn.Conv2d(widths["c5"], config.c5_dim, 1)
            widths["c5"] = config.c5_dim
        words, dim = self.text.channels, config.fusion.dim
        blocks = {level: config.cross_modal.at_level(level).build(widths[level], words) for level in LEVELS}
        self.cross_modal = nn.ModuleDict(blocks)
        self.common_width = nn.ModuleDict({level: self._to_common_width(blocks[level].channels) for level in LEVELS})
        if config.normalize_levels:
            for block in blocks.values():
                block.freeze_constants()
        self.visual_channels = {}
        if not self.backbone.frozen:
            self.visual_channels |= {f"backbone/{level}": self.backbone.channels[level] for level in LEVELS}
        self.trace_channels = {"words": words, "sentence": words, "pixels": dim}
        if blocks["c5"].pools_words:
            self.trace_channels["pooled_words"] = blocks["c5"].channels
        self.temporal, self.frames_first = nn.ModuleDict(), False
        if config.temporal is not None:
            self.frames_first = config.temporal.before_cmsa
            widths = self.backbone.channels if self.frames_first else dict.fromkeys(LEVELS, dim)
            self.temporal.update({level: config.temporal.build(widths[level]) for level in LEVELS})
            self.visual_channels |= {f"temporal/{level}": widths[level] for level in LEVELS}
        self.fusion = config.fusion.build(LEVELS)
        self.head = config.head.build(self.fusion.channels, self.backbone.channels)
        if config.xavier:
            for part in (self.project_c5, self.common_width, self.head):
                part.apply(_xavier)

    def _to_common_width(self, channels: int) -> nn.Module:
        dim = self.config.fusion.dim
        if not self.config.normalize_levels:
            return nn.Conv2d(channels, dim, 1)
        return nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, batch: RefBatch) -> Prediction:
        """Figure 2 of the paper, from left to right.

        Returns:
            mask_logits [B,1,h',w'] at the head's stride; the trace of every model, with, by level, backbone/c3 .. c5,
            fused/c3 .. c5 and, with a temporal part, what it gives, temporal/c3 .. c5, all [B,C,h,w] of the target
            frame
        """
        words, words_valid = self.text(batch.token_ids, batch.token_valid)
        trace = {"words": words, "words_valid": words_valid}
        trace["sentence"] = masked_mean(words, words_valid[..., None], dim=1)
        if not self.temporal:
            features = self.features(batch)
            fused = self.fuse_words(features, words, words_valid, batch.pixel_valid, trace)
        else:
            features, fused = self._clips(batch, words, words_valid, trace)
        trace["pixels"] = self.fusion(fused, trace)
        trace |= {f"backbone/{level}": features[level] for level in LEVELS}
        trace |= {f"fused/{level}": x for level, x in fused.items()}
        return Prediction(self.head(trace["pixels"], features), trace)

    def features(self, batch: RefBatch) -> dict[str, Tensor]:
        """The backbone's levels for every target frame, {level: [B,C,h,w]}; each distinct image is looked at once."""
        if batch.features is not None:
            return {level: at_target(x, batch.target_frame).float() for level, x in batch.features.items()}
        images, image_of = batch.distinct_images()
        features = self.backbone(images)
        if len(images) == len(batch):
            return features
        return {level: x[image_of] for level, x in features.items()}

    def fuse_words(
        self,
        features: dict[str, Tensor],
        words: Tensor,
        words_valid: Tensor,
        pixel_valid: Tensor,
        trace: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Cross-modal attention and the 1x1 convolution to the common width: {level: X [B,C,h,w]}.

        What the attention of a level keeps goes into ``trace``, as attention/LEVEL.
        """
        fused = {}
        for level in LEVELS:
            pixels = self.project_c5(features[level]) if level == "c5" else features[level]
            regions, kept = regions_with_pixels(pixel_valid, pixels.shape[-2:]), {}
            joined = self.cross_modal[level](pixels, words, words_valid, regions, kept)
            fused[level] = torch.relu(self.common_width[level](joined))
            trace |= {f"{name}/{level}": value for name, value in kept.items()}
        return fused

    def _clips(
        self, batch: RefBatch, words: Tensor, words_valid: Tensor, trace: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The target frame by level, from the backbone and with words and other frames: {level: [B,C,h,w]} each."""
        first, clip_of = batch.distinct_rows()
        clips = self.clip_features(batch)
        features = {level: at_target(x, batch.target_frame[first])[clip_of] for level, x in clips.items()}
        if self.frames_first:  # each distinct clip once, then the words
            trace["clip_of"] = clip_of
            temporal = {level: x[clip_of] for level, x in self._across_frames(clips, batch, first, trace).items()}
            fused = self.fuse_words(temporal, words, words_valid, batch.pixel_valid, trace)
        else:  # the words with every real frame of every sample, then across the frames
            real, every = batch.frame_valid, torch.arange(len(clip_of), device=clip_of.device)
            sample_of = real.nonzero()[:, 0]
            frames = {level: clips[level][clip_of][real] for level in LEVELS}
            read = words[sample_of], words_valid[sample_of], batch.pixel_valid[sample_of]
            seen = self.fuse_words(frames, *read, trace)
            trace["target_rows"] = at_target(real.flatten().cumsum(0).view_as(real) - 1, batch.target_frame)
            seen = {level: onto_frames(x, real) for level, x in seen.items()}
            temporal = fused = self._across_frames(seen, batch, every, trace)
        trace |= {f"temporal/{level}": x for level, x in temporal.items()}
        return features, fused

    def clip_features(self, batch: RefBatch) -> dict[str, Tensor]:
        """The backbone's levels for every frame of each distinct clip, {level: [I,T,C,h,w]}, zero in padded frames.

        Padded frames are not looked at: they would count in a BatchNorm's statistics.
        """
        first, _ = batch.distinct_rows()
        if batch.features is not None:
            return {level: x[first].float() for level, x in batch.features.items()}
        frames, valid = batch.frames[first], batch.frame_valid[first]
        return {level: onto_frames(x, valid) for level, x in self.backbone(frames[valid]).items()}

    def _across_frames(
        self, clips: dict[str, Tensor], batch: RefBatch, rows: Tensor, trace: dict[str, Any]
    ) -> dict[str, Tensor]:
        """The temporal part on clips {level: [I,T,C,h,w]}, those of ``rows`` of the batch: {level: [I,C,h,w]}."""
        given = {}
        for level in LEVELS:
            x, kept = clips[level], {}
            regions = regions_with_pixels(batch.pixel_valid[rows], x.shape[-2:])
            given[level] = self.temporal[level](x, batch.target_frame[rows], batch.frame_valid[rows], regions, kept)
            trace |= {f"{name}/{level}": value for name, value in kept.items()}
        return given

    def explain(self, batch: RefBatch, prediction: Prediction, *, region_rows: bool = False) -> Explanation:
        """Word maps, gates and frame weights; with ``region_rows`` also region_words, which cost as much."""
        trace = prediction.trace
        found = Explanation(gates=trace.get("gates", {}), pairs=True)
        for level in LEVELS:
            grid = trace[f"fused/{level}"].shape[-2:]
            if attention := trace.get(f"attention/{level}"):
                if "target_rows" in trace:
                    attention = attention.of(trace["target_rows"])
                regions = regions_with_pixels(batch.pixel_valid, grid)
                found.word_maps[level] = attention.word_maps(trace["words_valid"], regions).unflatten(2, grid)
                if region_rows:
                    found.region_rows[level], beta = attention.region_rows(trace["words_valid"])
                    found.region_words[level] = beta.mT
            if looks := trace.get(f"looks/{level}"):
                weights = looks.frame_weights().unflatten(3, grid)
                found.frame_weights[level] = weights[trace["clip_of"]] if "clip_of" in trace else weights
        return found

    def pooled_words(self, batch: RefBatch, trace: dict[str, Any], mask: Tensor) -> Tensor:
        """What each word makes of the referent's regions at C5, before the mean over words: [B,L,C]."""
        attention, (v, e, s) = trace["attention/c5"], trace["parts/c5"]
        if "target_rows" in trace:
            rows = trace["target_rows"]
            attention, v, e = attention.of(rows), v[rows], e[rows]
        grid = trace["backbone/c5"].shape[-2:]
        shares = F.adaptive_avg_pool2d(mask.to(v.dtype), grid)[:, 0]
        real = regions_with_pixels(batch.pixel_valid, grid).to(shares.dtype)
        shares = torch.where(mask.flatten(1).any(1)[:, None, None], shares, real).flatten(1)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
        block: Any = self.cross_modal["c5"]
        return block.pooled_words(attention, (v, e, s), shares)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
