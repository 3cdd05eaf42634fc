"""What a cross-modal attention promises, whatever is inside: our own tests and the students' last checks share this.

A block is called as ``block(pixels, words, token_valid, *more)``; every argument and the result have the batch first.
The functions measure; the caller sets the tolerance. In float64 a right block is off by about 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from refseg_course.exercises import numbers

Block = Callable[..., Tensor]


def padding_error(block: Block, pixels: Tensor, words: Tensor, token_valid: Tensor, *more: Tensor | None) -> float:
    """Largest change of the result when padded words become loud noise and as many words of noise are appended.

    Args:
        words: [B,L,Cl].
        token_valid: [B,L] bool, True = real.
    """
    noise = 1e3 * numbers(2, *words.shape, seed=11).to(words)
    longer = torch.cat([torch.where(token_valid[..., None], words, noise[0]), noise[1]], 1)
    longer_valid = torch.cat([token_valid, torch.zeros_like(token_valid)], 1)
    difference = block(pixels, longer, longer_valid, *more) - block(pixels, words, token_valid, *more)
    return difference.abs().max().item()


def neighbour_error(block: Block, *inputs: Tensor) -> float:
    """Largest difference between a batch and its samples one by one."""
    together = block(*inputs)
    alone = torch.cat([block(*(x[b : b + 1] for x in inputs)) for b in range(len(together))])
    return (together - alone).abs().max().item()


def gradients(result: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """The gradient of one random projection of ``result`` for every leaf; None where ``result`` does not know it."""
    direction = numbers(*result.shape, seed=10).to(result)
    found = torch.autograd.grad((result * direction).sum(), leaves.values(), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def copy_weights(lender: nn.Module, model: nn.Module) -> None:
    """Give ``model`` the weights of ``lender``.

    Raises:
        ValueError: a parameter has another name or shape; the message lists only those.
    """
    own, given = ({name: list(p.shape) for name, p in m.named_parameters()} for m in (model, lender))
    wrong = [
        f"{name} is {own.get(name, 'missing')}, the weight for it is {given.get(name, 'not there')}"
        for name in sorted({*own, *given})
        if own.get(name) != given.get(name)
    ]
    if wrong:
        raise ValueError("the parameters have other names or shapes: " + "; ".join(wrong))
    model.load_state_dict(lender.state_dict())
