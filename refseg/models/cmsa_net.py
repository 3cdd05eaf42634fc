"""CMSA-Net: cross-modal self-attention on three levels, gated fusion, a mask (Ye et al., CVPR 2019, Fig. 2).

With a temporal part it is the network for video (TPAMI 2021, as we reconstruct it, see ``cfsa``); a picture is a clip
of one frame.

``CMSANetConfig.paper`` is the network of the paper's equations. The authors' TensorFlow release computes something else
in several places (ReLUs on queries, keys and values, pooled keys, per-channel gates): ``CMSANetConfig.release``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.backbones import BackboneConfig, ResNet101BackboneConfig, SmallBackboneConfig
from refseg.models.base import ModelConfig, ReferringModel
from refseg.models.blocks.attention import masked_mean, mutual_information
from refseg.models.blocks.cfsa import TemporalConfig, at_target
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalConfig
from refseg.models.blocks.cmsa_release import CMSAReleaseConfig, CMSAReleaseLevelsConfig
from refseg.models.blocks.mask_head import HeadConfig, MaskHeadConfig, ReleaseMaskHeadConfig, SkipMaskHeadConfig
from refseg.models.fusion import FusionConfig, GMLFConfig, ReleaseGMLFConfig
from refseg.models.text import ContextualWordsConfig, TextConfig, WordEmbeddingConfig
from refseg.types import Prediction, RefBatch

LEVELS = ("c3", "c4", "c5")


@dataclass(frozen=True)
class CMSANetConfig(ModelConfig):
    """Which part stands in which place; the class of each part's config chooses the part."""

    backbone: BackboneConfig
    text: TextConfig
    cross_modal: CrossModalConfig
    fusion: FusionConfig
    head: HeadConfig
    c5_dim: int | None = None  # width to which C5 is projected before the attention; the release: 1000
    normalize_levels: bool = False  # BatchNorm behind the 1x1 convolution of each level (ours: small nets learn faster)
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
    """A picture or clip and an expression in, mask logits of the target frame out.

    ``visual_channels`` has the widths of those entries of the trace that say what is seen where and can still learn it;
    an objective may ask. ``trace_channels`` has the widths of what else an objective may read, ``pooled_words`` too.

    Args:
        config: the parts.
        vocabulary_size: number of token ids; 12,112 in the release.
    """

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
        self.cross_modal = nn.ModuleDict({level: self._attention(level, widths[level]) for level in LEVELS})
        self.common_width = nn.ModuleDict(
            {level: self._to_common_width(self.cross_modal[level].channels) for level in LEVELS}
        )
        if config.normalize_levels and isinstance(config.cross_modal, CMSAConfig):
            for name, parameter in self.cross_modal.named_parameters():  # BatchNorm takes away a constant before it
                parameter.requires_grad_(not name.endswith(".out.bias"))
        self.visual_channels = {}
        if not self.backbone.frozen:
            self.visual_channels |= {f"backbone/{level}": self.backbone.channels[level] for level in LEVELS}
        words = self.text.channels
        self.trace_channels = {"words": words, "sentence": words, "pixels": config.fusion.dim}
        if hasattr(self.cross_modal["c5"], "pooled_words"):
            self.trace_channels["pooled_words"] = self.cross_modal["c5"].channels
        self.temporal = None
        if config.temporal is not None:
            width = {level: widths[level] if config.temporal.before_cmsa else config.fusion.dim for level in LEVELS}
            self.temporal = nn.ModuleDict({level: config.temporal.build(width[level]) for level in LEVELS})
            self.visual_channels |= {f"temporal/{level}": width[level] for level in LEVELS}
        self.fusion = config.fusion.build(LEVELS)
        self.head = config.head.build(self.fusion.channels, self.backbone.channels)
        if isinstance(config.head, ReleaseMaskHeadConfig):  # attention and fusion of the release start so by themselves
            for part in (self.project_c5, self.common_width, self.head):
                part.apply(_xavier)

    def _attention(self, level: str, visual_channels: int) -> nn.Module:
        return self.config.cross_modal.at_level(level).build(visual_channels, self.text.channels)

    def _to_common_width(self, channels: int) -> nn.Module:
        dim = self.config.fusion.dim
        if not self.config.normalize_levels:
            return nn.Conv2d(channels, dim, 1)
        return nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, batch: RefBatch) -> Prediction:
        """Figure 2 of the paper, from left to right.

        Returns:
            mask_logits [B,1,h',w'] at the head's stride; trace with words [B,L,C], words_valid [B,L],
            sentence [B,C], pixels [B,C,h,w], and by level backbone/c3 .. c5, fused/c3 .. c5 and, with a temporal
            part, what it gives, temporal/c3 .. c5, all [B,C,h,w] of the target frame
        """
        words, words_valid = self.text(batch.token_ids, batch.token_valid)
        features, temporal, fused = self._levels(batch, words, words_valid)
        pixels = self.fusion(fused)
        trace = {"words": words, "words_valid": words_valid, "pixels": pixels}
        trace["sentence"] = masked_mean(words, words_valid[..., None], dim=1)
        trace |= {f"backbone/{level}": features[level] for level in LEVELS}
        trace |= {f"temporal/{level}": x for level, x in temporal.items()}
        trace |= {f"fused/{level}": x for level, x in fused.items()}
        return Prediction(self.head(pixels, features), trace)

    def _levels(
        self, batch: RefBatch, words: Tensor, words_valid: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The target frame by level: from the backbone, from the temporal part, and with the words, each [B,C,h,w]."""
        if self.temporal is None:
            features = self.features(batch)
            return features, {}, self.fuse_words(features, words, words_valid, batch.pixel_valid)
        first, clip_of = batch.distinct_rows()
        clips = self.clip_features(batch)
        features = {level: at_target(x, batch.target_frame[first])[clip_of] for level, x in clips.items()}
        temporal = self._temporal(clips, words, words_valid, batch)
        if self.config.temporal.before_cmsa:
            return features, temporal, self.fuse_words(temporal, words, words_valid, batch.pixel_valid)
        return features, temporal, temporal

    def clip_features(self, batch: RefBatch) -> dict[str, Tensor]:
        """The backbone's levels for every frame of each distinct clip, {level: [I,T,C,h,w]}, zero in padded frames.

        Padded frames are not looked at: they would count in a BatchNorm's statistics.
        """
        first, _ = batch.distinct_rows()
        if batch.features is not None:
            return {level: x[first].float() for level, x in batch.features.items()}
        frames, valid = batch.frames[first], batch.frame_valid[first]
        return {level: onto_frames(x, valid) for level, x in self.backbone(frames[valid]).items()}

    def _temporal(
        self, clips: dict[str, Tensor], words: Tensor, words_valid: Tensor, batch: RefBatch
    ) -> dict[str, Tensor]:
        """What the temporal part gives for every sample, {level: [B,C,h,w]}; ``clips`` has each distinct one once."""
        inputs = self._temporal_inputs(clips, words, words_valid, batch)
        given = {level: self.temporal[level](*inputs[level]) for level in LEVELS}
        if self.config.temporal.before_cmsa:
            clip_of = batch.distinct_rows()[1]
            return {level: x[clip_of] for level, x in given.items()}
        return given

    def _temporal_inputs(
        self, clips: dict[str, Tensor], words: Tensor, words_valid: Tensor, batch: RefBatch
    ) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What the temporal part reads: features, target_frame, frame_valid, valid regions.

        Before the words it reads each distinct clip once, [I,T,C,h,w]; behind them every sample, [B,T,C,h,w].
        """
        rows, clip_of = batch.distinct_rows()
        features = {level: clips[level] for level in LEVELS}
        if not self.config.temporal.before_cmsa:
            rows = torch.arange(len(batch.target_frame), device=rows.device)
            sample_of = batch.frame_valid.nonzero()[:, 0]
            frames = {level: x[clip_of][batch.frame_valid] for level, x in features.items()}
            fused = self.fuse_words(frames, words[sample_of], words_valid[sample_of], batch.pixel_valid[sample_of])
            features = {level: onto_frames(x, batch.frame_valid) for level, x in fused.items()}
        where = batch.target_frame[rows], batch.frame_valid[rows]
        return {
            level: (x, *where, regions_with_pixels(batch.pixel_valid[rows], x.shape[-2:]))
            for level, x in features.items()
        }

    def frame_weights(self, batch: RefBatch) -> dict[str, Tensor]:
        """Where in time the target frame's regions look, {level: [B,heads,T,h,w]}; see ``CrossFrameSelfAttention``."""
        clip_of = batch.distinct_rows()[1]
        clips = self.clip_features(batch)
        inputs = self._temporal_inputs(clips, *self.text(batch.token_ids, batch.token_valid), batch)
        weights = {level: self.temporal[level].frame_weights(*inputs[level]) for level in LEVELS}
        if self.config.temporal.before_cmsa:
            return {level: x[clip_of] for level, x in weights.items()}
        return weights

    def features(self, batch: RefBatch) -> dict[str, Tensor]:
        """The backbone's levels for every target frame, {level: [B,C,h,w]}; each distinct picture is looked at once."""
        if batch.features is not None:
            return {level: at_target(x, batch.target_frame).float() for level, x in batch.features.items()}
        images, image_of = batch.distinct_images()
        features = self.backbone(images)
        if len(images) == len(batch):
            return features
        return {level: x[image_of] for level, x in features.items()}

    def fuse_words(
        self, features: dict[str, Tensor], words: Tensor, words_valid: Tensor, pixel_valid: Tensor
    ) -> dict[str, Tensor]:
        """Cross-modal attention and the 1x1 convolution to the common width: {level: X [B,C,h,w]}."""
        fused = {}
        for level, inputs in self._cross_modal_inputs(features, words, words_valid, pixel_valid).items():
            fused[level] = torch.relu(self.common_width[level](self.cross_modal[level](*inputs)))
        return fused

    def word_maps(self, batch: RefBatch, trace: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Where each word looks at each level: {level: [B,L,h,w]}, see ``CrossModalSelfAttention.word_maps``.

        Args:
            trace: of this batch's prediction, if there is one: nothing is then computed a second time.
        """
        inputs = self._attention_inputs(batch, trace)
        return {level: self.cross_modal[level].word_maps(*inputs[level]) for level in LEVELS}

    def attention_row(self, batch: RefBatch, level: str, query_region: int, query_word: int) -> tuple[Tensor, Tensor]:
        """Alpha [B,R] and beta [B,L] of one query at one level, see ``CrossModalSelfAttention.attention_row``."""
        pixels, words, words_valid, region_valid = self._attention_inputs(batch)[level]
        block = self.cross_modal[level]
        return block.attention_row(pixels, words, words_valid, query_region, query_word, region_valid)

    def region_rows(self, batch: RefBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Where each region looks: {level: (alpha [B,R,R], beta [B,R,L])}.

        See ``CrossModalSelfAttention.region_rows``.
        """
        inputs = self._attention_inputs(batch)
        return {level: self.cross_modal[level].region_rows(*inputs[level]) for level in LEVELS}

    def jointness(self, batch: RefBatch, query_regions: Sequence[int]) -> dict[str, Tensor]:
        """How far each level's attention is from a product of one over words and one over regions.

        The mutual information between key word and key region under one query, in nats, averaged over all valid words
        as queries at the given regions. In the paper's form it is 0 whatever the weights; the ReLUs of the release
        make it positive.

        Args:
            query_regions: row * w + column.

        Returns:
            {level: [B]}
        """
        information = {}
        for level, (pixels, words, words_valid, region_valid) in self._attention_inputs(batch).items():
            L, S = words.shape[1], len(query_regions)
            regions, query_words = list(query_regions) * L, [n for n in range(L) for _ in range(S)]
            block = self.cross_modal[level]
            joint = block.joint_attention(pixels, words, words_valid, regions, query_words, region_valid)
            per_word = mutual_information(joint).unflatten(1, (L, S)).mean(2)
            information[level] = masked_mean(per_word, words_valid, dim=1)
        return information

    def pooled_words(self, batch: RefBatch, trace: dict[str, Tensor], mask: Tensor) -> Tensor:
        """What each word makes of the referent's regions at C5, before the mean over words: [B,L,C].

        Args:
            trace: of this batch's prediction.
            mask: [B,1,H,W] bool; where it is empty, all real regions count.
        """
        pixels, words, words_valid, region_valid = self._attention_inputs(batch, trace)["c5"]
        shares = F.adaptive_avg_pool2d(mask.to(pixels.dtype), pixels.shape[-2:])[:, 0]
        shares = torch.where(mask.flatten(1).any(1)[:, None, None], shares, region_valid.to(shares.dtype)).flatten(1)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
        return self.cross_modal["c5"].pooled_words(pixels, words, words_valid, region_valid, shares)

    def gates(self, batch: RefBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """Memory and reset gate of each level, see the fusion's: [B,1,h,w] each, [B,C,h,w] in the release."""
        words, words_valid = self.text(batch.token_ids, batch.token_valid)
        return self.fusion.gates(self._levels(batch, words, words_valid)[2])

    def _attention_inputs(
        self, batch: RefBatch, trace: dict[str, Tensor] | None = None
    ) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
        in_time = self.temporal is not None and self.config.temporal.before_cmsa
        if trace is not None:
            features = {level: trace[f"{'temporal' if in_time else 'backbone'}/{level}"] for level in LEVELS}
            return self._cross_modal_inputs(features, trace["words"], trace["words_valid"], batch.pixel_valid)
        words, words_valid = self.text(batch.token_ids, batch.token_valid)
        features = self.features(batch)
        if in_time:
            clips = self.clip_features(batch)
            features = self._temporal(clips, words, words_valid, batch)
        return self._cross_modal_inputs(features, words, words_valid, batch.pixel_valid)

    def _cross_modal_inputs(
        self, features: dict[str, Tensor], words: Tensor, words_valid: Tensor, pixel_valid: Tensor
    ) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What the attention of each level reads: pixels, words, words_valid and the valid regions [B,h,w]."""
        pixels = {level: features[level] for level in LEVELS}
        pixels["c5"] = self.project_c5(pixels["c5"])
        return {
            level: (x, words, words_valid, regions_with_pixels(pixel_valid, x.shape[-2:]))
            for level, x in pixels.items()
        }


def onto_frames(x: Tensor, frame_valid: Tensor) -> Tensor:
    """Real frames [V,...] back to where ``frame_valid`` [B,T] has its V True, zero elsewhere: [B,T,...]."""
    frames = x.new_zeros(*frame_valid.shape, *x.shape[1:])
    frames[frame_valid] = x
    return frames


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def regions_with_pixels(pixel_valid: Tensor, grid: tuple[int, ...]) -> Tensor:
    """A region is valid if any of its pixels is: [B,1,H,W] bool -> [B,h,w] bool."""
    return F.adaptive_max_pool2d(pixel_valid.float(), grid)[:, 0] > 0
