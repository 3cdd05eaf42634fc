"""Mask heads: sizes, and that the skip head really sees the finer level."""

import torch

from refseg.models.blocks.mask_head import (
    MaskHead,
    ReleaseMaskHead,
    ReleaseMaskHeadConfig,
    SkipMaskHead,
    SkipMaskHeadConfig,
    enlarge_from_the_corner,
)

CHANNELS = {"c2": 3, "c3": 5, "c4": 5, "c5": 5}


def test_paper_head_gives_one_logit_per_region():
    head = MaskHead(7)
    assert head(torch.randn(2, 7, 5, 4), {}).shape == (2, 1, 5, 4)
    assert sum(p.numel() for p in head.parameters()) == 7 * 9 + 1


def test_skip_head_gives_logits_at_stride_2():
    head = SkipMaskHead(SkipMaskHeadConfig(dim=11), 7, CHANNELS)
    assert head(torch.randn(2, 7, 5, 4), {"c2": torch.randn(2, 3, 10, 8)}).shape == (2, 1, 20, 16)
    # A picture of 36 px has 9 places in c2 and 5 in c3; c2 sets the size.
    assert head(torch.randn(2, 7, 5, 4), {"c2": torch.randn(2, 3, 9, 8)}).shape == (2, 1, 18, 16)


def test_skip_head_is_finer_than_its_fused_features():
    """With fused features that are the same everywhere, one changed place of c2 changes logits near it, none far."""
    head = SkipMaskHead(SkipMaskHeadConfig(dim=11), 7, CHANNELS).eval()
    fused, c2 = torch.ones(1, 7, 5, 4), torch.randn(1, 3, 10, 8)
    before = head(fused, {"c2": c2})
    c2[0, :, 4, 3] += 1
    changed = (head(fused, {"c2": c2}) != before)[0, 0].nonzero()
    assert changed.min(0).values.tolist() == [4, 2]  # two 3x3 convolutions reach two places, four logits
    assert changed.max(0).values.tolist() == [13, 11]


def test_enlarging_from_the_corner_by_hand():
    """Destination j lies at j/2: 0, 1/2, 1, and the last one held."""
    enlarged = enlarge_from_the_corner(torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]]), 2)[0, 0]
    assert enlarged.tolist() == [[0, 2, 4, 4], [4, 6, 8, 8], [8, 10, 12, 12], [8, 10, 12, 12]]


def test_release_head_gives_its_logits_enlarged():
    head = ReleaseMaskHead(7, ReleaseMaskHeadConfig())
    fused = torch.randn(2, 7, 5, 4)
    logits = head(fused, {})
    assert logits.shape == (2, 1, 40, 32)
    assert torch.allclose(logits[:, :, ::8, ::8], head.logits(fused), atol=1e-6)
