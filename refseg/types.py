"""The three things that travel through the package: a sample, a batch of samples, a prediction.

Letters used everywhere: B batch, T frames, L words (token positions), C channels, H W input pixels,
h w feature grid, R = h*w regions, N = L*R word-region positions, K heads.

An image is a one-frame clip, and one expression is one sample. Whatever is called ``mask`` holds the
referent's pixels and only that; whatever is called ``*_valid`` is True for what is real and False for padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # red, green, blue


def size_of(x: Any) -> tuple[int, int]:
    """(height, width) of a tensor or an array: its last two axes."""
    return x.shape[-2], x.shape[-1]


@dataclass(frozen=True)
class Annotations:
    """What a data set knows about a sample beyond its mask; what it does not know is None.

    Ids are unique in their data set. ``form`` is a logical form, see ``refshapes.language``.
    """

    image_id: int | str | None = None  # equal for samples of one image, or of one annotated frame of a clip
    ref_id: int | str | None = None  # the referent with all of its expressions
    ann_id: int | str | None = None  # the referent
    object_ids: list[int | str] | None = None  # of the objects 1, 2, ... in ``RefSample.objects``
    kind: str | None = None  # of the expression: "attribute", "relation", ...; scores are also given by kind
    motion: bool | None = None  # whether only the motion of the referent distinguishes it from other objects
    form: dict[str, Any] | None = None  # what the expression means
    word_objects: list[list[int] | None] | None = None  # the objects that each word is true of; None: of nothing alone
    word_kinds: list[str | None] | None = None  # what each word speaks of: "colour", "relation", ...; None: of nothing
    candidates: list[int] | None = None  # the objects that the expression fits if motion or place is not considered
    video_id: str | None = None
    frame: int | None = None  # of the clip, from 1
    instance_id: int | None = None
    action: str | None = None  # J-HMDB's class of the clip
    mirrored: bool = False  # the frames are a mirror image of what the data set holds


@dataclass
class RefSample:
    """One (clip, expression, mask) triple, before and after the transforms.

    A data set fills everything but ``pixel_valid``; the transforms change ``frames``, ``mask`` and
    ``pixel_valid`` together and leave ``original_mask`` and ``original_size`` as they were read, because
    scores are taken there.
    """

    frames: Tensor  # [T,3,H,W], uint8 0..255 as read, float after transforms.Normalize
    mask: Tensor  # [H,W] bool, referent in the target frame
    expression: str
    sample_id: str  # unique in its data set, stable between runs
    source: str  # data set and split, e.g. "refcoco/val"
    original_size: tuple[int, int]  # (height, width) of the image on disk
    original_mask: Tensor  # [height,width] bool at original_size
    target_frame: int = 0  # which of the T frames the mask belongs to
    pixel_valid: Tensor | None = None  # [H,W] bool, False where a transform padded; None means all real
    annotations: Annotations = Annotations()
    # What a frozen backbone sees in the frames, {level: [T,C,h,w]}, where it has looked before (``CachedFeatures``):
    features: dict[str, Tensor] | None = None
    # Only where the data set was asked for it:
    objects: Tensor | None = None  # [H,W] uint8, which object a pixel of the target frame shows, 0 for none
    object_classes: Tensor | None = None  # [K+1,A] int64, class of object 0..K by attribute; 0 is "no object"


@dataclass
class RefBatch:
    """Samples padded to one size; made by ``datasets.collate`` and nowhere else."""

    frames: Tensor  # [B,T,3,H,W] float, zero where padded; shorter clips are padded after their last frame
    target_frame: Tensor  # [B] int64
    token_ids: Tensor  # [B,L] int64, padding after the words
    token_valid: Tensor  # [B,L] bool, True = real word
    mask: Tensor  # [B,1,H,W] bool
    pixel_valid: Tensor  # [B,1,H,W] bool, True = real pixel
    expressions: list[str]
    original_masks: list[Tensor]  # B x [height,width] bool, stay on the CPU
    original_sizes: list[tuple[int, int]]
    sample_ids: list[str]
    image_ids: list[str]  # equal for samples that show the same target frame
    annotations: list[Annotations]
    frame_valid: Tensor = None  # pyright: ignore[reportAssignmentType] # [B,T] bool, True = real frame; None means all are
    features: dict[str, Tensor] | None = None  # {level: [B,T,C,h,w]}; None: the backbone has yet to look at the frames
    objects: Tensor | None = None  # [B,1,H,W] uint8, zero where padded; None if a sample came without
    object_classes: Tensor | None = None  # [B,K+1,A] int64, zero where padded
    hidden_words: Tensor | None = None  # [B,L] int64, ids of the words that an objective hid, -1 elsewhere
    unreadable: list[str] = field(default_factory=list)  # of samples that could not be read and are missing here: why

    def __post_init__(self):
        if self.frame_valid is None:
            self.frame_valid = torch.ones_like(self.frames[:, :, 0, 0, 0], dtype=torch.bool)

    @property
    def images(self) -> Tensor:
        """The target frame of every clip, [B,3,H,W]."""
        rows = self.target_frame.new_tensor(range(len(self.target_frame)))
        return self.frames[rows, self.target_frame]

    def distinct_images(self) -> tuple[Tensor, Tensor]:
        """Every target frame once, [I,3,H,W], and which of them each sample shows, [B] with values below I."""
        first, image_of = self.distinct_rows()
        return self.images[first], image_of

    def distinct_rows(self) -> tuple[Tensor, Tensor]:
        """The first row of every image (or clip), [I], and the number of each sample's image, [B] with values below I.

        Several expressions of a batch often describe one image; a backbone needs to see it only once.
        """
        number: dict[str, int] = {}
        image_of = [number.setdefault(image_id, len(number)) for image_id in self.image_ids]
        first = [image_of.index(image) for image in range(len(number))]
        return self.target_frame.new_tensor(first), self.target_frame.new_tensor(image_of)

    def parts(self, count: int) -> list[RefBatch]:
        """The samples in ``count`` batches one after the other, of equal size or nearly; fewer where there are fewer.

        What was padded stays padded. All that is ``unreadable`` goes with the first.
        """
        count = min(count, len(self))
        ends = [number * len(self) // count for number in range(count + 1)]
        parts = [self.rows(slice(*rows)) for rows in zip(ends, ends[1:])]
        return [replace(part, unreadable=[] if number else self.unreadable) for number, part in enumerate(parts)]

    def rows(self, rows: slice | list[int]) -> RefBatch:
        """Some samples, as often as each is named; what is ``unreadable`` belongs to none of them and stays."""
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        own: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                own[name] = value[rows]
            elif isinstance(value, list) and name != "unreadable":
                own[name] = [value[number] for number in numbers]
        if self.features is not None:
            own["features"] = {level: x[rows] for level, x in self.features.items()}
        return replace(self, **own)

    def __len__(self) -> int:
        return len(self.expressions)

    def to(self, device) -> RefBatch:
        """The same batch with its tensors on ``device``; the original masks stay where they are."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        if self.features is not None:
            moved["features"] = {level: x.to(device, non_blocking=True) for level, x in self.features.items()}
        return replace(self, **moved)


MASK_THRESHOLD = 0.0  # in logits: probability 0.5


@dataclass
class Prediction:
    """What every model returns: one answer, and the named intermediates that produced it.

    ``mask_logits`` are before the sigmoid and at the stride of the mask head; a pixel is predicted where the
    logit is above ``MASK_THRESHOLD``. ``trace`` holds at least ``words`` [B,L,C],
    ``pixels`` [B,C,h,w] and ``sentence`` [B,C].
    """

    mask_logits: Tensor  # [B,1,h,w]
    trace: dict[str, Any]  # tensors, and what the model's ``explain`` reads
