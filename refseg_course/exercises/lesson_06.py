"""Lesson 06, gated multi-level fusion (Ye et al., CVPR 2019, Eq. 5-6).

The first two together make the whole block: gates from one convolution, and the gated sum of any number of levels.
The third is a search: four fusions, three of them broken, and the gates set by hand are the instrument.
The fourth puts all lessons together: three levels of CMSA and their fusion, held to what our own tests ask of ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.blocks.cross_modal import mean_multimodal_feature
from refseg.models.fusion import GatedMultiLevelFusion, GMLFConfig
from refseg_course.exercises import Exercise, numbers, single_case, value
from refseg_course.exercises.properties import copy_weights, gradients, neighbour_error, padding_error

B, C, H, W = 2, 3, 2, 5
LEVELS = ("c3", "c4", "c5")
Gates = dict[str, tuple[Tensor, Tensor]]
Fusion = Callable[[dict[str, Tensor], Gates, dict[str, float]], Tensor]


# ------------------------------------------------------------------------------------------------------- the gates


def lent_convolution() -> nn.Conv2d:
    """A gate layer, 3x3 from C channels to two maps."""
    with torch.random.fork_rng(devices=[]):  # making a layer draws numbers; the student's come out as before
        layer = nn.Conv2d(C, 2, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(numbers(*layer.weight.shape, seed=1))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    return layer


def gate_cases() -> list[tuple]:
    """A level and its gate layer."""
    return [(numbers(B, C, H, W, seed=2), lent_convolution())]


def _right_gates(x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """memory_gate and reset_gate, [B,1,h,w] each."""
    return layer(x).sigmoid().split(1, dim=1)


def _without_sigmoid(x, layer):
    return layer(x).split(1, dim=1)


def _softmax_of_both(x, layer):
    return layer(x).softmax(1).split(1, dim=1)


def _softmax_over_regions(x, layer):
    return layer(x).flatten(2).softmax(-1).unflatten(2, x.shape[-2:]).split(1, dim=1)


def _tanh_gates(x, layer):
    return layer(x).tanh().split(1, dim=1)


def _gates_exchanged(x, layer):
    memory_gate, reset_gate = _right_gates(x, layer)
    return reset_gate, memory_gate


def _without_channel(x, layer):
    maps = layer(x).sigmoid()
    return maps[:, 0], maps[:, 1]


def _one_number(x, layer):
    return layer(x).mean((2, 3), keepdim=True).sigmoid().split(1, dim=1)


def _split_by_sample(x, layer):
    maps = layer(x).sigmoid()
    return maps[:1], maps[1:]


gates = Exercise(
    title="The gates of a level",
    difficulty=1,
    importance=4,
    minutes=5,
    right=_right_gates,
    cases=gate_cases,
    mistakes=[
        (_without_sigmoid, "Some values lie outside (0, 1): it looks as if the convolution's numbers are the gates."),
        (
            _softmax_of_both,
            "The two gates of a region sum to one, as after a softmax. They are two questions, and the answer to "
            "both may be yes.",
        ),
        (
            _softmax_over_regions,
            "The values of a map sum to one, as after a softmax over the regions. A gate may be open everywhere.",
        ),
        (_tanh_gates, "Some values are negative: it looks as if the gates went through a tanh."),
        (_gates_exchanged, "The two maps are right, but in the wrong order: memory gate first."),
        (
            _without_channel,
            "The values are right, but the maps are [B,h,w]. With [B,1,h,w] they can be multiplied with X directly.",
        ),
        (_one_number, "There is one number for the whole image. A gate is a map: it decides region by region."),
        (_split_by_sample, "It looks as if the batch was split, not the channels: which dimension holds the two maps?"),
    ],
    verified="two maps per sample, every value between 0 and 1, memory gate first",
)


# ---------------------------------------------------------------------------------------------------- Eq. 5 and 6


def fusion_cases() -> list[tuple]:
    """Two levels, then three; large enough values for tanh to matter."""
    return [(levels[0], levels[1], levels[2]) for levels in (_levels(LEVELS[::2]), _levels(LEVELS))]


def _levels(names: tuple[str, ...]) -> tuple[dict[str, Tensor], Gates, dict[str, float]]:
    x = {name: 1.5 * numbers(B, C, H, W, seed=3 + n) for n, name in enumerate(names)}
    opened = {
        name: tuple(numbers(B, 1, H, W, seed=7 + 2 * n + gate).sigmoid() for gate in range(2))
        for n, name in enumerate(names)
    }
    return x, opened, {name: 0.3 + 0.4 * n for n, name in enumerate(names)}


def _right_fuse(x: dict[str, Tensor], opened: Gates, gamma: dict[str, float]) -> Tensor:
    """Eq. 5 at every level, then the sum of Eq. 6: [B,C,h,w]."""
    return _fused(x, opened, gamma)


def _mixture(x: dict[str, Tensor], opened: Gates, gamma: dict[str, float], level: str) -> Tensor:
    """G of Eq. 5."""
    others = (gamma[other] * opened[other][0] * x[other] for other in x if other != level)
    return (1 - opened[level][0]) * x[level] + sum(others)


def _reset(x: Tensor, mixture: Tensor, reset_gate: Tensor) -> Tensor:
    """F of Eq. 5."""
    return reset_gate * mixture.tanh() + (1 - reset_gate) * x


def _fused(x, opened, gamma, mixture=_mixture, reset=_reset):
    """The same out of two parts; mistakes exchange one."""
    return sum(reset(x[level], mixture(x, opened, gamma, level), opened[level][1]) for level in x)


def _own_counted(x, opened, gamma, level):
    return _mixture(x, opened, gamma, level) + gamma[level] * opened[level][0] * x[level]


def _memory_inverted(x, opened, gamma, level):
    return _mixture(x, {name: (1 - memory, reset) for name, (memory, reset) in opened.items()}, gamma, level)


def _own_not_inverted(x, opened, gamma, level):
    return _mixture(x, opened, gamma, level) + (2 * opened[level][0] - 1) * x[level]


def _gate_of_the_receiver(x, opened, gamma, level):
    return _mixture(x, {name: opened[level] for name in opened}, gamma, level)


def _gamma_of_the_receiver(x, opened, gamma, level):
    return _mixture(x, opened, {name: gamma[level] for name in gamma}, level)


def _without_gamma(x, opened, gamma, level):
    return _mixture(x, opened, dict.fromkeys(gamma, 1.0), level)


def _keeps_itself(x, opened, gamma, level):
    return _mixture(x, opened, gamma, level) + opened[level][0] * x[level]


def _tanh_outside(x, mixture, reset_gate):
    return (reset_gate * mixture + (1 - reset_gate) * x).tanh()


def _tanh_outside_of_the_product(x, mixture, reset_gate):
    return (reset_gate * mixture).tanh() + (1 - reset_gate) * x


def _without_tanh(x, mixture, reset_gate):
    return reset_gate * mixture + (1 - reset_gate) * x


def _reset_inverted(x, mixture, reset_gate):
    return _reset(x, mixture, 1 - reset_gate)


def _always_added(x, mixture, reset_gate):
    return reset_gate * mixture.tanh() + x


def _with_mixture(mixture: Callable) -> Fusion:
    return lambda x, opened, gamma: _fused(x, opened, gamma, mixture=mixture)


def _with_reset(reset: Callable) -> Fusion:
    return lambda x, opened, gamma: _fused(x, opened, gamma, reset=reset)


def _mean_of_levels(x, opened, gamma):
    return _fused(x, opened, gamma) / len(x)


def _beside_each_other(x, opened, gamma):
    return torch.cat([_reset(x[n], _mixture(x, opened, gamma, n), opened[n][1]) for n in x], dim=1)


def _only_the_mixtures(x, opened, gamma):
    return sum(_mixture(x, opened, gamma, level) for level in x)


def _replaced_on_the_way(x, opened, gamma):
    x = dict(x)
    for level in x:
        x[level] = _reset(x[level], _mixture(x, opened, gamma, level), opened[level][1])
    return sum(x.values())


_TANH = "It looks as if tanh is applied too far out. In Eq. 5 it belongs to one factor of one of the two terms."

fuse = Exercise(
    title="Fuse the levels",
    difficulty=3,
    importance=5,
    minutes=15,
    right=_right_fuse,
    cases=fusion_cases,
    mistakes=[
        (
            _with_mixture(_own_counted),
            "The level itself is included in the sum of what it receives: it gets its own offer back.",
        ),
        (
            _with_mixture(_memory_inverted),
            "The memory gate looks inverted: what it should give away stays, and the rest is given away.",
        ),
        (
            _with_mixture(_own_not_inverted),
            "A level keeps exactly the share of itself that it gives away. Eq. 5 says something else about the "
            "level's own X.",
        ),
        (
            _with_mixture(_gate_of_the_receiver),
            "It looks as if what a level receives is weighted by its own gate. Look at the index of m.",
        ),
        (
            _with_mixture(_gamma_of_the_receiver),
            "It looks as if gamma belongs to the level that receives. Look at its index in the sum.",
        ),
        (_with_mixture(_without_gamma), "What a level receives is too large or too small: gamma seems to be missing."),
        (
            _with_mixture(_keeps_itself),
            "A level gives to the others and keeps all of itself too: the memory gate acts on the sum only.",
        ),
        (_with_reset(_tanh_outside), _TANH),
        (_with_reset(_tanh_outside_of_the_product), _TANH),
        (
            _with_reset(_without_tanh),
            "A fully open reset gate should give values in (-1, 1) only: tanh seems to be missing.",
        ),
        (
            _with_reset(_reset_inverted),
            "The reset gate looks inverted: where it is 0 the level should come out as it went in.",
        ),
        (
            _with_reset(_always_added),
            "The mixture is added to the level, which is kept in full. The reset gate should also take away from it.",
        ),
        (_mean_of_levels, "The levels look averaged. Eq. 6 does something else with them."),
        (_beside_each_other, "The fused levels are concatenated as more channels. Eq. 6 does something else."),
        (_only_the_mixtures, "These are the mixtures G. The second half of Eq. 5, with the reset gate, is missing."),
        (
            _replaced_on_the_way,
            "A level that was fused already is read by the next one: it looks as if x is changed on the way. "
            "Every G is made from the levels as they came in.",
        ),
    ],
    verified="two levels and three, without the level itself, gates of the giving level, tanh on the mixture only",
)


# ------------------------------------------------------------------------------------------------ which is broken?


def suspects() -> dict[str, Fusion]:
    """Four fusions called as fuse(x, gates, gamma); one is right, three have one fault each."""
    return {
        "A": _with_reset(_reset_inverted),
        "B": _with_mixture(_own_counted),
        "C": _right_fuse,
        "D": _with_mixture(_memory_inverted),
    }


_RIGHT = {"right": "C", "memory gate inverted": "D", "reset gate inverted": "A", "own level counted": "B"}


def _answer(*letters: str) -> dict[str, str]:
    return dict(zip(_RIGHT, letters, strict=True))


_RESET_FIRST = (
    "The two with an inverted gate are exchanged. A closed reset gate makes the memory gate irrelevant: which "
    "suspect then no longer gives the plain sum?"
)
_OWN = (
    "Two of the four are exchanged, and the right one is among them. Let only one level differ from zero and open"
    " its memory gate: what should be left of it?"
)

find_faults = Exercise(
    title="Find the inverted gate",
    difficulty=3,
    importance=4,
    minutes=15,
    right=_RIGHT,
    cases=single_case,
    probe=value,
    mistakes=[
        (_answer("C", "A", "D", "B"), _RESET_FIRST),
        (_answer("B", "D", "A", "C"), _OWN),
        (_answer("D", "C", "A", "B"), _OWN),
        (_answer("A", "D", "C", "B"), _OWN),
        (
            _answer("C", "B", "A", "D"),
            "The inverted reset gate is found. Of the other two, one still gives what Eq. 5 gives with every "
            "memory gate at 0 and every reset gate at 1.",
        ),
        (
            _answer("C", "D", "B", "A"),
            "The inverted memory gate is found. Of the other two, one gives the plain sum when every reset gate is 0.",
        ),
    ],
    verified="each of the four, recognised by what it does when gates are 0 or 1",
)


# ----------------------------------------------------------------------------------------------- all of it, one's own

CV, CL, DIM = 4, 6, 5
GRID = (2, 4)  # edges at halves and quarters: coordinates made in float32 are exact in float64 too
TOKEN_VALID = torch.tensor([[True, True, False], [True, True, True]])
ROUNDING = 1e-9  # of float64, as our own tests allow it


def whole_cases() -> list[tuple]:
    """Pixels of the three levels [B,3,Cv,h,w], words [B,L,Cl], token_valid [B,L], and how far queries and keys spread.

    Ordinary scores, then scores in the thousands.
    """
    pixels = numbers(B, len(LEVELS), CV, *GRID, seed=20).double()
    words = numbers(*TOKEN_VALID.shape, CL, seed=21).double()
    return [(pixels, words, TOKEN_VALID, 0.7), (pixels, words, TOKEN_VALID, 30.0)]


def whole_trial(
    student: Callable[..., nn.Module], pixels: Tensor, words: Tensor, token_valid: Tensor, spread: float
) -> dict:
    """What our tests ask of a block, asked of ``student(levels, Cv, Cl, d)`` with the weights of the package's parts.

    Returns:
        which weights and inputs get no gradient, whether padding and the neighbours in the batch change anything, the
        fused map [B,Cv+Cl+8,h,w], and the gradient of one random projection of it for every weight and input

    Raises:
        ValueError: the module's parameters have other names or shapes.
    """
    with torch.random.fork_rng(devices=[]):  # making modules draws numbers; the student's come out as before
        model, lender = (kind(LEVELS, CV, CL, DIM).double() for kind in (student, _RightWhole))
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(lender.named_parameters(), 30):
            size = spread if "query" in name or "key" in name else 0.1 if "gate" in name else 0.5
            parameter.copy_(size * numbers(parameter.numel(), seed=seed).view_as(parameter))
    copy_weights(lender, model)

    def block(stacked: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        return model(dict(zip(LEVELS, stacked.unbind(1))), words, token_valid)

    inputs = pixels.requires_grad_(), words.requires_grad_(), token_valid
    fused, found = block(*inputs), {}
    if isinstance(fused, Tensor) and fused.shape == (B, CV + CL + 8, *GRID):
        found = gradients(fused, {"pixels": pixels, "words": words} | dict(model.named_parameters()))
    unheard = [name for name, gradient in found.items() if gradient is None]
    padding, neighbours = (found and e(block, *inputs) > ROUNDING for e in (padding_error, neighbour_error))
    return {
        "weights and inputs without a gradient": ", ".join(unheard) or "none",
        "what padded words change": "the result" if padding else "nothing",
        "what the other sample of the batch changes": "the result" if neighbours else "nothing",
        "fused": fused,
        "gradients": found,
    }


class _RightWhole(nn.Module):
    """Eq. 1-6 as they are written, out of the package's parts; mistakes exchange a part."""

    def __init__(self, levels: tuple[str, ...], visual_channels: int, word_channels: int, dim: int):
        super().__init__()
        self.cmsa = nn.ModuleDict(
            {level: CrossModalSelfAttention(visual_channels, word_channels, CMSAConfig(dim)) for level in levels}
        )
        fusion = GatedMultiLevelFusion(levels, GMLFConfig(self.cmsa[levels[0]].channels))
        self.gate, self.gamma = fusion.gate, fusion.gamma

    def forward(self, pixels: dict[str, Tensor], words: Tensor, token_valid: Tensor) -> Tensor:
        """{level: [B,Cv,h,w]}, words [B,L,Cl], token_valid [B,L] -> [B,Cv+Cl+8,h,w]."""
        x = {level: self.attend(level, pixels[level], words, token_valid) for level in pixels}
        return self.fuse(x, {level: self.opened(level, x[level]) for level in x}, dict(self.gamma.items()))

    def attend(self, level: str, pixels: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """Eq. 1-4 at one level."""
        return self.cmsa[level].literal(pixels, words, token_valid)

    def opened(self, level: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates of one level."""
        return _right_gates(x, self.gate[level])

    fuse = staticmethod(_right_fuse)


def _whole_with_fusion(faulty: Fusion) -> type[_RightWhole]:
    return type("Faulty", (_RightWhole,), {"fuse": staticmethod(faulty)})


def _whole_with_attention_of(one: str) -> type[_RightWhole]:
    def attend(self, level, pixels, words, token_valid):
        return _RightWhole.attend(self, one, pixels, words, token_valid)

    return type("Faulty", (_RightWhole,), {"attend": attend})


def _whole_with_gates_of(one: str) -> type[_RightWhole]:
    return type("Faulty", (_RightWhole,), {"opened": lambda self, level, x: _RightWhole.opened(self, one, x)})


def _plain_sum(x, opened, gamma):
    return sum(x.values())


class _NoWordPadded(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        return super().attend(level, pixels, words, torch.ones_like(token_valid))


class _PaddingOfTheFirst(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        return super().attend(level, pixels, words, token_valid[:1].expand_as(token_valid))


class _PaddingInTheMeanOfF(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        right, wrong = (mean_multimodal_feature(pixels, words, v) for v in (token_valid, torch.ones_like(token_valid)))
        return super().attend(level, pixels, words, token_valid) + (wrong - right).mT.unflatten(2, pixels.shape[-2:])


class _WholeWithoutF(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        f = mean_multimodal_feature(pixels, words, token_valid).mT.unflatten(2, pixels.shape[-2:])
        return super().attend(level, pixels, words, token_valid) - f


class _CoordinatesTurned(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        return super().attend(level, pixels.mT, words, token_valid).mT


class _DividedByTheRoot(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        self.cmsa[level].scale = DIM**-0.5
        return super().attend(level, pixels, words, token_valid)


class _LevelsReversed(_RightWhole):
    def forward(self, pixels, words, token_valid):
        return super().forward(dict(zip(pixels, reversed(pixels.values()))), words, token_valid)


class _GatesExchanged(_RightWhole):
    def opened(self, level, x):
        return super().opened(level, x)[::-1]


class _AttentionCutOff(_RightWhole):
    def attend(self, level, pixels, words, token_valid):
        return super().attend(level, pixels, words, token_valid).detach()


_ONE_ATTENTION = "All levels use the attention of one level. Each level has its own."
_ONE_GATE = "The gates of all levels come from one level's layer. Each level has its own."

whole = Exercise(
    title="All of it, your own",
    difficulty=3,
    importance=5,
    minutes=15,
    right=_RightWhole,
    cases=whole_cases,
    probe=whole_trial,
    mistakes=[
        (_NoWordPadded, "Padding is counted: the attention is not given which words are real."),
        (_PaddingOfTheFirst, "The padding of the first expression is used for all: a sample depends on others."),
        (_PaddingInTheMeanOfF, "Padding is counted in one place: the mean of the word vectors in f."),
        (_WholeWithoutF, "The attended part is right, but f is not added to it."),
        (_CoordinatesTurned, "It looks as if x and y are exchanged in the coordinates."),
        (
            _DividedByTheRoot,
            "The scores look divided by the square root of their width. Attention usually does that, Eq. 3 does not.",
        ),
        (_whole_with_attention_of("c3"), _ONE_ATTENTION),
        (_whole_with_attention_of("c5"), _ONE_ATTENTION),
        (_LevelsReversed, "The levels are in reverse order: c5 is processed with what belongs to c3."),
        (_whole_with_gates_of("c3"), _ONE_GATE),
        (_whole_with_gates_of("c5"), _ONE_GATE),
        (_GatesExchanged, "Memory gate and reset gate are exchanged on the way from the gates to the fusion."),
        (_whole_with_fusion(_plain_sum), "The levels are added as they are: gates and gamma play no part."),
        (_whole_with_fusion(_mean_of_levels), "The levels look averaged. Eq. 6 does something else with them."),
        (
            _whole_with_fusion(_with_mixture(_without_gamma)),
            "What a level receives is too large or too small: gamma seems to be missing.",
        ),
        (_whole_with_fusion(_with_mixture(_own_counted)), "A level gets its own offer back: exclude it from the sum."),
        (
            _whole_with_fusion(_with_mixture(_memory_inverted)),
            "The memory gate looks inverted: what it should give away stays, and the rest is given away.",
        ),
        (_whole_with_fusion(_with_reset(_reset_inverted)), "The reset gate looks inverted."),
        (_AttentionCutOff, "The values are right, but no gradient reaches the attention: it looks detached."),
    ],
    verified="Eq. 1 to 6 in values and every gradient; padding and neighbours change nothing; every weight learns",
    tolerance=1e-7,
)
