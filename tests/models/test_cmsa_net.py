"""The composition: sizes, what the lessons ask of it, and the paper's size once."""

from dataclasses import replace

import pytest
import torch

from refseg.models import build_model
from refseg.models.blocks.attention import regions_with_pixels
from refseg.models.cmsa_net import LEVELS, CMSANetConfig
from refseg_course.word_measures import mutual_information

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


def test_a_region_is_valid_if_any_of_its_pixels_is():
    pixel_valid = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
    pixel_valid[0, 0, 7, :9] = True
    assert regions_with_pixels(pixel_valid, (2, 3)).tolist() == [[[True, True, False], [False, False, False]]]


def test_an_explanation_is_of_the_forward_pass(make_batch):
    """In both forms the maps, rows and gates are what the blocks compute from the trace's own features."""
    batch = make_batch([3, 2])
    batch.pixel_valid[1, :, 24:] = False
    regions = regions_with_pixels(batch.pixel_valid, (5, 7))
    for config in (LESSON, CMSANetConfig.release_lesson()):
        model = build_model(config, 11).eval()
        prediction = model(batch)
        trace, shown = prediction.trace, model.explain(batch, prediction, region_rows=True)
        for level in LEVELS:
            inputs = trace[f"backbone/{level}"], trace["words"], trace["words_valid"]
            attention = model.cross_modal[level].attention(*inputs, regions)
            maps = attention.word_maps(batch.token_valid, regions).unflatten(2, (5, 7))
            assert torch.allclose(shown.word_maps[level], maps)
            for b, words in enumerate((3, 2)):
                rows = [attention.row(query_region=9, query_word=n) for n in range(words)]
                alpha, beta = (torch.stack(part).mean(0)[b] for part in zip(*rows, strict=True))
                assert torch.allclose(shown.region_rows[level][b, 9], alpha, atol=1e-6)
                assert torch.allclose(shown.region_words[level][b, :, 9], beta, atol=1e-6)
        gates = model.fusion.gates({level: trace[f"fused/{level}"] for level in LEVELS})
        assert torch.equal(gates["c4"][0], shown.gates["c4"][0]) and torch.equal(gates["c5"][1], shown.gates["c5"][1])


def test_attention_is_a_product_in_the_papers_form_and_joint_in_the_releases(make_batch):
    """Two words make one pooled key in the release's form: such an expression has nothing to bind there either."""
    batch = make_batch([5, 2])
    for config, joint in ((LESSON, False), (CMSANetConfig.release_lesson(), True)):
        trace = build_model(config, 11).eval()(batch).trace
        for level in LEVELS:
            weights = trace[f"attention/{level}"].joint([0, 17, 34] * 2, [0, 0, 0, 1, 1, 1])
            information = mutual_information(weights).mean(1)
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
