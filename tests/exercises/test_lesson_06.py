"""Answers as students write them; and the check of the fusion holds against the package's block."""

import pytest
import torch

from refseg.exercises import ExerciseError
from refseg.exercises import lesson_06 as check
from refseg.models.gmlf import GatedMultiLevelFusion, GMLFConfig


def gates(x, layer):
    maps = 1 / (1 + torch.exp(-layer(x)))
    return maps[:, 0:1], maps[:, 1:2]


def fuse(x, gates, gamma):
    result = torch.zeros_like(x["c3"])
    for i in x:
        m_i, r_i = gates[i]
        G = (1 - m_i) * x[i]
        for j in x:
            if j != i:
                G = G + gamma[j] * gates[j][0] * x[j]
        result = result + r_i * torch.tanh(G) + (1 - r_i) * x[i]
    return result


def test_answers_of_students_pass(capsys):
    check.gates(gates)
    check.fuse(fuse)
    check.find_faults(found_by_experiment())
    assert capsys.readouterr().out.count("OK") == 3


def found_by_experiment():
    """The way that the lesson suggests: gates of 0 and 1. Gammas of 1 would hide the inverted memory gate."""
    x = {"c3": torch.full((1, 1, 1, 1), 0.5), "c5": torch.full((1, 1, 1, 1), 2.0)}
    alone = {"c3": torch.zeros(1, 1, 1, 1), "c5": x["c5"]}
    gamma = {"c3": 0.5, "c5": 0.5}
    total = sum(x.values())

    def opened(memory, reset):
        return {level: (torch.full_like(v, memory), torch.full_like(v, reset)) for level, v in x.items()}

    found = {}
    for name, suspect in check.suspects().items():
        if not torch.allclose(suspect(x, opened(0.0, 0.0), gamma), total):
            found["reset gate inverted"] = name
        elif not torch.allclose(suspect(x, opened(0.0, 1.0), gamma), sum(v.tanh() for v in x.values())):
            found["memory gate inverted"] = name
        elif torch.allclose(suspect(alone, opened(1.0, 1.0), gamma), (0.5 * alone["c5"]).tanh()):
            found["right"] = name
        else:
            found["own level counted"] = name
    return found


def test_the_right_fusion_is_the_package_block():
    block = GatedMultiLevelFusion(check.LEVELS, GMLFConfig(dim=check.C))
    x, _, gamma = check.fusion_cases()[1]
    with torch.no_grad():
        for level, number in gamma.items():
            block.gamma[level].fill_(number)
        opened = {level: check.right_gates(x[level], block.gate[level]) for level in x}
        assert torch.allclose(check.right_fuse(x, opened, gamma), block(x), atol=1e-6)


@pytest.mark.parametrize("letters", ["ABCD", "DCBA", "CCCC"])
def test_a_guess_is_no_answer(letters):
    with pytest.raises(ExerciseError):
        check.find_faults(dict(zip(check._RIGHT, letters, strict=True)))
