"""A frozen backbone looks at every image once, and what it saw trains a network like the pixels would."""

from dataclasses import replace

import pytest
import torch

from refseg.datasets import Collate
from refseg.datasets.wrappers import (
    CachedFeatures,
    Mirrored,
    ReplacedExpressions,
    SafeDataset,
    Wrapper,
    other_expressions,
)
from refseg.models import build_model
from refseg.models.backbones import SmallBackboneConfig
from refseg.models.blocks.cfsa import CFSAConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.types import Annotations, RefSample

WORDS = {"red": 2, "star": 3, "left": 4}


class Tokenizer:
    def encode(self, expression):
        return [WORDS[word] for word in expression.split()]


def sample(clip: str, frames: int, target: int, expression: str, seed: int) -> RefSample:
    pixels = torch.randn(frames, 3, 32, 40, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(32, 40, dtype=torch.bool)
    return RefSample(
        pixels,
        mask,
        expression,
        f"{clip}/{expression}",
        "made/train",
        (32, 40),
        mask,
        target,
        annotations=Annotations(image_id=clip),
    )


# Three samples of two clips, the second of which is shorter.
SAMPLES = [sample("a", 3, 1, "red star", 0), sample("a", 3, 1, "left", 0), sample("b", 2, 0, "star left", 1)]


def network(**fields):
    torch.manual_seed(0)
    config = replace(CMSANetConfig.lesson(), backbone=SmallBackboneConfig((4, 4, 6, 6, 8), frozen=True), **fields)
    model = build_model(config, 7)
    if model.temporal is not None:
        for parameter in model.temporal.parameters():  # it starts as if it were not there
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_a_clip_is_looked_at_once_and_pixels_are_gone():
    looks = []

    def look(frames):
        looks.append(frames)
        return {"c3": frames.mean((2, 3), keepdim=True)}

    seen = CachedFeatures(SAMPLES, look)
    for _ in range(3):
        samples = [seen[i] for i in range(len(seen))]
    assert [len(frames) for frames in looks] == [3, 2]
    assert len(seen) == 3 and [s.expression for s in samples] == [s.expression for s in SAMPLES]
    assert samples[0].features is samples[1].features
    assert samples[2].features["c3"].dtype == torch.float16
    assert torch.allclose(samples[2].features["c3"].float(), SAMPLES[2].frames.mean((2, 3), keepdim=True), atol=1e-3)
    assert samples[2].frames.shape == (2, 3, 32, 40) and not samples[2].frames.any()
    assert SAMPLES[2].frames.any()  # the samples underneath are left alone


@pytest.mark.parametrize("temporal", [None, CFSAConfig(), CFSAConfig(before_cmsa=True)], ids=str)
def test_features_say_what_the_pixels_say(temporal):
    model = network(temporal=temporal)
    collate = Collate(Tokenizer())
    from_pixels = collate(SAMPLES)
    seen = CachedFeatures(SAMPLES, model.backbone)
    from_features = collate([seen[i] for i in range(3)])
    assert from_pixels.features is None and from_features.features["c5"].shape == (3, 3, 8, 4, 5)
    one, other = model(from_pixels), model(from_features.to("cpu"))
    assert one.mask_logits.abs().max() > 0.01
    assert torch.allclose(one.mask_logits, other.mask_logits, atol=2e-3)  # half precision
    no_features = {level: torch.zeros_like(x) for level, x in from_features.features.items()}
    assert not torch.allclose(
        one.mask_logits, model(replace(from_features, features=no_features)).mask_logits, atol=2e-2
    )


def test_a_batch_is_seen_as_a_whole_or_not_at_all():
    seen = CachedFeatures(SAMPLES, network().backbone)
    assert Collate(Tokenizer())([seen[0], SAMPLES[2]]).features is None


class Named(list):
    """Samples with what a data set offers beside them."""

    expressions = ["the star on the left", "the left cup", "a star"]
    image_ids, referent_ids, class_names = ["a", "a", "b"], [1, 2, 3], {"shape": ("star", "cup")}


def test_a_wrapper_offers_what_the_data_set_offers_and_samples_in_its_own_order():
    data = Named(SAMPLES)
    view = Wrapper(data, [2, 0])
    assert len(view) == 2 and view[0] is SAMPLES[2] and view.expressions == ["a star", "the star on the left"]
    assert (view.image_ids, view.referent_ids, view.class_names) == (["b", "a"], [3, 1], data.class_names)
    both = Mirrored(Wrapper(data))
    assert both.expressions[3:] == ["the star on the right", "the right cup", "a star"]
    assert both.image_ids == data.image_ids * 2 and len(SafeDataset(both).expressions) == 6
    assert torch.equal(both[5].frames, SAMPLES[2].frames.flip(-1)) and both[5].annotations.mirrored


def test_an_expression_of_another_object_in_the_same_image():
    replaced = ReplacedExpressions(Named(SAMPLES), other_expressions)
    assert replaced.expressions == ["the left cup", "the star on the left"] and replaced.image_ids == ["a", "a"]
    assert [sample.expression for sample in replaced] == replaced.expressions
