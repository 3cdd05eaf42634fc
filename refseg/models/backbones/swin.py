"""Swin Transformer as a backbone of four stages (Liu et al., ICCV 2021), by timm, for MagNet and AlignFormer.

timm is imported when such a network is built (``pip install "refseg[paper]"``), not when this module is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError, first_line, require
from refseg.models.backbones.base import LEVELS, Backbone, BackboneConfig, fill, read_safetensors


@dataclass(frozen=True)
class SwinConfig(BackboneConfig):
    """Swin-B with windows of 12; the images may have any size."""

    dim: int = 128  # of the first stage; every further one has twice as many channels
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window: int = 12
    drop_path: float = 0.3  # MagNet's, as released
    weights: str | None = None  # a name of timm, e.g. "swin_base_patch4_window12_384.ms_in22k": fetched once
    frozen: bool = False

    def build(self) -> SwinBackbone:
        return SwinBackbone(self)

    def with_weights(self, weights: str | None) -> SwinConfig:
        return replace(self, weights=weights)


class SwinBackbone(Backbone):
    """``stem``, then the four ``stages``, each [B,C,h,w] -> [B,C',h',w']: strides 4, 8, 16 and 32.

    A stage begins with the merging of patches, as in timm, so that what a network adds to the features of one stage
    goes into the next.

    Args:
        config: widths, depths and weights.

    Raises:
        RefsegError: timm is missing, or the weights are not there or do not fit.
    """

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.channels = {level: config.dim * 2**i for i, level in enumerate(LEVELS)}
        self.strides = {level: 4 * 2**i for i, level in enumerate(LEVELS)}
        net = _swin(config)
        self.patch = net.patch_embed
        self.stages = nn.ModuleDict({level: SwinStage(stage) for level, stage in zip(LEVELS, net.layers, strict=True)})
        if config.frozen:
            self.freeze()

    def stem(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,C,h,w] in patches of 4 pixels; what is missing at the right and bottom is zero."""
        height, width = images.shape[-2:]
        return self.patch(F.pad(images, (0, -width % 4, 0, -height % 4))).permute(0, 3, 1, 2)


class SwinStage(nn.Module):
    """Merging of patches (but in the first stage), then the blocks, with timm's weights.

    timm shifts a grid and then pads it to whole windows; Swin's authors, and MagNet's release, pad first. Where the
    padding is not half a window, as at the last stage of 480 pixels, only the latter keeps the two borders apart.
    """

    def __init__(self, stage: Any):
        super().__init__()
        self.downsample, self.blocks = stage.downsample, stage.blocks
        for block in self.blocks:
            block.forward = MethodType(padded_first, block)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,2C,h/2,w/2], rounded up; the first stage keeps the shape."""
        return self.blocks(self.downsample(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def padded_first(block: Any, x: Tensor) -> Tensor:
    """What one of timm's blocks computes, [B,h,w,C] to the same, with ``window_attention``."""
    x = x + block.drop_path1(window_attention(block, block.norm1(x)))
    return x + block.drop_path2(block.mlp(block.norm2(x)))


def window_attention(block: Any, x: Tensor) -> Tensor:
    """Attention of one block within its (shifted) windows, [B,h,w,C] -> [B,h,w,C]; padded before the shift."""
    (window, _), (h, w) = block.window_size, x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    return block._attn(padded)[:, :h, :w]


def _swin(config: SwinConfig) -> Any:
    timm = require("timm", 'Swin needs timm: pip install "refseg[paper]".')
    widths = {"embed_dim": config.dim, "depths": config.depths, "num_heads": config.heads, "window_size": config.window}
    options = {"num_classes": 0, "drop_path_rate": config.drop_path, "strict_img_size": False, "always_partition": True}
    if config.weights is None or Path(config.weights).is_file():
        net = timm.models.swin_transformer.SwinTransformer(img_size=32 * config.window, **widths, **options)
        if config.weights is not None:
            state = {name: x for name, x in read_safetensors(config.weights).items() if not name.startswith("head.")}
            fill(net, state, config.weights, "Swin")
        return net
    try:
        return timm.create_model(config.weights, pretrained=True, **widths, **options)
    except Exception as error:  # timm, the hub and the network raise many kinds
        raise RefsegError(
            f"The Swin weights {config.weights!r} could not be loaded ({first_line(error)}): name a file or a model of "
            "timm."
        ) from error
