"""AlignFormer: the sentence is a centre, and the pixels that gather around it are the referent.

"Learning Aligned Cross-modal Representations for Referring Image Segmentation", Wei, Chen, Chen and Zhu, 2023, arXiv
2301.06429 v1. Its later version is "Linguistic Query-Guided Mask Generation ..." (LGFormer), whose code the authors
released. VLBA, pixel decoder and generator are as in that code. Reconstructed is what only the first version has, the
contrastive loss, ``objectives.contrastive``; that its network was the later one's in all the rest is an assumption.

Left out, because no mask depends on it: what VLBA of the last level would send on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refseg.models.backbones import LEVELS, BackboneConfig, HalvingBackboneConfig, SwinConfig
from refseg.models.base import Explanation, ModelConfig, ReferringModel
from refseg.models.blocks.attention import l2_normalize, masked_mean
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig
from refseg.models.blocks.language_guided_pixel_decoder import DecoderWordsConfig, LanguageGuidedPixelDecoder
from refseg.models.blocks.prototype_generator import PrototypeConfig, PrototypeGenerator
from refseg.models.blocks.vlba import (
    VisionLanguageBidirectionalAttention,
    VLBAConfig,
    VLBAOutput,
    regions_of_words,
    words_of_regions,
)
from refseg.models.cmsa_net import regions_with_pixels
from refseg.models.text import BertWordsConfig, StagedTextConfig, TransformerWordsConfig
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class AlignFormerConfig(ModelConfig):
    """Which part stands in which place; the class of each part's config chooses the part."""

    backbone: BackboneConfig
    text: StagedTextConfig
    vlba: VLBAConfig
    pixel_decoder: DeformableConfig
    decoder_words: DecoderWordsConfig | None  # None: the pixel decoder does not look at the words
    generator: PrototypeConfig
    upsampling: int = 1  # pixels are finer than the finest level, by that factor (ours, for the lessons)

    def build(self, vocabulary_size: int) -> AlignFormer:
        return AlignFormer(self, vocabulary_size)

    @classmethod
    def lesson(cls) -> AlignFormerConfig:
        """About a million parameters: trains from scratch at 96 px on two CPU cores."""
        return cls(
            HalvingBackboneConfig(),
            TransformerWordsConfig(normalized=True),  # else words grow, and attention gives all to one from the start
            VLBAConfig(),
            DeformableConfig(dim=48, levels=3, layers=2, heads=4, points=2, inner=96, groups=8),
            DecoderWordsConfig(heads=4, inner=96),
            PrototypeConfig(dim=64, layers=3, heads=4, inner=128),
            upsampling=2,
        )

    @classmethod
    def paper(cls, swin_weights: str | None = None, bert_weights: str | None = None) -> AlignFormerConfig:
        """Swin-B and BERT-base at the released widths, for 480 px and 20 word pieces.

        Args:
            swin_weights, bert_weights: see ``SwinConfig`` and ``BertWordsConfig``; None begins at random.
        """
        return cls(
            SwinConfig(weights=swin_weights),
            BertWordsConfig(weights=bert_weights),
            VLBAConfig(),
            DeformableConfig(levels=3, layers=6),
            DecoderWordsConfig(),
            PrototypeConfig(),
        )


class Stage(NamedTuple):
    """One level: what VLBA read, and what it made of it."""

    pixels: Tensor  # [B,C,h,w], of the backbone
    words: Tensor  # [B,L,Cl]
    words_valid: Tensor  # [B,L]
    region_valid: Tensor  # [B,h,w]
    output: VLBAOutput


class AlignFormer(ReferringModel):
    """An image and an expression in, mask logits out.

    Args:
        config: the parts.
        vocabulary_size: number of token ids.
    """

    def __init__(self, config: AlignFormerConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.text = config.text.build(vocabulary_size)
        widths, words, last = self.backbone.channels, self.text.channels, LEVELS[-1]
        self.vlba = nn.ModuleDict(
            {
                level: VisionLanguageBidirectionalAttention(widths[level], words, config.vlba, gated=level != last)
                for level in LEVELS
            }
        )
        self.norms = nn.ModuleDict({level: nn.LayerNorm(widths[level]) for level in LEVELS})
        coarse_to_fine = LEVELS[::-1]
        channels = {level: widths[level] for level in coarse_to_fine}
        self.pixel_decoder = LanguageGuidedPixelDecoder(
            channels, words, config.pixel_decoder, config.decoder_words, config.upsampling
        )
        dim, attending = config.pixel_decoder.dim, coarse_to_fine[: config.pixel_decoder.levels]
        self.generator = PrototypeGenerator(words, dim, list(attending), config.generator)
        self.visual_channels = {}
        if not self.backbone.frozen:
            self.visual_channels = {f"backbone/{level}": widths[level] for level in LEVELS}
        self.trace_channels = {"words": words, "sentence": words, "pixels": dim, "centre": dim}
        self.trace_channels |= {f"fused/{level}": widths[level] for level in LEVELS}

    def forward(self, batch: RefBatch) -> Prediction:
        """The words and the picture meet at every stage; the sentence then becomes the centre of its pixels.

        Returns:
            mask_logits [B,1,h',w']; trace with words [B,L,C], words_valid [B,L], sentence [B,C], pixels [B,D,h',w'],
            centre [B,D], centres [B,S,D] of all S steps, masks/0, masks/1, ... [B,1,h',w'], the logits of the steps
            before the last, and by level backbone/c2 .. c5 (what the stage gives) and fused/c2 .. c5 (with the words in
            it), all [B,C,h,w], and words/c2 .. c5 [B,L,C], the words that the level met
        """
        stages = self.encode(batch)
        trace = self._features(stages)
        words, valid = trace["words"], trace["words_valid"]
        fused = {level: trace[f"fused/{level}"] for level in LEVELS}
        pixels, levels = self.pixel_decoder(fused, words, valid)
        region_valid = {level: stages[level].region_valid for level in levels}
        centres, biases = self.generator(trace["sentence"], levels, region_valid)
        *earlier, mask_logits = masks_around(pixels, centres, biases).split(1, dim=1)
        trace |= {"pixels": pixels, "centre": centres[:, -1], "centres": centres}
        trace |= {f"masks/{step}": logits for step, logits in enumerate(earlier)}
        return Prediction(mask_logits, trace)

    def encode(self, batch: RefBatch) -> dict[str, Stage]:
        """All words first, then the picture stage by stage, VLBA behind each.

        A picture of several samples goes through the first stage once: before it there are no words.
        """
        words, valid = self.text(batch.token_ids, batch.token_valid)
        images, image_of = batch.distinct_images()
        x, stages = self.backbone.stem(images), {}
        for level in LEVELS:
            x = self.backbone.stages[level](x)
            x = x[image_of] if level == LEVELS[0] else x
            inputs = x, words, valid, regions_with_pixels(batch.pixel_valid, x.shape[-2:])
            stages[level] = Stage(*inputs, output=self.vlba[level](*inputs))
            x, words = stages[level].output.pixels, stages[level].output.words
        return stages

    def _features(self, stages: dict[str, Stage]) -> dict[str, Tensor]:
        """What the stages give to the trace: the last level's words and their mean, and three entries per level."""
        last = stages[LEVELS[-1]]
        trace = {"words": last.output.word_residual, "words_valid": last.words_valid}
        trace["sentence"] = masked_mean(trace["words"], last.words_valid[..., None], dim=1)
        for level, stage in stages.items():
            residual = stage.output.pixel_residual.movedim(1, -1)
            trace[f"fused/{level}"] = self.norms[level](residual).movedim(-1, 1)
            trace |= {f"backbone/{level}": stage.pixels, f"words/{level}": stage.words}
            if stage.output.scores is not None:
                trace[f"scores/{level}"] = stage.output.scores
        return trace

    def explain(self, batch: RefBatch, prediction: Prediction, *, region_rows: bool = False) -> Explanation:
        """Both directions of VLBA's score maps, if the config has any, and how pixels gather around the centres."""
        trace = prediction.trace
        valid, found = trace["words_valid"], Explanation()
        found.centre_maps = centre_similarity(trace["pixels"], trace["centres"])
        for level in LEVELS:
            if (scores := trace.get(f"scores/{level}")) is not None:
                grid = trace[f"backbone/{level}"].shape[-2:]
                real = regions_with_pixels(batch.pixel_valid, grid).flatten(1)
                looks = regions_of_words(scores, real).mean(1) * valid[..., None]
                found.word_maps[level] = looks.unflatten(2, grid)
                found.region_words[level] = words_of_regions(scores, valid).mean(1).mT
        return found


def masks_around(pixels: Tensor, centres: Tensor, biases: Tensor) -> Tensor:
    """A pixel belongs to a centre where they agree: [B,D,h,w], [B,S,D] and [B,S] -> mask logits [B,S,h,w]."""
    return torch.einsum("bdhw,bsd->bshw", pixels, centres) + biases[..., None, None]


def centre_similarity(pixels: Tensor, centres: Tensor) -> Tensor:
    """Cosine of every pixel with every centre: [B,D,h,w] and [B,S,D] -> [B,S,h,w]; how closely pixels gather."""
    return torch.einsum("bdhw,bsd->bshw", l2_normalize(pixels, dim=1), l2_normalize(centres))
