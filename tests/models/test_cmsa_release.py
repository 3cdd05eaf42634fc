"""The release form of CMSA: its batched path against a slow one written word by word, and against the release."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from refseg.errors import RefsegError
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.blocks.cmsa_release import (
    CMSAReleaseConfig,
    PooledKeys,
    ReleaseCrossModalSelfAttention,
    attend,
    key_weights,
    pooled_keys,
    spread,
)
from refseg.models.blocks.cross_modal import multimodal_features
from refseg_course.word_measures import mutual_information

B, CV, CL, DIM, H, W = 4, 5, 7, 11, 3, 4
R = H * W
LENGTHS = [5, 4, 3, 1]


def block_and_inputs(reduction=None, hide_padding=False, dtype=torch.float64):
    config = CMSAReleaseConfig(DIM, reduction, hide_padding)
    block = ReleaseCrossModalSelfAttention(CV, CL, config).to(dtype)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    pixels = torch.randn(B, CV, H, W, dtype=dtype, requires_grad=True)
    words = torch.randn(B, max(LENGTHS), CL, dtype=dtype, requires_grad=True)
    token_valid = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    region_valid = torch.ones(B, H, W, dtype=torch.bool)
    region_valid[1, 2:] = False
    region_valid[2, :, 1:] = False
    return block, pixels, words, token_valid, region_valid


def pooled_by_loops(x, regions):
    """[N,H,W,d] -> the cells and their places: every window of up to 2x2x2 places, the hidden ones left out."""
    cells, owners = [], []
    for n in range(0, len(x), 2):
        for row in range(0, H, 2):
            for column in range(0, W, 2):
                members = [
                    (i, j, k)
                    for i in range(n, min(n + 2, len(x)))
                    for j in range(row, min(row + 2, H))
                    for k in range(column, min(column + 2, W))
                    if regions[j, k]
                ]
                if members:
                    cells.append(torch.stack([x[member] for member in members]).amax(0))
                    owners.append(members)
    return torch.stack(cells), owners


def alone(block, pixels, words, regions):
    """One sentence without padding, [Cv,H,W] and [N,Cl], as section 1.2 of the specification has it: fused, weights."""
    f = multimodal_features(pixels[None], words[None])[0]  # [N,R,C]
    if block.reduce is not None:
        f = block.reduce(f).relu()
    grid = (len(words), H, W, -1)
    query, key, value = (linear(f).relu() for linear in (block.query, block.key, block.value))
    key, owners = pooled_by_loops(key.view(grid), regions)
    value, _ = pooled_by_loops(value.view(grid), regions)
    weights = (query @ key.T).softmax(-1)  # [N,R,M]
    fused = (block.out(weights @ value).relu() + f).mean(0)
    shared = torch.zeros(len(words), R, *grid[:3], dtype=weights.dtype)
    for m, members in enumerate(owners):
        for place in members:
            shared[:, :, *place] = weights[:, :, m, None, None, None].squeeze() / len(members)
    return fused.T.view(-1, H, W), shared.flatten(3)


def every_sample_alone(block, pixels, words, region_valid):
    return [alone(block, pixels[b], words[b, : LENGTHS[b]], region_valid[b]) for b in range(B)]


def test_a_batch_of_many_lengths_is_its_samples_one_by_one_word_by_word():
    for hide_padding in [False, True]:
        for reduction in [None, 13]:
            block, pixels, words, token_valid, region_valid = block_and_inputs(reduction, hide_padding)
            fused = block(pixels, words, token_valid, region_valid)
            keys = region_valid if hide_padding else torch.ones_like(region_valid)
            expected = torch.stack([sample for sample, _ in every_sample_alone(block, pixels, words, keys)])
            assert fused.shape == (B, reduction or CV + CL + 8, H, W) == (B, block.channels, H, W)
            assert torch.allclose(fused, expected, rtol=0, atol=1e-12 * expected.abs().max().item())
            direction = torch.randn_like(fused)
            leaves = [pixels, words, *block.parameters()]
            ours, theirs = (torch.autograd.grad((x * direction).sum(), leaves) for x in (fused, expected))
            for mine, other in zip(ours, theirs, strict=True):
                assert other.abs().max() > 0
                assert torch.allclose(mine, other, rtol=0, atol=1e-10 * other.abs().max().item())


def test_what_lies_under_padded_words_changes_nothing():
    for reduction in [None, 13]:
        block, pixels, words, token_valid, _ = block_and_inputs(reduction)
        other = torch.where(token_valid[..., None], words, 1e3 * torch.randn_like(words))
        longer = torch.cat([other, torch.randn_like(words)], 1)
        longer_valid = torch.cat([token_valid, torch.zeros_like(token_valid)], 1)
        assert torch.allclose(
            block(pixels, longer, longer_valid), block(pixels, words, token_valid), rtol=0, atol=1e-12
        )


def test_padding_in_front_is_refused():
    block, pixels, words, token_valid, _ = block_and_inputs()
    with pytest.raises(RefsegError, match="padding after the words"):
        block(pixels, words, token_valid.flip(1))


def test_word_maps_and_rows_are_those_of_the_slow_path():
    block, pixels, words, token_valid, region_valid = block_and_inputs(13, hide_padding=True)
    inputs = pixels, words, token_valid
    attention = block.attention(*inputs, region_valid)
    maps, joint = attention.word_maps(token_valid, region_valid), attention.joint([6, 0], [0, 0])
    alpha, beta = attention.row(6, 0)
    assert maps.shape == (B, 5, R) and joint.shape == (B, 2, 5, R)
    assert torch.allclose(maps.sum(2), token_valid.double())
    assert torch.allclose(joint.sum((2, 3)), torch.ones(B, 2).double())
    assert torch.allclose(joint[:, 0].sum(1), alpha) and torch.allclose(joint[:, 0].sum(2), beta)
    for b, (_, weights) in enumerate(every_sample_alone(block, pixels, words, region_valid)):  # [N,R,N,R]
        N = LENGTHS[b]
        assert torch.allclose(joint[b, 0, :N], weights[0, 6]) and torch.allclose(joint[b, 1, :N], weights[0, 0])
        assert not joint[b, :, N:].any() and not maps[b, N:].any()
        queries = region_valid[b].flatten()
        assert torch.allclose(maps[b, :N], weights[:, queries].mean(1).sum(1))


def test_one_word_and_six_regions_by_hand():
    """A row of three columns makes two cells: the larger of the first two regions, and the third alone.

    Width one. Every query is 1; key = relu(v) ln 2, value = 3 relu(v) with v = 1, -1, 1 after normalisation: keys ln 2,
    0, ln 2 and cells ln 2, ln 2, weights 1/2, 1/2, attended 3. With the middle pixel alone positive: cells ln 2 and 0,
    weights 2/3 and 1/3, attended 2. W_o writes twice that to channel v.
    """
    block = ReleaseCrossModalSelfAttention(1, 1, CMSAReleaseConfig(dim=1))
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        block.query.bias[0] = 1
        block.key.weight[0, 0] = math.log(2)
        block.value.weight[0, 0] = 3
        block.out.weight[0, 0] = 2
        block.out.weight[1, 0] = -5  # the ReLU keeps it from acting
    pixels, word, valid = torch.tensor([[[[5.0, -2.0, 3.0]]]]), torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    fused = block(pixels, word, valid)
    assert torch.allclose(fused[0, 0, 0], torch.tensor([7.0, 5.0, 7.0])) and fused[0, 1].tolist() == [[1, 1, 1]]
    assert torch.allclose(block(pixels * torch.tensor([-1.0, -1.0, -1.0]), word, valid)[0, 0, 0] - 4, -pixels.sign())
    alpha, beta = block.attention(-pixels, word, valid).row(2, 0)
    assert torch.allclose(alpha, torch.tensor([[1 / 3, 1 / 3, 1 / 3]])) and beta.tolist() == [[1]]


def test_release_attention_is_joint_and_the_papers_is_not():
    for reduction in [None, 13]:
        release, pixels, words, token_valid, _ = block_and_inputs(reduction)
        for _, weights in every_sample_alone(release, pixels, words, torch.ones(B, H, W, dtype=torch.bool))[:2]:
            assert mutual_information(weights).mean() > 1e-3
        joint = release.attention(pixels, words, token_valid).joint([1, 7], [0, 0])
        assert mutual_information(joint)[:3].mean() > 1e-3
        assert mutual_information(joint)[3].max() < 1e-12  # a single word has nothing to bind
        paper = CrossModalSelfAttention(CV, CL, CMSAConfig(DIM)).double()
        f = multimodal_features(pixels, words)
        scores = paper.query(f).flatten(1, 2) @ paper.key(f).flatten(1, 2).mT
        assert mutual_information(scores.softmax(-1).unflatten(2, (5, R))).max() < 1e-12
        assert mutual_information(paper.attention(pixels, words, token_valid).joint([1, 7], [0, 0])).max() < 1e-12


def test_spreading_keeps_the_mutual_information_of_the_cells():
    cells = torch.rand(2, 3, 3 * 2 * 2, dtype=torch.float64)
    spreads = spread(cells, torch.ones(2, 5, H, W, dtype=torch.bool))
    ours, theirs = mutual_information(spreads.flatten(3)), mutual_information(cells.unflatten(2, (3, 4)))
    assert theirs.min() > 1e-3 and torch.allclose(ours, theirs)


def test_scores_are_float32_under_autocast():
    """Keys that differ by less than bfloat16 tells apart at this height must still get different weights."""
    key = torch.tensor([100.0, 100.3])[None, :, None]
    cells = PooledKeys(key, torch.tensor([0.0, 1.0])[None, :, None], torch.ones(1, 4, 1, 1, dtype=torch.bool), None)
    with torch.autocast("cpu", torch.bfloat16):
        attended, weights = attend(torch.ones(1, 1, 1), cells), key_weights(torch.ones(1, 1, 1), cells)
    expected = 1 / (1 + math.exp(-0.3))
    assert attended.dtype == torch.float32 and attended.item() == pytest.approx(expected, abs=1e-3)
    assert weights[0, 0, 1].item() == pytest.approx(expected, abs=1e-3)


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *(x.numel() for x in tensors)])
        return out


def test_the_score_matrix_is_never_in_memory():
    for padded in [False, True]:
        block = ReleaseCrossModalSelfAttention(CV, CL, CMSAReleaseConfig(DIM))
        token_valid = torch.arange(6) < torch.tensor([[6], [3 if padded else 6]])
        pixels = torch.randn(2, CV, 20, 20, requires_grad=True)
        with Largest() as largest:
            block(pixels, torch.randn(2, 6, CL), token_valid).sum().backward()
        assert largest.numel == 2 * 6 * 400 * block.channels  # the pairs with all their channels, and nothing larger
        assert largest.numel < 2 * 6 * 400 * 300 / 10  # the scores: 300 cells for each


# ---- against the release itself --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(shared_dir):
    numbers = np.load(shared_dir / "parity" / "cmsa_release.npz")
    return {name: torch.from_numpy(numbers[name]) for name in numbers.files}


def released_maps(released, f):
    """The release's layer on a given f [1,N,40,40,24]; ``look`` would build f from a picture and words."""
    names = {"query": "theta", "key": "phi", "value": "g", "out": "out"}
    block = ReleaseCrossModalSelfAttention(9, 7, CMSAReleaseConfig(dim=16))
    assert block.channels == 24
    with torch.no_grad():
        for ours, theirs in names.items():
            kernel = released[f"{theirs}_kernel"]
            getattr(block, ours).weight.copy_(kernel.reshape(kernel.shape[-2:]).T)
            getattr(block, ours).bias.copy_(released[f"{theirs}_bias"])
        maps = [linear(f.flatten(2, 3)).relu() for linear in (block.query, block.key, block.value)]
        return block, maps, pooled_keys(*maps[1:], torch.ones(f.shape[:4], dtype=torch.bool))


def test_equals_the_release(released):
    for words in [5, 4, 1]:
        f = released["input"][:, :words]
        block, (query, _, _), cells = released_maps(released, f)
        with torch.no_grad():
            update = block.out(attend(query.flatten(1, 2), cells)).relu().view_as(f)
        error = ((update + f).mean(1) - released[f"output_N{words}"]).abs().max()
        assert error < 2e-5, error


def test_pooled_keys_values_and_softmax_rows_equal_the_release(released):
    _, (query, _, _), cells = released_maps(released, released["input"])
    for ours, name in ((cells.key, "phi_pooled_N5"), (cells.value, "g_pooled_N5")):
        assert (ours - released[name].flatten(1, 3)).abs().max() < 2e-5
    rows = key_weights(query.flatten(1, 2)[:, released["softmax_rows_index"]], cells)[0]
    assert rows.shape == (8, 1200)
    assert (rows - released["softmax_rows_N5"]).abs().max() < 2e-6
