"""A2D-Sentences, and whatever else lies on disk in its layout (RefShapes-Video does).

    ROOT/Release/videoset.csv                     one row per video without a header; the ninth column is the subset
    ROOT/Release/clips320H/VIDEO.mp4              or a folder of frames, Release/frames/VIDEO/00001.png
    ROOT/text_annotations/a2d_annotation.txt      video_id,instance_id,query
    ROOT/text_annotations/a2d_annotation_with_instances/VIDEO/00040.h5   masks of the instances in frame 40, from 1

Sources of the layout: Xu et al., CVPR 2015 (videos), Gavrilyuk et al., CVPR 2018 (sentences), and the loader of
mttr2021/MTTR, whose choice of samples is the one that published numbers are about: every (sentence, annotated frame)
in which the sentence's instance is there. Three optional files are ours, for RefShapes-Video: subset 2 = val, and
``facts.json`` and ``attributes.json`` beside the sentences.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.datasets.clips import ClipDataset, ClipRow, find_clip, plain_name
from refseg.datasets.images import MAX_PIXELS
from refseg.errors import RefsegError
from refseg.paths import data_dir
from refseg.types import RefSample

SUBSETS = {"train": 0, "test": 1, "val": 2}  # val is ours: A2D has none
MAX_INSTANCES = 255  # what an object map of bytes can tell apart; A2D has 16 at most

# MTTR's README and its code differ already; others extracted the frames under a name of their own.
_CLIP_FOLDERS = ("frames", "pngs320H", "clips320H", "CLIPS320", "clips320")
_SENTENCES = Path("text_annotations/a2d_annotation.txt")
_MISSED = Path("text_annotations/a2d_missed_videos.txt")
_MASKS = Path("text_annotations/a2d_annotation_with_instances")
_FACTS = Path("text_annotations/facts.json")
_ATTRIBUTES = Path("text_annotations/attributes.json")
_VIDEOS = Path("Release/videoset.csv")


class A2DDataset(ClipDataset):
    """One split of A2D-Sentences; one sample per sentence and annotated frame, in the order of the files.

    Building it reads the texts and which instances every h5 file holds; clips are opened by ``[index]`` only.
    Expressions are as written, with outer and double blanks removed. ``left_out`` lists the
    sentences that lead to no sample: in A2D one, about an instance "1 (copy)", which no mask has.

    Args:
        root: the folder that holds ``Release`` and ``text_annotations``, or the one above it; default
            ``data_dir()/"a2d_sentences"``.
        split: "train" or "test"; "val" where videoset.csv has subset 2.
        num_frames: odd; the window has the annotated frame in its middle and is shorter at the ends of a clip.
        frame_stride: distance of the frames in the window.
        transform: RefSample -> RefSample, applied last.
        image_root: the folder of the clips or of folders of frames, if they are not in ``Release``.
        sample_list: a list of samples as MTTR (4 columns) and LoSh (5) publish it. It says which samples there are,
            in which order, and gives the expressions (MTTR's are in lower case); the h5 files are then not searched.
        objects: as for ``ReferDataset``; needs ``attributes.json``. ``annotations.object_ids`` lists instances.
        cache_images: keep all decoded frames and masks in memory; for small sets only.
        name: what samples call their source.

    Raises:
        RefsegError: a missing, damaged or contradictory file. Indexing raises it for a clip that is missing or broken,
            for an annotated frame outside of its clip, and for masks of another size than the frames.
    """

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        *,
        num_frames: int = 1,
        frame_stride: int = 1,
        transform: Callable[[RefSample], RefSample] | None = None,
        image_root: str | Path | None = None,
        sample_list: str | Path | None = None,
        objects: bool = False,
        cache_images: bool = False,
        name: str = "a2d",
    ):
        super().__init__(name, split, num_frames, frame_stride, transform, cache_images)
        self.root = a2d_root(name, root)
        self.clip_folders = _clip_folders(self.root, image_root)
        self.videos = videos_of_split(self.root / _VIDEOS, split)
        self.left_out: list[str] = []
        self.sentences = self._sentences()
        self._facts_of = _read_dict(self.root / _FACTS) if (self.root / _FACTS).is_file() else {}
        self.class_names, self._classes_of = self._attributes() if objects else ({}, {})
        self._masks_of: dict[str, tuple[list[int], Tensor]] | None = {} if cache_images else None
        if sample_list is not None:
            self._take(self._listed(Path(sample_list)), Path(sample_list))
        else:
            self._take(self._found(), self.root / _MASKS)

    # ---- which samples there are

    def _sentences(self) -> dict[tuple[str, int], str]:
        """(video, instance) -> sentence, of this split and in the order of the file."""
        path = self.root / _SENTENCES
        every, wanted = videos_of_split(self.root / _VIDEOS, None), set(self.videos)
        missed = _missed(self.root / _MISSED)
        sentences: dict[tuple[str, int], str] = {}
        for line, (video, instance, text) in read_rows(path, ("video_id", "instance_id", "query")):
            where, instance, text = f"Line {line} of {path}", instance.strip(), " ".join(text.split())
            plain_name(video, where)
            if video not in every or video in missed:
                which = _MISSED.name if video in missed else f"{_VIDEOS.name} does not hold it"
                self._broken(f"{where} is about the video {video}, but see {which}: take both files from one release.")
            elif video not in wanted:
                continue
            elif re.fullmatch(r"\d+ \(copy\)", instance):  # MTTR leaves it out as well
                self.left_out.append(f"{where}: instance {instance!r} of {video} ({text})")
            elif not re.fullmatch(r"\d{1,4}", instance):
                self._broken(f"{where} names an instance {instance!r}, which is no number: fetch the file anew.")
            elif (video, int(instance)) in sentences:
                self._broken(f"{where} is a second sentence for instance {instance} of {video}: fetch the file anew.")
            elif not text:
                self._broken(f"{where} has no words: give it some or take it out of the file.")
            else:
                sentences[video, int(instance)] = text
        return sentences

    def _found(self) -> list[ClipRow]:
        """A sample for every sentence and every annotated frame that shows its instance, as MTTR orders them."""
        shown: dict[str, list[tuple[int, set[int]]]] = {}
        rows = []
        for (video, instance), text in self.sentences.items():
            if video not in shown:
                shown[video] = self._instances_by_frame(video)
            frames = [frame for frame, instances in shown[video] if instance in instances]
            rows += [ClipRow(video, frame, instance, text, sample_id(video, frame, instance)) for frame in frames]
            if not frames:
                self.left_out.append(f"no frame shows instance {instance} of {video} ({text})")
        return rows

    def _instances_by_frame(self, video: str) -> list[tuple[int, set[int]]]:
        folder, frames = self.root / _MASKS / video, []
        if not folder.is_dir():
            self._broken(f"There is no folder of masks {folder}: fetch {_MASKS.name} anew.")
            return []
        for path in sorted(folder.glob("*.h5")):  # the pattern is ours: the folder's name is not part of it
            if path.name.startswith("."):
                continue
            try:
                if not re.fullmatch(r"\d{1,9}", path.stem):
                    raise RefsegError(f"{path} is not named by the number of a frame: move it away.")
                with open_masks(path) as (instances, _, _):
                    frames.append((int(path.stem), set(instances)))
            except RefsegError as error:
                self._broken(str(error))
        return sorted(frames, key=lambda pair: pair[0])

    def _listed(self, path: Path) -> list[ClipRow]:
        """The samples of MTTR's list: [query, video, frame, instance], LoSh's with a short query at second place."""
        listed = _read_json(path)
        rows = []
        try:
            for row in listed:
                text, (video, frame, instance) = row[0], row[-3:]
                frame, instance = int(frame), int(instance)
                if len(row) not in (4, 5) or not text.split() or frame < 1:
                    raise ValueError(f"{row} is not a query, video, frame and instance")
                text = " ".join(text.split())
                plain_name(video, str(path))
                rows.append(ClipRow(video, frame, instance, text, sample_id(video, frame, instance)))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise RefsegError(f"{path} is not MTTR's list of samples ({error}): fetch it anew.") from error
        wanted = set(self.videos)
        if strange := next((row for row in rows if row.video not in wanted), None):
            raise RefsegError(f"{path} holds the video {strange.video}, which is not of split {self.split!r}.")
        return rows

    # ---- clips

    def find_clip(self, video: str) -> Path | None:
        """See ``ClipDataset.find_clip``."""
        return find_clip(self.clip_folders, video)

    def missing_clip(self, video: str) -> str:
        """See ``ClipDataset.missing_clip``."""
        folders = ", ".join(str(folder) for folder in self.clip_folders) or self.root / "Release"
        return (
            f"The clip {video}.mp4 (or a folder {video} of its frames) of {self.name} is in none of {folders}: give "
            f"image_root, or run `refseg check-data a2d` to see where clips belong."
        )

    # ---- masks

    def _mask_file(self, row: ClipRow) -> Path:
        """The h5 file, which other tools write with five digits."""
        return self.root / _MASKS / row.video / f"{row.frame:05d}.h5"

    def _check_truth(self, row: ClipRow, size: tuple[int, int]) -> None:
        with open_masks(self._mask_file(row)) as (_, masks_size, _):
            self._check_masks_size(row, masks_size, size)

    def _check_masks_size(self, row: ClipRow, masks_size: tuple[int, int], size: tuple[int, int]) -> None:
        if masks_size != size:
            raise RefsegError(
                f"{self._mask_file(row)} has masks of {masks_size[1]} x {masks_size[0]} pixels but the clip's frames "
                f"are {size[1]} x {size[0]}: put the clips of Release/clips320H there."
            )

    def _truth(self, row: ClipRow, size: tuple[int, int]) -> dict[str, Any]:
        path = self._mask_file(row)
        if self._masks_of is not None or self.class_names:
            instances, masks = self._all_masks(row)
            mask = masks[instances.index(row.instance)].clone() if row.instance in instances else None
        else:
            with open_masks(path) as (instances, _, read):
                mask = read(instances.index(row.instance)) if row.instance in instances else None
        if mask is None:
            raise RefsegError(f"{path} has no mask of instance {row.instance}: take list and masks from one release.")
        self._check_masks_size(row, tuple(mask.shape), size)
        said = self._facts_of.get(f"{row.video}/{row.instance}", {})
        known = {key: said.get(key) for key in ("kind", "motion", "form", "candidates")}
        if not self.class_names:
            return {"mask": mask, "known": known}
        return {"mask": mask, **self._objects(row, instances, masks, known)}

    def _all_masks(self, row: ClipRow) -> tuple[list[int], Tensor]:
        """The instances of the annotated frame and their masks, bool [N,H,W]."""
        if self._masks_of is not None and row.image_id in self._masks_of:
            return self._masks_of[row.image_id]
        with open_masks(self._mask_file(row)) as (instances, _, read):
            found = instances, torch.stack([read(n) for n in range(len(instances))])
        if self._masks_of is not None:
            self._masks_of[row.image_id] = found
        return found

    # ---- objects

    def _attributes(self) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[int, list[int]]]]:
        """The classes by attribute, and video -> instance -> the number of its class by attribute, from 1."""
        path = self.root / _ATTRIBUTES
        if not path.is_file():
            raise RefsegError(f"There is no {path}, which names the objects of {self.name}: read it without objects.")
        content = _read_dict(path)
        try:
            names = {name: tuple(values) for name, values in content["attributes"].items()}
            numbers = {name: {value: n for n, value in enumerate(values, 1)} for name, values in names.items()}
            classes = {
                video: {
                    int(instance): [numbers[name][said[name]] for name in names] for instance, said in objects.items()
                }
                for video, objects in content["objects"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefsegError(f"{path} does not name every object's attributes ({error!r}): fetch it anew.") from error
        return names, classes

    def _objects(self, row: ClipRow, instances: list[int], masks: Tensor, known: dict[str, Any]) -> dict[str, Any]:
        """``objects``, ``object_classes`` and ``known``: large ones first, so that a small one lies over them."""
        classes = self._classes_of.get(row.video, {})
        if unknown := [instance for instance in instances if instance not in classes]:
            raise RefsegError(
                f"{self.root / _ATTRIBUTES} says nothing about instance {unknown[0]} of {row.video}: fetch it anew."
            )
        order = sorted(range(len(instances)), key=lambda n: -int(masks[n].sum()))
        objects = torch.zeros(masks.shape[-2:], dtype=torch.uint8)
        for number, n in enumerate(order, start=1):
            objects[masks[n]] = number
        ids = [instances[n] for n in order]
        return {
            "objects": objects,
            "object_classes": torch.tensor([[0] * len(self.class_names), *(classes[i] for i in ids)]),
            "known": {**known, "object_ids": ids},
        }


def sample_id(video: str, frame: int, instance: int) -> str:
    """The name of a sample as in MTTR's COCO file of the test masks.

    >>> sample_id("-4KMQsUaSAQ", 28, 0)
    'v_-4KMQsUaSAQ_f_28_i_0'
    """
    return f"v_{video}_f_{frame}_i_{instance}"


# ------------------------------------------------------------------------------------------------ masks


@contextmanager
def open_masks(path: Path) -> Iterator[tuple[list[int], tuple[int, int], Callable[[int], Tensor]]]:
    """The instances that the h5 file holds, (height, width) of their masks, and ``read(n)`` -> the n-th, bool [H,W].

    MATLAB wrote these files: ``reMask`` is (N,W,H), and (W,H) where N is 1. An instance listed twice counts once, with
    its first mask, as in MTTR.

    Raises:
        RefsegError: the file is missing, no HDF5, lacks a part, or declares sizes that no annotation has.
    """
    import h5py  # takes a moment to load and is needed for clips only

    if not path.is_file():
        raise RefsegError(f"There is no file of masks {path}: fetch {_MASKS.name} anew.")
    try:
        with h5py.File(path, "r") as file:
            instances = _instance_ids(_stored(file, "instance"))
            masks = _stored(file, "reMask")
            shape = (1, *masks.shape) if masks.ndim == 2 else masks.shape
            if len(shape) != 3 or shape[0] != len(instances) or not 0 < shape[1] * shape[2] <= MAX_PIXELS:
                raise ValueError(f"{len(instances)} instances but reMask of shape {masks.shape}")

            def read(n: int) -> Tensor:
                values = masks[()] if masks.ndim == 2 else masks[n]
                return torch.from_numpy(np.ascontiguousarray(values.T != 0))

            yield instances, (shape[2], shape[1]), read
    except RefsegError:
        raise
    except Exception as error:  # damaged files raise nearly anything: OSError, KeyError, RuntimeError, ValueError
        raise RefsegError(f"{path} is not a readable file of masks ({error}): fetch it anew.") from error


def _stored(file: Any, name: str) -> Any:
    """A dataset whose numbers lie in this very file; HDF5 could also send us to any other file of the machine."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"it holds no {name}")
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external or stored.dtype.kind not in "buif":
        raise ValueError(f"its {name} is no table of numbers")
    if math.prod(map(max, zip(stored.shape, stored.chunks or stored.shape))) > MAX_INSTANCES * MAX_PIXELS // 8:
        raise ValueError(f"its {name} declares the absurd shape {stored.shape}")
    return stored


def _instance_ids(stored: Any) -> list[int]:
    if not 0 < stored.size <= MAX_INSTANCES:
        raise ValueError(f"it lists {stored.size} instances")
    values = np.asarray(stored[()], dtype=np.float64).reshape(-1)
    if not (np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 1e9)).all():
        raise ValueError("its instances are no whole numbers")
    return [int(value) for value in values]


# ------------------------------------------------------------------------------------------------ texts


def a2d_root(name: str, root: str | Path | None) -> Path:
    """The folder that holds ``text_annotations``: ``root`` itself, or ``a2d_sentences`` inside it.

    Raises:
        RefsegError: neither does.
    """
    given = Path(root) if root is not None else data_dir() / "a2d_sentences"
    for folder in (given, given / "a2d_sentences"):
        if (folder / _SENTENCES).is_file():
            return folder
    raise RefsegError(
        f"There is no {_SENTENCES} of {name} in {given}: run `refseg check-data a2d` to see where to get it."
    )


def _clip_folders(root: Path, image_root: str | Path | None) -> list[Path]:
    if image_root is not None and not Path(image_root).is_dir():
        raise RefsegError(f"The image_root {image_root} is not a folder: give the one that holds the clips.")
    bases = [Path(image_root)] if image_root is not None else [root / "Release", root]
    folders = [base / folder for base in bases for folder in _CLIP_FOLDERS]
    folders += [Path(image_root)] if image_root is not None else []
    return [folder for folder in folders if folder.is_dir()]


def videos_of_split(path: Path, split: str | None) -> list[str]:
    """The videos of one split, or of all, in the order of videoset.csv.

    Raises:
        RefsegError: no such file or split, or a row that is not one of A2D's nine columns.
    """
    if not path.is_file():
        raise RefsegError(f"There is no {path}: run `refseg check-data a2d` to see where to get it.")
    subsets: dict[str, int] = {}
    for line, row in _csv_rows(path):
        if not row:
            continue
        if len(row) != 9 or row[8].strip() not in ("0", "1", "2"):
            raise RefsegError(
                f"Line {line} of {path} is not a row of nine columns that ends with 0, 1 or 2: fetch the file anew, "
                f"which has no header."
            )
        subsets[plain_name(row[0], f"Line {line} of {path}")] = int(row[8])
    if split is None:
        return list(subsets)
    there = [name for name, subset in SUBSETS.items() if subset in subsets.values()]
    if split not in there:
        raise RefsegError(f"{path} holds no split {split!r} but only: {', '.join(there) or 'nothing'}.")
    return [video for video, subset in subsets.items() if subset == SUBSETS[split]]


def read_rows(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, columns) of every row below the header.

    Raises:
        RefsegError: another header, or a row with more or fewer columns.
    """
    rows = _csv_rows(path)
    if next(rows, (1, []))[1] != list(header):
        raise RefsegError(f"{path} does not begin with the header {','.join(header)}: fetch it anew.")
    for line, row in rows:
        if row and len(row) != len(header):
            raise RefsegError(f"Line {line} of {path} has {len(row)} columns, not {len(header)}: fetch the file anew.")
        if row:
            yield line, row


def _missed(path: Path) -> set[str]:
    """The videos that have no sentences; the file may be absent."""
    return {row[0].strip() for _, row in _csv_rows(path) if row} if path.is_file() else set()


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            yield from ((reader.line_num, row) for row in reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RefsegError(f"{path} is not a readable text ({error}): fetch it anew.") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise RefsegError(f"{path} could not be read ({error.strerror}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise RefsegError(f"{path} is not valid JSON ({error}): fetch it anew.") from error


def _read_dict(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content, dict):
        raise RefsegError(f"{path} is not a JSON object: fetch it anew.")
    return content
