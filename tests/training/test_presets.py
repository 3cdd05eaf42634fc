"""Every preset is a whole experiment that builds and can be stored; a variant changes only what it names."""

import json
from dataclasses import FrozenInstanceError

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.training.experiment import OptimConfig, variant
from refseg.training.presets import OLD_NAMES, PRESETS, find_preset, on_benchmark


def test_every_preset_can_be_stored_builds_its_model_and_says_what_it_is():
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    for name, experiment in PRESETS.items():
        plain = config_to_dict(experiment)
        assert json.loads(json.dumps(plain)) == plain, name  # else no run could be resumed
        assert config_from_dict(plain) == experiment, name
        with torch.device("meta"):
            model = build_model(experiment.model, 31, fetch_weights=False)
        assert sum(parameter.numel() for parameter in model.parameters()) > 100_000, name
        assert experiment.about.endswith("."), name
    assert len({experiment.about for experiment in PRESETS.values()}) == len(PRESETS)


def differences(one, other):
    """The fields of the parts in which two experiments differ, as part.field."""
    one, other = config_to_dict(one), config_to_dict(other)
    return {
        f"{part}.{field}"
        for part in ("model", "objective", "data", "optim")
        for field in one[part]
        if one[part][field] != other[part].get(field)
    }


def test_a_control_changes_one_thing_only():
    controls = {
        "cmsa_refshapes": {
            "blank": {"data.hide_expressions"},
            "no_attention": {"model.cross_modal"},
            "sentence": {"model.text"},
            "near_head": {"model.head"},
        },
        "magnet_refshapes": {
            "no_cam": {"model.alignment"},
            "no_mask_grounding": {"objective.terms"},
            "no_alignment": {"objective.terms"},
        },
        "alignformer_refshapes": {
            "words_to_pixels": {"model.vlba"},
            "no_vlba": {"model.vlba"},
            "no_contrast": {"objective.terms"},
            "contrast_in_picture": {"objective.terms"},
            "pixel_contrast": {"objective.terms"},
        },
    }
    for base, variants in controls.items():
        for name, expected in variants.items():
            assert differences(PRESETS[base], PRESETS[f"{base}_{name}"]) == expected, name


def test_a_variant_leaves_the_original_as_it_was():
    base = PRESETS["cmsa_refshapes"]
    other = variant(base, "Mine.", optim={"steps": 7}, data={"image_size": 48}, init_from="here")
    assert (other.optim.steps, other.data.image_size, other.init_from, other.about) == (7, 48, "here", "Mine.")
    assert other.optim.learning_rate == base.optim.learning_rate and base.optim.steps == 6000
    with pytest.raises(FrozenInstanceError):
        base.optim.steps = 1
    with pytest.raises(TypeError):
        variant(base, optim={"learning_rte": 1.0})


def test_another_benchmark_changes_the_data_only():
    base = PRESETS["cmsa_refcoco"]
    assert differences(base, on_benchmark(base, "refcocog", "umd")) == {"data.name", "data.split_by"}
    assert on_benchmark(base, "referit").data.train_split == "trainval"


def test_the_old_names_of_benchmarks_still_work_and_warn(capsys):
    for name in OLD_NAMES:
        experiment = find_preset(name)
        (warning,) = capsys.readouterr().err.splitlines()
        assert f"--preset {name.split('_ref')[0]}_refcoco --data {experiment.data.name}" in warning
    assert find_preset("magnet_refcocog_google").data.split_by == find_preset("cmsa_refcocog").data.split_by == "google"
    assert find_preset("cmsa_refcoco") is PRESETS["cmsa_refcoco"]
    with pytest.raises(RefsegError, match="There is no preset 'cmsa': choose one of cmsa_refshapes, "):
        find_preset("cmsa")


def test_counts_below_one_are_refused():
    for field in ("steps", "batch_size", "expressions_per_image", "save_every", "eval_every"):
        with pytest.raises(RefsegError, match=f"{field} is 0: give a whole number of at least 1"):
            OptimConfig(**{field: 0})
