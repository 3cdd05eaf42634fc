"""Samples to a batch: the only place where samples are padded to a common size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from refseg.errors import RefsegError
from refseg.types import RefBatch, RefSample


class Collate:
    """``DataLoader(..., collate_fn=Collate(tokenizer))``.

    Token ids are padded after the words; clips after their last frame; images, masks and ``pixel_valid`` at the
    bottom and on the right; all up to the largest of the batch, with zeros and False.

    Args:
        tokenizer: anything with ``encode(expression) -> list[int]``.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[RefSample]) -> RefBatch:
        """The batch of ``samples``, in their order.

        Raises:
            RefsegError: an expression without words, or images that no transform has made float.
        """
        token_ids = [torch.tensor(self._encode(sample), dtype=torch.int64) for sample in samples]
        height = max(sample.frames.shape[-2] for sample in samples)
        width = max(sample.frames.shape[-1] for sample in samples)
        return RefBatch(
            frames=_stack([_grow(sample.frames, height, width) for sample in samples]),
            frame_valid=_stack([torch.ones(len(sample.frames), dtype=torch.bool) for sample in samples]),
            target_frame=torch.tensor([sample.target_frame for sample in samples], dtype=torch.int64),
            token_ids=_stack(token_ids),
            token_valid=_stack([torch.ones(len(ids), dtype=torch.bool) for ids in token_ids]),
            mask=_stack([_grow(sample.mask[None], height, width) for sample in samples]),
            pixel_valid=_stack([_grow(_valid(sample)[None], height, width) for sample in samples]),
            expressions=[sample.expression for sample in samples],
            original_masks=[sample.original_mask for sample in samples],
            original_sizes=[sample.original_size for sample in samples],
            sample_ids=[sample.sample_id for sample in samples],
            image_ids=[image_key(sample) for sample in samples],
            annotations=[sample.annotations for sample in samples],
            features=_features(samples),
            **_objects(samples, height, width),
        )

    def _encode(self, sample: RefSample) -> list[int]:
        owner = f"Sample {sample.sample_id} of {sample.source}"
        if not sample.frames.is_floating_point():
            raise RefsegError(
                f"{owner} still has pixels as read ({sample.frames.dtype}): give the data set a transform, e.g. "
                f"transform=build_transform(96)."
            )
        try:
            return self.tokenizer.encode(sample.expression)
        except RefsegError as error:
            raise RefsegError(f"{owner}: {error}") from error


def image_key(sample: RefSample) -> str:
    """Equal for samples that show the same target frame; a sample without an ``image_id`` has an image of its own."""
    annotations = sample.annotations
    if annotations.image_id is None:
        return f"{sample.source}/{sample.sample_id}"
    mirrored = "/mirrored" if annotations.mirrored else ""
    return f"{sample.source}/{annotations.image_id}/{sample.target_frame}{mirrored}"


def _grow(tensor: Tensor, height: int, width: int) -> Tensor:
    """[...,H,W] with zeros (False) added below and on the right."""
    if tensor.shape[-2:] == (height, width):  # torch's pad would copy it all the same
        return tensor
    return pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]))


def _stack(rows: list[Tensor]) -> Tensor:
    """[B,N,...] of rows [n,...], with zeros (False) after the shorter ones."""
    return pad_sequence(rows, batch_first=True)


def _features(samples: Sequence[RefSample]) -> dict[str, Tensor] | None:
    """``features`` of the batch, if every sample has them."""
    known = [sample.features for sample in samples if sample.features is not None]
    if len(known) < len(samples):
        return None
    return {level: _stack([features[level] for features in known]) for level in known[0]}


def _objects(samples: Sequence[RefSample], height: int, width: int) -> Any:
    """``objects`` and ``object_classes`` of the batch, if every sample has them."""
    objects = [_grow(sample.objects[None], height, width) for sample in samples if sample.objects is not None]
    classes = [sample.object_classes for sample in samples if sample.object_classes is not None]
    if min(len(objects), len(classes)) < len(samples):
        return {}
    return {"objects": _stack(objects), "object_classes": _stack(classes)}


def _valid(sample: RefSample) -> Tensor:
    """``pixel_valid``, where None means that all pixels are real."""
    if sample.pixel_valid is None:
        return torch.ones(sample.frames.shape[-2:], dtype=torch.bool)
    return sample.pixel_valid
