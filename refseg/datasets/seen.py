"""Samples that a frozen backbone has seen: it looks at every picture once, whatever the number of epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from refseg.datasets.collate import image_key
from refseg.types import RefSample

Look = Callable[[Tensor], dict[str, Tensor]]


class CachedFeatures(Dataset):
    """A data set whose samples carry ``features`` in place of pixels.

    Samples and features are kept in memory from the first time they are asked for, features in half precision: 180 kB
    for a clip of three frames of 64 x 64 pixels under the lessons' backbone. ``frames`` keep their shape, all zero.

    Args:
        dataset: gives RefSamples that went through ``build_transform``, the same ones every time.
        look: frames [T,3,H,W] -> {level: [T,C,h,w]}, what the backbone sees.
    """

    def __init__(self, dataset: Dataset, look: Look):
        self.dataset, self.look = dataset, look
        self._samples: dict[int, RefSample] = {}
        self._features: dict[str, dict[str, Tensor]] = {}  # by picture: its samples share them

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> RefSample:
        if index not in self._samples:
            sample = self.dataset[index]
            picture = image_key(sample)
            if picture not in self._features:
                with torch.no_grad():
                    self._features[picture] = {level: x.half().cpu() for level, x in self.look(sample.frames).items()}
            no_pixels = sample.frames.new_zeros(()).expand_as(sample.frames)
            self._samples[index] = replace(sample, frames=no_pixels, features=self._features[picture])
        return self._samples[index]
