"""Configs survive JSON, and nothing but known configs comes back."""

import json

import pytest

from refseg.errors import RefsegError
from refseg.models import MODELS, build_model
from refseg.models.backbones import ResNet101BackboneConfig
from refseg.models.blocks.cmsa import ConcatenationMeanConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.serialise import config_from_dict, config_to_dict, known_configs
from refseg.models.text import SentenceVectorConfig, WordEmbeddingConfig


def through_json(config):
    return config_from_dict(json.loads(json.dumps(config_to_dict(config))))


def test_configs_come_back_equal():
    lesson, paper = CMSANetConfig.lesson(13), CMSANetConfig.paper(12112, weights="IMAGENET1K_V2")
    nested = CMSANetConfig.lesson(13)
    nested.text = SentenceVectorConfig(WordEmbeddingConfig(dim=5))
    nested.cross_modal = ConcatenationMeanConfig()
    nested.c5_dim = 17
    for config in (lesson, paper, nested):
        assert through_json(config) == config
    assert through_json(lesson) != paper


def test_every_config_inside_a_model_config_is_known():
    names = {kind.__name__ for kind in known_configs()}
    assert {"CMSANetConfig", "SmallBackboneConfig", "SentenceVectorConfig", "ConcatenationMeanConfig"} <= names
    assert set(MODELS) <= set(known_configs())


def spoilt(**changes):
    plain = config_to_dict(CMSANetConfig.lesson(13)) | changes
    return {name: value for name, value in plain.items() if value != "remove"}


@pytest.mark.parametrize(
    "plain, message",
    [
        (spoilt(type="os.system"), "unknown type 'os.system'"),
        (spoilt(type=["CMSANetConfig"]), "unknown type"),
        (spoilt(type="remove"), 'not a dict with a "type"'),
        (spoilt(attention_heads=8), "'attention_heads'"),
        (spoilt(head="remove"), "lacks the field 'head'"),
        (spoilt(c5_dim="remove"), "lacks the field 'c5_dim'"),
        (spoilt(vocabulary_size="13"), "CMSANetConfig.vocabulary_size is '13'"),
        (spoilt(vocabulary_size=True), "CMSANetConfig.vocabulary_size is True"),
        (spoilt(head=None), "CMSANetConfig.head is None"),
        (spoilt(backbone={"type": "GMLFConfig", "dim": 3}), "CMSANetConfig.backbone is GMLFConfig"),
        (
            spoilt(
                backbone={
                    "type": "SmallBackboneConfig",
                    "channels": [1, 2, 3],
                    "blocks": [1, 1, 1, 1],
                    "frozen": False,
                }
            ),
            "channels",
        ),
        (spoilt(fusion={"type": "GMLFConfig", "dim": 3, "width": 4}), "CMSANetConfig.fusion has a field 'width'"),
        ([], "not a dict"),
        (None, "not a dict"),
    ],
)
def test_a_broken_config_is_named(plain, message):
    with pytest.raises(RefsegError) as caught:
        config_from_dict(plain)
    assert message in str(caught.value)


def test_build_model_refuses_what_is_no_model_config():
    with pytest.raises(RefsegError, match="GMLFConfig.*CMSANetConfig") as caught:
        build_model(CMSANetConfig.lesson(13).fusion)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_needs_no_pretrained_weights():
    config = CMSANetConfig.paper(13, weights="no such file")
    config.backbone.layers = (1, 1, 1, 1)
    with pytest.raises(RefsegError, match="no such file"):
        build_model(config)
    model = build_model(config, fetch_weights=False)
    assert model.config.backbone == ResNet101BackboneConfig(weights=None, frozen=True, layers=(1, 1, 1, 1))
    assert config.backbone.weights == "no such file"
