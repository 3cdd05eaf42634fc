"""RefCOCO, RefCOCO+, RefCOCOg, ReferIt and RefShapes: everything that lies on disk in the REFER layout.

    ROOT/refcoco/instances.json          COCO annotations of all instances of the pictures used
    ROOT/refcoco/refs(unc).p or .json    which instance is referred to by which sentences, in which split
    ROOT/images/mscoco/images/train2014/COCO_train2014_000000098304.jpg

Source of the layout: github.com/lichengunc/refer (Kazemzadeh et al. 2014, Yu et al. 2016, Mao et al. 2016). Where this
loader differs from REFER's own: a mask is the UNION of an instance's pieces (REFER adds them up, so an overlap counts
2), every sentence is a sample, splits are compared by name, and whatever does not fit together raises instead of
being skipped, because a score over fewer samples is another score.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from refseg.datasets.images import decode_image, read_image
from refseg.datasets.obtain.safe_pickle import load_plain_pickle
from refseg.datasets.shards.read import INDEX, ShardedPictures
from refseg.errors import RefsegError
from refseg.paths import data_dir
from refseg.types import Annotations, RefSample


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lies and how its refs are divided."""

    folder: str
    splits: dict[str, dict[str, tuple[str, ...]]]  # split_by -> split -> the values of ref["split"] that belong to it
    image_folders: tuple[str, ...]  # tried in this order, below the image root

    @property
    def default_split_by(self) -> str:
        """The owner of the split that papers mean unless they say otherwise."""
        return next(iter(self.splits))


def _by_name(*splits: str) -> dict[str, tuple[str, ...]]:
    return {split: (split,) for split in splits}


# train2017 holds the pictures of train2014 under shorter names.
_COCO_PARENTS = ("images/mscoco/images/", "mscoco/images/", "images/", "", "coco/", "coco/images/")
_COCO_FOLDERS = (*(parent + leaf for parent in _COCO_PARENTS for leaf in ("train2014", "train2017")), "images", ".")
_SAIAPR = ("saiapr_tc-12", "saiaprtc12", "saiapr_tc12")  # REFER's code, its README, and what others made of the two
_SAIAPR_FOLDERS = (*("images/" + leaf for leaf in _SAIAPR), *_SAIAPR, "images", ".")

# The test pictures of ReferIt's unc split overlap: "testAB" belongs to testA and to testB, as REFER reads it.
_REFERIT_UNC = {
    **_by_name("train", "val"),
    "testA": ("testA", "testAB", "testAC"),
    "testB": ("testB", "testAB", "testBC"),
    "testC": ("testC", "testAC", "testBC"),
}

BENCHMARKS = {
    "refcoco": Benchmark(
        "refcoco",
        {"unc": _by_name("train", "val", "testA", "testB"), "google": _by_name("train", "val", "test")},
        _COCO_FOLDERS,
    ),
    "refcoco+": Benchmark("refcoco+", {"unc": _by_name("train", "val", "testA", "testB")}, _COCO_FOLDERS),
    "refcocog": Benchmark(
        "refcocog", {"umd": _by_name("train", "val", "test"), "google": _by_name("train", "val")}, _COCO_FOLDERS
    ),
    "referit": Benchmark(
        "refclef",
        {"berkeley": {**_by_name("train", "val", "test"), "trainval": ("train", "val")}, "unc": _REFERIT_UNC},
        _SAIAPR_FOLDERS,
    ),
    "refshapes": Benchmark(
        "refshapes", {"refseg": _by_name("train", "val", "testA", "testB", "testC")}, ("images", ".")
    ),
}


class ReferDataset(Dataset):
    """One split of a benchmark; one sample per sentence, in the order of the files, nothing drawn at random.

    Building it reads the two annotation files and checks that refs, annotations and picture records agree; pictures
    are opened by ``[index]`` only. ``len``, ``expressions``, ``sample_ids`` and ``image_ids`` (one entry per sample)
    need no pictures.

    Args:
        name: a key of ``BENCHMARKS``.
        split: one of the benchmark's splits, e.g. "train", "val", "testA".
        root: the folder that holds ``instances.json`` (or the one above); default ``data_dir()/<folder>``. Where
            ``refseg shard`` has written it, the pictures come from its shards.
        image_root: the folder of the pictures or one above it; default: looked for in ``root`` and one above.
        split_by: who made the split; default unc, for refcocog umd, for referit berkeley, for refshapes refseg.
        transform: RefSample -> RefSample, applied last.
        objects: also say what every pixel shows: samples get ``objects`` and ``object_classes``, whose columns are
            named, with their classes, by the data set's ``class_names``; ``annotations.object_ids`` lists those
            of the objects 1, 2, ...
        cache_images: keep every decoded picture in memory; for small sets only.

    Raises:
        RefsegError: an unknown name or split, a missing or damaged file, or files that contradict each other. Indexing
            raises it for a picture that is missing or broken and for a mask that has no pixel.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        root: str | Path | None = None,
        image_root: str | Path | None = None,
        split_by: str | None = None,
        transform: Callable[[RefSample], RefSample] | None = None,
        objects: bool = False,
        cache_images: bool = False,
    ):
        self.benchmark, self.split_by, wanted = choose_split(name, split, split_by)
        self.name, self.split, self.transform = name, split, transform
        self.root = annotation_root(name, self.benchmark, root)
        self._shards = ShardedPictures(self.root) if (self.root / INDEX).is_file() else None
        self.image_folders = _image_folders(self.benchmark, self.root, image_root)
        self._pictures: dict[str, Tensor] | None = {} if cache_images else None
        self._latest: tuple[str, Tensor] = "", torch.zeros(0)  # neighbours often speak of one picture: decoded once
        self._object_maps: dict[str, Tensor] | None = {} if cache_images else None

        with _without_collector():
            self._read(wanted, objects)

    def _read(self, wanted: tuple[str, ...], objects: bool) -> None:
        """Both annotation files; ``wanted`` are the values of ref["split"] that belong to the split."""
        self.refs_file, refs = read_refs(self.root, self.split_by)
        refs_file = self.refs_file
        self.refs = [ref for ref in refs if ref.get("split") in wanted]
        if not self.refs:
            found = ", ".join(sorted({str(ref.get("split")) for ref in refs})) or "nothing"
            raise RefsegError(f"{refs_file} holds no ref of split {self.split!r} but only: {found}; take one of these.")
        instances_file = self.root / "instances.json"
        instances = _read_json(instances_file)
        self._annotations, self._records = _checked_instances(instances, instances_file, self.refs, refs_file)
        self.class_names = _class_names(instances, instances_file) if objects else {}
        self._of_picture = _by_picture(instances, self._records, self.class_names, instances_file) if objects else {}
        self._rows = [(ref, sentence) for ref in self.refs for sentence in ref["sentences"]]
        self.expressions = [_expression(ref, sentence, refs_file) for ref, sentence in self._rows]
        self.sample_ids = [f"{ref['ref_id']}_{sentence['sent_id']}" for ref, sentence in self._rows]
        self.image_ids = [ref["image_id"] for ref, _ in self._rows]
        self.referent_ids = [ref["ann_id"] for ref, _ in self._rows]
        if len(set(self.sample_ids)) != len(self.sample_ids):
            raise RefsegError(f"{refs_file} gives two sentences the same ref_id and sent_id: fetch the file anew.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> RefSample:
        ref, sentence = self._rows[index]
        picture = self._picture(ref["image_id"])
        size = tuple(picture.shape[-2:])
        annotation = self._annotations[str(ref["ann_id"])]
        owner = f"Annotation {ref['ann_id']} in {self.root / 'instances.json'}"
        mask = segmentation_mask(annotation.get("segmentation"), size, owner)
        sample = RefSample(
            frames=picture[None],
            mask=mask,
            expression=self.expressions[index],
            sample_id=self.sample_ids[index],
            source=f"{self.name}/{self.split}",
            original_size=size,
            original_mask=mask,
            annotations=_annotations(ref, sentence),
        )
        if self.class_names:
            of_picture = self._of_picture[str(ref["image_id"])]
            sample = replace(
                sample,
                objects=self._object_map(ref["image_id"], size),
                object_classes=torch.tensor([[0] * len(self.class_names), *(o["classes"] for o in of_picture)]),
                annotations=replace(sample.annotations, object_ids=[o["id"] for o in of_picture]),
            )
        return self.transform(sample) if self.transform else sample

    def record(self, image_id: int | str) -> dict[str, Any]:
        """What ``instances.json`` says of a picture."""
        return self._records[str(image_id)]

    def segmentation(self, ann_id: int | str) -> Any:
        """The segmentation of an annotation as COCO writes it, ready for JSON."""
        pieces = self._annotations[str(ann_id)]["segmentation"]
        if not isinstance(pieces, list):
            return pieces
        return [piece.tolist() if isinstance(piece, np.ndarray) else piece for piece in pieces]

    def find_image(self, image_id: int | str) -> Path | None:
        """Where the picture lies, or the shard in which it lies, or None; only looked for, not opened."""
        if self._shards is not None and image_id in self._shards:
            return self._shards.path(image_id)
        names = _picture_names(self._records[str(image_id)]["file_name"])
        paths = (folder / name for folder in self.image_folders for name in names)
        return next((path for path in paths if path.is_file()), None)

    def picture_file(self, image_id: int | str) -> tuple[str, bytes]:
        """The ending of a picture's file, as "jpg", and its bytes.

        Raises:
            RefsegError: it is missing, or its shard is damaged.
        """
        path = self.find_image(image_id)
        if path is None:
            raise RefsegError(self.missing_image(image_id))
        if self._shards is not None and image_id in self._shards:
            return self._shards.ending(image_id), self._shards.read(image_id)
        return path.suffix.lower().lstrip("."), path.read_bytes()

    def missing_image(self, image_id: int | str) -> str:
        """The sentence that tells which picture is missing and where it was looked for."""
        file_name = self._records[str(image_id)]["file_name"]
        folders = ", ".join(str(folder) for folder in self.image_folders)
        return (
            f"The picture {file_name} of {self.name} is in none of {folders}: give image_root, or run "
            f"`refseg check-data {self.name}` to see where pictures belong."
        )

    def _picture(self, image_id: int | str) -> Tensor:
        """The stored pixels, uint8 [3,H,W], checked against the size that the annotations were made for."""
        if self._pictures is not None and str(image_id) in self._pictures:
            return self._pictures[str(image_id)].clone()  # a caller who writes into it must not reach the cache
        if self._latest[0] == str(image_id):
            return self._latest[1].clone()
        path = self.find_image(image_id)
        if path is None:
            raise RefsegError(self.missing_image(image_id))
        if self._shards is not None and image_id in self._shards:
            picture = decode_image(self._shards.read(image_id), f"Picture {image_id} in {path}")
        else:
            picture = read_image(path)
        height, width = picture.shape[-2:]
        record = self._records[str(image_id)]
        if (record.get("height", height), record.get("width", width)) != (height, width):
            raise RefsegError(
                f"{path} is {width} x {height} pixels but its annotations are for {record['width']} x "
                f"{record['height']}: put the original picture there."
            )
        if self._pictures is not None:
            self._pictures[str(image_id)] = picture.clone()
        else:
            self._latest = str(image_id), picture.clone()
        return picture

    def _object_map(self, image_id: int | str, size: tuple[int, int]) -> Tensor:
        """Which object every pixel of the picture shows, uint8 [H,W]."""
        if self._object_maps is not None and str(image_id) in self._object_maps:
            return self._object_maps[str(image_id)].clone()
        objects = torch.zeros(size, dtype=torch.uint8)
        for number, annotation in enumerate(self._of_picture[str(image_id)], start=1):
            owner = f"Annotation {annotation['id']} in {self.root / 'instances.json'}"
            objects[segmentation_mask(annotation["segmentation"], size, owner)] = number
        if self._object_maps is not None:
            self._object_maps[str(image_id)] = objects.clone()
        return objects


# ------------------------------------------------------------------------------------------------ masks


def segmentation_mask(segmentation: Any, size: tuple[int, int], owner: str) -> Tensor:
    """The union of all pieces of a COCO ``segmentation``, bool [height,width].

    A piece is a polygon [x0, y0, x1, y1, ...] in pixels or a run-length dict, compressed or not. A polygon of fewer
    than three points covers nothing and is passed over as long as another piece is sound.

    Args:
        segmentation: a list of polygons, a list of run-length dicts, or one run-length dict.
        size: (height, width) of the picture.
        owner: whose segmentation this is, the beginning of every error message.

    Raises:
        RefsegError: no sound piece, a damaged piece, a piece made for another size, or not a single pixel in all.
    """
    pieces = segmentation if isinstance(segmentation, list) else [segmentation]
    masks = [_piece_mask(piece, size, owner) for piece in pieces if not _is_degenerate(piece)]
    if not masks:
        raise RefsegError(f"{owner} has an empty polygon: mend its segmentation or leave out its refs.")
    mask = np.logical_or.reduce(masks)
    if not mask.any():
        raise RefsegError(f"{owner} covers no pixel of its picture: mend its segmentation or leave out its refs.")
    return torch.from_numpy(np.ascontiguousarray(mask))


def _is_degenerate(piece: Any) -> bool:
    return piece is None or (isinstance(piece, (list, np.ndarray)) and len(piece) < 6 and len(piece) % 2 == 0)


def _piece_mask(piece: Any, size: tuple[int, int], owner: str) -> np.ndarray:
    """One polygon or run-length dict as bool [height,width]."""
    if isinstance(piece, dict):
        return _run_length_mask(piece, size, owner)
    try:
        points = np.asarray(piece, dtype=np.float64)
        sound = points.ndim == 1 and len(points) % 2 == 0 and bool((np.abs(points) < 1e5).all())  # False for NaN too
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise RefsegError(f"{owner} has a polygon that is not a flat list of x, y pairs: fetch the file anew.")
    return coco_mask.decode(coco_mask.frPyObjects([points.tolist()], *size)[0]).astype(bool)


def _run_length_mask(piece: dict[str, Any], size: tuple[int, int], owner: str) -> np.ndarray:
    if not is_of_size(piece, size):
        raise RefsegError(
            f"{owner} is a mask of size {piece.get('size')} (height, width) but its picture is of {list(size)}: "
            f"put the original picture there."
        )
    mask = decode_run_lengths(piece.get("counts"), size)
    if mask is None:
        raise RefsegError(f"{owner} has run lengths that do not add up to its picture: fetch the file anew.")
    return mask


def is_of_size(piece: dict[str, Any], size: tuple[int, int]) -> bool:
    """Whether a run-length dict says that it is of ``size``, (height, width)."""
    return isinstance(piece.get("size"), (list, tuple)) and list(piece["size"]) == list(size)


def decode_run_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray | None:
    """COCO's ``counts``, compressed or a list of numbers, as bool [height,width]; None if they do not fill ``size``."""
    lengths = checked_run_lengths(counts, size)
    if lengths is None:
        return None
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)  # background first, down the columns
    return pixels.reshape(size[1], size[0]).T


def checked_run_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray | None:
    """COCO's ``counts``, compressed or a list of numbers, as int64 [N]; None if they do not fill ``size``.

    Read here and not by pycocotools, whose C code hangs or corrupts memory when fed damaged run lengths.
    """
    pixels = size[0] * size[1]
    if isinstance(counts, list):
        if any(not isinstance(n, int) or not 0 <= n <= pixels for n in counts):
            return None
        lengths = np.array(counts, dtype=np.int64)
    else:
        lengths = decompress_run_lengths(counts)
    return lengths if (lengths >= 0).all() and lengths.sum() == pixels else None


def decompress_run_lengths(counts: Any) -> np.ndarray:
    """COCO's compressed ``counts`` as numbers, int64 [N]; what is not sound becomes an empty array.

    Each character carries 5 bits (least first), a bit that says "more to come", and in the last one a sign; from the
    fourth number on it is the difference to the number two before.

    >>> decompress_run_lengths("5:d0").tolist()
    [5, 10, 20]
    """
    text = counts.encode() if isinstance(counts, str) else counts
    if not isinstance(text, bytes) or not re.fullmatch(rb"(?:[P-o]{0,6}[0-O])+", text):
        return np.zeros(0, dtype=np.int64)
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(characters < 32)  # of each number
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)  # of a character in its number
    numbers = np.add.reduceat((characters & 31) << 5 * place, first)
    numbers -= ((characters[last] & 16) << 1) << 5 * place[last]  # the sign bit stands for -2^bits
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


# ------------------------------------------------------------------------------------------------ files


def choose_split(name: str, split: str, split_by: str | None = None) -> tuple[Benchmark, str, tuple[str, ...]]:
    """The benchmark, its ``split_by`` and the values of ``ref["split"]`` that make up ``split``.

    Raises:
        RefsegError: unknown name, owner or split; the sentence lists the ones that exist.
    """
    if name not in BENCHMARKS:
        raise RefsegError(f"There is no data set {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    benchmark = BENCHMARKS[name]
    split_by = split_by or benchmark.default_split_by
    if split_by not in benchmark.splits:
        raise RefsegError(f"{name} has no split by {split_by!r}: choose one of {', '.join(benchmark.splits)}.")
    splits = benchmark.splits[split_by]
    if split not in splits:
        raise RefsegError(f"{name} ({split_by}) has no split {split!r}: choose one of {', '.join(splits)}.")
    return benchmark, split_by, splits[split]


def read_refs(root: Path, split_by: str) -> tuple[Path, list[dict[str, Any]]]:
    """The refs file and what it holds. The ``.json`` twin goes before the ``.p``: it is the same list, and only data.

    Raises:
        RefsegError: neither is there, or it is no list of dicts.
    """
    paths = [root / f"refs({split_by}){ending}" for ending in (".json", ".p")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise RefsegError(
            f"There is no {paths[1].name} or {paths[0].name} in {root}: run `refseg check-data` for this data set to "
            f"see where to get it."
        )
    refs = _read_json(path) if path.suffix == ".json" else load_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise RefsegError(f"{path} is not a list of refs: fetch it anew.")
    return path, refs


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for circles again and again while a million objects are made; here are none, and it takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RefsegError(f"{path} is not valid JSON ({error}): fetch it anew.") from error


def annotation_root(name: str, benchmark: Benchmark, root: str | Path | None) -> Path:
    """The folder that holds instances.json: ``root`` itself, or the benchmark's folder inside it.

    Raises:
        RefsegError: neither does.
    """
    given = Path(root) if root is not None else data_dir() / benchmark.folder
    for folder in (given, given / benchmark.folder):
        if (folder / "instances.json").is_file():
            return folder
    raise RefsegError(
        f"There is no instances.json of {name} in {given}: run `refseg check-data {name}` to see where to get it."
    )


def _image_folders(benchmark: Benchmark, root: Path, image_root: str | Path | None) -> list[Path]:
    """The folders that exist among those where the pictures may lie."""
    if image_root is not None and not Path(image_root).is_dir():
        raise RefsegError(f"The image_root {image_root} is not a folder: give the one that holds the pictures.")
    bases = [Path(image_root)] if image_root is not None else [root, root.parent]
    folders = (base / folder for base in bases for folder in benchmark.image_folders)
    return [folder for folder in folders if folder.is_dir()]


def _picture_names(file_name: str) -> list[str]:
    """The names under which one picture is known, the one in the annotations first."""
    names = [file_name]
    if coco := re.fullmatch(r"(?:COCO_train2014_)?(\d{12}\.jpg)", file_name):
        names += ["COCO_train2014_" + coco[1], coco[1]]
    if saiapr := re.fullmatch(r"(?:\d\d/images/)?((\d{1,5})\.jpg)", file_name):  # 38100.jpg also as 38/images/38100.jpg
        names += [saiapr[1], f"{int(saiapr[2]) // 1000:02d}/images/{saiapr[1]}"]
    return list(dict.fromkeys(names))


# ------------------------------------------------------------------------------------------------ agreement


def _checked_instances(
    instances: Any, path: Path, refs: list[dict], refs_file: Path
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The annotations and picture records that ``refs`` point to, by id.

    Ids become strings, because ReferIt's annotation ids are strings ("8756_2") where COCO's are numbers.
    """
    try:
        annotations = {str(annotation["id"]): annotation for annotation in instances["annotations"]}
        records = {str(record["id"]): record for record in instances["images"]}
    except (KeyError, TypeError) as error:
        raise RefsegError(f"{path} is not a COCO instances file ({error!r} is missing): fetch it anew.") from error
    for ref in refs:
        _check_ref(ref, annotations, records, refs_file)
    return (
        {str(ref["ann_id"]): _compact(annotations[str(ref["ann_id"])]) for ref in refs},
        {str(ref["image_id"]): records[str(ref["image_id"])] for ref in refs},
    )


def _compact(annotation: dict) -> dict[str, Any]:
    """What is read of an annotation, polygons as arrays: as lists of numbers they take four times the memory.

    What is no polygon at all stays as it is, for ``segmentation_mask`` to tell.
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


def _class_names(instances: dict, path: Path) -> dict[str, tuple[str, ...]]:
    """The classes by attribute: "category" as in COCO, and what ``instances["attributes"]`` adds (RefShapes does)."""
    try:
        category = tuple(entry["name"] for entry in instances["categories"])
        return {"category": category, **{name: tuple(of) for name, of in instances.get("attributes", {}).items()}}
    except (KeyError, TypeError) as error:
        raise RefsegError(f"{path} does not name its categories ({error!r} is missing): fetch it anew.") from error


def _by_picture(
    instances: dict, records: dict[str, dict], class_names: dict[str, tuple[str, ...]], path: Path
) -> dict[str, list[dict]]:
    """The objects of each picture in ``records``, largest first, so that a small one is drawn over what is behind it.

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
            f"An annotation in {path} lacks {error}, or its category is unknown: fetch it anew."
        ) from error
    return objects


def _check_ref(ref: dict, annotations: dict[str, dict], records: dict[str, dict], refs_file: Path) -> None:
    lacking = {"ref_id", "ann_id", "image_id", "sentences"} - ref.keys()
    if lacking:
        raise RefsegError(f"A ref in {refs_file} lacks {', '.join(sorted(lacking))}: fetch the file anew.")
    annotation, record = annotations.get(str(ref["ann_id"])), records.get(str(ref["image_id"]))
    both = "take both files from one release"
    owner = f"Ref {ref['ref_id']} in {refs_file}"
    if annotation is None:
        raise RefsegError(f"{owner} names annotation {ref['ann_id']}, which instances.json does not hold: {both}.")
    if record is None or "file_name" not in record:
        raise RefsegError(f"{owner} names picture {ref['image_id']}, which instances.json does not hold: {both}.")
    if str(annotation.get("image_id")) != str(ref["image_id"]):
        raise RefsegError(
            f"{owner} is about picture {ref['image_id']} but its annotation {ref['ann_id']} about picture "
            f"{annotation.get('image_id')}: {both}."
        )
    if not all(isinstance(s, dict) and "sent_id" in s and isinstance(s.get("sent"), str) for s in ref["sentences"]):
        raise RefsegError(f"{owner} has a sentence without sent_id or sent: fetch the file anew.")


def _expression(ref: dict, sentence: dict, refs_file: Path) -> str:
    """``sent``, the cleaned sentence; ``raw``, as it was typed, where cleaning left nothing."""
    text = sentence["sent"] if sentence["sent"].strip() else sentence.get("raw", "")
    if not text.strip():
        raise RefsegError(
            f"Sentence {sentence['sent_id']} of ref {ref['ref_id']} in {refs_file} is empty: give it words or take it "
            f"out of the file."
        )
    return text


def _annotations(ref: dict, sentence: dict) -> Annotations:
    """Where the sample comes from, and what RefShapes says of its expressions."""
    known = {key: sentence.get(key) for key in ("kind", "form", "word_objects")}
    return Annotations(image_id=ref["image_id"], ref_id=ref["ref_id"], ann_id=ref["ann_id"], **known)
