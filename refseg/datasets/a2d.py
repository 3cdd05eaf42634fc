"""A2D-Sentences, and whatever else is stored in its layout (as RefShapes-Video is).

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

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg.datasets.a2d_files import open_masks, read_rows, videos_of_split, videos_without_sentences
from refseg.datasets.base import MissingFile
from refseg.datasets.clip_files import VIDEO_ENDINGS, plain_name
from refseg.datasets.clips import ClipDataset, ClipRow
from refseg.errors import RefsegError
from refseg.files import read_json
from refseg.types import RefSample, size_of

# MTTR's README and its code differ already; others extracted the frames under a name of their own.
_CLIP_FOLDERS = ("frames", "pngs320H", "clips320H", "CLIPS320", "clips320")
_MISSED = Path("text_annotations/a2d_missed_videos.txt")
_MASKS = Path("text_annotations/a2d_annotation_with_instances")
_FACTS = Path("text_annotations/facts.json")
_ATTRIBUTES = Path("text_annotations/attributes.json")
_VIDEOS = Path("Release/videoset.csv")


class A2DDataset(ClipDataset):
    """One split of A2D-Sentences; one sample per sentence and annotated frame, in the order of the files.

    Building it reads the texts and which instances every h5 file holds; clips are opened by ``[index]`` only.
    Expressions are as written, with outer and double blanks removed. ``left_out`` lists the sentences that lead to no
    sample: in A2D one, about an instance "1 (copy)", which no mask has.

    Args: as for ``ClipDataset``, and
        split: "train" or "test"; "val" where videoset.csv has subset 2.
        image_root: the folder of the clips or of folders of frames, if they are not in ``Release``.
        sample_list: a list of samples as MTTR (4 columns) and LoSh (5) publish it. It says which samples there are,
            in which order, and gives the expressions (MTTR's are in lower case); the h5 files are then not searched.
        objects: as for ``ReferDataset``; needs ``attributes.json``. ``annotations.object_ids`` lists instances.
    """

    annotation_file = "text_annotations/a2d_annotation.txt"
    knows_objects = True

    def _read(self, image_root: Path | None, sample_list: str | Path | None, objects: bool) -> None:
        bases = [image_root] if image_root is not None else [self.root / "Release", self.root]
        folders = [base / folder for base in bases for folder in _CLIP_FOLDERS]
        folders += bases if image_root is not None else []
        self.clip_folders = [folder for folder in folders if folder.is_dir()]
        self.videos = videos_of_split(self.root / _VIDEOS, self.split)
        self.sentences = self._sentences()
        self._facts = _read_dict(self.root / _FACTS) if (self.root / _FACTS).is_file() else {}
        self.class_names, self._classes_of = self._attributes() if objects else ({}, {})
        self._masks: dict[str, tuple[list[int], Tensor]] = {}
        if sample_list is not None:
            self._take(self._listed(Path(sample_list)), Path(sample_list))
        else:
            self._take(self._found(), self.root / _MASKS)

    # ---- which samples there are

    def _sentences(self) -> dict[tuple[str, int], str]:
        """(video, instance) -> sentence, of this split and in the order of the file."""
        path = self.root / self.annotation_file
        every, wanted = videos_of_split(self.root / _VIDEOS, None), set(self.videos)
        missed = videos_without_sentences(self.root / _MISSED)
        sentences: dict[tuple[str, int], str] = {}
        for line, (video, instance, text) in read_rows(path, ("video_id", "instance_id", "query")):
            where, instance, text = f"Line {line} of {path}", instance.strip(), " ".join(text.split())
            plain_name(video, where)
            if video not in every or video in missed:
                which = _MISSED.name if video in missed else f"{_VIDEOS.name} does not hold it"
                self._wrong(f"{where} is about the video {video}, but see {which}: take both files from one release.")
            elif video not in wanted:
                continue
            elif re.fullmatch(r"\d+ \(copy\)", instance):  # MTTR leaves it out as well
                self.left_out.append(f"{where}: instance {instance!r} of {video} ({text})")
            elif not re.fullmatch(r"\d{1,4}", instance):
                self._wrong(f"{where} names an instance {instance!r}, which is not a number: download the file again.")
            elif (video, int(instance)) in sentences:
                self._wrong(
                    f"{where} is a second sentence for instance {instance} of {video}: download the file again."
                )
            elif not text:
                self._wrong(f"{where} has no words: give it some or take it out of the file.")
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
            self._wrong(f"There is no folder of masks {folder}: download {_MASKS.name} again.")
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
                self._wrong(str(error))
        return sorted(frames, key=lambda pair: pair[0])

    def _listed(self, path: Path) -> list[ClipRow]:
        """The samples of MTTR's list: [query, video, frame, instance], LoSh's with a short query at second place."""
        listed = read_json(path)
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
            raise RefsegError(f"{path} is not MTTR's list of samples ({error}): download it again.") from error
        wanted = set(self.videos)
        if strange := next((row for row in rows if row.video not in wanted), None):
            raise RefsegError(f"{path} holds the video {strange.video}, which is not of split {self.split!r}.")
        return rows

    # ---- clips and masks

    def find_clip(self, video: str) -> Path:
        """See ``ClipDataset.find_clip``."""
        for folder in self.clip_folders:
            if (folder / video).is_dir():
                return folder / video
            if files := [path for ending in VIDEO_ENDINGS if (path := folder / (video + ending)).is_file()]:
                return files[0]
        folders = ", ".join(str(folder) for folder in self.clip_folders) or self.root / "Release"
        raise MissingFile(
            f"The clip {video}.mp4 (or a folder {video} of its frames) of {self.name} is in none of {folders}: give "
            f"image_root, or run `refseg check-data {self.name}` to see where clips belong."
        )

    def _mask_file(self, row: ClipRow) -> Path:
        """The h5 file, which other tools write with five digits."""
        return self.root / _MASKS / row.video / f"{row.frame:05d}.h5"

    def _check_mask(self, row: ClipRow, size: tuple[int, int]) -> None:
        with open_masks(self._mask_file(row)) as (_, masks_size, _):
            self._check_size(row, masks_size, size)

    def _check_size(self, row: ClipRow, masks_size: tuple[int, int], size: tuple[int, int]) -> None:
        if masks_size != size:
            raise RefsegError(
                f"{self._mask_file(row)} has masks of {masks_size[1]} x {masks_size[0]} pixels but the clip's frames "
                f"are {size[1]} x {size[0]}: put the clips of Release/clips320H there."
            )

    def _mask(self, row: ClipRow, size: tuple[int, int]) -> Tensor:
        instances, masks = self._all_masks(row)
        if row.instance not in instances:
            raise RefsegError(
                f"{self._mask_file(row)} has no mask of instance {row.instance}: take list and masks from one release."
            )
        self._check_size(row, size_of(masks), size)
        return masks[instances.index(row.instance)].clone()

    def _all_masks(self, row: ClipRow) -> tuple[list[int], Tensor]:
        """The instances of the annotated frame and their masks, bool [N,H,W]."""
        if row.image_id not in self._masks:
            with open_masks(self._mask_file(row)) as (instances, _, read):
                found = instances, torch.stack([read(n) for n in range(len(instances))])
            if not self.keep_all:
                self._masks.clear()
            self._masks[row.image_id] = found
        return self._masks[row.image_id]

    # ---- what else is known

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
            raise RefsegError(
                f"{path} does not name every object's attributes ({error!r}): download it again."
            ) from error
        return names, classes

    def _annotated(self, sample: RefSample, row: ClipRow) -> RefSample:
        """With what ``facts.json`` says of the sentence, and with the objects if they are asked for."""
        facts = self._facts.get(f"{row.video}/{row.instance}", {})
        known = {name: facts.get(name) for name in ("kind", "motion", "form", "candidates")}
        sample = replace(sample, annotations=replace(sample.annotations, **known))
        if not self.class_names:
            return sample
        instances, masks = self._all_masks(row)
        classes = self._classes_of.get(row.video, {})
        if unknown := [instance for instance in instances if instance not in classes]:
            raise RefsegError(
                f"{self.root / _ATTRIBUTES} says nothing about instance {unknown[0]} of {row.video}: download it again."
            )
        order = sorted(range(len(instances)), key=lambda n: -int(masks[n].sum()))  # small ones lie over large ones
        objects = torch.zeros(masks.shape[-2:], dtype=torch.uint8)
        for number, n in enumerate(order, start=1):
            objects[masks[n]] = number
        ids = [instances[n] for n in order]
        return replace(
            sample,
            objects=objects,
            object_classes=torch.tensor([[0] * len(self.class_names), *(classes[i] for i in ids)]),
            annotations=replace(sample.annotations, object_ids=ids),
        )


def sample_id(video: str, frame: int, instance: int) -> str:
    """The name of a sample as in MTTR's COCO file of the test masks.

    >>> sample_id("-4KMQsUaSAQ", 28, 0)
    'v_-4KMQsUaSAQ_f_28_i_0'
    """
    return f"v_{video}_f_{frame}_i_{instance}"


def _read_dict(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RefsegError(f"{path} is not a JSON object: download it again.")
    return content
