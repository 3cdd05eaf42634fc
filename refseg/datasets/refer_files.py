"""The two annotation files of the REFER layout: read, and checked for whether they match."""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as shortly  # values from outside may be long
from typing import Any

import numpy as np

from refseg.datasets.obtain.safe_pickle import load_plain_pickle
from refseg.errors import RefsegError
from refseg.files import leads_out, read_json
from refseg.types import Annotations


def read_refs(root: Path, split_by: str) -> tuple[Path, list[dict[str, Any]]]:
    """The refs file and what it holds. The ``.json`` twin comes before the ``.p``: it is the same list, and only data.

    Raises:
        RefsegError: neither is there, or it is not a list of dicts.
    """
    paths = [root / f"refs({split_by}){ending}" for ending in (".json", ".p")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise RefsegError(
            f"There is no {paths[1].name} or {paths[0].name} in {root}: run `refseg check-data` for this data set to "
            f"see where to get it."
        )
    refs = read_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise RefsegError(f"{path} is not a list of refs: download it again.")
    return path, refs


def checked_instances(
    instances: Any, path: Path, refs: list[dict], refs_file: Path
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The annotations and image records that ``refs`` point to, by id.

    Ids become strings, because ReferIt's annotation ids are strings ("8756_2") where COCO's are numbers.
    """
    try:
        annotations = {str(annotation["id"]): annotation for annotation in instances["annotations"]}
        records = {str(record["id"]): record for record in instances["images"]}
    except (KeyError, TypeError) as error:
        raise RefsegError(f"{path} is not a COCO instances file ({error!r} is missing): download it again.") from error
    for ref in refs:
        _check_ref(ref, annotations, records, refs_file)
    return (
        {str(ref["ann_id"]): _compact(annotations[str(ref["ann_id"])]) for ref in refs},
        {str(ref["image_id"]): records[str(ref["image_id"])] for ref in refs},
    )


def _compact(annotation: dict) -> dict[str, Any]:
    """What is read of an annotation, polygons as arrays: as lists of numbers they take four times the memory.

    What is not a polygon at all stays as it is, for ``segmentation_mask`` to report.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = [_as_array(piece) for piece in segmentation]
    return {"segmentation": segmentation}


def _as_array(piece: Any) -> Any:
    try:
        points = np.array(piece, dtype=np.float64) if isinstance(piece, list) else None
    except (TypeError, ValueError, OverflowError):
        return piece
    return piece if points is None or points.ndim != 1 else points


def class_names_of(instances: dict, path: Path) -> dict[str, tuple[str, ...]]:
    """The classes by attribute: "category" as in COCO, and what ``instances["attributes"]`` adds (RefShapes does)."""
    try:
        category = tuple(entry["name"] for entry in instances["categories"])
        return {"category": category, **{name: tuple(of) for name, of in instances.get("attributes", {}).items()}}
    except (KeyError, TypeError) as error:
        raise RefsegError(f"{path} does not name its categories ({error!r} is missing): download it again.") from error


def objects_by_image(
    instances: dict, records: dict[str, dict], class_names: dict[str, tuple[str, ...]], path: Path
) -> dict[str, list[dict]]:
    """The objects of each image in ``records``, largest first, so that a small one is drawn over what is behind it.

    Each has "id", "segmentation", and "classes": the number of its class by attribute, from 1. Crowds are left out.
    """
    names = {entry["id"]: entry["name"] for entry in instances["categories"]}
    numbers = {of: {name: number for number, name in enumerate(all_, 1)} for of, all_ in class_names.items()}
    objects: dict[str, list[dict]] = {image_id: [] for image_id in records}
    try:
        for annotation in sorted(instances["annotations"], key=lambda annotation: -annotation["area"]):
            if str(annotation["image_id"]) in objects and not annotation.get("iscrowd"):
                said = {"category": names[annotation["category_id"]], **annotation.get("attributes", {})}
                classes = [number[said[attribute]] for attribute, number in numbers.items()]
                entry = {"id": annotation["id"], "segmentation": annotation["segmentation"], "classes": classes}
                objects[str(annotation["image_id"])].append(entry)
    except KeyError as error:
        raise RefsegError(
            f"An annotation in {path} lacks {error}, or its category is unknown: download it again."
        ) from error
    return objects


def _check_ref(ref: dict, annotations: dict[str, dict], records: dict[str, dict], refs_file: Path) -> None:
    lacking = {"ref_id", "ann_id", "image_id", "sentences"} - ref.keys()
    if lacking:
        raise RefsegError(f"A ref in {refs_file} lacks {', '.join(sorted(lacking))}: download the file again.")
    annotation, record = annotations.get(str(ref["ann_id"])), records.get(str(ref["image_id"]))
    both = "take both files from one release"
    owner = f"Ref {ref['ref_id']} in {refs_file}"
    if annotation is None:
        raise RefsegError(f"{owner} names annotation {ref['ann_id']}, which instances.json does not hold: {both}.")
    if record is None or "file_name" not in record:
        raise RefsegError(f"{owner} names image {ref['image_id']}, which instances.json does not hold: {both}.")
    if not isinstance(record["file_name"], str) or leads_out(record["file_name"]):
        name = shortly(record["file_name"])
        raise RefsegError(f"{owner} is about an image {name}, which leads out of the images' folder: {both}.")
    if str(annotation.get("image_id")) != str(ref["image_id"]):
        raise RefsegError(
            f"{owner} is about image {ref['image_id']} but its annotation {ref['ann_id']} about image "
            f"{annotation.get('image_id')}: {both}."
        )
    if not all(isinstance(s, dict) and "sent_id" in s and isinstance(s.get("sent"), str) for s in ref["sentences"]):
        raise RefsegError(f"{owner} has a sentence without sent_id or sent: download the file again.")


def expression_of(ref: dict, sentence: dict, refs_file: Path) -> str:
    """``sent``, the cleaned sentence; ``raw``, as it was typed, where cleaning left nothing."""
    text = sentence["sent"] if sentence["sent"].strip() else sentence.get("raw", "")
    if not text.strip():
        raise RefsegError(
            f"Sentence {sentence['sent_id']} of ref {ref['ref_id']} in {refs_file} is empty: give it words or take it "
            f"out of the file."
        )
    return text


def annotations_of(ref: dict, sentence: dict) -> Annotations:
    """Where the sample comes from, and what RefShapes says of its expressions."""
    known: dict[str, Any] = {key: sentence.get(key) for key in ("kind", "form", "word_objects")}
    if known["word_objects"] is not None:
        from refshapes.wording import word_kinds  # only files that RefShapes drew have use for the generator

        known["word_kinds"] = word_kinds(sentence["sent"].split())
    return Annotations(image_id=ref["image_id"], ref_id=ref["ref_id"], ann_id=ref["ann_id"], **known)
