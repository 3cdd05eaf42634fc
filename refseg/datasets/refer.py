"""RefCOCO, RefCOCO+, RefCOCOg, ReferIt and RefShapes: everything stored on disk in the REFER layout.

    ROOT/refcoco/instances.json          COCO annotations of all instances of the images used
    ROOT/refcoco/refs(unc).p or .json    which instance is referred to by which sentences, in which split
    ROOT/images/mscoco/images/train2014/COCO_train2014_000000098304.jpg

Source of the layout: github.com/lichengunc/refer (Kazemzadeh et al. 2014, Yu et al. 2016, Mao et al. 2016). Where this
loader differs from REFER's own: a mask is the UNION of an instance's pieces (REFER adds them up, so an overlap counts
2), every sentence is a sample, splits are compared by name, and whatever does not fit together raises instead of
being skipped, because a score over fewer samples is another score.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from refseg.datasets.base import Counts, DatasetInfo, Findings, MissingFile, ReferringDataset
from refseg.datasets.images import decode_image, read_image
from refseg.datasets.masks import segmentation_mask
from refseg.datasets.refer_files import (
    annotations_of,
    checked_instances,
    class_names_of,
    expression_of,
    objects_by_image,
    read_refs,
)
from refseg.datasets.shards.read import INDEX, ShardedImages
from refseg.errors import RefsegError
from refseg.files import read_json
from refseg.types import RefSample, size_of


class ReferDataset(ReferringDataset):
    """One split of a benchmark; one sample per sentence, in the order of the files.

    Building it reads the two annotation files and checks that refs, annotations and image records agree; images are
    opened by ``[index]`` only.

    Args:
        info: the entry in ``DATASETS``.
        split: one of its splits, e.g. "train", "val", "testA".
        root: the folder that holds ``instances.json`` (or the one above); default ``info.root``. Where ``refseg
            shard`` has written it, the images come from its shards.
        image_root: the folder of the images or one above it; default: looked for in ``root`` and one above.
        split_by: who made the split; default: the first owner in ``info.splits``.
        transform: RefSample -> RefSample, applied last.
        objects: also say what every pixel shows: samples get ``objects`` and ``object_classes``, whose columns are
            named, with their classes, by ``class_names``; ``annotations.object_ids`` lists the objects 1, 2, ...
        cache_images: keep every decoded image in memory; default: for data sets that the kit draws.

    Raises:
        RefsegError: a missing or damaged file, or files that contradict each other. Indexing raises it for an image
            that is missing or broken and for a mask that has no pixel.
    """

    def __init__(
        self,
        info: DatasetInfo,
        split: str,
        *,
        root: str | Path | None = None,
        image_root: str | Path | None = None,
        split_by: str | None = None,
        transform: Callable[[RefSample], RefSample] | None = None,
        objects: bool = False,
        cache_images: bool | None = None,
    ):
        self.name, self.split, self.split_by, self.transform = info.name, split, info.owner(split_by), transform
        self.root = info.find_root(root, "instances.json")
        self.image_folders = _image_folders(info, self.root, image_root)
        self._shards = ShardedImages(self.root) if (self.root / INDEX).is_file() else None
        self._keep_all = info.draw is not None if cache_images is None else cache_images
        self._images: dict[str, Tensor] = {}  # all of them, or the latest: neighbours often describe one image
        self._object_maps: dict[str, Tensor] = {}
        with _without_collector():
            self._read(info.labels.get(split, (split,)), objects)

    def _read(self, labels: Sequence[str], objects: bool) -> None:
        """Both annotation files; ``labels`` are the values of ref["split"] that belong to the split."""
        self.refs_file, refs = read_refs(self.root, self.split_by)
        self.refs = [ref for ref in refs if ref.get("split") in labels]
        if not self.refs:
            found = ", ".join(sorted({str(ref.get("split")) for ref in refs})) or "nothing"
            raise RefsegError(
                f"{self.refs_file} holds no ref of split {self.split!r} but only: {found}; take one of these."
            )
        self.instances_file = self.root / "instances.json"
        instances = read_json(self.instances_file)
        self._annotations, self._records = checked_instances(instances, self.instances_file, self.refs, self.refs_file)
        if objects:
            self.class_names = class_names_of(instances, self.instances_file)
            self._objects_of = objects_by_image(instances, self._records, self.class_names, self.instances_file)
        self._rows = [(ref, sentence) for ref in self.refs for sentence in ref["sentences"]]
        self.expressions = [expression_of(ref, sentence, self.refs_file) for ref, sentence in self._rows]
        self.sample_ids = [f"{ref['ref_id']}_{sentence['sent_id']}" for ref, sentence in self._rows]
        self.image_ids = [ref["image_id"] for ref, _ in self._rows]
        self.referent_ids = [ref["ann_id"] for ref, _ in self._rows]
        if len(set(self.sample_ids)) != len(self.sample_ids):
            raise RefsegError(f"{self.refs_file} gives two sentences the same ref_id and sent_id: download it again.")

    def __getitem__(self, index: int) -> RefSample:
        ref, sentence = self._rows[index]
        image = self._image(ref["image_id"])
        size = size_of(image)
        mask = self._mask(ref["ann_id"], self._annotations[str(ref["ann_id"])], size)
        sample = RefSample(
            frames=image[None],
            mask=mask,
            expression=self.expressions[index],
            sample_id=self.sample_ids[index],
            source=f"{self.name}/{self.split}",
            original_size=size,
            original_mask=mask,
            annotations=annotations_of(ref, sentence),
        )
        if self.class_names:
            shown = self._objects_of[str(ref["image_id"])]
            sample = replace(
                sample,
                objects=self._object_map(ref["image_id"], size),
                object_classes=torch.tensor([[0] * len(self.class_names), *(o["classes"] for o in shown)]),
                annotations=replace(sample.annotations, object_ids=[o["id"] for o in shown]),
            )
        return self.transform(sample) if self.transform else sample

    def counts(self) -> Counts:
        """Distinct images, refs and sentences."""
        return {"images": len(set(self.image_ids)), "refs": len(self.refs), "sentences": len(self)}

    def check(self) -> Findings:
        """Which images are missing; they are looked for, not opened."""
        image_ids = list(dict.fromkeys(self.image_ids))
        findings = Findings(len(image_ids))
        for image_id in tqdm(image_ids, desc=f"{self.name}/{self.split} images", leave=False):
            try:
                self.find_image(image_id)
            except MissingFile as error:
                findings.missing.append(str(error))
        return findings

    def record(self, image_id: int | str) -> dict[str, Any]:
        """What ``instances.json`` says of an image."""
        return self._records[str(image_id)]

    def segmentation(self, ann_id: int | str) -> Any:
        """The segmentation of an annotation as COCO writes it, ready for JSON."""
        pieces = self._annotations[str(ann_id)]["segmentation"]
        if not isinstance(pieces, list):
            return pieces
        return [piece.tolist() if isinstance(piece, np.ndarray) else piece for piece in pieces]

    def find_image(self, image_id: int | str) -> Path:
        """Where the image lies, or the shard in which it lies; only looked for, not opened.

        Raises:
            MissingFile: nowhere.
        """
        if self._shards is not None and image_id in self._shards:
            return self._shards.path(image_id)
        file_name = self.record(image_id)["file_name"]
        for folder in self.image_folders:
            for name in _image_names(file_name):
                if (folder / name).is_file():
                    return folder / name
        raise MissingFile(
            f"The image {file_name} of {self.name} is in none of {', '.join(map(str, self.image_folders))}: give "
            f"image_root, or run `refseg check-data {self.name}` to see where images belong."
        )

    def image_file(self, image_id: int | str) -> tuple[str, bytes]:
        """The ending of an image's file, as "jpg", and its bytes.

        Raises:
            RefsegError: it is missing, or its shard is damaged.
        """
        if self._shards is not None and image_id in self._shards:
            return self._shards.ending(image_id), self._shards.read(image_id)
        path = self.find_image(image_id)
        return path.suffix.lower().lstrip("."), path.read_bytes()

    def _image(self, image_id: int | str) -> Tensor:
        """The stored pixels, uint8 [3,H,W], checked against the size that the annotations were made for."""
        key = str(image_id)
        if key not in self._images:
            image = self._opened(image_id)
            if not self._keep_all:
                self._images.clear()
            self._images[key] = image
        return self._images[key].clone()  # a caller who writes into it must not reach the cache

    def _opened(self, image_id: int | str) -> Tensor:
        path = self.find_image(image_id)
        if self._shards is not None and image_id in self._shards:
            image = decode_image(self._shards.read(image_id), f"Image {image_id} in {path}")
        else:
            image = read_image(path)
        height, width = image.shape[-2:]
        record = self.record(image_id)
        if (record.get("height", height), record.get("width", width)) != (height, width):
            raise RefsegError(
                f"{path} is {width} x {height} pixels but its annotations are for {record['width']} x "
                f"{record['height']}: put the original image there."
            )
        return image

    def _mask(self, ann_id: int | str, annotation: dict[str, Any], size: tuple[int, int]) -> Tensor:
        return segmentation_mask(annotation["segmentation"], size, f"Annotation {ann_id} in {self.instances_file}")

    def _object_map(self, image_id: int | str, size: tuple[int, int]) -> Tensor:
        """Which object every pixel of the image shows, uint8 [H,W]."""
        key = str(image_id)
        if key in self._object_maps:
            return self._object_maps[key].clone()
        objects = torch.zeros(size, dtype=torch.uint8)
        for number, annotation in enumerate(self._objects_of[key], start=1):
            objects[self._mask(annotation["id"], annotation, size)] = number
        if self._keep_all:
            self._object_maps[key] = objects.clone()
        return objects


@contextmanager
def _without_collector() -> Iterator[None]:
    """Garbage collection is slow while a million objects are made, and there are no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _image_folders(info: DatasetInfo, root: Path, image_root: str | Path | None) -> list[Path]:
    """The folders that exist among those where the images may lie."""
    if image_root is not None and not Path(image_root).is_dir():
        raise RefsegError(f"The image_root {image_root} is not a folder: give the one that holds the images.")
    bases = [Path(image_root)] if image_root is not None else [root, root.parent]
    folders = (base / folder for base in bases for folder in info.image_folders)
    return [folder for folder in folders if folder.is_dir()]


def _image_names(file_name: str) -> list[str]:
    """The names under which one image is known, the one in the annotations first."""
    names = [file_name]
    if coco := re.fullmatch(r"(?:COCO_train2014_)?(\d{12}\.jpg)", file_name):
        names += ["COCO_train2014_" + coco[1], coco[1]]
    if saiapr := re.fullmatch(r"(?:\d\d/images/)?((\d{1,5})\.jpg)", file_name):  # 38100.jpg also as 38/images/38100.jpg
        names += [saiapr[1], f"{int(saiapr[2]) // 1000:02d}/images/{saiapr[1]}"]
    return list(dict.fromkeys(names))
