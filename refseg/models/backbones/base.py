"""What all backbones share: pixels in, features "c2" to "c5" out, from the finest level to the deepest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.serialise import Config

LEVELS = ("c2", "c3", "c4", "c5")


@dataclass(frozen=True)
class BackboneConfig(Config):
    """Base of the backbones' configs."""

    def build(self) -> Backbone:
        """The backbone, with the weights that the config names, or fresh ones."""
        raise NotImplementedError

    def with_weights(self, weights: str | None) -> BackboneConfig:
        """This config with other pretrained weights, or with None.

        Raises:
            RefsegError: there are no pretrained weights for this kind of backbone.
        """
        raise RefsegError(f"{type(self).__name__} has no pretrained weights: leave them out (--weights).")


class Backbone(nn.Module):
    """What all backbones share: ``channels`` and ``strides`` by level, and whether they are ``frozen``.

    A frozen backbone keeps its weights, and its BatchNorms stay in eval mode while the rest trains: paper-size training
    runs at a batch of one or a few images, whose own statistics are noise, and fixed weights under moving statistics
    would not be fixed features. The authors' release freezes both.
    """

    channels: dict[str, int]
    strides: dict[str, int]
    frozen: bool = False
    stem: Any  # a module or a method: [B,3,H,W] -> what the first stage reads
    stages: nn.ModuleDict

    def freeze(self) -> None:
        """From now on nothing in it changes."""
        self.frozen = True
        self.requires_grad_(False)
        self.train(self.training)

    def blocks(self) -> list[nn.Module]:
        """The stages as modules, each [B,C,h,w] -> [B,C',h',w']: what can be compiled, or computed twice."""
        return list(self.stages.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B,3,H,W], normalised colours -> {level: [B,channels[level],h,w]}: the stem, then stage after stage."""
        features, x = {}, self.stem(images)
        for level, stage in zip(LEVELS, self.blocks(), strict=True):
            features[level] = x = stage(x)
        return features

    def train(self, mode: bool = True) -> Self:
        """As usual, but a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., CVPR 2016, Fig. 2), both dilated alike.

    Args:
        channels_in, channels_out: widths; the shortcut is a 1x1 convolution where width or stride change.
        stride: of the first convolution.
        dilation: of both.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C_in,H,W] -> [B,C_out,H/stride,W/stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        RefsegError: it cannot be read as safetensors.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise RefsegError(f"{path} is not a readable safetensors file ({error}): convert or fetch it again.") from None


def fill(net: nn.Module, state: dict[str, Tensor], weights: str, kind: str) -> None:
    """Load pretrained weights into ``net``, in place.

    Args:
        state: the weights by name.
        weights: where they are from, for the message.
        kind: of network, for the message.

    Raises:
        RefsegError: they do not fit.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise RefsegError(
            f"The weights {weights!r} do not fit this {kind} ({reason}): use those of its size."
        ) from None
