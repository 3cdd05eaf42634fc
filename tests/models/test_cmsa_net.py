"""The composition: sizes, what the lessons ask of it, and the paper's size once."""

from dataclasses import replace

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.blocks.cmsa import ConcatenationMeanConfig
from refseg.models.cmsa_net import LEVELS, CMSANetConfig, regions_with_pixels

LESSON = CMSANetConfig.lesson()


@pytest.fixture
def model():
    return build_model(LESSON, 11).eval()


def test_lesson_model_is_below_a_million_parameters():
    assert 850_000 < sum(p.numel() for p in build_model(CMSANetConfig.lesson(), 11).parameters()) < 1_000_000


def test_strides_of_the_trace_and_the_logits(model, make_batch):
    prediction = model(make_batch([3, 2], height=40, width=56))
    assert prediction.mask_logits.shape == (2, 1, 20, 28)
    for name in ("pixels", "fused/c3", "fused/c4", "fused/c5"):
        assert prediction.trace[name].shape == (2, 64, 5, 7)


def test_a_picture_of_any_size_passes(model, make_batch):
    batch = make_batch([3], height=37, width=51)
    assert model(batch).mask_logits.isfinite().all()
    assert model.word_maps(batch)["c5"].shape == (1, 3, 5, 7)


def test_a_region_is_valid_if_any_of_its_pixels_is():
    pixel_valid = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
    pixel_valid[0, 0, 7, :9] = True
    assert regions_with_pixels(pixel_valid, (2, 3)).tolist() == [[[True, True, False], [False, False, False]]]


def test_word_maps_and_gates_are_those_of_the_forward_pass(model, make_batch):
    batch = make_batch([3, 2])
    batch.pixel_valid[1, :, 24:] = False
    maps, gates = model.word_maps(batch), model.gates(batch)
    assert list(maps) == list(gates) == list(LEVELS)
    for level in LEVELS:
        assert maps[level].shape == (2, 3, 5, 7)
        assert torch.allclose(maps[level].sum((2, 3)), batch.token_valid.float(), atol=1e-5)
        assert not maps[level][1, :, 3:].any()
        alpha, beta = model.attention_row(batch, level, query_region=4, query_word=1)
        assert alpha.shape == (2, 35) and beta.shape == (2, 3)
    trace = model(batch).trace
    again = model.fusion.gates({level: trace[f"fused/{level}"] for level in LEVELS})
    assert torch.allclose(again["c4"][0], gates["c4"][0]) and torch.allclose(again["c5"][1], gates["c5"][1])


@pytest.mark.parametrize("config", [LESSON, CMSANetConfig.release_lesson()], ids=["paper", "release"])
def test_region_rows_are_the_mean_of_the_attention_rows_over_the_words(config, make_batch):
    batch = make_batch([3, 2])
    batch.pixel_valid[1, :, 24:] = False
    model = build_model(config, 11).eval()
    with torch.inference_mode():
        for level, (alpha, beta) in model.region_rows(batch).items():
            assert alpha.shape == (2, 35, 35) and beta.shape == (2, 35, 3)
            for b, words in enumerate((3, 2)):
                rows = [model.attention_row(batch, level, query_region=9, query_word=n) for n in range(words)]
                assert torch.allclose(alpha[b, 9], torch.stack([a[b] for a, _ in rows]).mean(0), atol=1e-6)
                assert torch.allclose(beta[b, 9], torch.stack([e[b] for _, e in rows]).mean(0), atol=1e-6)


def test_jointness_is_zero_in_the_papers_form_and_positive_in_the_releases(make_batch):
    """Two words make one cell in the release's form: such an expression has nothing to bind there either."""
    batch = make_batch([5, 2])
    for config, joint in ((LESSON, False), (CMSANetConfig.release_lesson(), True)):
        with torch.no_grad():
            jointness = build_model(config, 11).eval().jointness(batch, query_regions=[0, 17, 34])
        assert list(jointness) == list(LEVELS)
        for information in jointness.values():
            assert (information[0] > 1e-5) == joint and (joint or information[0] < 1e-12)
            assert information[1] < 1e-12


def test_padded_pixels_are_no_keys(model, make_batch):
    """The same pictures, but one is told that its lower half is padding: only the attention can notice."""
    batch = make_batch([3, 2])
    pixel_valid = batch.pixel_valid.clone()
    pixel_valid[1, :, 24:] = False
    before, after = model(batch), model(replace(batch, pixel_valid=pixel_valid))
    difference = (after.mask_logits - before.mask_logits).abs().amax((1, 2, 3))
    assert difference[0] == 0 and difference[1] > 1e-7


def test_a_model_without_attention_says_so(make_batch):
    model = build_model(replace(LESSON, cross_modal=ConcatenationMeanConfig()), 11)
    with pytest.raises(RefsegError, match="no attention"):
        model.word_maps(make_batch([3]))


def test_a_clip_is_seen_at_its_target_frame(model, make_batch):
    batch = make_batch([3, 2])
    clip = torch.cat([torch.randn_like(batch.frames), batch.frames], dim=1)
    moved = replace(batch, frames=clip, target_frame=torch.tensor([1, 1]))
    assert torch.equal(model(moved).mask_logits, model(batch).mask_logits)


def test_lesson_model_can_learn_one_batch(make_batch):
    """Twenty steps on four pictures whose mask is where they are bright: the loss must fall by far."""
    model = build_model(LESSON, 11).train()
    batch = make_batch([3, 2, 2, 3])
    mask = torch.nn.functional.interpolate(torch.rand(4, 1, 5, 7), (20, 28)) < 0.3
    batch.frames += 2 * torch.nn.functional.interpolate(mask.float(), (40, 56))[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch).mask_logits, mask.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def paper_size_step(make_batch, device):
    model = build_model(CMSANetConfig.paper(), 12112).to(device).eval()  # one picture has no statistics to learn from
    assert model.common_width["c5"].in_channels == 2048 + 1000 + 8
    batch = make_batch([20], height=320, width=320, vocabulary_size=12112).to(device)
    prediction = model(batch)
    assert prediction.mask_logits.shape == (1, 1, 40, 40)
    assert prediction.trace["pixels"].shape == (1, 500, 40, 40)
    prediction.mask_logits.square().mean().backward()
    assert prediction.mask_logits.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.slow
def test_paper_size_runs_forwards_and_backwards(make_batch):
    paper_size_step(make_batch, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_paper_size_runs_on_a_gpu(make_batch):
    paper_size_step(make_batch, "cuda")
