"""CAM and PWAM: equal to the released modules, to the equations by hand, and what the two directions may not see."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refseg.errors import RefsegError
from refseg.models.blocks.attention import instance_norm
from refseg.models.blocks.cross_modal_alignment import (
    CAMConfig,
    PixelsToWords,
    PyramidAlignment,
    ResidualGate,
    WordAlignment,
    WordsToPixels,
)

GRID = 12, 10


# ---- against the release -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(shared_dir):
    path = shared_dir / "parity" / "cam_pwam.npz"
    if not path.is_file():
        pytest.skip(f"no parity numbers at {path}")
    with np.load(path) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def linear(numbers, ours, theirs):
    weight = numbers[f"w:{theirs}.weight"].flatten(1)
    bias = numbers.get(f"w:{theirs}.bias")
    return {f"{ours}.weight": weight} | ({} if bias is None else {f"{ours}.bias": bias})


def norm(numbers, ours, theirs):
    return {f"{ours}.{kind}": numbers[f"w:{theirs}.{kind}"] for kind in ("weight", "bias")}


def pwam(numbers, ours, theirs):
    state = {}
    for name, place in {
        "own": "vis_project.0",
        "query.0": "image_lang_att.f_query.0",
        "key": "image_lang_att.f_key.0",
        "value": "image_lang_att.f_value.0",
        "out.0": "image_lang_att.W.0",
        "project": "project_mm.0",
    }.items():
        state |= linear(numbers, f"{ours}{name}", f"{theirs}.{place}")
    del state[f"{ours}key.bias"]  # moves all scores of a query alike
    state |= norm(numbers, f"{ours}query.1", f"{theirs}.image_lang_att.f_query.1")
    return state | norm(numbers, f"{ours}out.1", f"{theirs}.image_lang_att.W.1")


@pytest.fixture
def cam(released):
    state = pwam(released, "attend.", "fusion")
    for i in range(4):
        for name, place in {"widen": 1, "narrow": 3, "reduce": 5}.items():
            state |= linear(released, f"pyramid.{i}.{name}", f"pyramids.{i}.{place}")
        state |= norm(released, f"pyramid.{i}.norm", f"pyramids.{i}.2")
        state |= pwam(released, f"attend_pooled.{i}.", f"fusions.{i}")
    for place in (0, 2):
        state |= linear(released, f"mixer.{place}", f"mixer.{place}")
    state |= norm(released, "mixer.1", "mixer.1")
    module = PyramidAlignment(16, 24, CAMConfig())
    module.load_state_dict(state)
    return module


@pytest.fixture
def inputs(released):
    pixels = released["X"].mT.unflatten(2, GRID)
    return pixels, released["L"], released["mask"][..., 0] > 0


@torch.no_grad()
def test_pwam_is_the_released_one(released, cam, inputs):
    pixels, words, valid = inputs
    regions = pixels.flatten(2).mT
    assert (cam.attend(regions, words, valid) - released["pwam_full"]).abs().max() < 1e-4
    two_heads = WordsToPixels(16, 24, heads=2)
    two_heads.load_state_dict(cam.attend.state_dict())
    assert (two_heads(regions, words, valid) - released["pwam_full_h2"]).abs().max() < 1e-4


@torch.no_grad()
def test_every_scale_is_the_released_one(released, cam, inputs):
    pixels, words, valid = inputs
    for i, size in enumerate((1, 2, 3, 6)):
        pooled = cam.pyramid[i](pixels)
        assert (pooled - released[f"pyramid_p{size}"]).abs().max() < 1e-4
        attended = cam.attend_pooled[i](pooled, words, valid)
        assert (attended - released[f"pyramid_pwam_p{size}"]).abs().max() < 1e-4


@torch.no_grad()
def test_cam_and_its_gate_are_the_released_ones(released, cam, inputs):
    pixels, words, valid = inputs
    fused, residual = cam(pixels, words, valid)
    assert (fused - released["s"]).abs().max() < 1e-4
    gate = ResidualGate(16, torch.nn.GELU())
    gate.load_state_dict({f"gate.{i}.weight": released[f"w:res_gate.{i}.weight"] for i in (0, 2)})
    gated = gate(released["X"], residual.flatten(2).mT)
    assert (gated - released["X_gated"]).abs().max() < 1e-4


# ---- by hand -----------------------------------------------------------------------------------------------------


def test_pwam_by_hand():
    """One channel, identity maps: the norms over a single channel leave their bias only."""
    module = WordsToPixels(1, 1)
    for layer in (module.own, module.query[0], module.key, module.value, module.out[0], module.project):
        torch.nn.init.ones_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
    torch.nn.init.constant_(module.query[1].bias, math.log(3))  # every query is log 3
    torch.nn.init.constant_(module.out[1].bias, 2.0)  # whatever is told arrives as 2
    words = torch.tensor([[[1.0], [0.0], [5.0]]])
    valid = torch.tensor([[True, True, False]])
    regions = torch.tensor([[[0.0], [1.0]]])
    assert torch.allclose(module.weights(regions, words, valid), torch.tensor([[[[0.75, 0.25, 0.0]] * 2]]))
    expected = F.gelu(F.gelu(regions) * 2)
    assert torch.allclose(module(regions, words, valid), expected)


def test_instance_norm_by_hand():
    x = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [100.0, -7.0]]])
    valid = torch.tensor([[True, True, False]])
    normal = instance_norm(x, valid)
    assert torch.allclose(normal[0, :2], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-4)
    whole = torch.randn(2, 7, 3)
    assert torch.allclose(instance_norm(whole), F.instance_norm(whole.mT).mT, atol=1e-6)
    assert torch.equal(instance_norm(x[:, :1]), torch.zeros(1, 1, 2))  # a picture of one region


def test_the_gate_adds_its_share_by_hand():
    gate = ResidualGate(1, torch.nn.ReLU())
    torch.nn.init.constant_(gate.gate[0].weight, 2.0)
    torch.nn.init.constant_(gate.gate[2].weight, 0.5)
    x, residual = torch.tensor([[10.0], [10.0]]), torch.tensor([[3.0], [-3.0]])
    assert torch.allclose(gate(x, residual), torch.tensor([[10 + 3 * math.tanh(3)], [10.0]]))


def test_the_pyramid_is_as_wide_as_its_scales():
    module = PyramidAlignment(12, 7, CAMConfig(pool_sizes=(1, 5), reduction=3, expansion=2))
    assert module.mixer[0].in_features == 12 + 2 * 4 and module.pyramid[1].widen.out_features == 24
    fused, residual = module(torch.randn(2, 12, 3, 11), torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool))
    assert fused.shape == residual.shape == (2, 12, 3, 11)
    bare = PyramidAlignment(12, 7, CAMConfig(pool_sizes=()))
    assert bare.mixer[0].in_features == 12


# ---- the words' side ---------------------------------------------------------------------------------------------


def written_out(module, words, token_valid, regions):
    """The released equations, sample by sample, from the module's weights: additive mask, norm over all positions."""
    extended = torch.where(token_valid, 0.0, -1e4)
    results = []
    for word, m, x in zip(words, extended, regions):
        q = m[:, None] * (word @ module.query.weight.T + module.query.bias)
        k, v = (F.instance_norm((x @ layer.weight.T).T[None])[0] for layer in (module.key, module.value))  # [C,R]
        a = (q @ k / math.sqrt(len(k)) + (1e4 * m[:, None] - 1e4)).softmax(-1)
        o = F.instance_norm((a @ v.T @ module.out.weight.T + module.out.bias).T[None])[0].T
        vis = F.gelu(word @ module.own.weight.T + module.own.bias)
        results.append(F.gelu((vis * o) @ module.project.weight.T + module.project.bias))
    return torch.stack(results)


@torch.no_grad()
def test_the_released_words_side_is_its_equations():
    module = PixelsToWords(11, 5, released=True)
    words, regions = torch.randn(2, 7, 11), torch.randn(2, 13, 5)
    valid = torch.arange(7) < torch.tensor([[4], [7]])
    # The scores of padding are near -1e8, where float32 knows multiples of 8 only; both ways round alike.
    assert torch.allclose(module(words, valid, regions)[0], written_out(module, words, valid, regions), atol=2e-5)


@torch.no_grad()
def test_in_the_release_real_words_see_no_place_and_in_ours_they_do():
    words, regions = torch.randn(1, 5, 11), torch.randn(1, 13, 7)
    valid = torch.tensor([[True, True, True, False, False]])
    released, ours = PixelsToWords(11, 7, released=True), PixelsToWords(11, 7)
    assert torch.allclose(released(words, valid, regions)[1][0, :3], torch.full((3, 13), 1 / 13))
    assert ours(words, valid, regions)[1][0, :3].std() > 0.005
    value = instance_norm(released.value(regions))
    assert (released(words, valid, regions)[1] @ value)[0, :3].abs().max() < 1e-6
    released.double()
    long, short = torch.randn(1, 5, 11).double(), regions.double()
    padded = released(long, valid, short)[0][:, :3]
    other_padding = torch.cat([long[:, :3], torch.randn(1, 2, 11).double()], 1)
    assert (released(other_padding, valid, short)[0][:, :3] - padded).abs().max() > 1e-3  # the defect: padding counts


@torch.no_grad()
def test_padding_of_words_and_picture_changes_nothing_in_ours():
    module = PixelsToWords(11, 7).double()
    words, regions = torch.randn(2, 5, 11).double(), torch.randn(2, 13, 7).double()
    valid, real = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 13, dtype=torch.bool)
    plain, _ = module(words, valid, regions)
    assert torch.allclose(module(words, valid, regions, real)[0], plain)
    wider = torch.cat([regions, 9 * torch.randn(2, 6, 7).double()], 1)
    real = torch.arange(19)[None].expand(2, -1) < 13
    assert torch.allclose(module(words, valid, wider, real)[0], plain)


def test_both_matrices_of_a_gate_learn_at_once():
    module = WordAlignment(11, 5, CAMConfig())
    seen, _ = module(
        torch.randn(2, 3, 11), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 5, 7, 3), torch.ones(2, 7, 3) > 0
    )
    seen.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_released_words_need_the_direction():
    with pytest.raises(RefsegError, match="released_words needs pixels_to_words"):
        CAMConfig(pixels_to_words=False, released_words=True)
