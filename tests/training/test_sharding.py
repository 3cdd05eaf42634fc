"""Weights divided among processes (FSDP): the same losses, gradients and checkpoints as with a whole network in each.

Two real processes that talk through gloo. Blocks of any size are divided here, so that small networks have some.
"""

import copy
import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from small_runs import ROOT, change, fit, logged, weights
from test_many_processes import losses, plain, task_train_until, together  # noqa: F401 (plain is a fixture)
from torch import nn
from torch.utils._pytree import tree_leaves

from refseg.checkpoint import load_checkpoint
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import evaluate
from refseg.models import build_model
from refseg.models.alignformer import AlignFormerConfig
from refseg.models.backbones import HALVING
from refseg.models.magnet import MagNetConfig
from refseg.objectives import (
    InstanceContrastConfig,
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    PixelAlignmentConfig,
)
from refseg.training import sharding
from refseg.training.build import build_data

SAME = 1.5e-5  # losses are logged with five decimals, so that a difference of 1e-5 may be a little more
pytestmark = [pytest.mark.usefixtures("no_accelerate_state"), pytest.mark.timeout(600)]


def launched_with_fsdp(block=5000):
    """What `accelerate launch --use_fsdp` tells its processes, and blocks of lessons' size."""
    told = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    os.environ |= told
    sharding.BLOCK = block


def both_ways(experiment, folder):
    """Trained by two processes that have a whole network each, and by two that divide it."""
    if not folder.exists():
        together(task_train_both_ways, (experiment, folder), 2, folder.parent)
    return folder / "whole", folder / "divided"


def task_train_both_ways(experiment, folder):
    fit(experiment, folder / "whole")
    launched_with_fsdp()
    fit(experiment, folder / "divided")
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"  # else transformers reads weights in one only


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where runs are kept for all tests of this file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def cmsa(plain):  # noqa: F811
    """Batches in parts, and an average of the weights."""
    return change(plain, accumulate=3, ema=0.75, steps=4, save_every=2, eval_every=4)


def assert_same_run(whole, divided):
    assert len(losses(whole)) > 2 and losses(divided) == pytest.approx(losses(whole), abs=SAME)
    kinds = [
        {name: (x.shape, x.dtype) for tensors in weights(folder) for name, x in tensors.items()}
        for folder in (whole, divided)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.slow
def test_divided_weights_train_like_whole_ones(cmsa, runs):
    whole, divided = both_ways(cmsa, runs / "cmsa")
    assert_same_run(whole, divided)
    one, other = (weights(folder)[0] for folder in (whole, divided))
    assert [name for name in one if not torch.allclose(one[name], other[name], atol=1e-4)] == []
    best = load_checkpoint(divided / "best")  # the average
    averaged = load_checkpoint(whole / "best").model.state_dict()
    for name, tensor in best.model.state_dict().items():
        assert torch.allclose(tensor, averaged[name], atol=1e-4)
    assert not torch.equal(averaged["head.logits.weight"], one["head.logits.weight"])
    _, val_set, _ = build_data(cmsa)
    (told,) = [row["val"] for row in logged(divided) if "val" in row]
    again = evaluate(best.model, val_set, best.tokenizer, progress=False)  # in one process, every sample once
    assert told == {name: value for name, value in again.items() if name != "seconds"} and told["N"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magnet", "alignformer"])
def test_an_objective_with_weights_is_divided_too(tiny_experiment, runs, name):
    """That of MagNet looks at the words again, AlignFormer's has a single number; stages are computed twice."""
    grounding = MaskGroundingConfig(pixels="fused/c3", dim=8, heads=2), PixelAlignmentConfig()
    model, terms = {
        "magnet": (MagNetConfig.lesson(), grounding),
        "alignformer": (AlignFormerConfig.lesson(), (InstanceContrastConfig(),)),
    }[name]
    objective = ObjectiveConfig((MaskLossConfig(deep_supervision=True), *terms))
    backbone = replace(HALVING, channels=(8, 8, 8, 12, 12))
    experiment = replace(tiny_experiment, model=replace(model, backbone=backbone), objective=objective)
    experiment = change(experiment, gradient_checkpointing=True, steps=3, save_every=3, eval_every=3)
    whole, divided = both_ways(experiment, runs / name)
    assert_same_run(whole, divided)
    assert any(name.startswith("objective.") for name in weights(divided)[1])


@pytest.mark.slow
def test_a_divided_run_goes_on_with_more_processes_and_with_whole_weights(plain, tmp_path):  # noqa: F811
    """Two processes that divide the weights, killed; then three; then one that has them all."""
    fit(plain, tmp_path / "whole")
    for steps, count in ((2, 2), (4, 3)):
        together(task_train_divided, (plain, tmp_path / "changing", steps), count, tmp_path)
    fit(plain, tmp_path / "changing")
    assert len(losses(tmp_path / "changing")) == 6
    assert losses(tmp_path / "changing") == pytest.approx(losses(tmp_path / "whole"), abs=SAME)


def task_train_divided(experiment, folder, steps):
    """Accelerate has no FSDP on CPUs; here it takes them for GPUs, so that what it does there is tested, too."""
    import refseg.training.loop

    class ForGPUs(Accelerator):
        def __init__(self, **options):
            super().__init__(**options)
            self.state.fsdp_plugin = FullyShardedDataParallelPlugin()
            for state in (PartialState, AcceleratorState):
                state._shared_state["distributed_type"] = DistributedType.FSDP

    launched_with_fsdp()
    refseg.training.loop.Accelerator = ForGPUs
    task_train_until(experiment, folder, steps)


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_of_every_system_are_the_same(tmp_path):
    """Blocks as small as can be, so that a part whose weights are taken without calling it is found."""
    together(task_gradients, (tmp_path,), 2, tmp_path)
    differences = json.loads((tmp_path / "differences.json").read_text())
    assert differences.keys() == DIVIDED and max(differences.values()) < 1e-4, differences


DIVIDED = {
    "cmsa lesson",
    "cmsa in the release's form",
    "cmsa for video",
    "magnet in the paper's form",
    "alignformer in the paper's form",
}


def task_gradients(out):
    sys.path.insert(0, str(ROOT / "tests" / "models"))
    from conftest import random_batch
    from test_contract import EXAMPLES

    state = PartialState(cpu=True)
    differences = {}
    for name in sorted(DIVIDED):
        torch.manual_seed(0)
        model = build_model(EXAMPLES[name], 11).train()
        divided = copy.deepcopy(model)
        sharding.BLOCK = 1
        sharding.shard([divided], torch.optim.AdamW(divided.parameters()), state.device)
        assert len(sharding.blocks_of(divided)) > 3
        torch.manual_seed(state.process_index)
        batch = random_batch((3, 5))
        found = []
        for network in (model, divided):
            torch.manual_seed(1)  # BERT drops out
            prediction = network(batch)
            answers = [x for x in tree_leaves(vars(prediction)) if isinstance(x, torch.Tensor) and x.requires_grad]
            sum(x.square().mean() for x in answers).backward()
            found.append({key: p.grad for key, p in network.named_parameters() if p.grad is not None})
        for gradient in found[0].values():
            torch.distributed.all_reduce(gradient)
        assert found[0].keys() == found[1].keys()
        differences[name] = max(
            float((sharding.full(found[1][key]) - gradient / 2).abs().max() / (1 + gradient.abs().max()))
            for key, gradient in found[0].items()
        )
    if state.is_main_process:
        (out / "differences.json").write_text(json.dumps(differences))


# ---- what is divided, and what is refused --------------------------------------------------------------------------


def test_blocks_are_members_of_lists_that_are_large_enough(monkeypatch):
    small, large = (nn.Sequential(nn.Linear(3, width), nn.ReLU()) for width in (2, 5))  # 8 and 20 weights
    outer = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"a": small, "b": large}))  # 12 of its own
    part = nn.Module()
    part.alone = nn.Sequential(nn.Linear(3, 100))
    part.layers = nn.ModuleList([outer, nn.Linear(9, 9)])
    for least, blocks in ((1, [large, small, outer]), (9, [large, outer]), (21, [outer]), (41, [])):
        monkeypatch.setattr(sharding, "BLOCK", least)
        assert [id(block) for block in sharding.blocks_of(part)] == [id(block) for block in blocks]


@pytest.mark.parametrize(
    "optim, data, sentence",
    [
        ({"compile": True}, {}, "Compiled stages are not tried with --use_fsdp"),
        ({"channels_last": True}, {}, "set channels_last to False"),
        ({}, {"cache_features": True}, "With cache_features each process sees images alone"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny_experiment, optim, data, sentence):
    experiment = replace(change(tiny_experiment, **optim), data=replace(tiny_experiment.data, **data))
    with pytest.raises(RefsegError, match=sentence):
        sharding.check(experiment)
    sharding.check(tiny_experiment)


@pytest.mark.parametrize("option", [None, "--fsdp_offload_params", "--fsdp_activation_checkpointing"])
def test_the_launcher_asks_for_it_and_may_ask_for_too_much(tiny_experiment, monkeypatch, option):
    """By the variables that `accelerate launch` of this version sets."""
    words = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", *([option, "true"] if option else []), "train.py"]
    for name, value in prepare_multi_gpu_env(launch_command_parser().parse_args(words)).items():
        monkeypatch.setenv(name, value)
    assert sharding.asked_for(SimpleNamespace(num_processes=2))
    if option is None:
        sharding.check(tiny_experiment)
    else:
        with pytest.raises(RefsegError, match=f"launch without {option}"):
            sharding.check(tiny_experiment)


def test_one_process_divides_nothing(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    fit(change(tiny_experiment, steps=1, channels_last=True), tmp_path)
    assert len(losses(tmp_path)) == 1
