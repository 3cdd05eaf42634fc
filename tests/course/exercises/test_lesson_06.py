"""Answers as students write them; and the check of the fusion holds against the package's block."""

import pytest
import torch

from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.fusion import GatedMultiLevelFusion, GMLFConfig
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_06 as check


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
        opened = {level: check._right_gates(x[level], block.gate[level]) for level in x}
        assert torch.allclose(check._right_fuse(x, opened, gamma), block(x), atol=1e-6)


def test_a_guess_is_not_an_answer():
    for letters in ("ABCD", "DCBA", "CCCC"):
        with pytest.raises(ExerciseError):
            check.find_faults(dict(zip(check._RIGHT, letters, strict=True)))


class Fused(torch.nn.Module):
    """The package's quick parts, put together as a student does."""

    def __init__(self, levels, visual_channels, word_channels, dim):
        super().__init__()
        config, C = CMSAConfig(dim), visual_channels + word_channels + 8
        blocks = {level: CrossModalSelfAttention(visual_channels, word_channels, config) for level in levels}
        self.cmsa = torch.nn.ModuleDict(blocks)
        self.gate = torch.nn.ModuleDict({level: torch.nn.Conv2d(C, 2, 3, padding=1) for level in levels})
        self.gamma = torch.nn.ParameterDict({level: torch.nn.Parameter(torch.zeros(())) for level in levels})

    def forward(self, pixels, words, token_valid):
        x = {level: self.cmsa[level](pixels[level], words, token_valid) for level in pixels}
        return fuse(x, {level: gates(x[level], self.gate[level]) for level in x}, self.gamma)


def test_the_packages_own_blocks_pass_the_last_check(capsys):
    check.whole(Fused)
    assert capsys.readouterr().out.startswith("OK  All of it, your own: ")


def test_only_a_name_that_differs_is_listed():
    class Renamed(Fused):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.gates = self.__dict__["_modules"].pop("gate")

    with pytest.raises(ExerciseError, match="gate.c3.bias is missing") as caught:
        check.whole(Renamed)
    assert "query" not in str(caught.value)


class Leaky(Fused):
    """A fault that no listed mistake has: the mean of the batch is mixed in."""

    def forward(self, pixels, words, token_valid):
        fused = super().forward(pixels, words, token_valid)
        return fused + 1e-6 * fused.mean(0)


class Deaf(Fused):
    """Words are summed, padding and all, into something small."""

    def forward(self, pixels, words, token_valid):
        return super().forward(pixels, words, token_valid) + 1e-6 * words.sum()


def test_a_broken_promise_is_named_where_no_mistake_fits():
    for wrong, promise in ((Leaky, "what the other sample of the batch changes"), (Deaf, "what padded words change")):
        with pytest.raises(ExerciseError, match=promise):
            check.whole(wrong)


def test_a_map_of_another_shape_is_named_by_its_shape():
    class Last(Fused):
        def forward(self, pixels, words, token_valid):
            return super().forward(pixels, words, token_valid).movedim(1, -1)

    with pytest.raises(ExerciseError, match=r"shape \[2, 2, 4, 18\], not \[2, 18, 2, 4\]"):
        check.whole(Last)
