"""The four plain fusions: hand-made numbers, how far each one reaches; the network and the presets take them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from refseg.models import build_model
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.fusion import (
    ConvLSTMFusion,
    ConvLSTMFusionConfig,
    DeconvFusion,
    DeconvFusionConfig,
    GatedMultiLevelFusion,
    GMLFConfig,
    PPMFusion,
    PPMFusionConfig,
    SumFusion,
    SumFusionConfig,
)
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.training.experiment import variant
from refseg.training.presets import PRESETS

LEVELS = ("c3", "c4", "c5")
CONTROLS = [SumFusionConfig, PPMFusionConfig, DeconvFusionConfig, ConvLSTMFusionConfig]
PLACES = {"c3": 1.0, "c4": 2.0, "c5": -3.0}


def constant(values, dim=1):
    return {level: torch.full((1, dim, 1, 1), value) for level, value in values.items()}


def zeroed(fusion):
    for parameter in fusion.parameters():
        torch.nn.init.zeros_(parameter)
    return fusion


def test_sum():
    fusion = SumFusion(LEVELS, SumFusionConfig(dim=1))
    assert fusion(constant({"c3": 1.0, "c4": 2.0, "c5": 4.0})).item() == 7.0
    assert list(fusion.parameters()) == []


def test_the_sum_is_the_gated_fusion_with_shut_reset_gates():
    gated = zeroed(GatedMultiLevelFusion(LEVELS, GMLFConfig(dim=3)))
    for convolution in gated.gate.values():
        torch.nn.init.constant_(convolution.bias[1:], -30.0)
    x = {level: torch.randn(2, 3, 5, 7) for level in LEVELS}
    assert torch.allclose(gated(x), SumFusion(LEVELS, SumFusionConfig(dim=3))(x))


def test_pyramid_pooling_by_hand():
    """Two grids: the mean of all four regions, and the regions themselves; join adds 2 mean + 3 region + 5 sum."""
    fusion = zeroed(PPMFusion(LEVELS, PPMFusionConfig(dim=2, bins=(1, 2))))
    with torch.no_grad():
        for narrow in fusion.narrow:
            narrow.weight[0, 0] = 1.0  # reads the first channel
        fusion.join.weight[0, :, 1, 1] = torch.tensor([5.0, 0.0, 2.0, 3.0])
    x = {level: torch.zeros(1, 2, 2, 2) for level in LEVELS}
    x["c3"][0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    x["c5"][0, 0] = 1.0  # the sum is 2 3 4 5, its mean 3.5
    expected = 5 * torch.tensor([[2.0, 3.0], [4.0, 5.0]]) + 2 * 3.5 + 3 * torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    assert torch.allclose(fusion(x)[0, 0], expected)
    assert fusion(x)[0, 1].abs().max() == 0


def test_deconvolution_by_hand():
    """From c5 over c4 to c3; -3 times -1 is 3, so the first ReLU lets it pass, the second shuts."""
    fusion = zeroed(DeconvFusion(LEVELS, DeconvFusionConfig(dim=1)))
    with torch.no_grad():
        fusion.deconv["c4"].weight[0, 0, 1, 1] = -1.0
        fusion.deconv["c3"].weight[0, 0, 1, 1] = 2.0
        assert fusion(constant(PLACES)).item() == 2 * (3 + 2) + 1
        fusion.deconv["c3"].weight[0, 0, 1, 1] = -2.0
        assert fusion(constant(PLACES)).item() == 1.0


def test_convlstm_by_hand():
    """Gates of 1/2 by bias 0; the new content is the input alone."""
    fusion = zeroed(ConvLSTMFusion(LEVELS, ConvLSTMFusionConfig(dim=1)))
    with torch.no_grad():
        fusion.cell.weight[3, 0, 1, 1] = 1.0
    memory = 0.0
    for value in (-3.0, 2.0, 1.0):
        memory = 0.5 * memory + 0.5 * math.tanh(value)
    assert fusion(constant(PLACES)).item() == pytest.approx(0.5 * math.tanh(memory), abs=1e-6)


def test_convlstm_state_enters_the_next_step():
    """Only the state is read, and at the first step it is zero."""
    fusion = zeroed(ConvLSTMFusion(LEVELS, ConvLSTMFusionConfig(dim=1)))
    with torch.no_grad():
        fusion.cell.weight[3, 1, 1, 1] = 1.0
        fusion.cell.bias[3] = 1.0
    memory = hidden = 0.0
    for _ in LEVELS:
        memory = 0.5 * memory + 0.5 * math.tanh(hidden + 1)
        hidden = 0.5 * math.tanh(memory)
    assert fusion(constant(PLACES)).item() == pytest.approx(hidden, abs=1e-6)


REACH = {
    SumFusionConfig: {"c3": 1, "c4": 1, "c5": 1},
    PPMFusionConfig: {"c3": 77, "c4": 77, "c5": 77},
    DeconvFusionConfig: {"c3": 1, "c4": 9, "c5": 25},
    ConvLSTMFusionConfig: {"c3": 9, "c4": 25, "c5": 49},
    GMLFConfig: {"c3": 9, "c4": 9, "c5": 9},
}


def test_reach():
    """From how many of 7 x 11 regions a level gets a word in the middle one."""
    for kind in REACH:
        torch.manual_seed(0)
        fusion = kind(dim=13).build(LEVELS).double()
        x = {level: torch.randn(1, 13, 7, 11, dtype=torch.float64, requires_grad=True) for level in LEVELS}
        fusion(x)[0, :, 3, 5].sum().backward()
        assert {level: int((x[level].grad.abs().sum(1) > 0).sum()) for level in LEVELS} == REACH[kind]


def test_the_contract_of_a_fusion():
    for kind in CONTROLS:
        torch.manual_seed(0)
        fusion = kind(dim=5).build(LEVELS).double()
        x = {level: torch.randn(3, 5, 7, 11, dtype=torch.float64) for level in LEVELS}
        fused = fusion(x)
        assert fusion.channels == 5 and fused.shape == (3, 5, 7, 11)
        alone = fusion({level: value[1:2] for level, value in x.items()})
        assert torch.allclose(fused[1:2], alone)
        if list(fusion.parameters()):
            fused.square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in fusion.parameters())


def test_a_network_takes_it(make_batch):
    for kind in CONTROLS:
        config = replace(CMSANetConfig.lesson(), fusion=kind(dim=24))
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
        prediction = build_model(config, 11)(make_batch([5, 2]))
        assert prediction.trace["pixels"].shape == (2, 24, 5, 7) and prediction.mask_logits.isfinite().all()


def test_a_preset_changes_the_fusion_alone():
    whole = PRESETS["cmsa_refshapes_fusion_gmlf"]
    for name in ("sum", "ppm", "deconv", "convlstm", "release"):
        fusion = PRESETS[f"cmsa_refshapes_fusion_{name}"].model.fusion
        assert PRESETS[f"cmsa_refshapes_fusion_{name}"] == variant(whole, model={"fusion": fusion}), name
        assert fusion != whole.model.fusion and fusion.dim == whole.model.fusion.dim, name
