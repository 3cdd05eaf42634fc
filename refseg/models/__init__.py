"""The models. A model's config says which parts it has, and builds it; ``serialise`` turns it into JSON and back."""

from __future__ import annotations

from refseg.errors import RefsegError
from refseg.models.alignformer import AlignFormer, AlignFormerConfig
from refseg.models.base import ModelConfig, ReferringModel
from refseg.models.cmsa_net import CMSANet, CMSANetConfig
from refseg.models.magnet import MagNet, MagNetConfig


def build_model(config: ModelConfig, vocabulary_size: int, fetch_weights: bool = True) -> ReferringModel:
    """The model that ``config`` describes, with fresh weights.

    >>> from refseg import build_model
    >>> from refseg.models.cmsa_net import CMSANetConfig
    >>> model = build_model(CMSANetConfig.lesson(), vocabulary_size=50)
    >>> sum(parameter.numel() for parameter in model.parameters()) > 500_000
    True

    Args:
        config: of one of the models, e.g. ``CMSANetConfig.lesson()``.
        vocabulary_size: number of token ids, the length of the tokenizer.
        fetch_weights: False omits the pretrained weights of backbone and text, because a checkpoint follows that
            holds them all: loading it then needs neither the network nor the original file.

    Raises:
        RefsegError: ``config`` is not the config of a model.
    """
    if not isinstance(config, ModelConfig):
        raise RefsegError(f"A {type(config).__name__} does not describe a model: build_model takes a ModelConfig.")
    return (config if fetch_weights else config.without_weights()).build(vocabulary_size)
