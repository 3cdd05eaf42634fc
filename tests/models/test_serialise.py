"""Configs survive JSON, and nothing but known configs comes back."""

import json
from dataclasses import dataclass, replace

import pytest

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import ResNet101BackboneConfig, SmallBackboneConfig
from refseg.models.blocks.cross_modal import ConcatenationMeanConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.fusion import FusionConfig, GMLFConfig
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.models.text import SentenceVectorConfig, WordEmbeddingConfig


@dataclass(frozen=True)
class OurFusionConfig(FusionConfig):
    """Of a researcher, outside of the package."""

    kernel: int = 3


def through_json(config):
    return config_from_dict(json.loads(json.dumps(config_to_dict(config))))


def test_configs_come_back_equal():
    lesson = CMSANetConfig.lesson()
    parts = {"text": SentenceVectorConfig(WordEmbeddingConfig(dim=5)), "cross_modal": ConcatenationMeanConfig()}
    configs = [lesson, CMSANetConfig.paper(weights="IMAGENET1K_V2"), replace(lesson, **parts, c5_dim=17)]
    configs.append(replace(lesson, fusion=OurFusionConfig(dim=8, kernel=5)))
    for config in configs:
        assert through_json(config) == config and hash(through_json(config)) == hash(config)
    assert through_json(configs[0]) != configs[1]


def spoilt(**changes):
    plain = config_to_dict(CMSANetConfig.lesson()) | changes
    return {name: value for name, value in plain.items() if value != "remove"}


def test_fields_that_came_later_have_their_default_and_the_vocabulary_size_of_old_files_is_dropped():
    old = spoilt(vocabulary_size=13, temporal="remove", c5_dim="remove", fusion={"type": "GMLFConfig"})
    assert config_from_dict(old) == replace(CMSANetConfig.lesson(), fusion=GMLFConfig())


def test_a_broken_config_is_named():
    small = config_to_dict(SmallBackboneConfig())
    deep = {"type": "SentenceVectorConfig"}
    for _ in range(900):
        deep = {"type": "SentenceVectorConfig", "words": deep}
    for plain, message in [
        (spoilt(type="os.system"), "unknown type 'os.system': import the module that defines it first"),
        (spoilt(type=["CMSANetConfig"]), "unknown type"),
        (spoilt(type="remove"), 'not a dict with a "type"'),
        (spoilt(attention_heads=8), "'attention_heads'"),
        (spoilt(head="remove"), "lacks the field 'head'"),
        (spoilt(c5_dim="13"), "CMSANetConfig.c5_dim is '13'"),
        (spoilt(c5_dim=True), "CMSANetConfig.c5_dim is True"),
        (spoilt(head=None), "CMSANetConfig.head is None, but it must be a HeadConfig"),
        (spoilt(backbone={"type": "GMLFConfig", "dim": 3}), "CMSANetConfig.backbone is GMLFConfig"),
        (spoilt(backbone=small | {"channels": [1, 2, 3]}), "channels"),
        (spoilt(backbone=small | {"channels": [1, 2, 3, 4, {"type": "os.system"}]}), "unknown type"),
        (spoilt(fusion={"type": "GMLFConfig", "dim": 3, "width": 4}), "CMSANetConfig.fusion has a field 'width'"),
        (spoilt(text=deep), "nested too deeply"),
        ([], "not a dict"),
        (None, "not a dict"),
    ]:
        with pytest.raises(RefsegError) as caught:
            config_from_dict(plain)
        assert message in str(caught.value) and "\n" not in str(caught.value), message


def test_build_model_refuses_what_does_not_describe_a_model():
    with pytest.raises(RefsegError, match="A GMLFConfig does not describe a model"):
        build_model(GMLFConfig(), 13)


def test_a_checkpoint_needs_no_pretrained_weights():
    backbone = ResNet101BackboneConfig(weights="no such file", frozen=True, layers=(1, 1, 1, 1))
    config = replace(CMSANetConfig.paper(), backbone=backbone)
    with pytest.raises(RefsegError, match="no such file"):
        build_model(config, 13)
    assert build_model(config, 13, fetch_weights=False).config.backbone == replace(backbone, weights=None)
