"""Weights, gradients and optimiser divided among processes (FSDP2), where one GPU has no memory for all of them.

``accelerate launch --use_fsdp`` asks for it. Accelerate's own FSDP does not run on a CPU, where it can be tested, so
torch's ``fully_shard`` divides the learner (network and objective) and the average of weights here. The training step
knows nothing of it and computes the same as without. Every tensor keeps its name: put together again, they are the
checkpoint of one process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from refseg.errors import RefsegError
from refseg.training.experiment import Experiment
from refseg.types import Prediction

BLOCK = 1_000_000  # fewest weights of what is gathered and released by itself: a layer of BERT has seven million
LISTS = (nn.ModuleList, nn.ModuleDict)  # they are never called, only what is in them


def asked_for(accelerator: Accelerator) -> bool:
    """Whether this run is divided: launched with ``--use_fsdp``, and there is more than one process."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.num_processes > 1


def check(experiment: Experiment) -> None:
    """Raise where something that ``experiment`` asks for does not go together with divided weights.

    Raises:
        RefsegError: names it.
    """
    for excluded, message in (
        (experiment.optim.compile, "Compiled stages are not tried with --use_fsdp: set compile to False."),
        (experiment.optim.channels_last, "torch divides kernels in the usual layout only: set channels_last to False."),
        (
            experiment.data.cache_features,
            "With cache_features each process sees images alone, which divided weights cannot: set it to False.",
        ),
        (
            parse_flag_from_env("FSDP_OFFLOAD_PARAMS"),
            "Weights are divided among GPUs, not moved to the CPU: launch without --fsdp_offload_params.",
        ),
        (
            parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"),
            "Set gradient_checkpointing in OptimConfig, and launch without --fsdp_activation_checkpointing.",
        ),
    ):
        if excluded:
            raise RefsegError(f"{message} Or launch without --use_fsdp.")


def load_everywhere() -> None:
    """Let every process read pretrained weights: the launcher has transformers read them in the first one only."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def shard(parts: Sequence[nn.Module], optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Divide ``parts`` among all processes, in place; the optimiser continues with their new weights.

    Each process keeps its share of every weight, along the first dimension. A block is gathered when it is called and
    released after it, forward and backward. What is in no block stays gathered between forward and backward, so that
    methods of a part may be called there as usual.

    Args:
        parts: the same weights in every process; a part without any is only moved.
        optimizer: of weights among those of ``parts``; its state is divided, too.
        device: of this process.
    """
    _register_prediction()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    before = [parameter for part in parts for parameter in part.to(device).parameters()]
    for part in parts:
        _shard_one(part, mesh)
    became: dict[Any, Any] = dict(zip(before, (parameter for part in parts for parameter in part.parameters())))
    for group in optimizer.param_groups:
        group["params"] = [became[parameter] for parameter in group["params"]]
    for parameter in list(optimizer.state):
        known = optimizer.state.pop(parameter)
        optimizer.state[became[parameter]] = {
            name: value if name == "step" else _like(became[parameter], value.to(device))
            for name, value in known.items()
        }


@cache
def _register_prediction() -> None:
    """Without it an older torch does not see the tensors in a prediction and silently leaves gradients undivided."""
    torch.export.register_dataclass(Prediction)


def _shard_one(part: nn.Module, mesh: DeviceMesh) -> None:
    if not any(True for _ in part.parameters()):
        return
    # A single number cannot be divided: every process keeps it, and its gradient is the mean over the processes.
    scalars = {parameter for parameter in part.parameters() if parameter.ndim == 0}
    for block in [*blocks_of(part), part]:
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_mean_over_processes)


def _mean_over_processes(parameter: nn.Parameter) -> None:
    gradient = parameter.grad
    assert gradient is not None  # the hook follows its accumulation
    dist.all_reduce(gradient)  # gloo has no mean
    gradient /= dist.get_world_size()


def blocks_of(part: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: members of lists of modules, such as the layers of an encoder, the inner ones first.

    They have at least ``BLOCK`` weights that are not in a smaller block. Single layers are not blocks: an activation
    that works in place on the output of a Linear would remove torch's hook there.
    """
    containers = [module for module in part.modules() if isinstance(module, (*LISTS, nn.Sequential))]
    members = {member for container in containers for member in container.children()}
    blocks, taken = [], set()
    for module in reversed(list(part.modules())):  # children before parents
        own = set(module.parameters()) - taken
        is_block = module in members and any(module.children()) and not isinstance(module, LISTS)
        if is_block and sum(parameter.numel() for parameter in own) >= BLOCK:
            blocks.append(module)
            taken |= own
    return blocks


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value``, divided like ``parameter``."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)  # all have it


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors put together again, on the CPU, one after the other; undivided ones are returned as they are.

    All processes must call it.
    """
    return {name: full(x).cpu() if isinstance(x, DTensor) else x for name, x in tensors.items()}


def full(tensor: Tensor) -> Tensor:
    """Put together again, in all processes; an undivided tensor is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put_together(part: nn.Module, into: nn.Module) -> nn.Module:
    """``into`` with the weights of ``part``: a network of the same shape that is not divided. All processes call it."""
    into.load_state_dict(whole(part.state_dict()))
    return into
