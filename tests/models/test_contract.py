"""What every model promises, whatever is inside. A new model needs an example here and nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from refseg.models import build_model
from refseg.models.alignformer import AlignFormerConfig
from refseg.models.backbones import DeepLabBackboneConfig, ResNet101BackboneConfig, SwinConfig
from refseg.models.blocks.cfsa import CFSAConfig, FrameMeanConfig
from refseg.models.blocks.cmsa import CMSAConfig
from refseg.models.blocks.cmsa_release import CMSAReleaseConfig, CMSAReleaseLevelsConfig
from refseg.models.blocks.cross_modal import ConcatenationMeanConfig
from refseg.models.blocks.cross_modal_alignment import CAMConfig
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig
from refseg.models.blocks.language_guided_pixel_decoder import DecoderWordsConfig
from refseg.models.blocks.mask2former_decoder import MaskDecoderConfig
from refseg.models.blocks.prototype_generator import PrototypeConfig
from refseg.models.blocks.vlba import VLBAConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.fusion import GMLFConfig, ReleaseGMLFConfig
from refseg.models.magnet import MagNetConfig
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.models.text import BertWordsConfig, SentenceVectorConfig, WordEmbeddingConfig

VOCABULARY = 11
LESSON = CMSANetConfig.lesson()
TINY_RESNET = ResNet101BackboneConfig(layers=(1, 1, 1, 1))
EXAMPLES = {
    "cmsa lesson": LESSON,
    "cmsa without attention": replace(LESSON, cross_modal=ConcatenationMeanConfig()),
    "cmsa with a sentence vector": replace(LESSON, text=SentenceVectorConfig()),
    "cmsa in the paper's form": replace(
        CMSANetConfig.paper(),
        backbone=TINY_RESNET,
        text=WordEmbeddingConfig(dim=7),
        cross_modal=CMSAConfig(dim=5),
        fusion=GMLFConfig(dim=11),
    ),
    "cmsa in the release's form": replace(
        CMSANetConfig.release(),
        backbone=DeepLabBackboneConfig(frozen=False, layers=(1, 1, 1, 1)),
        text=WordEmbeddingConfig(dim=7),
        cross_modal=CMSAReleaseLevelsConfig(
            c3=CMSAReleaseConfig(5, 13), c4=CMSAReleaseConfig(7, 17), c5=CMSAReleaseConfig(11, hide_padding=True)
        ),
        fusion=ReleaseGMLFConfig(dim=11),
        c5_dim=19,
    ),
    "cmsa lesson in the release's form": CMSANetConfig.release_lesson(),
    "cmsa for video": replace(LESSON, temporal=CFSAConfig(dim=12, heads=3)),
    "cmsa for video, frames first": replace(LESSON, temporal=CFSAConfig(dim=12, heads=3, before_cmsa=True)),
    "cmsa for video, the control": replace(LESSON, temporal=FrameMeanConfig()),
    "cmsa on a frozen backbone": replace(LESSON, backbone=replace(TINY_RESNET, frozen=True), c5_dim=13),
    "magnet lesson": MagNetConfig.lesson(),
    "magnet without CAM": replace(MagNetConfig.lesson(), alignment=CAMConfig(pool_sizes=(), pixels_to_words=False)),
    "magnet in the paper's form": replace(
        MagNetConfig.paper(),
        backbone=SwinConfig(dim=12, depths=(1, 1, 2, 1), heads=(1, 2, 3, 4), window=3, drop_path=0.0),
        text=BertWordsConfig(dim=20, layers=4, heads=2, max_words=13),
        alignment=CAMConfig(pool_sizes=(1, 3), heads=2),
        pixel_decoder=DeformableConfig(dim=16, layers=2, heads=2, points=3, inner=11, groups=4),
        decoder=MaskDecoderConfig(layers=4, heads=2, inner=13),
    ),
    "alignformer lesson": AlignFormerConfig.lesson(),
    "alignformer, words to pixels only": replace(AlignFormerConfig.lesson(), vlba=VLBAConfig(pixels_to_words=False)),
    "alignformer, pixels to words only": replace(
        AlignFormerConfig.lesson(), vlba=VLBAConfig(words_to_pixels=False), decoder_words=None
    ),
    "alignformer without VLBA": replace(
        AlignFormerConfig.lesson(), vlba=VLBAConfig(words_to_pixels=False, pixels_to_words=False)
    ),
    "alignformer in the paper's form": replace(
        AlignFormerConfig.paper(),
        backbone=SwinConfig(dim=12, depths=(1, 1, 2, 1), heads=(1, 2, 3, 4), window=3, drop_path=0.0),
        text=BertWordsConfig(dim=20, layers=4, heads=2, max_words=13),
        vlba=VLBAConfig(heads=2),
        pixel_decoder=DeformableConfig(dim=16, levels=3, layers=2, heads=2, points=3, inner=11, groups=4),
        decoder_words=DecoderWordsConfig(heads=2, inner=7, max_words=13),
        generator=PrototypeConfig(dim=14, layers=4, heads=2, inner=13),
    ),
}


@pytest.fixture(params=EXAMPLES, ids=str)
def config(request):
    config = EXAMPLES[request.param]
    if isinstance(config.backbone, SwinConfig):
        pytest.importorskip("timm")
        pytest.importorskip("transformers")
    return config


def assert_close(one, other):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-9 * (1 + other.abs().max())


def test_logits_are_finite_and_the_trace_is_complete(config, make_batch):
    batch = make_batch([5, 2])
    prediction = build_model(config, VOCABULARY)(batch)
    B, one, h, w = prediction.mask_logits.shape
    assert (B, one) == (2, 1) and 40 / h == 56 / w
    assert prediction.mask_logits.isfinite().all()
    words, valid, sentence, pixels = (prediction.trace[k] for k in ("words", "words_valid", "sentence", "pixels"))
    assert words.ndim == 3 and pixels.ndim == 4 and len(words) == len(pixels) == 2
    assert valid.shape == words.shape[:2] and valid.dtype == torch.bool
    assert sentence.shape == (2, words.shape[2])
    assert_close(sentence[1], words[1][valid[1]].mean(0))
    assert any(name.startswith("fused/") for name in prediction.trace)


def test_every_parameter_that_learns_gets_a_gradient(config, make_batch):
    model = build_model(config, VOCABULARY).double().train()
    for name, parameter in model.named_parameters():
        at_zero = ("temporal" in name and ".out." in name) or name.endswith((".offsets.weight", ".scores.weight"))
        if at_zero:  # starts at zero, and nothing learns through zero
            torch.nn.init.normal_(parameter, std=0.3)
    batch = make_batch([5, 2, 3], dtype=torch.float64)
    frames = torch.randn(3, 4, *batch.frames.shape[2:], dtype=torch.float64)  # clips; others see the first frame only
    model(replace(batch, frames=frames, frame_valid=None)).mask_logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 1e-12, name
        else:
            frozen = "backbone" in name and config.backbone.frozen
            before_norm = name.endswith(".out.bias") and config.normalize_levels  # a BatchNorm follows
            assert frozen or before_norm or name.endswith(".self.key.bias"), name


def test_word_padding_changes_nothing(config, make_batch):
    model = build_model(config, VOCABULARY).double().eval()
    batch = make_batch([5, 2], dtype=torch.float64)
    noise = torch.randint(2, VOCABULARY, (2, 8))  # whatever ids lie under the padding
    noise[:, :5] = torch.where(batch.token_valid, batch.token_ids, noise[:, :5])
    longer = replace(batch, token_ids=noise, token_valid=torch.nn.functional.pad(batch.token_valid, (0, 3)))
    prediction, padded = model(batch), model(longer)
    assert_close(padded.mask_logits, prediction.mask_logits)
    for name in ("sentence", "pixels"):
        assert_close(padded.trace[name], prediction.trace[name])


def test_two_samples_are_two_batches_of_one(config, make_batch):
    model = build_model(config, VOCABULARY).double().eval()
    batch = make_batch([5, 2], dtype=torch.float64)
    batch.pixel_valid[1, :, 24:] = False
    batch.frames[1, ..., 24:, :] = 0
    together = model(batch)
    for index, length in enumerate([5, 2]):
        row = slice(index, index + 1)
        names = ("frames", "frame_valid", "target_frame", "mask", "pixel_valid", "image_ids")
        alone = replace(batch, **{name: getattr(batch, name)[row] for name in names})
        alone = replace(alone, token_ids=batch.token_ids[row, :length], token_valid=batch.token_valid[row, :length])
        prediction = model(alone)
        assert_close(together.mask_logits[row], prediction.mask_logits)
        assert_close(together.trace["pixels"][row], prediction.trace["pixels"])


def test_the_words_matter(config, make_batch):
    model = build_model(config, VOCABULARY).double().eval()
    batch = make_batch([5, 2], dtype=torch.float64)
    other = replace(batch, token_ids=torch.where(batch.token_valid, (batch.token_ids + 1) % VOCABULARY, 0))
    assert (model(batch).mask_logits - model(other).mask_logits).abs().max() > 1e-6


def test_a_config_that_went_through_json_builds_the_same_model(config, make_batch):
    copy = config_from_dict(json.loads(json.dumps(config_to_dict(config))))
    assert copy == config
    torch.manual_seed(3)
    model = build_model(config, VOCABULARY).eval()
    torch.manual_seed(3)
    twin = build_model(copy, VOCABULARY).eval()
    batch = make_batch([5, 2])
    assert torch.equal(model(batch).mask_logits, twin(batch).mask_logits)
