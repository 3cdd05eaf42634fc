"""From an image and an expression to mask logits at the image's own size: one forward pass, the same for all callers.

Scores, single predictions and the explorer all use it: what a person sees is what was scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from refseg.datasets.transforms import letterbox, normalize, undo_letterbox
from refseg.errors import RefsegError, first_line
from refseg.types import MASK_THRESHOLD, Annotations, Prediction, RefBatch


def prepare(image: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What a network sees of an image or a clip, as ``build_transform(size)`` prepares samples.

    Args:
        image: [3,H,W] or [T,3,H,W] uint8.

    Returns:
        frames [T,3,size,size] float32, and pixel_valid [size,size] bool, False where padded
    """
    frames, valid = letterbox(image if image.ndim == 4 else image[None], size)
    return normalize(frames, valid), valid


def to_batch(
    frames: Tensor,
    pixel_valid: Tensor,
    original_size: tuple[int, int],
    expression: str,
    tokenizer: Any,
    target_frame: int = 0,
) -> RefBatch:
    """One prepared image or clip and one expression as a batch. The true mask is unknown: it is empty.

    Args:
        frames, pixel_valid: from :func:`prepare`.
        original_size: (height, width) that the mask is to have.

    Raises:
        RefsegError: an expression without words.
    """
    token_ids = torch.tensor([tokenizer.encode(expression)])
    return RefBatch(
        frames=frames[None],
        target_frame=torch.tensor([target_frame]),
        token_ids=token_ids,
        token_valid=torch.ones_like(token_ids, dtype=torch.bool),
        mask=torch.empty(1, 1, 0, 0, dtype=torch.bool),
        pixel_valid=pixel_valid[None, None],
        expressions=[expression],
        original_masks=[torch.empty(0, 0, dtype=torch.bool)],
        original_sizes=[original_size],
        sample_ids=["image"],
        image_ids=["image"],
        annotations=[Annotations()],
    )


def forward(model: nn.Module, batch: RefBatch) -> Prediction:
    """``model(batch)``, if its answer can be used.

    Raises:
        RefsegError: the model gives NaN or infinite logits, which would pass for an empty mask.
    """
    prediction = model(batch)
    if not bool(prediction.mask_logits.isfinite().all()):
        raise RefsegError(
            f"The model gives undefined values for {batch.sample_ids[0]!r} or a sample batched with it: "
            "its training has diverged, take an earlier checkpoint or train with a lower learning rate."
        )
    return prediction


def infer(model: nn.Module, batch: RefBatch) -> tuple[Iterator[Tensor], Prediction]:
    """One forward pass: mask logits at the size of every image, and the prediction they come from.

    Logits are scaled to the input (bilinear), the padding is cut off, and the rest is scaled to the original size.
    Call it inside ``torch.inference_mode()``, in eval mode (:func:`in_eval_mode`).

    Returns:
        [height,width] float32 for each sample, on the device of the batch, computed one at a time because images can
        be large; and the prediction, which ``model.explain(batch, prediction)`` reads.

    Raises:
        RefsegError: see :func:`forward`.
    """
    prediction = forward(model, batch)
    answers = zip(prediction.mask_logits, batch.pixel_valid, batch.original_sizes, strict=True)
    return (undo_letterbox(*answer) for answer in answers), prediction


@torch.inference_mode()
def predict_masks(model: nn.Module, batch: RefBatch) -> list[Tensor]:
    """The predicted masks, each [height,width] bool at the size of its image on disk, on the CPU.

    Raises:
        RefsegError: see :func:`forward`.
    """
    return [(logits > MASK_THRESHOLD).cpu() for logits in infer(model, batch)[0]]


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part is as it was, a frozen normalisation in a training model too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """``device``; for None and "auto" a GPU if there is one, else the CPU.

    Raises:
        RefsegError: this machine has no such device.
    """
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise RefsegError(
            f'There is no device {str(device)!r} here ({first_line(error)}): take "cpu", or "auto" for a GPU if there '
            "is one."
        ) from error
