"""Backbones: from pictures to features "c2" (stride 4), "c3", "c4", "c5" (all stride 8).

Every backbone declares ``channels`` and ``strides`` by level. Both keep stride 8 behind C3 and widen the view by
dilation instead (DeepLab), because referring segmentation needs the place as much as the meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.hub import get_dir
from torchvision.models import ResNet101_Weights, WeightsEnum
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights

from refseg.errors import RefsegError
from refseg.models.serialise import Config

LEVELS = ("c2", "c3", "c4", "c5")
STRIDES = {"c2": 4, "c3": 8, "c4": 8, "c5": 8}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of datasets.Normalize
DEEPLAB_MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red


class Backbone(nn.Module):
    """What all backbones share: ``channels`` and ``strides`` by level, and whether they are ``frozen``.

    A frozen backbone keeps its weights, and its BatchNorms stay in eval mode while the rest trains: paper-size training
    runs at a batch of one or a few pictures, whose own statistics are noise, and fixed weights under moving statistics
    would not be fixed features. The authors' release freezes both.
    """

    channels: dict[str, int]
    strides: dict[str, int]
    frozen: bool = False

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
        for level, stage in self.stages.items():
            features[level] = x = stage(x)
        return features

    def train(self, mode: bool = True) -> Backbone:
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


@dataclass(frozen=True)
class BackboneConfig(Config):
    """Base of the backbones' configs."""

    def build(self) -> Backbone:
        """The backbone, with the weights that the config names, or fresh ones."""
        raise NotImplementedError


@dataclass(frozen=True)
class SmallBackboneConfig(BackboneConfig):
    """A backbone that trains from scratch on two CPU cores while a class waits (ours, for the lessons)."""

    channels: tuple[int, int, int, int, int] = (32, 48, 80, 96, 96)  # stem, c2, c3, c4, c5
    blocks: tuple[int, int, int, int] = (1, 2, 1, 1)  # residual blocks of c2, c3, c4, c5
    frozen: bool = False  # fixed weights and statistics, for training that begins with those of another network

    def build(self) -> SmallBackbone:
        return SmallBackbone(self)


class SmallBackbone(Backbone):
    """Stem at stride 2, c2 at stride 4, c3 at stride 8, then c4 and c5 at stride 8 with dilation 2 and 4.

    Args:
        config: widths and depths.
    """

    def __init__(self, config: SmallBackboneConfig):
        super().__init__()
        stem, *widths = config.channels
        self.channels = dict(zip(LEVELS, widths, strict=True))
        self.strides = dict(STRIDES)
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        self.stages = nn.ModuleDict()
        channels_in = stem
        for level, width, depth, stride, dilation in zip(
            LEVELS, widths, config.blocks, (2, 2, 1, 1), (1, 1, 2, 4), strict=True
        ):
            first = ResidualBlock(channels_in, width, stride, dilation)
            rest = [ResidualBlock(width, width, 1, dilation) for _ in range(depth - 1)]
            self.stages[level] = nn.Sequential(first, *rest)
            channels_in = width
        if config.frozen:
            self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B,3,H,W], normalised colours -> {level: [B,channels[level],H/stride,W/stride]}."""
        # Channels last: quicker convolutions on a CPU, and the regions [B,R,C] of the attention need no copy.
        return super().forward(images.contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class ResNet101BackboneConfig(BackboneConfig):
    """The backbone of the paper: ResNet-101 at stride 8 (DeepLab-101 without its classifier)."""

    weights: str | None = None  # a name of torchvision's, see ResNet101Backbone, or the path of a safetensors file
    frozen: bool = False  # fixed weights and statistics, as in the authors' release
    layers: tuple[int, int, int, int] = (3, 4, 23, 3)  # bottleneck blocks per stage; (1, 1, 1, 1) for quick tests

    def build(self) -> ResNet101Backbone:
        return ResNet101Backbone(self)


class ResNet101Backbone(Backbone):
    """torchvision's ResNet-101 with dilation in place of the last two strides.

    Which weights it begins with belongs beside every number:

    * "IMAGENET1K_V1", "IMAGENET1K_V2": classification of ImageNet, no mask and no picture of COCO. The honest default.
    * "COCO_WITH_VOC_LABELS_V1": those of torchvision's DeepLabV3, trained to segment the 20 classes of PASCAL VOC on
      a part of COCO train2017. All pictures of RefCOCO, RefCOCO+ and RefCOCOg, those to validate and test on too, come
      from COCO train2014, whose pictures train2017 contains: such a network may have seen the masks it is tested on.
      The authors' release begins with DeepLab weights trained on COCO's masks and has the same leak.

    Args:
        config: weights and whether they stay fixed. What has a name is downloaded once into torch's cache.

    Raises:
        RefsegError: ``weights`` is neither a torchvision name nor a file, does not fit, or cannot be downloaded.
    """

    def __init__(self, config: ResNet101BackboneConfig):
        super().__init__()
        self.channels = {"c2": 256, "c3": 512, "c4": 1024, "c5": 2048}
        self.strides = dict(STRIDES)
        self.net = ResNet(
            Bottleneck, list(config.layers), num_classes=1, replace_stride_with_dilation=[False, True, True]
        )
        del self.net.fc, self.net.avgpool  # the classifier of ImageNet
        if config.weights is not None:
            _load_resnet(self.net, config.weights)
        if config.frozen:
            self.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B,3,H,W], colours normalised as the weights expect -> {level: [B,channels[level],H/stride,W/stride]}."""
        features = {}
        x = self.stem(images)
        for level, stage in zip(LEVELS, self.blocks(), strict=True):
            features[level] = x = stage(x)
        return features

    def blocks(self) -> list[nn.Module]:
        """See ``Backbone.blocks``."""
        return [self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4]

    def stem(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,64,H/4,W/4], what stands before the first block."""
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
    dilated by 2 and 4 (torchvision leaves the first of each a step behind), the stem pads like TensorFlow ("same":
    what is odd goes to the end), BatchNorm adds 1e-3, and colours are blue, green, red, 0 to 255, less their mean.

    Args:
        config: whether the weights stay fixed.
    """

    def __init__(self, config: DeepLabBackboneConfig):
        super().__init__(ResNet101BackboneConfig(None, config.frozen, config.layers))
        net = self.net
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
        return net.maxpool(pad_same(x, 3))  # zeros do no harm behind a ReLU


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """TensorFlow's "same" padding of [B,C,H,W] for a window of ``kernel`` at stride 2: the odd one at the end."""
    height, width = (max(kernel - (2 if side % 2 == 0 else 1), 0) for side in x.shape[-2:])
    return nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def deeplab_colours(images: Tensor) -> Tensor:
    """Pictures as ``datasets.Normalize`` leaves them -> blue, green, red from 0 to 255, less DeepLab's mean.

    The release pads with black before it takes the mean away, ours is exactly 0 in all channels there. No 8-bit colour
    gives three zeros, so the padding can be told from the picture.
    """
    mean, std, deeplab_mean = (
        torch.tensor(values, device=images.device, dtype=images.dtype)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD, DEEPLAB_MEAN)
    )
    colours = 255 * (images * std + mean)
    black = (images == 0).all(1, keepdim=True)
    return colours.masked_fill(black, 0.0).flip(1) - deeplab_mean


def _load_resnet(net: ResNet, weights: str) -> None:
    """Fill ``net`` from torchvision weights or a safetensors file; the classifier's weights are left out."""
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
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise RefsegError(
            f"The weights {weights!r} do not fit this ResNet ({reason}): use those of its depth."
        ) from None


def _downloaded(weights: WeightsEnum) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=True)
    except (OSError, RuntimeError) as error:  # no network; a file that came with another sum
        raise RefsegError(
            f"The weights {weights.name} could not be downloaded ({str(error).splitlines()[0]}): connect once, or put "
            f"{weights.url} into {Path(get_dir()) / 'checkpoints'}. Random weights are taken only when asked for: "
            "weights=None, or refseg train --weights none."
        ) from error


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        RefsegError: it cannot be read as safetensors.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise RefsegError(f"{path} is not a readable safetensors file ({error}): convert or fetch it again.") from None
