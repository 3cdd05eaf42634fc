"""ResNet-101 at stride 8: torchvision's, and DeepLab's as the authors' release uses it.

Both keep stride 8 after C3 and widen the view by dilation (DeepLab), because referring segmentation needs the place as
much as the meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.hub import get_dir
from torchvision.models import ResNet101_Weights, WeightsEnum
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights

from refseg.errors import RefsegError, first_line
from refseg.models.backbones.base import Backbone, BackboneConfig, fill, read_safetensors
from refseg.types import IMAGENET_MEAN, IMAGENET_STD

DEEPLAB_MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red


@dataclass(frozen=True)
class ResNet101BackboneConfig(BackboneConfig):
    """The backbone of the paper: ResNet-101 at stride 8 (DeepLab-101 without its classifier)."""

    weights: str | None = None  # a name of torchvision's, see ResNet101Backbone, or the path of a safetensors file
    frozen: bool = False  # fixed weights and statistics, as in the authors' release
    layers: tuple[int, int, int, int] = (3, 4, 23, 3)  # bottleneck blocks per stage; (1, 1, 1, 1) for quick tests

    def build(self) -> ResNet101Backbone:
        return ResNet101Backbone(self)

    def with_weights(self, weights: str | None) -> ResNet101BackboneConfig:
        return replace(self, weights=weights)


class ResNet101Backbone(Backbone):
    """torchvision's ResNet-101 with dilation in place of the last two strides.

    Report with every number which weights it begins with:

    * "IMAGENET1K_V1", "IMAGENET1K_V2": classification of ImageNet, nothing of COCO. The honest default.
    * "COCO_WITH_VOC_LABELS_V1": those of torchvision's DeepLabV3, trained to segment the 20 classes of PASCAL VOC on
      a part of COCO train2017. All images of RefCOCO, RefCOCO+ and RefCOCOg, those to validate and test on too, come
      from COCO train2014, whose images train2017 contains: such a network may have seen the masks it is tested on.
      The authors' release begins with DeepLab weights trained on COCO's masks and has the same leak.

    Args:
        config: weights and whether they stay fixed. What has a name is downloaded once into torch's cache.

    Raises:
        RefsegError: ``weights`` is neither a torchvision name nor a file, does not fit, or cannot be downloaded.
    """

    def __init__(self, config: ResNet101BackboneConfig):
        super().__init__()
        self.channels = {"c2": 256, "c3": 512, "c4": 1024, "c5": 2048}
        self.strides = {"c2": 4, "c3": 8, "c4": 8, "c5": 8}
        self.net = ResNet(
            Bottleneck, list(config.layers), num_classes=1, replace_stride_with_dilation=[False, True, True]
        )
        del self.net.fc, self.net.avgpool  # the classifier of ImageNet
        if config.weights is not None:
            _load_resnet(self.net, config.weights)
        if config.frozen:
            self.freeze()

    def blocks(self) -> list[nn.Module]:
        """See ``Backbone.blocks``."""
        return [self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4]

    def stem(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,64,H/4,W/4], what comes before the first block."""
        return self.net.maxpool(self.net.relu(self.net.bn1(self.net.conv1(images))))


@dataclass(frozen=True)
class DeepLabBackboneConfig(BackboneConfig):
    """The backbone of the authors' release, for weights converted from it."""

    frozen: bool = True  # as in the release
    layers: tuple[int, int, int, int] = (3, 4, 23, 3)  # bottleneck blocks per stage; (1, 1, 1, 1) for quick tests

    def build(self) -> DeepLabBackbone:
        return DeepLabBackbone(self)


class DeepLabBackbone(ResNet101Backbone):
    """DeepLab's ResNet-101 as DrSleep/tensorflow-deeplab-resnet builds it, under torchvision's names.

    Where it differs from torchvision's: C3 takes its stride in the first 1x1 convolution, all blocks of C4 and C5 are
    dilated by 2 and 4 (torchvision dilates the first of each by half of that), the stem pads like TensorFlow ("same":
    what is odd goes to the end), BatchNorm adds 1e-3, and colours are blue, green, red, 0 to 255, less their mean.

    Args:
        config: whether the weights stay fixed.
    """

    def __init__(self, config: DeepLabBackboneConfig):
        super().__init__(ResNet101BackboneConfig(None, config.frozen, config.layers))
        net: Any = self.net
        net.conv1.padding, net.maxpool.padding = (0, 0), 0  # the stem pads
        net.layer2[0].conv1.stride, net.layer2[0].conv2.stride = (2, 2), (1, 1)
        for stage, dilation in ((net.layer3, 2), (net.layer4, 4)):
            stage[0].conv2.dilation = stage[0].conv2.padding = (dilation, dilation)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3

    def stem(self, images: Tensor) -> Tensor:
        """As in ``ResNet101Backbone``."""
        net = self.net
        x = net.relu(net.bn1(net.conv1(pad_same(deeplab_colours(images), 7))))
        return net.maxpool(pad_same(x, 3))  # zeros do no harm after a ReLU


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """TensorFlow's "same" padding of [B,C,H,W] for a window of ``kernel`` at stride 2: the odd one at the end."""
    height, width = (max(kernel - (2 if side % 2 == 0 else 1), 0) for side in x.shape[-2:])
    return nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def deeplab_colours(images: Tensor) -> Tensor:
    """Images as ``datasets.Normalize`` leaves them -> blue, green, red from 0 to 255, less DeepLab's mean.

    The release pads with black before it takes the mean away, ours is exactly 0 in all channels there. No 8-bit colour
    gives three zeros, so the padding can be distinguished from the image.
    """
    mean, std, deeplab_mean = (
        torch.tensor(values, device=images.device, dtype=images.dtype)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD, DEEPLAB_MEAN)
    )
    colours = 255 * (images * std + mean)
    black = (images == 0).all(1, keepdim=True)
    return colours.masked_fill(black, 0.0).flip(1) - deeplab_mean


def _load_resnet(net: ResNet, weights: str) -> None:
    """Fill ``net`` from torchvision weights or a safetensors file; the classifier's weights are omitted."""
    if weights in ResNet101_Weights.__members__:
        state = _downloaded(ResNet101_Weights[weights])
    elif weights in DeepLabV3_ResNet101_Weights.__members__:
        whole = _downloaded(DeepLabV3_ResNet101_Weights[weights])
        state = {name.removeprefix("backbone."): x for name, x in whole.items() if name.startswith("backbone.")}
    elif Path(weights).is_file():
        state = read_safetensors(weights)
    else:
        names = ", ".join([*ResNet101_Weights.__members__, *DeepLabV3_ResNet101_Weights.__members__])
        raise RefsegError(f"There are no ResNet-101 weights {weights!r}: give a safetensors file or one of {names}.")
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    fill(net, state, weights, "ResNet")


def _downloaded(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=True)
    except (OSError, RuntimeError) as error:  # no network; a file that came with another sum
        raise RefsegError(
            f"The weights {weights.name} could not be downloaded ({first_line(error)}): connect once, or put "
            f"{weights.url} into {Path(get_dir()) / 'checkpoints'}. Random weights are taken only when asked for: "
            "weights=None, or refseg train --weights none."
        ) from error
