"""The whole network in the release's form against the numbers that the release itself gave."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg.models import build_model
from refseg.models.backbones import SmallBackboneConfig
from refseg.models.blocks.cmsa_release import CMSAReleaseConfig, CMSAReleaseLevelsConfig, key_weights
from refseg.models.cmsa_net import LEVELS, CMSANetConfig
from refseg.models.fusion import ReleaseGMLFConfig
from refseg.models.text import WordEmbeddingConfig
from refseg_course.word_measures import mutual_information

MGATE = {"c5": "x1", "c4": "x2", "c3": "x3"}


def channels_first(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def release_model(features, vocabulary_size, **parts):
    """The release's network behind given features {level: [1,40,40,C]}; its backbone only lends the widths."""
    widths = [features[level].shape[-1] for level in LEVELS]
    return build_model(
        replace(CMSANetConfig.release(), backbone=SmallBackboneConfig(channels=(2, 2, *widths)), **parts),
        vocabulary_size,
    ).eval()


def fill(model, weights):
    """Give the head the fixture's weights; every weight but the backbone's must be among them."""
    state = {"text.table.weight": weights["embedding"], "project_c5": "mlp_c5", "head.logits": "score"}
    for level in LEVELS:
        number = level[1]
        for ours, theirs in {"query": "theta", "key": "phi", "value": "g", "out": "out"}.items():
            state[f"cross_modal.{level}.{ours}"] = f"cmsa{number}_{theirs}"
        if level != "c5":
            state[f"cross_modal.{level}.reduce"] = f"{level}_reduce"
        state[f"common_width.{level}"] = f"{level}_to_X"
        state[f"fusion.cell.{level}"] = f"mgate_{MGATE[level]}"
        state[f"fusion.share.{level}"] = weights[f"mgate_{MGATE[level]}_alpha"]
    filled = {}
    for ours, theirs in state.items():
        if isinstance(theirs, str):
            kernel = weights[f"{theirs}_kernel"]
            linear = ours.startswith("cross_modal")
            filled[f"{ours}.weight"] = kernel.reshape(kernel.shape[-2:]).T if linear else kernel.transpose(3, 2, 0, 1)
            filled[f"{ours}.bias"] = weights[f"{theirs}_bias"]
        else:
            filled[ours] = theirs
    filled = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in filled.items()}
    missing, surplus = model.load_state_dict(filled, strict=False)
    assert not surplus and all(name.startswith("backbone.") for name in missing)


def predict(model, features, words, make_batch, monkeypatch):
    """The forward pass on the given features. The release's front padding is what the batch has behind the words."""
    token_ids = torch.from_numpy(words[words != 0][None]).long()
    batch = make_batch([token_ids.shape[1]], height=320, width=320)
    batch = replace(batch, token_ids=token_ids)
    features = {level: channels_first(x) for level, x in features.items()}
    monkeypatch.setattr(model, "features", lambda batch: features)
    with torch.no_grad():
        return model(batch), batch


@pytest.fixture(scope="module")
def released(shared_dir):
    numbers = np.load(shared_dir / "parity" / "full_release_head.npz")
    return {name: numbers[name] for name in numbers.files}


@pytest.fixture
def small(released):
    features = {level: released[f"feat_{level}"] for level in LEVELS}
    attention = CMSAReleaseLevelsConfig(
        c3=CMSAReleaseConfig(6, 12), c4=CMSAReleaseConfig(8, 16), c5=CMSAReleaseConfig(16)
    )
    parts = {"text": WordEmbeddingConfig(20), "cross_modal": attention, "fusion": ReleaseGMLFConfig(14), "c5_dim": 18}
    model = release_model(features, len(released["embedding"]), **parts)
    fill(model, released)
    return model, features


@pytest.mark.parametrize("words, pred", [("words", "pred"), ("words_1", "pred_1"), ("words_20", "pred_20")])
def test_logits_equal_the_release(small, released, make_batch, monkeypatch, words, pred):
    model, features = small
    prediction, _ = predict(model, features, released[words], make_batch, monkeypatch)
    expected = channels_first(released[pred])
    with torch.no_grad():
        ours = model.head.logits(prediction.trace["pixels"])
    assert expected.abs().max() > 1
    assert (ours - expected).abs().max() < 2e-5 * expected.abs().max()


def test_every_stage_equals_the_release(small, released, make_batch, monkeypatch):
    model, features = small
    prediction, batch = predict(model, features, released["words"], make_batch, monkeypatch)
    for name, theirs in {"fused/c3": "X_c3", "fused/c4": "X_c4", "fused/c5": "X_c5", "pixels": "gmlf_out"}.items():
        expected = channels_first(released[theirs])
        assert (prediction.trace[name] - expected).abs().max() < 2e-5 * expected.abs().max(), name
    rows = channels_first(released["up_rows"])  # every eighth column is a region, the others lie between two
    ours = prediction.mask_logits
    assert ours.shape == (1, 1, 320, 320)
    assert (ours[:, :, released["up_rows_index"]] - rows).abs().max() < 2e-5 * rows.abs().max()
    for level in LEVELS:
        query, keys = prediction.trace[f"attention/{level}"]
        weights = key_weights(query.flatten(1, 2)[:, released["softmax_rows_index"]], keys)[0]
        assert np.abs(weights.numpy() - released[f"softmax_rows_{level}"]).max() < 1e-5, level


def test_the_release_is_joint_on_its_own_numbers(small, released, make_batch, monkeypatch):
    model, features = small
    prediction, _ = predict(model, features, released["words"], make_batch, monkeypatch)
    for level in LEVELS:
        joint = prediction.trace[f"attention/{level}"].joint([0, 821], [0, 0])
        assert mutual_information(joint).mean() > 1e-4


@pytest.mark.slow
def test_full_width_equals_the_release(shared_dir, make_batch, monkeypatch):
    """40 million parameters, drawn again from the seeds of the fixture."""
    released = np.load(shared_dir / "parity" / "full_release_head_fullwidth.npz")
    seed = int(released["seed"])
    weights = {}
    for i, name in enumerate(released["param_names"]):
        shape = [int(n) for n in str(released["param_shapes"][i]).split(",") if n]
        value = released["param_std_or_value"][i]
        drawn = (np.random.RandomState(seed + i).randn(*shape) * value) if shape else value
        weights[str(name)] = np.asarray(drawn, np.float32)
        total = weights[str(name)].astype(np.float64)
        assert np.allclose([total.sum(), np.abs(total).sum()], released["param_sum_and_abssum"][i], rtol=1e-9)
    features = {}
    for j, (level, channels) in enumerate({"c3": 512, "c4": 1024, "c5": 2048}.items()):
        drawn = np.random.RandomState(seed + 500 + j).randn(1, 40, 40, channels)
        features[level] = np.maximum(np.clip(np.round(drawn * 32), -96, 96) / 32, 0).astype(np.float32)
        assert features[level].sum(dtype=np.float64) == pytest.approx(released["feat_sum"][j])
    model = release_model(features, len(weights["embedding"]))
    fill(model, weights)
    prediction, _ = predict(model, features, released["words"], make_batch, monkeypatch)
    pairs = {"pred": model.head.logits(prediction.trace["pixels"])}
    for name, theirs in {"fused/c3": "X_c3", "fused/c4": "X_c4", "fused/c5": "X_c5", "pixels": "gmlf_out"}.items():
        pairs[f"{theirs}_ch"] = prediction.trace[name][:, released["channel_index"]]
    for name, ours in pairs.items():
        expected = channels_first(released[name])
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_the_release_starts_with_xavier_weights_and_no_biases():
    model = build_model(replace(CMSANetConfig.release(), backbone=SmallBackboneConfig(), c5_dim=31), 11)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and not name.startswith("backbone"):
            assert not parameter.any(), name
    weight = model.common_width["c4"].weight  # [500,256,1,1]: uniform up to sqrt(6 / (500 + 256))
    limit = (6 / 756) ** 0.5
    assert 0.99 * limit < weight.max() <= limit
