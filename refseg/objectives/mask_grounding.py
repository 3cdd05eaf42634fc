"""Mask Grounding and the alignment loss, with which MagNet is trained (Chng et al., CVPR 2024).

The authors released no training code, and the text of the paper was not at hand. **This objective is our
reconstruction.** Known is: words are hidden at random among all that are not special; the language encoder's words O,
the picture's features P and an encoding C of the mask go, one behind the other, into a predictor that names the hidden
words, L = CE(y, Predictor([O; P; C])); nothing of it is used for prediction. That C encodes the centre of the mask is
recalled, not read. Rates, widths, depths and weights are ours where no source is named. Of the alignment loss only its
two parts are known, pixel to pixel and pixel to text.

It trains any model whose trace has a feature per word and a map of pixels, and leaves the model's weights as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.attention import l2_normalize, sine_positions
from refseg.objectives.losses import hidden_word_loss, pixel_to_pixel_loss, pixel_to_text_loss
from refseg.objectives.segmentation import Segmentation, SegmentationConfig, mean_over_steps
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction, RefBatch

# Words that say nothing of the thing meant: they are never hidden.
UNINFORMATIVE = frozenset("a an the of to in on at with from is are that which who it its and or , . ; : ! ?".split())


@dataclass
class MaskGroundingConfig(SegmentationConfig):
    """Weights of the terms, and how words are hidden and predicted; a weight of 0 leaves a term and its layers away."""

    ground: float = 1.0
    pixel_to_pixel: float = 0.1
    pixel_to_text: float = 0.1
    hidden: float = 0.15  # share of the words that are hidden; at least one in a sample
    kept: float = 0.1  # of these: they are asked for, and stand in the sentence all the same (ovr-cnn's rate)
    samples: float = 1.0  # share of the samples in which words are hidden; the others train the mask alone
    untold: float = 0.1  # share of these whose mask is not told (ours): a guess without it can then be asked for
    pixels: str = "pixels"  # entry of the trace that the predictor looks at
    grid: int = 15  # a finer map is pooled to so many regions a side
    dim: int = 768  # of the predictor, a multiple of 4 and of ``heads``
    layers: int = 2
    heads: int = 12
    temperature: float = 0.07  # of the alignment losses
    referent_pixels: int = 256  # at most so many of a picture are compared
    other_pixels: int = 1024


class MaskGrounding(Segmentation):
    """(model, batch) -> prediction, {name: loss}: "bce", "dice", and as weighted "semantics", "ground", ...

    The model reads the sentence with its hidden words, for the mask as well: one forward serves both. The mask terms
    are means over all masks of the prediction, those of a decoder's earlier layers too (deep supervision).

    "ground" is the cross-entropy of the hidden words. A model with ``pooled_words`` (CMSA) is asked for its words
    there: what a word makes of the regions, over the referent. Else the words of the trace are taken.

    "pixel_to_pixel" and "pixel_to_text" pull pixels of the referent to each other and to the sentence, and away from
    the other pixels of the picture.

    Args:
        config: the weights and sizes.
        model: whose words and pixels are read; needed for all but the plain terms.
        classes: as for ``Segmentation``.
        tokenizer: of the words; needed for ``ground``.

    Raises:
        RefsegError: a term without what it needs.
    """

    reads_words = True

    def __init__(
        self,
        config: MaskGroundingConfig,
        model: nn.Module | None = None,
        classes: Sequence[int] = (),
        tokenizer: WordVocabulary | None = None,
    ):
        super().__init__(config, model, classes)
        self.config = config
        terms = ("ground", "pixel_to_pixel", "pixel_to_text")
        self.weights |= {name: getattr(config, name) for name in terms if getattr(config, name)}
        widths = getattr(model, "trace_channels", {})
        if config.ground:
            self._build_predictor(config, widths, tokenizer)
        if config.pixel_to_text:
            _need(widths, "pixel_to_text", "sentence", "pixels")
            self.sentence_to_pixels = nn.Linear(widths["sentence"], widths["pixels"])

    def _build_predictor(self, config: MaskGroundingConfig, widths: dict[str, int], tokenizer: WordVocabulary | None):
        _need(widths, "ground", "words", config.pixels)
        if tokenizer is None:
            raise RefsegError("The loss ground needs the tokenizer of the words: give it, or set ground to 0.")
        self.words = "pooled_words" if "pooled_words" in widths else "words"
        self.stand_in = tokenizer.hidden_id
        self.register_buffer("hideable", hideable_ids(tokenizer), persistent=False)
        self.predictor = WordPredictor(widths[self.words], widths[config.pixels], len(tokenizer), config)

    def forward(self, model: nn.Module, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The prediction for the sentence with hidden words, and the losses, scalars and not yet weighted."""
        read, hidden = self.hide(batch)
        prediction, losses = super().forward(model, read)
        if "ground" in self.weights:
            rows = hidden.any(1).nonzero()[:, 0] if hidden.any() else torch.arange(len(batch), device=hidden.device)
            told = torch.rand(len(batch), 1, 1, 1, device=hidden.device) >= self.config.untold
            asked = replace(read, mask=read.mask & told)
            features = self.word_features(model, asked, prediction.trace, rows)  # the others would cost and not count
            logits = self.predictor.head(features[:, : hidden.shape[1]][hidden[rows]])
            losses["ground"] = hidden_word_loss(logits.float(), batch.token_ids[hidden])
        return prediction, losses | self._alignment(prediction.trace, batch)

    def mask_terms(self, prediction: Prediction, batch: RefBatch) -> dict[str, Tensor]:
        """Those of all steps."""
        return mean_over_steps(prediction, batch)

    def hide(self, batch: RefBatch) -> tuple[RefBatch, Tensor]:
        """The batch with some words hidden, and which are to be guessed, [B,L] bool."""
        if "ground" not in self.weights:
            return batch, torch.zeros_like(batch.token_valid)
        candidates = batch.token_valid & self.hideable[batch.token_ids]
        asked = torch.rand(len(batch), device=candidates.device) < self.config.samples
        hidden = hide_some(candidates & asked[:, None], self.config.hidden)
        replaced = hidden & (torch.rand(hidden.shape, device=hidden.device) >= self.config.kept)
        return self.with_hidden(batch, replaced), hidden

    def with_hidden(self, batch: RefBatch, hidden: Tensor) -> RefBatch:
        """The batch with the stand-in where ``hidden`` [B,L] is True."""
        return replace(batch, token_ids=batch.token_ids.masked_fill(hidden, self.stand_in))

    def word_features(
        self,
        model: nn.Module,
        batch: RefBatch,
        trace: dict[str, Tensor],
        rows: Tensor | slice = slice(None),
        *,
        picture: bool = True,
        mask: bool = True,
    ) -> Tensor:
        """What the predictor makes of every word, [B,L,D]; ``batch`` is what the model has read.

        Args:
            rows: of these samples only.
            picture: let the predictor look at the pixels.
            mask: tell it where the referent is.
        """
        told = batch.mask if mask else torch.zeros_like(batch.mask)
        words, pixels = self._words(model, batch, trace, told), trace[self.config.pixels]
        valid = trace["words_valid"]
        if words.shape[1] < batch.token_ids.shape[1]:
            raise RefsegError("The model gives one feature per sentence, Mask Grounding needs one per word.")
        return self.predictor(
            words[rows], valid[rows], pixels[rows] if picture else None, batch.mask[rows] if mask else None
        )

    def guess(self, model: nn.Module, batch: RefBatch, hidden: Tensor, **seen: bool) -> Tensor:
        """Probabilities of every word of the vocabulary where ``hidden`` [B,L] is True: [N,V], in reading order.

        ``seen``: see ``word_features``.
        """
        read = self.with_hidden(batch, hidden)
        features = self.word_features(model, read, model(read).trace, **seen)
        return self.predictor.head(features[:, : hidden.shape[1]][hidden]).softmax(-1)

    def _words(self, model: nn.Module, batch: RefBatch, trace: dict[str, Tensor], mask: Tensor) -> Tensor:
        if self.words == "words":
            return trace["words"]
        return getattr(model, "module", model).pooled_words(batch, trace, mask)

    def _alignment(self, trace: dict[str, Tensor], batch: RefBatch) -> dict[str, Tensor]:
        """The alignment losses that are asked for, in float32: they live on differences of similarities."""
        asked = self.weights.keys() & {"pixel_to_pixel", "pixel_to_text"}
        if not asked:
            return {}
        losses, temperature = {}, self.config.temperature
        with torch.autocast(trace["pixels"].device.type, enabled=False):
            pixels = l2_normalize(trace["pixels"].float(), dim=1)
            text = None
            if "pixel_to_text" in asked:
                text = l2_normalize(self.sentence_to_pixels(trace["sentence"].float()))
            compared = sample_pixels(pixels, batch, text, self.config.referent_pixels, self.config.other_pixels)
            referent, others, in_referent, in_others = compared
            if "pixel_to_pixel" in asked:
                losses["pixel_to_pixel"] = pixel_to_pixel_loss(*compared, temperature)
            if text is not None:
                losses["pixel_to_text"] = pixel_to_text_loss(
                    referent, others, text, in_referent, in_others, temperature
                )
        return losses


class WordPredictor(nn.Module):
    """Predictor([O; P; C]): a transformer over words, regions and one token for the mask, and a head that names words.

    The mask encoder C is an MLP on the centre of the referent, which is given in the sines in which regions are given
    their places. Where the picture is seen, what it shows at that centre is added; and C is not only a token of its own
    but added to every word. All of this is ours: by attention alone it took more than 500 steps of the lessons, and no
    end in sight, to find the mask's token among 150 and then the region that lies at its place.

    Args:
        word_channels, pixel_channels: of what it reads.
        vocabulary_size: of what it names.
        config: its sizes.
    """

    def __init__(self, word_channels: int, pixel_channels: int, vocabulary_size: int, config: MaskGroundingConfig):
        super().__init__()
        dim, self.grid = config.dim, config.grid
        self.from_words = nn.Linear(word_channels, dim)
        self.from_pixels = nn.Linear(pixel_channels, dim)
        self.from_centre = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.kind = nn.Parameter(torch.zeros(3, dim))  # word, region, mask
        layer = nn.TransformerEncoderLayer(
            dim, config.heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocabulary_size)

    def forward(
        self, words: Tensor, words_valid: Tensor, pixels: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What the head names words from, [B,L,D].

        Args:
            words: [B,L,Cw].
            words_valid: [B,L] bool.
            pixels: [B,Cp,h,w], or None: the picture is not seen.
            mask: [B,1,H,W] bool, the referent, or None: it is not told. An empty one tells nothing either.
        """
        tokens, valid = [self.from_words(words) + self.kind[0]], [words_valid]
        if pixels is not None:
            tokens.append(self._regions(pixels))
            valid.append(words_valid.new_ones(tokens[-1].shape[:2]))
        if mask is not None:
            centre, found = mask_centre(mask)
            told = self.from_centre(place_code(centre, self.kind.shape[1])) + self.kind[2]
            if pixels is not None:
                told = told + self.from_pixels(feature_at(pixels, centre))
            told = (told * found[:, None])[:, None]
            tokens = [tokens[0] + told, *tokens[1:], told]
            valid.append(found[:, None])
        read = self.layers(torch.cat(tokens, 1), src_key_padding_mask=~torch.cat(valid, 1))  # torch: True = padding
        return read[:, : words.shape[1]]

    def _regions(self, pixels: Tensor) -> Tensor:
        """[B,Cp,h,w] -> [B,R,D], with their places."""
        h, w = (min(side, self.grid) for side in pixels.shape[-2:])
        pooled = F.adaptive_avg_pool2d(pixels, (h, w)).flatten(2).mT
        places = sine_positions(h, w, self.kind.shape[1], pixels.device, pixels.dtype).flatten(1).T
        return self.from_pixels(pooled) + places + self.kind[1]


# ---- hiding words ------------------------------------------------------------------------------------------------


def hideable_ids(tokenizer: WordVocabulary) -> Tensor:
    """Which words of the vocabulary may be hidden, [V] bool: no special ones and none that say nothing."""
    special = set(tokenizer.special_ids)
    return torch.tensor(
        [index not in special and word not in UNINFORMATIVE for index, word in enumerate(tokenizer.words)]
    )


def hide_some(candidates: Tensor, share: float) -> Tensor:
    """Each candidate with probability ``share``, and one at random where none was drawn: [B,L] bool to the same."""
    draws = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2.0)
    lowest = F.one_hot(draws.argmin(1), draws.shape[1]).bool()
    return candidates & ((draws < share) | lowest)


# ---- the mask and its pixels -------------------------------------------------------------------------------------


def mask_centre(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean place of the referent's pixels, [B,2], x and y from 0 to 1, and whether there are any, [B] bool.

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
    """What a map [B,C,h,w] has at a place [B,2], x and y from 0 to 1, between the regions: [B,C]."""
    where = 2 * place[:, None, None].to(pixels.dtype) - 1
    return F.grid_sample(pixels, where, padding_mode="border", align_corners=False)[:, :, 0, 0]


def place_code(place: Tensor, channels: int) -> Tensor:
    """Sines and cosines of a place, as ``sine_positions`` writes the end of a region: [B,2] -> [B,C], rows first."""
    half = channels // 2
    wavelengths = 10000 ** (2 * (torch.arange(half, device=place.device) // 2) / half)
    angles = 2 * torch.pi * place.flip(1)[..., None] / wavelengths  # [B,2,C/2]
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(1)


def sample_pixels(
    pixels: Tensor, batch: RefBatch, text: Tensor | None, referent_count: int, other_count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some pixels of the referent and some others of every picture; memory stays bounded whatever the size.

    A region belongs to what covers more than half of it; padding belongs to neither. Half of the others are those most
    similar to the text, if there is one, which are the hardest to tell from the referent.

    Args:
        pixels: [B,D,h,w], of length one.
        batch: where the referents are.
        text: [B,D], of length one, or None.
        referent_count, other_count: P and Q, fewer where the map is smaller.

    Returns:
        [B,P,D], [B,Q,D], and which of them there are: [B,P] and [B,Q] bool
    """
    grid, regions = pixels.shape[-2:], pixels.flatten(2).mT
    inside = F.adaptive_avg_pool2d(batch.mask.float(), grid).flatten(1) > 0.5
    real = F.adaptive_avg_pool2d(batch.pixel_valid.float(), grid).flatten(1) > 0.5
    scores = torch.rand(inside.shape, device=inside.device)
    others = real & ~inside
    if text is not None:
        likeness = torch.einsum("brd,bd->br", regions.detach(), text.detach())
        hardest = likeness.masked_fill(~others, -torch.inf).topk(min(other_count // 2, inside.shape[1])).indices
        scores = scores.scatter(1, hardest, 2.0)
    first, in_first = _drawn(inside & real, torch.rand_like(scores), referent_count)
    second, in_second = _drawn(others, scores, other_count)
    rows = torch.arange(len(regions), device=regions.device)[:, None]
    return regions[rows, first], regions[rows, second], in_first, in_second


def _drawn(candidates: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` candidates [B,R] of highest score: their indices, and which of these are candidates at all."""
    found = scores.masked_fill(~candidates, -1.0).topk(min(count, scores.shape[1]))
    return found.indices, found.values >= 0


def _need(widths: dict[str, int], term: str, *entries: str) -> None:
    missing = [entry for entry in entries if entry not in widths]
    if missing:
        raise RefsegError(f"The loss {term} needs a model whose trace has {', '.join(missing)}: set it to 0 here.")
