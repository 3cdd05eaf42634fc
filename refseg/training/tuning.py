"""Options of ``OptimConfig`` that make training fit a machine; none changes what a network computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from refseg.models.backbones import Backbone
from refseg.training.experiment import OptimConfig


def fit_to_machine(model: nn.Module, config: OptimConfig) -> None:
    """Change ``model`` in place; names and values of its weights stay.

    ``channels_last`` keeps kernels in the layout that GPUs with tensor cores, and many CPUs, convolve faster in.
    ``compile`` compiles the stages of the backbone, where the time goes. The rest sees expressions and images of every
    shape, and every shape would be compiled again.
    ``gradient_checkpointing``: what lies inside a stage of a backbone that learns is computed again for the gradient
    instead of being kept. Less memory, a third more time.
    """
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    for backbone in (part for part in model.modules() if isinstance(part, Backbone)):  # a model may have none
        for block in backbone.blocks():
            if config.gradient_checkpointing and not backbone.frozen:
                recompute_for_gradient(block)
            if config.compile:
                block.compile(dynamic=True)


def recompute_for_gradient(block: nn.Module) -> None:
    """Keep the input of ``block`` only, and compute what is inside it again when the gradient needs it.

    The second time BatchNorm must not count the batch again: its running statistics stay as the first one left them.
    """
    forward = block.forward
    normalizations = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    @contextmanager
    def second_time() -> Iterator[None]:
        momenta = [module.momentum for module in normalizations]
        for module in normalizations:
            module.momentum = 0.0
        try:
            yield
        finally:
            for module, momentum in zip(normalizations, momenta):
                module.momentum = momentum
                if module.training:
                    module.get_buffer("num_batches_tracked").sub_(1)

    def recomputed(x: Tensor) -> Tensor:
        if not (block.training and torch.is_grad_enabled()):
            return forward(x)
        return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), second_time()))

    block.forward = recomputed
