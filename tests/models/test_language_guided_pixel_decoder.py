"""The pixel decoder with words: without them it is MagNet's, padding is not read, order and sizes are."""

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig, DeformablePixelDecoder
from refseg.models.blocks.language_guided_pixel_decoder import DecoderWordsConfig, LanguageGuidedPixelDecoder

B, L, WORDS = 2, 5, 14
CHANNELS, GRIDS = {"c4": 7, "c3": 5, "c2": 3}, {"c4": (2, 3), "c3": (3, 5), "c2": (6, 11)}
CONFIG = DeformableConfig(dim=8, levels=2, layers=3, heads=2, points=2, inner=11, groups=2)
LOOKS = DecoderWordsConfig(heads=2, inner=13, max_words=6)


def decoder(words=LOOKS, upsampling=1):
    return LanguageGuidedPixelDecoder(CHANNELS, WORDS, CONFIG, words, upsampling).eval()


def example():
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    features = {level: torch.randn(B, width, *GRIDS[level]) for level, width in CHANNELS.items()}
    return features, torch.randn(B, L, WORDS), valid


@torch.no_grad()
def test_without_words_it_is_magnets_decoder():
    ours, base, (features, words, valid) = decoder(words=None), DeformablePixelDecoder(CHANNELS, CONFIG), example()
    base.load_state_dict(ours.decoder.state_dict())
    (pixels, levels), (expected, expected_levels) = ours(features, words, valid), base(features)
    assert torch.equal(pixels, expected) and list(levels) == ["c4", "c3"]
    assert all(torch.equal(levels[level], expected_levels[level]) for level in levels)


@torch.no_grad()
def test_padded_words_are_not_read_and_real_ones_are():
    ours, (features, words, valid) = decoder(), example()
    pixels, _ = ours(features, words, valid)
    noise = torch.where(valid[..., None], words, torch.randn_like(words))
    assert torch.equal(ours(features, noise, valid)[0], pixels)
    swapped = words.clone()
    swapped[:, :2] = words[:, :2].flip(1)
    assert (ours(features, swapped, valid)[0] - pixels).abs().amax((1, 2, 3)).min() > 1e-4, "order does not matter"


@torch.no_grad()
def test_a_shorter_batch_gives_the_same():
    ours, (features, words, valid) = decoder(), example()
    second = {level: x[1:] for level, x in features.items()}
    alone, _ = ours(second, words[1:, :2], valid[1:, :2])
    assert torch.allclose(alone, ours(features, words, valid)[0][1:], atol=1e-5)


@torch.no_grad()
def test_pixels_can_be_finer_than_the_finest_level():
    ours, (features, words, valid) = decoder(upsampling=3), example()
    pixels, _ = ours(features, words, valid)
    assert pixels.shape == (B, 8, 18, 33)
    torch.nn.init.zeros_(ours.decoder.pixels.weight)
    ours.decoder.pixels.bias.copy_(torch.arange(72.0))
    pixels, _ = ours(features, words, valid)
    # The 3 x 3 pixels of one place are neighbours: channel c has the biases 9 c to 9 c + 8, row by row.
    assert pixels[0, 1, 3:6, 6:9].tolist() == [[9, 10, 11], [12, 13, 14], [15, 16, 17]]


def test_weights_of_older_checkpoints_load():
    """They had no part "decoder"."""
    ours, other = decoder(), decoder()
    other.load_state_dict({name.removeprefix("decoder."): weight for name, weight in ours.state_dict().items()})
    assert all(torch.equal(one, two) for one, two in zip(ours.state_dict().values(), other.state_dict().values()))


def test_too_many_words_are_named():
    features, _, _ = example()
    with pytest.raises(RefsegError, match="has 7 words, the pixel decoder knows 6: cut them in the tokenizer"):
        decoder()(features, torch.randn(B, 7, WORDS), torch.ones(B, 7, dtype=torch.bool))
