"""Every preset is a whole experiment: it builds, it can be stored, and it is a fresh one each time."""

import json

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import SwinConfig
from refseg.models.serialise import config_from_dict
from refseg.training.loop import describe
from refseg.training.presets import PRESETS, OptimConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_stored_and_read_back(name):
    experiment = PRESETS[name]()
    plain = json.loads(json.dumps(describe(experiment)))
    assert plain == describe(experiment)  # else no run could be resumed
    assert config_from_dict(plain["model"]) == experiment.model


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_its_model(name):
    config = PRESETS[name]().model
    if isinstance(config.backbone, SwinConfig):
        pytest.importorskip("timm")
        pytest.importorskip("transformers")
    with torch.device("meta"):
        model = build_model(config, 31, fetch_weights=False)
    assert sum(parameter.numel() for parameter in model.parameters()) > 100_000


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_fresh_each_time(name):
    first = PRESETS[name]()
    before = describe(first)
    first.optim.steps = first.data.image_size = 17
    first.objective.dice = 17.0
    assert describe(PRESETS[name]()) == before


@pytest.mark.parametrize(
    "name, part, changed",
    [("no_cam", "model", 1), ("no_mask_grounding", "objective", 1), ("no_alignment", "objective", 2)],
)
def test_an_ablation_of_magnet_changes_one_thing_only(name, part, changed):
    whole, control = describe(PRESETS["magnet_refshapes"]()), describe(PRESETS[f"magnet_refshapes_{name}"]())
    assert [key for key in whole if whole[key] != control[key]] == [part]
    assert len([key for key in whole[part] if whole[part][key] != control[part][key]]) == changed


@pytest.mark.parametrize(
    "name, part",
    [
        ("words_to_pixels", "model"),
        ("no_vlba", "model"),
        ("no_contrast", "objective"),
        ("contrast_in_picture", "objective"),
        ("pixel_contrast", "objective"),
    ],
)
def test_an_ablation_of_alignformer_changes_one_thing_only(name, part):
    whole, control = describe(PRESETS["alignformer_refshapes"]()), describe(PRESETS[f"alignformer_refshapes_{name}"]())
    assert [key for key in whole if whole[key] != control[key]] == [part]
    assert len([key for key in whole[part] if whole[part][key] != control[part][key]]) == 1


@pytest.mark.parametrize("name, part", [("blank", "data"), ("no_attention", "model"), ("sentence", "model")])
def test_a_control_changes_one_thing_only(name, part):
    whole, control = describe(PRESETS["cmsa_refshapes"]()), describe(PRESETS[f"cmsa_refshapes_{name}"]())
    assert [key for key in whole if whole[key] != control[key]] == [part]
    assert len([key for key in whole[part] if whole[part][key] != control[part][key]]) == 1


def test_a_misspelt_field_is_a_type_error():
    with pytest.raises(TypeError):
        OptimConfig(learning_rte=1.0)


@pytest.mark.parametrize("field", ["steps", "batch_size", "expressions_per_image", "save_every", "eval_every"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(RefsegError, match=f"{field} is 0: give a whole number of at least 1"):
        OptimConfig(**{field: 0})


def test_an_unknown_precision_is_refused():
    with pytest.raises(RefsegError, match="mixed_precision is 'fp16': choose no or bf16"):
        OptimConfig(mixed_precision="fp16")
