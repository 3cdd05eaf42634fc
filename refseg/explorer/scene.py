"""An image or clip with the expressions that its data set has for it, and what networks read in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from refseg.datasets.images import ImageLike, to_image
from refseg.errors import RefsegError
from refseg.explorer.reading import Reading, shown_size
from refseg.explorer.wire import from_wire, image_from_uri, image_uri, to_wire
from refseg.types import Annotations, RefSample, size_of


@dataclass
class Scene:
    """One image or clip.

    The explorer fills ``readings``; its keys are the number of the network and the expression.
    """

    samples: list[RefSample]  # of this image, as read; the first is the one to begin with
    known: bool  # whether their masks are the ground truth
    readings: dict[tuple[int, str], Reading] = field(default_factory=dict)

    @property
    def first(self) -> RefSample:
        """The sample to begin with."""
        return self.samples[0]

    def find(self, expression: str) -> tuple[RefSample, bool]:
        """The sample of an expression, and whether its mask is the ground truth; a typed one has none."""
        for sample in self.samples:
            if sample.expression == expression:
                return sample, self.known
        nothing = torch.zeros(self.first.original_size, dtype=torch.bool)
        annotations = Annotations(image_id=self.first.annotations.image_id)
        own = replace(self.first, expression=expression, mask=nothing, original_mask=nothing, annotations=annotations)
        return own, False

    def to_wire(self) -> dict[str, Any]:
        """JSON-able: the frames as they are shown, and all readings."""
        size = shown_size(self.first)
        frames = self.first.frames
        if tuple(frames.shape[-2:]) != size:
            frames = F.resize(frames, list(size), antialias=True)
        return {
            "sample_id": self.first.sample_id,
            "source": self.first.source,
            "size": list(size),
            "target": self.first.target_frame,
            "known": self.known,
            "frames": [image_uri(frame) for frame in frames],
            "expressions": [sample.expression for sample in self.samples],
            "readings": [{"model": model, **to_wire(reading)} for (model, _), reading in self.readings.items()],
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Scene:
        """The inverse of ``to_wire``, for images that were small enough to be sent as they are."""
        frames = torch.stack([image_from_uri(uri) for uri in wire["frames"]])
        readings = {(one["model"], one["expression"]): from_wire(Reading, one) for one in wire["readings"]}
        truths = {expression: reading.truth for (_, expression), reading in readings.items()}
        about = wire["sample_id"], wire["source"], wire["target"]
        samples = [_sample(frames, text, truths.get(text), *about) for text in wire["expressions"]]
        return cls(samples, wire["known"], readings)


def scene_of(sample: RefSample | ImageLike, expression: str | None = None) -> Scene:
    """A scene of one sample, or of an image and an expression.

    Args:
        sample: of a data set without a transform; or an image as for ``to_image``.
        expression: for an image; a sample has its own.

    Raises:
        RefsegError: no readable image, or no expression for it.
    """
    if isinstance(sample, RefSample):
        return Scene([sample], known=True)
    if not expression:
        raise RefsegError("An image needs an expression: say what to find in it, for example 'the red car'.")
    name = Path(sample).name if isinstance(sample, str | Path) else "picture"  # saved findings have "picture", too
    return Scene([_sample(to_image(sample)[None], expression, None, name, "picture")], known=False)


def _sample(
    frames: Tensor, expression: str, truth: Tensor | None, name: str, source: str, target: int = 0
) -> RefSample:
    size = size_of(frames)
    mask = torch.zeros(size, dtype=torch.bool) if truth is None else truth
    return RefSample(frames, mask, expression, name, source, size, mask, target)
