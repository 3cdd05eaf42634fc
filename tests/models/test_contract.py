"""What every model promises, whatever is inside. A new model needs an example here and nothing else."""

import copy
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


@pytest.fixture
def models():
    """[(name, model)], one of each example, in float64 and eval mode."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    return [(name, build_model(config, VOCABULARY).double().eval()) for name, config in EXAMPLES.items()]


def assert_close(one, other, name):
    assert one.shape == other.shape, name
    assert (one - other).abs().max() <= 1e-9 * (1 + other.abs().max()), name


def example(make_batch):
    """Two samples with padded words, and one with padded pixels."""
    batch = make_batch([5, 2], dtype=torch.float64)
    batch.pixel_valid[1, :, 24:] = False
    batch.frames[1, ..., 24:, :] = 0
    return batch


def clips(batch, count=4):
    """The same with more frames, of which the second sample lacks the last; models for images see the first only."""
    frames = torch.randn(len(batch), count, *batch.frames.shape[2:], dtype=batch.frames.dtype)
    frame_valid = torch.ones(len(batch), count, dtype=torch.bool)
    frame_valid[1, -1] = False
    return replace(batch, frames=frames, frame_valid=frame_valid)


def test_logits_are_finite_and_the_trace_is_complete(models, make_batch):
    batch = example(make_batch)
    for name, model in models:
        prediction = model(batch)
        B, one, h, w = prediction.mask_logits.shape
        assert (B, one) == (2, 1) and 40 / h == 56 / w, name
        assert prediction.mask_logits.isfinite().all(), name
        words, valid, sentence, pixels = (prediction.trace[k] for k in ("words", "words_valid", "sentence", "pixels"))
        assert words.ndim == 3 and pixels.ndim == 4 and len(words) == len(pixels) == 2, name
        assert valid.shape == words.shape[:2] and valid.dtype == torch.bool, name
        assert sentence.shape == (2, words.shape[2]), name
        assert_close(sentence[1], words[1][valid[1]].mean(0), name)


def test_what_objectives_read_has_the_promised_width_and_learns(models, make_batch):
    batch = clips(example(make_batch))
    for name, model in models:
        trace = model.train()(batch).trace
        for entry, width in (model.visual_channels | model.trace_channels).items():
            pooled = entry == "pooled_words"
            x = model.pooled_words(batch, trace, batch.mask) if pooled else trace[entry]
            assert len(x) == 2 and x.shape[1 if x.ndim in (2, 4) else 2] == width, (name, entry)
        for entry in model.visual_channels:
            assert trace[entry].ndim == 4 and trace[entry].requires_grad, (name, entry)


def forbidden(module, inputs):
    raise AssertionError(f"explain calls {type(module).__name__} again")


def test_an_explanation_has_the_promised_shapes_and_sums(models, make_batch):
    batch = clips(example(make_batch))
    for name, model in models:
        prediction = model(batch)
        for module in model.modules():
            module.register_forward_pre_hook(forbidden)
        shown = model.explain(batch, prediction)
        assert shown.region_rows == {}, name
        whole = model.explain(batch, prediction, region_rows=True)
        valid = prediction.trace["words_valid"]
        for level, maps in shown.word_maps.items():
            assert torch.equal(maps, whole.word_maps[level]) and maps.shape[:2] == valid.shape, (name, level)
            assert_close(maps.sum((2, 3)), valid.double(), (name, level))
        for level, rows in whole.region_rows.items():
            R = whole.word_maps[level][0, 0].numel()
            assert rows.shape == (2, R, R) and rows.min() >= 0, (name, level)
            assert_close(rows.sum(2), torch.ones(2, R, dtype=torch.float64), (name, level))
        for level, read in whole.region_words.items():
            R = whole.word_maps[level][0, 0].numel()
            assert read.shape == (*valid.shape, R) and not read[~valid].any(), (name, level)
            assert_close(read.sum(1), torch.ones(2, R, dtype=torch.float64), (name, level))
        for level, (memory, reset) in shown.gates.items():
            assert memory.ndim == 4 and memory.shape == reset.shape, (name, level)
            assert min(memory.min(), reset.min()) > 0 and max(memory.max(), reset.max()) < 1, (name, level)
        for level, weights in shown.frame_weights.items():
            assert weights.ndim == 5 and weights.shape[2] == 4 and not weights[1, :, -1].any(), (name, level)
            assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]), (name, level))
        if shown.centre_maps is not None:
            assert shown.centre_maps.shape[2:] == prediction.trace["pixels"].shape[2:], name
            assert shown.centre_maps.abs().max() <= 1 + 1e-9, name


def test_what_can_be_shown(make_batch):
    """By example: which parts of the explanation a network has."""
    parts = ("word_maps", "region_rows", "region_words", "gates", "frame_weights", "centre_maps")
    cmsa = {"word_maps", "region_rows", "region_words", "gates"}
    has = {
        "cmsa lesson": cmsa,
        "cmsa without attention": {"gates"},
        "cmsa in the release's form": cmsa,
        "cmsa for video": cmsa | {"frame_weights"},
        "cmsa for video, the control": cmsa,
        "magnet lesson": {"word_maps"},
        "magnet without CAM": set(),
        "alignformer lesson": {"word_maps", "region_words", "centre_maps"},
        "alignformer without VLBA": {"centre_maps"},
    }
    for name, expected in has.items():
        model, batch = build_model(EXAMPLES[name], VOCABULARY).eval(), make_batch([5, 2])
        shown = model.explain(batch, model(batch), region_rows=True)
        found = {part for part in parts if getattr(shown, part) is not None and len(getattr(shown, part))}
        assert found == expected and shown.pairs == name.startswith("cmsa"), name


def test_every_parameter_learns_or_changes_nothing(models, make_batch):
    batch = clips(make_batch([5, 2, 3], dtype=torch.float64))
    for name, model in models:
        model.train()
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # starts at zero, and nothing learns through zero
                torch.nn.init.normal_(parameter, std=0.3)
        torch.manual_seed(0)  # of dropout
        logits = model(batch).mask_logits
        logits.square().sum().backward()
        idle = []
        for which, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), (name, which)
                assert parameter.grad.abs().max() > 1e-12, (name, which)
            elif not (model.backbone.frozen and which.startswith("backbone.")):
                idle.append(parameter)
        with torch.no_grad():
            for parameter in idle:
                parameter.add_(torch.randn_like(parameter))
            torch.manual_seed(0)
            assert_close(model(batch).mask_logits, logits, name)


def test_word_padding_changes_nothing(models, make_batch):
    batch = example(make_batch)
    noise = torch.randint(2, VOCABULARY, (2, 8))  # whatever ids lie under the padding
    noise[:, :5] = torch.where(batch.token_valid, batch.token_ids, noise[:, :5])
    longer = replace(batch, token_ids=noise, token_valid=torch.nn.functional.pad(batch.token_valid, (0, 3)))
    for name, model in models:
        prediction, padded = model(batch), model(longer)
        assert_close(padded.mask_logits, prediction.mask_logits, name)
        for entry in ("sentence", "pixels"):
            assert_close(padded.trace[entry], prediction.trace[entry], (name, entry))


def test_two_samples_are_two_batches_of_one(models, make_batch):
    batch = example(make_batch)
    for name, model in models:
        together = model(batch)
        for index, length in enumerate([5, 2]):
            alone = batch.rows([index])
            words = {"token_ids": alone.token_ids[:, :length], "token_valid": alone.token_valid[:, :length]}
            prediction = model(replace(alone, **words))
            assert_close(together.mask_logits[[index]], prediction.mask_logits, name)
            assert_close(together.trace["pixels"][[index]], prediction.trace["pixels"], name)


def test_the_words_matter(models, make_batch):
    batch = example(make_batch)
    other = replace(batch, token_ids=torch.where(batch.token_valid, (batch.token_ids + 1) % VOCABULARY, 0))
    for name, model in models:
        assert (model(batch).mask_logits - model(other).mask_logits).abs().max() > 1e-6, name


def test_a_config_that_went_through_json_builds_the_same_model(models, make_batch):
    batch = example(make_batch)
    for name, model in models:
        config = config_from_dict(json.loads(json.dumps(config_to_dict(model.config))))
        assert config == EXAMPLES[name], name
        twin = build_model(config, VOCABULARY, fetch_weights=False).double().eval()
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        assert torch.equal(model(batch).mask_logits, twin(batch).mask_logits), name
