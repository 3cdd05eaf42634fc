"""VLBA: one score map read along its rows and along its columns, equal to the authors' code, padding included."""

import numpy as np
import pytest
import torch
from torch import nn

from refseg.models.blocks.layers import ResidualGate
from refseg.models.blocks.vlba import (
    VLBA,
    VLBAConfig,
    read,
    regions_of_words,
    score_map,
    words_of_regions,
)

B, C, WORDS, L, GRID = 2, 8, 12, 5, (3, 7)


def example(dtype=torch.float64):
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    return torch.randn(B, C, *GRID, dtype=dtype), torch.randn(B, L, WORDS, dtype=dtype), valid


def block(gated=True, **config):
    return VLBA(C, WORDS, VLBAConfig(**config), gated).double().eval()


# ---- the mathematics by hand -------------------------------------------------------------------------------------


def test_one_map_two_directions_by_hand():
    queries = torch.tensor([[[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]])  # three regions, C = 4
    keys = torch.tensor([[[3.0, 0, 0, 0], [0, 5, 0, 0]]])  # two words
    scores = score_map(queries, keys)
    assert scores.tolist() == [[[[3.0, 0], [0, 5], [0, 0]]]]  # 2 * 3 / sqrt(4)
    everything = torch.ones(1, 3, dtype=torch.bool)
    rows = words_of_regions(scores, everything[:, :2])
    assert rows[0, 0, 2].tolist() == [0.5, 0.5]  # a region that says nothing reads both words alike
    e3 = np.exp(3.0)
    assert rows[0, 0, 0].tolist() == pytest.approx([e3 / (e3 + 1), 1 / (e3 + 1)])
    columns = regions_of_words(scores, everything)
    assert columns[0, 0, 0].tolist() == pytest.approx([e3 / (e3 + 2), 1 / (e3 + 2), 1 / (e3 + 2)])
    assert read(columns, torch.tensor([[[7.0], [7], [7]]]))[0, 1].item() == pytest.approx(7)


def test_invalid_words_and_regions_get_exactly_nothing():
    scores = torch.randn(B, 3, 11, L)
    token_valid, region_valid = torch.rand(B, L) > 0.5, torch.rand(B, 11) > 0.5
    rows, columns = words_of_regions(scores, token_valid), regions_of_words(scores, region_valid)
    assert rows.shape == (B, 3, 11, L) and columns.shape == (B, 3, L, 11)
    assert (rows.transpose(1, 3)[~token_valid] == 0).all() and (columns.transpose(1, 3)[~region_valid] == 0).all()
    assert torch.allclose(rows.sum(-1), torch.ones(())) and torch.allclose(columns.sum(-1), torch.ones(()))


def test_heads_divide_the_channels_and_not_the_scale():
    queries, keys = torch.randn(B, 7, C), torch.randn(B, L, C)
    assert torch.allclose(score_map(queries, keys, 4).sum(1), score_map(queries, keys)[:, 0], atol=1e-6)


# ---- against the authors' code -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parity(shared_dir):
    path = shared_dir / "parity" / "vlba.npz"
    if not path.is_file():
        pytest.skip(f"no parity numbers of VLBA at {path}")
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(path).items()}


PLACES = {  # ours: theirs
    "query": "fusion.image_lang_att.query.0",
    "key": "fusion.image_lang_att.key",
    "to_pixels.value": "fusion.image_lang_att.value",
    "to_pixels.out": "fusion.image_lang_att.W.0",
    "to_pixels.own": "fusion.vis_project.0",
    "to_pixels.mix.0": "fusion.project_mm.0",
    "to_pixels.mix.2": "fusion.project_mm.3",
    "to_words.value": "fusion.image_lang_att.sym_value.0",
    "to_words.out": "fusion.image_lang_att.sym_W",
    "to_words.own": "fusion.lang_project.0",
    "to_words.mix.0": "fusion.sym_project_mm.0",
    "to_words.mix.2": "fusion.sym_project_mm.3",
    "pixel_gate.gate.0": "res_gate.0",
    "pixel_gate.gate.2": "res_gate.2",
    "word_gate.gate.0": "sym_res_gate.0",
    "word_gate.gate.2": "sym_res_gate.2",
}


def with_their_weights(parity, heads):
    ours = VLBA(16, 24, VLBAConfig(heads=heads))
    state = {}
    for name in ours.state_dict():
        module, kind = name.rsplit(".", 1)
        weight = parity[f"w:{PLACES[module]}.{kind}"]
        state[name] = weight[..., 0] if weight.ndim == 3 else weight
    ours.load_state_dict(state)
    return ours.eval()


def assert_equal(ours, theirs):
    """The third sample has one valid word, whose features are normalised to rounding noise: see the fixture's text."""
    assert torch.allclose(ours[:2], theirs[:2], atol=1e-4) and torch.allclose(ours, theirs, atol=2e-4)


def test_equal_to_the_released_code(parity):
    for heads, suffix in [(1, ""), (4, "_h4")]:
        ours, valid = with_their_weights(parity, heads), parity["mask"][..., 0] > 0
        pixels, words = parity["X"].mT.unflatten(2, (5, 7)), parity["T"].mT
        with torch.no_grad():
            met = ours(pixels, words, valid)
        assert_equal(met.pixel_residual.flatten(2).mT, parity[f"R_v{suffix}"])
        assert_equal(met.word_residual.mT, parity[f"R_t{suffix}"])
        assert_equal(met.pixels.flatten(2).mT, parity[f"X_out{suffix}"])
        assert_equal(met.words.mT, parity[f"T_out{suffix}"])
        assert (met.words[~valid] == 0).all() and (met.word_residual[~valid] == 0).all()


def test_both_directions_equal_the_released_code(parity):
    ours, valid = with_their_weights(parity, 1), parity["mask"][..., 0] > 0
    scores = ours(parity["X"].mT.unflatten(2, (5, 7)), parity["T"].mT, valid).scores
    assert torch.allclose(words_of_regions(scores, valid)[:, 0], parity["attn_L2V_probs"], atol=1e-4)
    looks = regions_of_words(scores, torch.ones(scores.shape[0], 35, dtype=torch.bool))[:, 0]
    assert torch.allclose(looks[valid], parity["attn_V2L_probs"][valid], atol=1e-4)


# ---- padding -----------------------------------------------------------------------------------------------------


def test_what_stands_under_padded_words_changes_nothing():
    pixels, words, valid = example()
    noise = torch.where(valid[..., None], words, torch.randn_like(words))
    vlba = block()
    for one, other in zip(vlba(pixels, words, valid)[:4], vlba(pixels, noise, valid)[:4], strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_padded_regions_change_nothing_where_the_picture_is():
    pixels, words, valid = example()
    vlba, wide = block(), torch.cat([pixels, torch.randn(B, C, 3, 4, dtype=pixels.dtype)], dim=3)
    real = torch.ones(B, 3, 11, dtype=torch.bool)
    real[..., 7:] = False
    alone, padded = vlba(pixels, words, valid), vlba(wide, words, valid, real)
    for name in ("pixels", "pixel_residual"):
        assert torch.allclose(getattr(padded, name)[..., :7], getattr(alone, name), atol=1e-12)
    for name in ("words", "word_residual"):
        assert torch.allclose(getattr(padded, name), getattr(alone, name), atol=1e-12)
    looks = regions_of_words(padded.scores, real.flatten(1)).unflatten(3, (3, 11))
    assert (looks[..., 7:] == 0).all() and torch.allclose(looks.sum((3, 4)), torch.ones((), dtype=torch.float64))


# ---- directions --------------------------------------------------------------------------------------------------


def test_each_direction_alone_is_that_half_of_both():
    pixels, words, valid = example()
    both = block()
    for name, half in (("pixel_residual", "words_to_pixels"), ("word_residual", "pixels_to_words")):
        alone = block(**{"words_to_pixels": False, "pixels_to_words": False, half: True})
        kept = {key: value for key, value in both.state_dict().items() if key in alone.state_dict()}
        alone.load_state_dict(kept)
        one, other = both(pixels, words, valid), alone(pixels, words, valid)
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-12)
    off = block(words_to_pixels=False)(pixels, words, valid)
    assert torch.equal(off.pixels, pixels) and torch.equal(off.pixel_residual, pixels)
    off = block(pixels_to_words=False)(pixels, words, valid)
    assert torch.equal(off.words, words * valid[..., None])


def test_no_direction_is_no_block():
    pixels, words, valid = example()
    nothing = block(words_to_pixels=False, pixels_to_words=False)
    assert list(nothing.parameters()) == []
    assert torch.equal(nothing(pixels, words, valid).pixels, pixels)
    assert nothing(pixels, words, valid).scores is None


def test_every_parameter_learns():
    for gated in [True, False]:
        for config in [{}, {"pixels_to_words": False}, {"words_to_pixels": False}, {"heads": 4}]:
            vlba = block(gated, **config)
            met = vlba(*example())
            (sum(x.square().sum() for x in met)).backward()
            for name, parameter in vlba.named_parameters():
                assert parameter.grad.abs().max() > 1e-9, name


def trained_gate(gate):
    """The gate after it was asked, for a while, to let the residual in."""
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.01)
    residual = torch.ones(1, C)
    for _ in range(60):
        optimizer.zero_grad()
        (gate(torch.zeros(1, C), residual) - residual).square().sum().backward()
        optimizer.step()
    return (gate(torch.zeros(1, C), residual) / residual).mean().item()


def test_the_gate_trains_and_a_pair_of_zeros_does_not():
    gate = ResidualGate(C, torch.nn.ReLU())
    assert abs(gate(torch.zeros(1, C), torch.ones(1, C)).mean().item()) < 0.05  # nearly closed
    assert trained_gate(gate) > 0.8
    dead = ResidualGate(C, torch.nn.ReLU())
    for matrix in dead.parameters():
        nn.init.zeros_(matrix)
    assert trained_gate(dead) == 0.0


def test_sizes_of_the_release():
    """4.56, 5.25, 7.41 and 14.89 million, less the biases that a normalisation takes away."""
    for dim, millions in ((128, 4.56), (256, 5.25), (512, 7.41), (1024, 14.89)):
        count = sum(parameter.numel() for parameter in VLBA(dim, 768, VLBAConfig()).parameters())
        assert count == pytest.approx(millions * 1e6, abs=0.01e6)
