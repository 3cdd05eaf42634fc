"""Weights, gradients and optimiser divided among processes (FSDP2), where one GPU has no memory for all of them.

``accelerate launch --use_fsdp`` asks for it. Accelerate's own FSDP takes one model, and none on a CPU, where it can be
tested; here torch's ``fully_shard`` divides the network, the objective and the average of weights alike, and the
training step, which knows nothing of it, computes what it computes without. Every tensor keeps its name: put together
again they are the checkpoint of one process.

The objective is divided because its heads can be large (one that names 30,000 word pieces has millions of weights), and
because clipping and the optimiser then meet one kind of weights only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache

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

BLOCK = 1_000_000  # weights at least of what is gathered and let go of by itself: a layer of BERT has seven millions
LISTS = (nn.ModuleList, nn.ModuleDict)  # nobody calls them, only what is in them


def asked_for(accelerator: Accelerator) -> bool:
    """Whether this run is divided: launched with ``--use_fsdp``, and there is more than one process."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.num_processes > 1


def check(experiment: Experiment) -> None:
    """Raise where something that ``experiment`` asks for does not go together with divided weights.

    Raises:
        RefsegError: names it.
    """
    for excluded, sentence in (
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
            raise RefsegError(f"{sentence} Or launch without --use_fsdp.")


def load_everywhere() -> None:
    """Let every process read pretrained weights: the launcher has transformers read them in the first one only."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def shard(parts: Sequence[nn.Module], optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Divide ``parts`` among all processes, in place; the optimiser goes on with what became of their weights.

    Each process keeps its share of every weight, along the first dimension. A block is gathered when it is called and
    let go of behind it, forward and backward. What is in no block stays gathered between forward and backward, where
    methods of a part may be called as ever.

    Args:
        parts: the same weights in every process; a part without any is only moved.
        optimizer: of weights among those of ``parts``. What it knows of each is divided, too.
        device: of this process.
    """
    _show_torch_what_a_prediction_holds()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    before = [parameter for part in parts for parameter in part.to(device).parameters()]
    for part in parts:
        _shard_one(part, mesh)
    became = dict(zip(before, (parameter for part in parts for parameter in part.parameters())))
    for group in optimizer.param_groups:
        group["params"] = [became[parameter] for parameter in group["params"]]
    for parameter in list(optimizer.state):
        known = optimizer.state.pop(parameter)
        optimizer.state[became[parameter]] = {
            name: value if name == "step" else _like(became[parameter], value.to(device))
            for name, value in known.items()
        }


@cache
def _show_torch_what_a_prediction_holds() -> None:
    """An older torch divides no gradient of what it does not see in a network's answer, and says nothing of it."""
    torch.export.register_dataclass(Prediction)


def _shard_one(part: nn.Module, mesh: DeviceMesh) -> None:
    if not any(True for _ in part.parameters()):
        return
    # A single number cannot be divided: every process keeps it, and the mean of what they find is its gradient.
    scalars = {parameter for parameter in part.parameters() if parameter.ndim == 0}
    for block in [*blocks_of(part), part]:
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_mean_over_processes)


def _mean_over_processes(parameter: nn.Parameter) -> None:
    dist.all_reduce(parameter.grad)  # gloo knows no mean
    parameter.grad /= dist.get_world_size()


def blocks_of(part: nn.Module, least: int | None = None) -> list[nn.Module]:
    """What is gathered by itself: the members of lists of modules, as the layers of an encoder are, which are called.

    Those with at least ``least`` (``BLOCK``) weights that are in no smaller block, the inner ones first. Single layers
    are not: an activation that writes into what a Linear gave would wipe out what torch has noted there.
    """
    least = BLOCK if least is None else least
    containers = [module for module in part.modules() if isinstance(module, (*LISTS, nn.Sequential))]
    members = {member for container in containers for member in container.children()}
    blocks, taken = [], set()
    for module in reversed(list(part.modules())):  # what is inside comes before what it is in
        own = set(module.parameters()) - taken
        is_block = module in members and any(module.children()) and not isinstance(module, LISTS)
        if is_block and sum(parameter.numel() for parameter in own) >= max(1, least):
            blocks.append(module)
            taken |= own
    return blocks


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` divided as ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)  # all have it


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors put together again, on the CPU, one after the other; those that are not divided as they are.

    All processes must call it.
    """
    return {name: full(x).cpu() if isinstance(x, DTensor) else x for name, x in tensors.items()}


def full(tensor: Tensor) -> Tensor:
    """Put together again, in all processes; as it is if it is not divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put_together(part: nn.Module, into: nn.Module) -> nn.Module:
    """``into`` with the weights of ``part``: a network of the same shape that is not divided. All processes call it."""
    into.load_state_dict(whole(part.state_dict()))
    return into
