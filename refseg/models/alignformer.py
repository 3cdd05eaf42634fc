"""AlignFormer: the sentence is a centre, and the pixels that gather around it are the referent.

"Learning Aligned Cross-modal Representations for Referring Image Segmentation", Wei, Chen, Chen and Zhu, 2023, arXiv
2301.06429 v1. Its later version is "Linguistic Query-Guided Mask Generation ..." (LGFormer), whose code the authors
released. VLBA, pixel decoder and generator are as in that code. Reconstructed is what only the first version has, the
contrastive loss, ``objectives.contrastive``; that its network was the later one's in all the rest is an assumption.

Omitted, because no mask depends on it: what VLBA of the last level would send on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.models.backbones import HALVING, LEVELS, BackboneConfig, SwinConfig
from refseg.models.base import Explanation, ModelConfig, ReferringModel
from refseg.models.blocks.attention import l2_normalize, masked_mean, regions_with_pixels
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig
from refseg.models.blocks.language_guided_pixel_decoder import DecoderWordsConfig, LanguageGuidedPixelDecoder
from refseg.models.blocks.prototype_generator import PrototypeConfig, PrototypeGenerator
from refseg.models.blocks.vlba import (
    VisionLanguageBidirectionalAttention,
    VLBAConfig,
    regions_of_words,
    words_of_regions,
)
from refseg.models.text import BertWordsConfig, StagedTextConfig, TransformerWordsConfig
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class AlignFormerConfig(ModelConfig):
    """The parts of the network; the defaults are those of the paper."""

    backbone: BackboneConfig = SwinConfig()
    text: StagedTextConfig = BertWordsConfig()
    vlba: VLBAConfig = VLBAConfig()
    pixel_decoder: DeformableConfig = DeformableConfig(levels=3, layers=6)
    decoder_words: DecoderWordsConfig | None = DecoderWordsConfig()  # None: without a look at the words
    generator: PrototypeConfig = PrototypeConfig()
    upsampling: int = 1  # pixels are finer than the finest level, by that factor (ours, for the lessons)

    def build(self, vocabulary_size: int) -> AlignFormer:
        return AlignFormer(self, vocabulary_size)

    @classmethod
    def lesson(cls) -> AlignFormerConfig:
        """About a million parameters: trains from scratch at 96 px on two CPU cores."""
        return cls(
            HALVING,
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
        return cls(SwinConfig(weights=swin_weights), BertWordsConfig(weights=bert_weights))


class AlignFormer(ReferringModel):
    """An image and an expression in, mask logits out.

    Args:
        config: the parts.
        vocabulary_size: number of token ids.
    """

    config: AlignFormerConfig

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
        """Words and image look at each other at every stage; the sentence vector then becomes the centre of its pixels.

        Returns:
            mask_logits [B,1,h',w']; trace with words [B,L,C], words_valid [B,L], sentence [B,C], pixels [B,D,h',w'],
            centre [B,D], centres [B,S,D] of all S steps, masks/0, masks/1, ... [B,1,h',w'], the logits of the steps
            before the last, and by level backbone/c2 .. c5 (what the stage gives) and fused/c2 .. c5 (with the words in
            it), all [B,C,h,w], and words/c2 .. c5 [B,L,C], the words that the level met
        """
        words, valid = self.text(batch.token_ids, batch.token_valid)
        images, image_of = batch.distinct_images()
        x, trace, real = self.backbone.stem(images), {}, {}
        for level, stage in zip(LEVELS, self.backbone.blocks(), strict=True):
            x = stage(x)
            x = x[image_of] if level == LEVELS[0] else x  # before the first stage there are no words
            real[level] = regions_with_pixels(batch.pixel_valid, x.shape[-2:])
            output = self.vlba[level](x, words, valid, real[level])
            trace |= {f"backbone/{level}": x, f"words/{level}": words}
            trace[f"fused/{level}"] = self.norms[level](output.pixel_residual.movedim(1, -1)).movedim(-1, 1)
            if output.scores is not None:
                trace[f"scores/{level}"] = output.scores
            x, words = output.pixels, output.words
        words = output.word_residual
        trace |= {"words": words, "words_valid": valid, "sentence": masked_mean(words, valid[..., None], dim=1)}
        pixels, levels = self.pixel_decoder({level: trace[f"fused/{level}"] for level in LEVELS}, words, valid)
        centres, biases = self.generator(trace["sentence"], levels, {level: real[level] for level in levels})
        *earlier, mask_logits = masks_around(pixels, centres, biases).split(1, dim=1)
        trace |= {"pixels": pixels, "centre": centres[:, -1], "centres": centres}
        trace |= {f"masks/{step}": logits for step, logits in enumerate(earlier)}
        return Prediction(mask_logits, trace)

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
