"""Options that make training fit a machine change nothing that is learned; the average of weights is one."""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from small_runs import assert_same_end, change, fit, interrupted, logged, weights
from torch import nn

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import evaluate
from refseg.models import build_model
from refseg.models.backbones import ResNet101BackboneConfig
from refseg.objectives import build_objective
from refseg.training.build import build_data, build_optimizer
from refseg.training.experiment import OptimConfig
from refseg.training.tuning import fit_to_machine, recompute_for_gradient

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


def network(experiment):
    """A fresh network with its gradients after one batch, and the batch."""
    train_set, _, tokenizer = build_data(experiment)
    torch.manual_seed(0)
    model = build_model(experiment.model, len(tokenizer))
    return model, Collate(tokenizer)([train_set[i] for i in range(4)])


def gradients(model, batch, objective):
    model.train()
    _, losses = objective(model, batch)
    sum(losses.values()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture(params=["small", "resnet"])
def of_either(request, tiny_experiment):
    if request.param == "small":
        return tiny_experiment
    backbone = ResNet101BackboneConfig(layers=(1, 1, 1, 1))
    return replace(tiny_experiment, model=replace(tiny_experiment.model, backbone=backbone, c5_dim=8))


def test_what_is_computed_twice_is_the_same(of_either):
    (plain, batch), (twice, _) = network(of_either), network(of_either)
    fit_to_machine(twice, OptimConfig(gradient_checkpointing=True))
    counted = []
    for model in (plain, twice):
        calls = []
        model.backbone.blocks()[1].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        inner = next(m for m in model.backbone.blocks()[1].modules() if isinstance(m, nn.BatchNorm2d))
        inner.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found = gradients(model, batch, build_objective(of_either.objective))
        counted.append((len(calls), found, {name: x.clone() for name, x in model.named_buffers()}))
    assert [calls for calls, _, _ in counted] == [2, 3]  # the BatchNorm inside once more
    for one, other in zip(counted[0][1:], counted[1][1:]):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert plain.state_dict().keys() == twice.state_dict().keys()


def test_only_the_input_of_a_block_is_kept():
    def kept(block):
        total = []
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
            y = block(x)
        y.sum().backward()
        return sum(total)

    layers = [layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())]
    plain, twice = nn.Sequential(*layers), nn.Sequential(*layers)
    recompute_for_gradient(twice)
    assert kept(twice) < kept(plain) / 3


def test_channels_last_trains_alike(of_either):
    (plain, batch), (other, _) = network(of_either), network(of_either)
    fit_to_machine(other, OptimConfig(channels_last=True))
    kernels = [p for p in other.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    one, two = (gradients(model, batch, build_objective(of_either.objective)) for model in (plain, other))
    assert [name for name in one if not torch.allclose(one[name], two[name], atol=1e-4, rtol=1e-3)] == []


def test_a_channels_last_network_is_stored_like_any_other(tiny_experiment, tmp_path):
    fit(change(tiny_experiment, channels_last=True, steps=2), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["step"] == 2


def test_a_compiled_backbone_trains_alike(tiny_experiment, monkeypatch):
    """By torch.compile's own machinery without a compiler, so that none is needed here."""
    (plain, batch), (compiled, _) = network(tiny_experiment), network(tiny_experiment)
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    fit_to_machine(compiled, OptimConfig(compile=True))
    assert all(block._compiled_call_impl is not None for block in compiled.backbone.blocks())
    one, two = (gradients(model, batch, build_objective(tiny_experiment.objective)) for model in (plain, compiled))
    assert [name for name in one if not torch.allclose(one[name], two[name], atol=1e-5, rtol=1e-3)] == []
    assert plain.state_dict().keys() == compiled.state_dict().keys()


def test_both_at_once_are_refused(tiny_experiment):
    with pytest.raises(RefsegError, match="set compile or gradient_checkpointing"):
        change(tiny_experiment, compile=True, gradient_checkpointing=True)


# ---- the average of weights ----------------------------------------------------------------------------------------


def test_the_average_is_kept_as_best_and_resumes(tiny_experiment, tmp_path, monkeypatch):
    experiment = change(tiny_experiment, ema=0.75, steps=7, eval_every=7, save_every=2)
    fit(experiment, tmp_path / "whole")
    interrupted(experiment, tmp_path / "cut", monkeypatch, 6)
    fit(experiment, tmp_path / "cut")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    last, training = weights(tmp_path / "whole")
    best = load_checkpoint(tmp_path / "whole" / "best")
    averaged = best.model.state_dict()
    assert not any(torch.equal(averaged[name], last[name]) for name in last if name.endswith("conv.weight"))
    assert all(torch.equal(averaged[name], training[f"average.module.{name}"]) for name in averaged)
    _, val_set, _ = build_data(experiment)
    (told,) = [row["val"] for row in logged(tmp_path / "whole") if "val" in row]
    assert evaluate(best.model, val_set, best.tokenizer, progress=False)["mIoU"] == told["mIoU"]


def test_the_average_by_hand(tiny_experiment, tmp_path):
    """The first step's weights, then a quarter of the way to each new ones."""
    ends = []
    for steps in (1, 2, 3):
        experiment = change(tiny_experiment, ema=0.75, warmup_steps=10, steps=3, eval_every=9, save_every=steps)
        folder = tmp_path / str(steps)
        with pytest.MonkeyPatch.context() as patched:
            from small_runs import up_to

            from refseg.training.batches import ShuffledBatches

            patched.setattr(ShuffledBatches, "__iter__", up_to(steps))
            fit(experiment, folder)
        ends.append(weights(folder))
    name = "head.logits.bias"
    (one, _), (two, _), (three, training) = ends
    expected = 0.75 * (0.75 * one[name] + 0.25 * two[name]) + 0.25 * three[name]
    assert torch.allclose(training[f"average.module.{name}"], expected, atol=1e-7)
    assert not torch.equal(one[name], three[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(tiny_experiment, decay):
    with pytest.raises(RefsegError, match="ema is .*: give a decay of at least 0 and below 1"):
        change(tiny_experiment, ema=decay)


# ---- a rate for the backbone ---------------------------------------------------------------------------------------


def test_the_backbone_has_a_rate_of_its_own(tiny_experiment, tmp_path):
    model, _ = network(tiny_experiment)
    optimizer = build_optimizer(model, change(tiny_experiment, backbone_rate=0.1).optim)
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(rates) == len(learned)
    assert {(name.startswith("backbone."), rates[id(p)]) for name, p in learned.items()} == {(True, 0.1), (False, 1.0)}
    begin = model.state_dict()
    for rate in (1.0, 0.01):
        fit(change(tiny_experiment, steps=2, backbone_rate=rate), tmp_path / str(rate))
    fast, slow = (weights(tmp_path / rate)[0] for rate in ("1.0", "0.01"))
    name = "backbone.stem.0.weight"
    assert (slow[name] - begin[name]).abs().max() < 0.1 * (fast[name] - begin[name]).abs().max()


def test_a_rate_of_zero_is_refused(tiny_experiment):
    with pytest.raises(RefsegError, match="to fix the backbone set frozen in its config"):
        change(tiny_experiment, backbone_rate=0.0)
