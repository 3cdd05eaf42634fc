"""Gated multi-level fusion against Eq. 5-6 worked out by hand."""

import math

import numpy as np
import torch

from refseg.models.fusion import (
    GatedMultiLevelFusion,
    GMLFConfig,
    ReleaseGatedMultiLevelFusion,
    ReleaseGMLFConfig,
)

LEVELS = ("c3", "c4", "c5")


def logit(p):
    return math.log(p / (1 - p))


def constant_gates(dim, memory, reset):
    """Gates that do not look at their input: {level: value} each."""
    fusion = GatedMultiLevelFusion(LEVELS, GMLFConfig(dim=dim))
    for level in LEVELS:
        torch.nn.init.zeros_(fusion.gate[level].weight)
        with torch.no_grad():
            fusion.gate[level].bias.copy_(torch.tensor([logit(memory[level]), logit(reset[level])]))
    return fusion


def test_equations_5_and_6_by_hand():
    memory, reset = {"c3": 0.2, "c4": 0.5, "c5": 0.75}, {"c3": 0.1, "c4": 0.6, "c5": 0.5}
    fusion = constant_gates(2, memory, reset)
    with torch.no_grad():
        for level, gamma in {"c3": 0.5, "c4": 2.0, "c5": -1.0}.items():
            fusion.gamma[level].fill_(gamma)
    x = {level: torch.full((1, 2, 1, 3), value) for level, value in {"c3": 1.0, "c4": 2.0, "c5": 4.0}.items()}
    # What each level offers: 0.5*0.2*1 = 0.1; 2*0.5*2 = 2; -1*0.75*4 = -3.
    g3 = 0.8 * 1 + 2 - 3
    g4 = 0.5 * 2 + 0.1 - 3
    g5 = 0.25 * 4 + 0.1 + 2
    total = 0.1 * math.tanh(g3) + 0.9 * 1 + 0.6 * math.tanh(g4) + 0.4 * 2 + 0.5 * math.tanh(g5) + 0.5 * 4
    assert torch.allclose(fusion(x), torch.full((1, 2, 1, 3), total))


def test_memory_gate_of_the_source_decides_what_the_others_receive():
    """Open only c5's memory gate: c5 gives itself up and the others receive it. The reset gates are wide open."""
    fusion = constant_gates(1, {"c3": 1e-6, "c4": 1e-6, "c5": 1 - 1e-6}, dict.fromkeys(LEVELS, 1 - 1e-6))
    x = {level: torch.full((1, 1, 1, 1), value) for level, value in {"c3": 0.1, "c4": 0.2, "c5": 0.4}.items()}
    expected = math.tanh(0.1 + 0.5 * 0.4) + math.tanh(0.2 + 0.5 * 0.4) + math.tanh(0)
    assert torch.allclose(fusion(x), torch.tensor(expected), atol=1e-5)


def test_shut_reset_gates_pass_every_level_on_unchanged():
    fusion = constant_gates(3, dict.fromkeys(LEVELS, 0.9), dict.fromkeys(LEVELS, 1e-7))
    x = {level: torch.randn(2, 3, 5, 7) for level in LEVELS}
    assert torch.allclose(fusion(x), x["c3"] + x["c4"] + x["c5"], atol=1e-5)


def test_gates_are_maps_of_their_own_level_only():
    fusion = GatedMultiLevelFusion(LEVELS, GMLFConfig(dim=3))
    x = {level: torch.randn(2, 3, 5, 7) for level in LEVELS}
    gates = fusion.gates(x)
    after = fusion.gates({**x, "c4": torch.randn(2, 3, 5, 7)})
    for level in LEVELS:
        for gate, new in zip(gates[level], after[level], strict=True):
            assert gate.shape == (2, 1, 5, 7)
            assert 0 < gate.min() and gate.max() < 1
            assert torch.equal(gate, new) == (level != "c4")


def test_gamma_starts_at_one_half():
    fusion = GatedMultiLevelFusion(LEVELS, GMLFConfig(dim=3))
    assert [fusion.gamma[level].item() for level in LEVELS] == [0.5, 0.5, 0.5]


def test_release_cell_by_hand():
    """Gates of 0.25 and 0.75 everywhere, u = 2 at c4 and 0 elsewhere; c4 takes 0.7 of c5 and 0.3 of c3."""
    fusion = ReleaseGatedMultiLevelFusion(LEVELS, ReleaseGMLFConfig(dim=1))
    with torch.no_grad():
        for level in LEVELS:
            own = 2.0 if level == "c4" else 0.0
            fusion.cell[level].weight.zero_()
            fusion.cell[level].bias.copy_(torch.tensor([own, logit(0.25) - 1, logit(0.75) - 1]))
        fusion.share["c4"].fill_(0.7)
    x = {level: torch.full((1, 1, 1, 1), value) for level, value in {"c3": 1.0, "c4": 2.0, "c5": -3.0}.items()}
    c3 = 0.25 * (0.5 * -3 + 0.5 * 2)
    c4 = 0.25 * (0.7 * -3 + 0.3 * 1) + 0.75 * 2
    c5 = 0.25 * (0.5 * 2 + 0.5 * 1)
    total = 0.75 * sum(math.tanh(c) for c in (c3, c4, c5)) + 0.25 * (1 + 2 - 3)
    assert torch.allclose(fusion(x), torch.tensor(total), atol=1e-6)
    for memory_gate, reset_gate in fusion.gates(x).values():
        assert torch.allclose(memory_gate, torch.tensor(0.25)) and torch.allclose(reset_gate, torch.tensor(0.75))


def test_release_gates_have_a_value_per_channel_and_start_open():
    fusion = ReleaseGatedMultiLevelFusion(LEVELS, ReleaseGMLFConfig(dim=3))
    assert [share.item() for share in fusion.share.values()] == [0.5, 0.5, 0.5]
    gates = fusion.gates({level: torch.zeros(2, 3, 5, 7) for level in LEVELS})
    for gate in (gate for pair in gates.values() for gate in pair):
        assert gate.shape == (2, 3, 5, 7)
        assert torch.allclose(gate, torch.tensor(1 / (1 + math.exp(-1))))


def test_release_fusion_equals_the_release(shared_dir):
    numbers = np.load(shared_dir / "parity" / "gmlf_release.npz")
    released = {name: torch.from_numpy(numbers[name]) for name in numbers.files}
    theirs = {"c5": "1", "c4": "2", "c3": "3"}
    fusion = ReleaseGatedMultiLevelFusion(LEVELS, ReleaseGMLFConfig(dim=12))
    with torch.no_grad():
        for level, i in theirs.items():
            fusion.cell[level].weight.copy_(released[f"x{i}_kernel"].permute(3, 2, 0, 1))
            fusion.cell[level].bias.copy_(released[f"x{i}_bias"])
            fusion.share[level].copy_(released[f"x{i}_alpha"])
        fused = fusion({level: released[f"X{i}"].permute(0, 3, 1, 2) for level, i in theirs.items()})
    assert (fused.permute(0, 2, 3, 1) - released["output"]).abs().max() < 5e-6
