"""Swin in stages: timm's where nothing is padded, the authors' padding where something is."""

import pytest
import torch
from safetensors.torch import save_file

from refseg.errors import RefsegError
from refseg.models.backbones.swin import SwinBackbone, SwinConfig, window_attention

timm = pytest.importorskip("timm")

TINY = SwinConfig(dim=6, depths=(2, 2, 2, 2), heads=(1, 2, 3, 6), window=2, drop_path=0.0)


def original(config, **more):
    """timm's own network of that size."""
    widths = {"embed_dim": config.dim, "depths": config.depths, "num_heads": config.heads, "window_size": config.window}
    options = {"num_classes": 0, "strict_img_size": False, "always_partition": True}
    return timm.models.swin_transformer.SwinTransformer(img_size=64, **widths, **options, **more).eval()


@torch.no_grad()
def test_it_is_timms_where_windows_fit(tmp_path):
    theirs = original(TINY)
    save_file(theirs.state_dict(), tmp_path / "swin.safetensors")
    ours = SwinBackbone(SwinConfig(**{**vars(TINY), "weights": str(tmp_path / "swin.safetensors")})).eval()
    images = torch.randn(2, 3, 64, 128)
    expected = theirs.forward_intermediates(images, intermediates_only=True)
    for level, feature in ours(images).items():
        assert torch.allclose(feature, expected[int(level[1]) - 2], atol=1e-5), level
        assert feature.shape[1:] == (ours.channels[level], 64 // ours.strides[level], 128 // ours.strides[level])


def test_odd_sizes_are_rounded_up():
    grids = {level: tuple(x.shape[-2:]) for level, x in SwinBackbone(TINY)(torch.randn(1, 3, 37, 53)).items()}
    assert grids == {"c2": (10, 14), "c3": (5, 7), "c4": (3, 4), "c5": (2, 2)}


@torch.no_grad()
def test_opposite_borders_never_attend_to_each_other():
    """Of 5 places in windows of 4, shifted by 2, the last one shares its window with places 2 to 4 and with padding."""
    config = SwinConfig(dim=6, depths=(2, 1, 1, 1), heads=(1, 1, 1, 1), window=4, drop_path=0.0)
    block = SwinBackbone(config).stages["c2"].blocks[1].double()
    x = torch.randn(1, 5, 5, 6, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1.0  # the first row
    moved = (window_attention(block, changed) - window_attention(block, x)).abs().amax((0, 2, 3))
    assert moved[:2].min() > 1e-6 and moved[2:].max() < 1e-12


def test_a_frozen_one_does_not_learn():
    assert not any(p.requires_grad for p in SwinBackbone(SwinConfig(**{**vars(TINY), "frozen": True})).parameters())


def test_weights_that_do_not_fit_are_named(tmp_path):
    save_file(original(TINY).state_dict(), tmp_path / "swin.safetensors")
    other = {**vars(TINY), "dim": 12, "weights": str(tmp_path / "swin.safetensors")}
    with pytest.raises(RefsegError, match="do not fit this Swin"):
        SwinBackbone(SwinConfig(**other))
    with pytest.raises(RefsegError, match="could not be loaded"):
        SwinBackbone(SwinConfig(**{**vars(TINY), "weights": "no_such_swin"}))


@torch.no_grad()
def test_a_frozen_one_drops_no_paths_in_training():
    """Fixed weights under dropped paths would not be fixed features."""
    frozen = SwinBackbone(SwinConfig(**{**vars(TINY), "drop_path": 0.5, "frozen": True})).train()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(frozen(images)["c5"], frozen(images)["c5"])
    free = SwinBackbone(SwinConfig(**{**vars(TINY), "drop_path": 0.5})).train()
    assert not torch.equal(free(images)["c5"], free(images)["c5"])
