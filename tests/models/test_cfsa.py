"""Cross-frame self-attention: equal to loops over frames and regions, blind to padding, and to time unless told."""

import math
from dataclasses import replace

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.blocks.cfsa import CFSAConfig, CrossFrameSelfAttention, FrameMean, FrameMeanConfig, waves
from refseg.models.cmsa_net import CMSANetConfig

B, T, C, h, w = 2, 3, 7, 2, 5
TARGET = torch.tensor([1, 2])


def block(**fields) -> CrossFrameSelfAttention:
    """With an output that is not zero, in float64."""
    torch.manual_seed(0)
    made = CrossFrameSelfAttention(C, CFSAConfig(**{"dim": 6, "heads": 2, **fields})).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def clip() -> torch.Tensor:
    return torch.randn(B, T, C, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def every(T=T) -> torch.Tensor:
    return torch.ones(B, T, dtype=torch.bool)


def test_equals_the_loops_over_frames_and_regions():
    """Score, softmax, value, and the mean offset of what was looked at, as the module's docstring writes them."""
    for offsets in [False, True]:
        attention, x, valid = block(offsets=offsets), clip(), every()
        valid[0, 2] = False
        got = attention(x, TARGET, valid)
        for b in range(B):
            keys = [(t, i, j) for t in range(T) for i in range(h) for j in range(w) if valid[b, t]]
            for i in range(h):
                for j in range(w):
                    own = attention.norm(x[b, TARGET[b], :, i, j])
                    heads = []
                    for number, head in enumerate((slice(0, 3), slice(3, 6))):
                        q = attention.query(own)[head]
                        scores, values = [], []
                        for t, row, column in keys:
                            feature, offset = (
                                attention.norm(x[b, t, :, row, column]),
                                [row - i, column - j, t - TARGET[b].item()],
                            )
                            score = q @ attention.key(feature)[head] / math.sqrt(3)
                            value = attention.value(feature)[head]
                            if offsets:
                                score = score + attention.time[number] @ waves(torch.tensor(offset[2])).double()
                                width = attention.log_width[number].exp()
                                score = score - (offset[0] ** 2 + offset[1] ** 2) / (2 * width**2)
                                value = torch.cat([value, torch.tensor(offset, dtype=torch.float64)])
                            scores.append(score)
                            values.append(value)
                        heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
                    update = attention.out(torch.cat(heads))
                    torch.testing.assert_close(got[b, :, i, j], x[b, TARGET[b], :, i, j] + update)


def test_at_the_start_the_target_frame_comes_out_as_it_went_in():
    attention, x = CrossFrameSelfAttention(C, CFSAConfig(dim=6, heads=2)).double(), clip()
    assert torch.equal(attention(x, TARGET, every()), torch.stack([x[0, 1], x[1, 2]]))


def test_padded_frames_change_nothing():
    for kind in [block, lambda: FrameMean()]:
        attention, x = kind(), clip()
        longer = torch.cat([x, 1e3 * torch.ones(B, 2, C, h, w)], 1)
        valid = torch.arange(T + 2) < torch.full((B, 1), T)
        torch.testing.assert_close(attention(longer, TARGET, valid), attention(x, TARGET, every()))


def test_padded_regions_are_no_keys():
    attention, x = block(), clip()
    regions = torch.ones(B, h, w, dtype=torch.bool)
    regions[..., -1] = False
    other = x.clone()
    other[..., -1] += 100.0
    one, two = attention(x, TARGET, every(), regions), attention(other, TARGET, every(), regions)
    torch.testing.assert_close(one[..., :-1], two[..., :-1])


def test_without_offsets_before_and_after_are_the_same():
    x, target = clip(), torch.tensor([1, 1])
    backwards = x.flip(1)
    blind, seeing = block(offsets=False), block(offsets=True)
    torch.testing.assert_close(blind(backwards, target, every()), blind(x, target, every()))
    assert (seeing(backwards, target, every()) - seeing(x, target, every())).abs().max() > 1e-3


def test_without_offsets_left_and_right_are_the_same():
    x, target = clip(), torch.tensor([1, 1])
    mirrored = x.flip(-1)
    mirrored[:, 1] = x[:, 1]  # the target frame stays, what moved left in the others now moves right
    blind, seeing = block(offsets=False), block(offsets=True)
    torch.testing.assert_close(blind(mirrored, target, every()), blind(x, target, every()))
    assert (seeing(mirrored, target, every()) - seeing(x, target, every())).abs().max() > 1e-3


def test_the_rows_are_the_weights_that_forward_uses():
    attention, x, valid = block(offsets=False), clip(), every()
    valid[1, 0] = False
    region = 1 * w + 3
    looks = attention.attention(x, TARGET, valid)
    rows = looks.row(region)
    assert rows.shape == (B, 2, T, h * w)
    torch.testing.assert_close(rows.sum((2, 3)), torch.ones(B, 2, dtype=torch.float64))
    assert rows[1, :, 0].abs().max() == 0
    attended = (rows.flatten(2)[:, :, None] @ looks.value)[:, :, 0].flatten(1)
    own = torch.stack([x[0, 1], x[1, 2]])[..., 1, 3]
    torch.testing.assert_close(attention(x, TARGET, valid)[..., 1, 3], own + attention.out(attended))
    torch.testing.assert_close(looks.frame_weights()[..., region], rows.sum(3))


def test_heads_begin_by_looking_back_at_their_own_frame_and_ahead():
    attention = CrossFrameSelfAttention(C, CFSAConfig(dim=12, heads=4)).double()
    weights = attention.attention(0 * clip(), torch.tensor([1, 1]), every()).frame_weights()  # nothing to see
    back, own, ahead, again = weights[0, :, :, 0]
    assert back[0] > 0.9 and own[1] > 0.9 and ahead[2] > 0.9 and again[0] > 0.9
    assert attention.log_width.exp().tolist() == pytest.approx([0.6, 0.6, 0.6, 1.2])


def test_the_mean_over_frames_by_hand():
    x = torch.tensor([1.0, 3.0, 100.0]).view(1, 3, 1, 1, 1)
    valid = torch.tensor([[True, True, False]])
    assert FrameMean()(x, torch.tensor([0]), valid).item() == 2.0


def test_waves_by_hand():
    assert waves(torch.tensor([1, -2])).shape == (2, 8)
    assert waves(torch.tensor(1))[[0, 1, 4, 5]].tolist() == pytest.approx(
        [1, math.sqrt(0.5), 0, math.sqrt(0.5)], abs=1e-6
    )


def test_heads_must_share_the_width():
    with pytest.raises(RefsegError, match="dim 7 cannot be shared by 2 heads"):
        CFSAConfig(dim=7, heads=2)


# ------------------------------------------------------------------------------------------ in the whole network

LESSON = CMSANetConfig.lesson()
TEMPORAL = {
    "on cmsa features": CFSAConfig(dim=12, heads=3),
    "on visual features": CFSAConfig(dim=12, heads=3, before_cmsa=True),
    "mean over frames": FrameMeanConfig(),
}


def clips(make_batch, frames: int):
    torch.manual_seed(2)
    batch = make_batch([5, 2], dtype=torch.float64)
    others = torch.randn(2, frames - 1, *batch.frames.shape[2:], dtype=torch.float64)
    return replace(batch, frames=torch.cat([batch.frames, others], 1), frame_valid=None)


@pytest.fixture(params=TEMPORAL, ids=str)
def network(request):
    torch.manual_seed(0)
    model = build_model(replace(LESSON, temporal=TEMPORAL[request.param]), 11).double().eval()
    for block in model.temporal.values():
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_frames_that_are_padding_change_nothing_in_the_network(network, make_batch):
    one, three = clips(make_batch, 1), clips(make_batch, 3)
    three.frame_valid[:, 1:] = False
    for train in (False, True):  # a BatchNorm must not count them either
        network.train(train)
        torch.testing.assert_close(network(three).mask_logits, network(one).mask_logits)


def test_the_other_frames_matter_and_the_trace_says_what_they_add(network, make_batch):
    one, three = network(clips(make_batch, 1)), network(clips(make_batch, 3))
    assert (one.mask_logits - three.mask_logits).abs().max() > 1e-6
    for level in ("c3", "c4", "c5"):
        name = f"temporal/{level}"
        assert three.trace[name].shape[1] == network.visual_channels[name]
        assert three.trace[name].shape[2:] == three.trace[f"fused/{level}"].shape[2:]


def test_a_network_for_video_begins_as_the_one_for_pictures(make_batch):
    torch.manual_seed(0)
    picture = build_model(LESSON, 11).double().eval()
    video = build_model(replace(LESSON, temporal=CFSAConfig(dim=12, heads=3)), 11).double().eval()
    video.load_state_dict({**video.state_dict(), **picture.state_dict()})
    batch = clips(make_batch, 3)
    torch.testing.assert_close(video(batch).mask_logits, picture(batch).mask_logits)


def test_clips_shared_by_samples_are_looked_at_once(network, make_batch):
    batch = clips(make_batch, 3)
    shared = replace(batch, frames=batch.frames[[0, 0]], image_ids=["same", "same"])
    apart = replace(shared, image_ids=["one", "other"])
    torch.testing.assert_close(network(shared).mask_logits, network(apart).mask_logits)
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    network(shared), network(apart)
    assert seen == [3, 6]


def test_where_in_time_the_network_looks(make_batch):
    model = build_model(replace(LESSON, temporal=CFSAConfig(dim=12, heads=3)), 11).double().eval()
    batch = clips(make_batch, 3)
    batch.frame_valid[1, 2] = False
    weights = model.explain(batch, model(batch)).frame_weights["c4"]
    assert weights.shape[:3] == (2, 3, 3)  # clips, heads, frames
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]))
    assert weights[1, :, 2].max() == 0 < weights[0, :, 2].min()
