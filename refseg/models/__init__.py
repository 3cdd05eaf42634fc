"""The models, by the class of their config; ``config`` turns configs into JSON and back."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from refseg.errors import RefsegError
from refseg.models.alignformer import AlignFormer, AlignFormerConfig
from refseg.models.cmsa_net import CMSANet, CMSANetConfig
from refseg.models.magnet import MagNet, MagNetConfig

MODELS: dict[type, type[nn.Module]] = {
    CMSANetConfig: CMSANet,
    MagNetConfig: MagNet,
    AlignFormerConfig: AlignFormer,
}


def build_model(config: object, fetch_weights: bool = True) -> nn.Module:
    """The model that ``config`` describes, with fresh weights.

    Args:
        config: an instance of one of the classes in ``MODELS``.
        fetch_weights: False leaves the pretrained weights of backbone and text away, because a checkpoint follows that
            holds them all: loading it then needs neither the network nor the original file.

    Raises:
        RefsegError: no model belongs to this config.
    """
    if type(config) not in MODELS:
        known = ", ".join(kind.__name__ for kind in MODELS)
        raise RefsegError(f"No model belongs to a {type(config).__name__}: build_model takes one of {known}.")
    for name in ("backbone", "text"):
        part = getattr(config, name)
        if not fetch_weights and getattr(part, "weights", None) is not None:
            config = replace(config, **{name: replace(part, weights=None)})
    return MODELS[type(config)](config)
