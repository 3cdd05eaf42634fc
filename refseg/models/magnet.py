"""MagNet: words and pixels aligned at every stage, one query that finds the mask (Chng et al., CVPR 2024).

The authors released the network and its weights, and no training code. ``MagNetConfig.paper`` is that network, with the
words' side of the alignment corrected (see ``cross_modal_alignment``); ``MagNetConfig.release`` computes what the
release computes, defects included, for weights converted from it. What it is trained with, Mask Grounding and an
alignment loss, is ``objectives.mask_grounding`` and ``objectives.pixel_alignment``, a reconstruction.

Omitted, because no mask depends on it: after the last stage the words' side of the alignment and the gates, and
what ``mask2former_decoder`` names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.backbones import HALVING, LEVELS, BackboneConfig, SwinConfig
from refseg.models.base import Explanation, ModelConfig, ReferringModel
from refseg.models.blocks.attention import masked_mean, regions_with_pixels
from refseg.models.blocks.cross_modal_alignment import CAMConfig, PyramidAlignment, WordAlignment
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig, DeformablePixelDecoder
from refseg.models.blocks.layers import ResidualGate
from refseg.models.blocks.mask2former_decoder import Mask2FormerDecoder, MaskDecoderConfig
from refseg.models.text import BertWordsConfig, StagedTextConfig, TransformerWordsConfig
from refseg.types import Prediction, RefBatch

RELEASED_WORDS = 20  # token positions in the release, the padding among them


@dataclass(frozen=True)
class MagNetConfig(ModelConfig):
    """The parts of the network; the defaults are those of the paper."""

    backbone: BackboneConfig = SwinConfig()
    text: StagedTextConfig = BertWordsConfig()
    alignment: CAMConfig = CAMConfig()
    pixel_decoder: DeformableConfig = DeformableConfig()
    decoder: MaskDecoderConfig = MaskDecoderConfig()

    def build(self, vocabulary_size: int) -> MagNet:
        return MagNet(self, vocabulary_size)

    @classmethod
    def lesson(cls) -> MagNetConfig:
        """About a million parameters: trains from scratch at 96 px on two CPU cores."""
        return cls(
            HALVING,
            TransformerWordsConfig(),
            CAMConfig(expansion=1),
            DeformableConfig(dim=48, levels=3, layers=1, heads=4, points=2, inner=96, groups=8),
            MaskDecoderConfig(layers=3, heads=4, inner=96, upsampling=2),
        )

    @classmethod
    def paper(cls, swin_weights: str | None = None, bert_weights: str | None = None) -> MagNetConfig:
        """Swin-B and BERT-base at the released widths, for 480 px and 20 word pieces.

        Args:
            swin_weights, bert_weights: see ``SwinConfig`` and ``BertWordsConfig``; None begins at random.
        """
        return cls(SwinConfig(weights=swin_weights), BertWordsConfig(weights=bert_weights))

    @classmethod
    def release(cls) -> MagNetConfig:
        """What the authors' release computes, for weights that ``refseg convert-magnet-release`` reads."""
        return replace(cls.paper(), alignment=CAMConfig(released_words=True))


class MagNet(ReferringModel):
    """An image and an expression in, mask logits out.

    Args:
        config: the parts.
        vocabulary_size: number of token ids.
    """

    config: MagNetConfig

    def __init__(self, config: MagNetConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.text = config.text.build(vocabulary_size)
        widths, words = self.backbone.channels, self.text.channels
        self.align_pixels = nn.ModuleDict(
            {level: PyramidAlignment(widths[level], words, config.alignment) for level in LEVELS}
        )
        self.gates = nn.ModuleDict({level: ResidualGate(widths[level], nn.GELU()) for level in LEVELS[:-1]})
        both_ways = LEVELS[:-1] if config.alignment.pixels_to_words else ()
        self.align_words = nn.ModuleDict(
            {level: WordAlignment(words, widths[level], config.alignment) for level in both_ways}
        )
        coarse_to_fine = LEVELS[::-1]
        self.pixel_decoder = DeformablePixelDecoder(
            {level: widths[level] for level in coarse_to_fine}, config.pixel_decoder
        )
        self.decoder = Mask2FormerDecoder(config.pixel_decoder.dim, coarse_to_fine[:-1], config.decoder)
        self.visual_channels = {}
        if not self.backbone.frozen:
            self.visual_channels = {f"backbone/{level}": widths[level] for level in LEVELS}
        self.trace_channels = {"words": words, "sentence": words, "pixels": config.pixel_decoder.dim}
        self.trace_channels |= {f"{part}/{level}": widths[level] for part in ("backbone", "fused") for level in LEVELS}

    def forward(self, batch: RefBatch) -> Prediction:
        """Both encoders, stage by stage and aligned, then the two decoders.

        Returns:
            mask_logits [B,1,h',w'] and the trace: words [B,L,C], words_valid [B,L], sentence [B,C], pixels [B,D,h,w] of
            the finest level; by level backbone/c2 .. c5 (what the stage gives) and fused/c2 .. c5 (with the words in
            it), all [B,C,h,w], and words/c2 .. c5 [B,L,C] of the text's stages; masks/0, masks/1, ... [B,1,h',w'], the
            logits before each of the decoder's layers
        """
        token_ids, valid = self._tokens(batch)
        images, image_of = batch.distinct_images()
        x, words, trace = self.backbone.stem(images), self.text.embed(token_ids), {}
        for level, stage, text_stage in zip(LEVELS, self.backbone.blocks(), self.text.stages, strict=True):
            x, words = stage(x), text_stage(words, valid)
            x = x[image_of] if level == LEVELS[0] else x  # before the first stage there are no words
            fused, residual = self.align_pixels[level](x, words, valid)
            trace |= {f"backbone/{level}": x, f"words/{level}": words, f"fused/{level}": fused}
            if level in self.align_words:
                real = regions_with_pixels(batch.pixel_valid, x.shape[-2:])
                words, trace[f"looks/{level}"] = self.align_words[level](words, valid, x, real)
            if level in self.gates:  # else there is no next stage
                x = self.gates[level](x.movedim(1, -1), residual.movedim(1, -1)).movedim(-1, 1)
        words = words * valid[..., None]
        trace |= {"words": words, "words_valid": valid, "sentence": masked_mean(words, valid[..., None], dim=1)}
        trace["pixels"], levels = self.pixel_decoder({level: trace[f"fused/{level}"] for level in LEVELS})
        *earlier, mask_logits = self.decoder(trace["pixels"], levels)
        trace |= {f"masks/{step}": logits for step, logits in enumerate(earlier)}
        return Prediction(mask_logits, trace)

    def explain(self, batch: RefBatch, prediction: Prediction, *, region_rows: bool = False) -> Explanation:
        """Where each word looks, at each level but the last; nothing if the words of this network do not look."""
        trace = prediction.trace
        looks = {level: trace[f"looks/{level}"] * trace["words_valid"][..., None] for level in self.align_words}
        return Explanation({level: x.unflatten(2, trace[f"backbone/{level}"].shape[-2:]) for level, x in looks.items()})

    def _tokens(self, batch: RefBatch) -> tuple[Tensor, Tensor]:
        """Ids and validity [B,L]; in the release's form with its padding to 20 positions, because that counts there."""
        released = self.config.alignment.released_words
        longer = max(0, RELEASED_WORDS - batch.token_ids.shape[1]) if released else 0
        return F.pad(batch.token_ids, (0, longer)), F.pad(batch.token_valid, (0, longer))
