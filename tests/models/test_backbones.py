"""Backbones keep the widths and strides they declare, and a frozen one stays as it is."""

from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from refseg.errors import RefsegError
from refseg.models.backbones import (
    HALVING,
    DeepLabBackboneConfig,
    ResNet101BackboneConfig,
    SmallBackbone,
    SmallBackboneConfig,
)
from refseg.models.backbones.resnet import DeepLabBackbone, ResNet101Backbone, deeplab_colours, pad_same

TINY = (1, 1, 1, 1)
CONFIGS = [
    SmallBackboneConfig(),
    HALVING,
    SmallBackboneConfig(channels=(2, 3, 5, 7, 11), blocks=(2, 1, 3, 2)),
    ResNet101BackboneConfig(layers=TINY),
    DeepLabBackboneConfig(layers=TINY),
]


def test_declared_channels_and_strides_are_true():
    for config in CONFIGS:
        backbone = config.build().eval()
        features = backbone(torch.randn(1, 3, 48, 80))
        assert list(features) == ["c2", "c3", "c4", "c5"]
        for level, x in features.items():
            stride = backbone.strides[level]
            assert x.shape == (1, backbone.channels[level], 48 // stride, 80 // stride), level


def test_small_backbone_is_small():
    count = sum(p.numel() for p in SmallBackbone(SmallBackboneConfig()).parameters())
    assert 500_000 < count < 700_000


def test_blocks_of_a_stage_are_counted():
    one, two = (
        sum(p.numel() for p in SmallBackbone(SmallBackboneConfig(blocks=blocks)).stages["c4"].parameters())
        for blocks in [(1, 1, 1, 1), (1, 1, 2, 1)]
    )
    width = SmallBackboneConfig().channels[3]
    assert two - one == 2 * 9 * width * width + 4 * width  # two convolutions, two BatchNorms


def test_frozen_backbone_has_no_gradient_and_fixed_statistics_in_training():
    for backbone in [
        lambda: ResNet101Backbone(ResNet101BackboneConfig(layers=TINY, frozen=True)),
        lambda: SmallBackbone(SmallBackboneConfig((2, 3, 5, 7, 11), frozen=True)),
    ]:
        backbone = backbone().train()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        backbone(torch.randn(2, 3, 32, 32))
        assert not any(p.requires_grad for p in backbone.parameters())
        assert not any(module.training for module in backbone.modules())
        for name, value in backbone.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_free_backbone_learns_its_statistics_in_training():
    backbone = ResNet101Backbone(ResNet101BackboneConfig(layers=TINY)).train()
    before = backbone.net.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 32, 32))
    assert not torch.equal(backbone.net.bn1.running_mean, before)
    assert all(p.requires_grad for p in backbone.parameters())


def test_weights_come_from_a_safetensors_file_classifier_or_not(tmp_path):
    source = ResNet101Backbone(ResNet101BackboneConfig(layers=TINY)).eval()
    path = tmp_path / "resnet.safetensors"
    save_file({**source.net.state_dict(), "fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}, path)
    copy = ResNet101Backbone(ResNet101BackboneConfig(layers=TINY, weights=str(path))).eval()
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy(image)["c5"], source(image)["c5"])


def test_unknown_weights_are_named(tmp_path):
    with pytest.raises(RefsegError, match="IMAGENET9.*IMAGENET1K_V2"):
        ResNet101Backbone(ResNet101BackboneConfig(layers=TINY, weights="IMAGENET9"))


def test_weights_of_another_depth_are_refused(tmp_path):
    path = tmp_path / "deeper.safetensors"
    save_file(ResNet101Backbone(ResNet101BackboneConfig(layers=(1, 2, 1, 1))).net.state_dict(), path)
    with pytest.raises(RefsegError, match="do not fit"):
        ResNet101Backbone(ResNet101BackboneConfig(layers=TINY, weights=str(path)))


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not at all")
    with pytest.raises(RefsegError, match="weights.safetensors"):
        ResNet101Backbone(ResNet101BackboneConfig(layers=TINY, weights=str(path)))


def test_deeplab_is_dilated_and_strides_where_the_release_does():
    net = DeepLabBackbone(DeepLabBackboneConfig(layers=(1, 2, 2, 2))).net
    assert [net.layer2[0].conv1.stride, net.layer2[0].conv2.stride] == [(2, 2), (1, 1)]
    for stage, dilation in ((net.layer1, 1), (net.layer2, 1), (net.layer3, 2), (net.layer4, 4)):
        assert {block.conv2.dilation for block in stage} == {(dilation, dilation)}
    assert {module.eps for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}


def test_deeplab_pads_like_tensorflow():
    """TensorFlow puts ceil(side / 2) windows and as little around them as they need, the odd one at the end."""
    x = torch.ones(1, 1, 320, 5)
    assert pad_same(x, 7).shape == (1, 1, 325, 11) and pad_same(x, 3).shape == (1, 1, 321, 7)
    padded = pad_same(x, 3)[0, 0]
    assert padded[:, 3].tolist() == [1] * 320 + [0]  # even: nothing in front
    assert padded[0].tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_deeplab_sees_blue_green_red_and_black_padding():
    from refseg.datasets.transforms import Letterbox, Normalize
    from refseg.types import RefSample

    picture = torch.tensor([200, 117, 3], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 1, 2)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    sample = Normalize()(Letterbox(2)(RefSample(picture, nothing, "a thing", "0", "test", (1, 2), nothing)))
    colours = deeplab_colours(sample.frames)[0]
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
    assert torch.allclose(colours[:, 0, 0], torch.tensor([3.0, 117.0, 200.0]) - mean, atol=1e-4)
    assert torch.allclose(colours[:, 1, 0], -mean)  # the padding below


def with_downloads(monkeypatch, answer):
    """Whatever torchvision would fetch, it gets ``answer(address)``."""
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **_: answer(url))


def test_deeplab_weights_of_torchvision_give_their_backbone(monkeypatch):
    layers = (1, 1, 1, 1)
    given = ResNet101Backbone(ResNet101BackboneConfig(layers=layers))
    whole = {f"backbone.{name}": x for name, x in given.net.state_dict().items()}
    asked = []
    with_downloads(monkeypatch, lambda url: asked.append(url) or whole | {"classifier.0.weight": torch.ones(1)})
    built = ResNet101Backbone(ResNet101BackboneConfig("COCO_WITH_VOC_LABELS_V1", layers=layers))
    assert len(asked) == 1 and "deeplabv3_resnet101_coco" in asked[0]
    assert all(torch.equal(x, given.net.state_dict()[name]) for name, x in built.net.state_dict().items())


@pytest.mark.parametrize("name", ["IMAGENET1K_V2", "COCO_WITH_VOC_LABELS_V1"])
def test_without_a_network_no_random_weights_take_the_place_of_pretrained_ones(monkeypatch, name):
    def offline(url):
        raise URLError("Name or service not known")

    with_downloads(monkeypatch, offline)
    with pytest.raises(RefsegError, match=f"The weights {name} could not be downloaded .*Name or service") as caught:
        ResNet101Backbone(ResNet101BackboneConfig(name, layers=(1, 1, 1, 1)))
    text = str(caught.value)
    assert "https://download.pytorch.org/models/" in text and "--weights none" in text and "\n" not in text


def test_the_leak_is_told():
    said = " ".join(ResNet101Backbone.__doc__.split())
    assert "COCO train2017" in said and "may have seen the masks it is tested on" in said
