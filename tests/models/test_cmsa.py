"""CMSA: the factorised path is the literal equation, in value and in every gradient; padding does not exist for it."""

import math

import torch

from refseg.models.blocks import word_average
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.blocks.cross_modal import (
    ConcatenationMean,
    multimodal_features,
    multimodal_parts,
)
from refseg.models.blocks.word_average import word_averaged_weights, word_by_word_weights
from refseg_course.exercises import properties

B, CV, CL, DIM, H, W = 3, 5, 7, 11, 3, 4
R = H * W


def block_and_inputs(words=2, dtype=torch.float64, spread=1.0, dim=DIM):
    """A block with weights of std ``spread``, and inputs with word padding behind and region padding below."""
    block = CrossModalSelfAttention(CV, CL, CMSAConfig(dim=dim, scale=0.7)).to(dtype)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    pixels = torch.randn(B, CV, H, W, dtype=dtype, requires_grad=True)
    word_features = torch.randn(B, words, CL, dtype=dtype, requires_grad=True)
    token_valid = torch.arange(words) < torch.tensor([[words], [max(1, words - 1)], [1]])
    region_valid = torch.ones(B, H, W, dtype=torch.bool)
    region_valid[1, 2:] = False
    region_valid[2, :, 1:] = False
    return block, pixels, word_features, token_valid, region_valid


def gradients(block, fused, pixels, words):
    """The gradient of one random projection of ``fused`` for every input and weight, by name."""
    return properties.gradients(fused, {"pixels": pixels, "words": words, **dict(block.named_parameters())})


def assert_equals_literal(block, pixels, words, token_valid, region_valid, tolerance):
    """In its value, and in the gradient of every input and weight: the largest difference over the largest number."""
    inputs = pixels, words, token_valid, region_valid
    fused, expected = block(*inputs), block.literal(*inputs)
    assert fused.shape == (B, CV + CL + 8, H, W)
    pairs = {"value": (fused, expected)}
    found, right = (gradients(block, result, pixels, words) for result in (fused, expected))
    pairs |= {name: (found[name], right[name]) for name in right}
    for name, (one, other) in pairs.items():
        assert ((one - other).abs().max() / other.abs().max()).item() <= tolerance, name


def test_factorised_equals_literal():
    for masked in [True, False]:
        for words in [1, 2, 5]:
            block, pixels, word_features, token_valid, region_valid = block_and_inputs(words)
            if not masked:
                token_valid, region_valid = torch.ones_like(token_valid), None
            assert_equals_literal(block, pixels, word_features, token_valid, region_valid, tolerance=1e-11)


def test_factorised_equals_literal_in_float32():
    assert_equals_literal(*block_and_inputs(5, torch.float32, spread=0.3), tolerance=2e-5)


def test_factorised_equals_literal_when_the_exponentials_underflow(monkeypatch):
    called = []
    monkeypatch.setattr(
        word_average, "word_by_word_weights", lambda *args: called.append(1) or word_by_word_weights(*args)
    )
    assert_equals_literal(*block_and_inputs(5, spread=10.0), tolerance=1e-9)
    assert called, "the scores of this test are meant to be too far apart for one exponential matrix"


def test_no_softmax_per_word_at_ordinary_scores(monkeypatch):
    monkeypatch.setattr(word_average, "word_by_word_weights", None)  # calling it would be a TypeError
    block, *inputs = block_and_inputs(5)
    assert block(*inputs).isfinite().all()


def test_word_averaged_weights_are_exact_and_finite_at_any_spread():
    for dtype in [torch.float32, torch.float64]:
        for std in [0.1, 3.0, 30.0, 1000.0]:
            scores, word_scores = torch.randn(2, 13, 17) * std, torch.randn(2, 3, 17) * std
            token_valid = torch.tensor([[True, True, True], [True, False, False]])
            exact = (scores.double()[:, None] + word_scores.double()[:, :, None]).softmax(-1)
            exact = torch.stack([exact[0].mean(0), exact[1, 0]])
            scores, word_scores = scores.to(dtype).requires_grad_(), word_scores.to(dtype).requires_grad_()
            weights = word_averaged_weights(scores, word_scores, token_valid)
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5 + 1e-6 * std  # float32 rounds a score of 1000 by 6e-5
            assert (weights - exact).abs().max() < tolerance
            assert torch.allclose(weights.sum(-1), torch.ones((), dtype=dtype), atol=1e-5)
            (weights * torch.randn_like(weights)).sum().backward()
            assert scores.grad.isfinite().all() and word_scores.grad.isfinite().all()


def test_gradients_are_right_on_both_sides_of_the_guard():
    """Region and word scores peak at different keys; the sum of exponentials is about 2 exp(-distance)."""
    for distance in [20.0, 30.0, 33.0, 34.0, 36.0, 40.0, 200.0]:
        scores, word_scores = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
        scores[0, :, 0] = distance
        word_scores[0, :, 1] = distance + 0.5
        token_valid = torch.ones(1, 2, dtype=torch.bool)
        results = []
        for dtype, function in [(torch.float32, word_averaged_weights), (torch.float64, word_by_word_weights)]:
            leaves = [x.to(dtype).requires_grad_() for x in (scores, word_scores)]
            weights = function(*leaves, token_valid)
            results.append([weights, *torch.autograd.grad(weights[0, 0, 0] + 2 * weights[0, 1, 1], leaves)])
        for fast, exact in zip(*results, strict=True):
            assert torch.allclose(fast.double(), exact, atol=1e-5)


def test_scores_in_the_thousands_stay_finite():
    block, *inputs = block_and_inputs(5, torch.float32, spread=20.0)
    pp = block.scores(*multimodal_parts(*inputs[:2]), inputs[2], None)[0]
    assert pp.std() > 1000
    fused = block(*inputs)
    assert fused.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(block, fused, *inputs[:2]).values())
    assert block.attention(*inputs).word_maps(*inputs[2:]).isfinite().all()


def test_two_words_and_four_regions_by_hand():
    """Width one throughout. Every query is 1; key = ln2 v + ln3/2 e; value = v + 10 e; W_o writes 2 to channel v.

    v = 1, 1, -1, -1 makes exponentials 2, 2, 1/2, 1/2, so alpha = 0.4, 0.4, 0.1, 0.1 and sum alpha v = 0.6.
    e = 1, -1 makes exponentials in the ratio 3 : 1, so beta = 3/4, 1/4 and sum beta 10 e = 5. Attended: 5.6.
    """
    block = CrossModalSelfAttention(1, 1, CMSAConfig(dim=1))
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        block.query.bias[0] = 1
        block.key.weight[0, :2] = torch.tensor([math.log(2), math.log(3) / 2])
        block.value.weight[0, :2] = torch.tensor([1.0, 10.0])
        block.out.weight[0, 0] = 2
    pixels = torch.tensor([[[[5.0, 2.0], [-3.0, -1.0]]]])  # the length goes, the sign stays
    words = torch.tensor([[[9.0], [-0.5]]])
    token_valid = torch.ones(1, 2, dtype=torch.bool)
    for fused in (block(pixels, words, token_valid), block.literal(pixels, words, token_valid)):
        assert torch.allclose(fused[0, 0].flatten(), torch.tensor([12.2, 12.2, 10.2, 10.2]), atol=1e-5)
        assert fused[0, 1].abs().max() < 1e-6  # the words 1 and -1 average out
        assert fused[0, 2].tolist() == [[-1, 0], [-1, 0]]  # x_min
    alpha, beta = block.attention(pixels, words, token_valid).row(3, 1)
    assert torch.allclose(alpha, torch.tensor([[0.4, 0.4, 0.1, 0.1]]))
    assert torch.allclose(beta, torch.tensor([[0.75, 0.25]]))
    maps = block.attention(pixels, words, token_valid).word_maps(token_valid)
    assert torch.allclose(maps, torch.tensor([0.4, 0.4, 0.1, 0.1]).expand(1, 2, 4))


def test_multimodal_features_normalise_region_and_word_apart():
    f = multimodal_features(torch.randn(1, CV, H, W), torch.randn(1, 2, CL))
    assert f.shape == (1, 2, R, CV + CL + 8)
    assert torch.allclose(f[..., :CV].norm(dim=-1), torch.ones(1, 2, R))
    assert torch.allclose(f[..., CV : CV + CL].norm(dim=-1), torch.ones(1, 2, R))
    assert torch.equal(f[0, 0, :, :CV], f[0, 1, :, :CV])  # the region part does not know the word
    assert torch.equal(f[0, 1, 0, CV : CV + CL], f[0, 1, 5, CV : CV + CL])  # nor the word part the region


def test_padded_words_change_nothing():
    for kind in [CrossModalSelfAttention, ConcatenationMean]:
        block, pixels, words, token_valid, region_valid = block_and_inputs(5)
        if kind is ConcatenationMean:
            block = ConcatenationMean(CV, CL)
        assert properties.padding_error(block, pixels, words, token_valid, region_valid) <= 1e-12


def test_padded_regions_change_no_valid_region():
    block, pixels, words, token_valid, region_valid = block_and_inputs(5)
    other = torch.where(region_valid[:, None], pixels, torch.randn_like(pixels))
    inputs = words, token_valid, region_valid
    difference = (block(other, *inputs) - block(pixels, *inputs)) * region_valid[:, None]
    assert difference.abs().max() < 1e-12
    assert ((block(other, words, token_valid) - block(pixels, words, token_valid)) * region_valid[:, None]).any()


def test_a_sample_does_not_depend_on_its_neighbours():
    block, *inputs = block_and_inputs(5)
    assert properties.neighbour_error(block, *inputs) <= 1e-12


def test_word_maps_are_the_literal_softmax_averaged_over_queries():
    block, pixels, words, token_valid, region_valid = block_and_inputs(2)
    maps = block.attention(pixels, words, token_valid, region_valid).word_maps(token_valid, region_valid)
    maps = maps.unflatten(2, (H, W))
    assert torch.allclose(maps.sum((2, 3)), token_valid.double())
    assert not maps[~region_valid[:, None].expand_as(maps)].any()
    f = multimodal_features(pixels[:1], words[:1])  # the first sample has no padding
    query, key = block.query(f).flatten(1, 2), block.key(f).flatten(1, 2)
    joint = (0.7 * query @ key.mT).softmax(-1).view(2, R, 2, R)  # n', p', n, p
    assert torch.allclose(joint.sum(2).mean(1).view(2, H, W), maps[0])


def test_pooled_words_are_what_the_mean_over_words_is_taken_of():
    """Their mean over the words is the mean over regions of what the block gives, with any shares of the regions."""
    block, pixels, words, token_valid, _ = block_and_inputs(words=3)
    for shares in (torch.full((B, R), 1 / R), torch.eye(R)[7].expand(B, -1)):
        parts, scores = multimodal_parts(pixels, words), block.attention(pixels, words, token_valid)
        pooled = block.pooled_words(scores, parts, shares.double())
        mean = (pooled * token_valid[..., None]).sum(1) / token_valid.sum(1, keepdim=True)
        expected = (block(pixels, words, token_valid).flatten(2) * shares[:, None]).sum(2)
        assert torch.allclose(mean, expected)


def test_attention_row_is_one_row_of_the_literal_softmax():
    block, pixels, words, token_valid, region_valid = block_and_inputs(5)
    alpha, beta = block.attention(pixels, words, token_valid, region_valid).row(6, 3)
    assert torch.allclose(alpha.sum(1), torch.ones(B).double()) and torch.allclose(beta.sum(1), torch.ones(B).double())
    assert not alpha[~region_valid.flatten(1)].any() and not beta[~token_valid].any()
    f = multimodal_features(pixels, words)
    query, key = block.query(f)[:, 3, 6], block.key(f)
    scores = 0.7 * torch.einsum("bd,blrd->blr", query, key)
    pair_valid = token_valid[:, :, None] & region_valid.flatten(1)[:, None]
    row = scores.masked_fill(~pair_valid, -torch.inf).flatten(1).softmax(-1).view(B, 5, R)
    assert torch.allclose(beta[:, :, None] * alpha[:, None], row)


def test_pooled_words_are_the_output_before_the_mean_over_words():
    """Their mean over the words is the mean over the query regions of what the block gives."""
    block, pixels, words, token_valid, _ = block_and_inputs(5)
    kept = {}
    fused = block(pixels, words, token_valid, None, kept).flatten(2)  # [B,C,R]
    one = torch.zeros(B, R, dtype=torch.float64)
    one[:, 7] = 1.0
    for shares in (torch.full_like(one, 1 / R), one):
        pooled = block.pooled_words(kept["attention"], kept["parts"], shares)
        mean = (pooled * token_valid[..., None]).sum(1) / token_valid.sum(1, keepdim=True)
        assert torch.allclose(mean, torch.einsum("bcr,br->bc", fused, shares))


def test_concatenation_mean_is_the_mean_of_the_multimodal_features():
    block, pixels, words, _, _ = block_and_inputs(5)
    control = ConcatenationMean(CV, CL)
    fused = control(pixels, words, torch.ones(B, 5, dtype=torch.bool))
    expected = multimodal_features(pixels, words).mean(1).transpose(1, 2).view(B, -1, H, W)
    assert torch.allclose(fused, expected)
    assert control.channels == block.channels and not list(control.parameters())


def test_memory_never_grows_with_words_times_regions_squared():
    """The paper's grid and word count in one forward pass; the literal scores alone would be 4.1 GB."""
    block = CrossModalSelfAttention(CV, CL, CMSAConfig(dim=DIM))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        block(torch.randn(1, CV, 40, 40), torch.randn(1, 20, CL), torch.ones(1, 20, dtype=torch.bool))
    assert largest == 1600 * 1600


def test_gradcheck_of_the_hand_written_backward():
    """Against finite differences, on the rank-N side of the guard, padding included."""
    token_valid = torch.tensor([[True, True, True], [True, False, False]])
    leaves = [torch.randn(2, n, 7, dtype=torch.float64, requires_grad=True) for n in (5, 3)]
    assert torch.autograd.gradcheck(lambda *scores: word_averaged_weights(*scores, token_valid), leaves)


def test_two_matrices_are_kept_for_the_backward_pass():
    """The exponentials, and the weights themselves, which the product with the values keeps as well."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        scores = torch.randn(1, 23, 29, requires_grad=True)
        weights = word_averaged_weights(scores, torch.randn(1, 3, 29), torch.ones(1, 3, dtype=torch.bool))
        _ = weights @ torch.randn(1, 29, 5, requires_grad=True)
    large = [x.data_ptr() for x in kept if x.shape == (1, 23, 29)]
    assert len(large) == 3 and len(set(large)) == 2 and weights.data_ptr() in large


def test_scores_are_float32_under_autocast():
    """Half precision may round queries and keys, never the sum of their products; the spread reaches both paths."""
    for spread in [1.0, 10.0]:
        block, *inputs = block_and_inputs(5, torch.float32, spread)
        with torch.autocast("cpu", torch.bfloat16):
            scores = block.scores(*multimodal_parts(*inputs[:2]), *inputs[2:])
            fused = block(*inputs)
        assert {x.dtype for x in scores} == {torch.float32}
        assert fused.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients(block, fused.float(), *inputs[:2]).values())
        if spread == 1.0:  # as far from the float32 result as a rounding of the projections explains
            assert (fused - block(*inputs)).norm() < 0.05 * fused.norm()
