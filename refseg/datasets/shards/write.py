"""Writing the shards that ``shards.read`` reads."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from refseg.datasets.refer import ReferDataset
from refseg.datasets.refer_files import read_refs
from refseg.datasets.registry import DATASETS, dataset_info
from refseg.datasets.shards.read import FORMAT, INDEX
from refseg.errors import RefsegError
from refseg.files import filled

BLOCK = 512  # bytes: tar pads every member to a multiple


def splits_there(
    name: str, root: str | Path | None = None, image_root: str | Path | None = None, split_by: str | None = None
) -> list[ReferDataset]:
    """One data set per split in the refs file; arguments as for ``build_dataset``.

    Raises:
        RefsegError: it is not a data set in the REFER layout; and see ``ReferDataset``.
    """
    info = dataset_info(name)
    if info.reader is not ReferDataset:
        names = ", ".join(other for other, of_other in DATASETS.items() if of_other.reader is ReferDataset)
        raise RefsegError(f"{name} is not in the REFER layout, which shards are made of: choose one of {names}.")
    owner = info.owner(split_by)
    _, refs = read_refs(info.find_root(root, "instances.json"), owner)
    there = {ref.get("split") for ref in refs}
    found = [split for split in info.splits[owner] if there.intersection(info.labels.get(split, (split,)))]
    return [ReferDataset(info, split, root=root, image_root=image_root, split_by=owner) for split in found]


def write_shards(datasets: Sequence[ReferDataset], folder: Path, megabytes: int = 512) -> int:
    """Write the images of ``datasets``, splits of one benchmark, and its annotation files into a new folder.

    The folder appears when it is complete.

    Args:
        datasets: not empty.
        folder: not there yet, or empty.
        megabytes: a shard is closed when it has become this large.

    Returns:
        How many shards there are.

    Raises:
        RefsegError: something is in the way, no room, or an image is missing.
    """
    with filled(folder) as partial:
        shards, places = _write_tars(list(_members(datasets)), partial, 1_000_000 * megabytes)
        for path in (datasets[0].instances_file, datasets[0].refs_file):
            shutil.copyfile(path, partial / path.name)
        about = {"format": FORMAT, "name": datasets[0].name, "split_by": datasets[0].split_by}
        (partial / INDEX).write_text(json.dumps({**about, "shards": shards, "pictures": places}))
    return len(shards)


Member = tuple[ReferDataset, str, dict[str, Any]]  # of which data set, id of an image, what its JSON says


def _write_tars(members: Sequence[Member], folder: Path, most: int) -> tuple[list[str], dict[str, list[Any]]]:
    """The names of the shards, and of every image where it lies, as ``ShardedImages`` reads it."""
    shards: list[str] = []
    places: dict[str, list[Any]] = {}
    with tqdm(total=len(members), desc="writing shards", unit="image") as bar:
        while bar.n < len(members):
            shards.append(f"pictures-{len(shards):05d}.tar")
            with tarfile.open(folder / shards[-1], "w", format=tarfile.USTAR_FORMAT) as archive:
                while bar.n < len(members) and archive.offset < most:
                    dataset, key, about = members[bar.n]
                    ending, data = dataset.image_file(key)
                    start = _add(archive, f"{key}.{ending}", data)
                    places[key] = [len(shards) - 1, start, len(data), zlib.crc32(data), ending]
                    _add(archive, f"{key}.json", json.dumps(about).encode())
                    bar.update()
    return shards, places


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; returns where its data begins. Owner and time are left out: same images, same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
    return archive.offset - -(-len(data) // BLOCK) * BLOCK


def _members(datasets: Sequence[ReferDataset]) -> Iterator[Member]:
    """Every image once.

    Raises:
        RefsegError: its id cannot be a name.
    """
    of_image: dict[str, list[tuple[ReferDataset, dict[str, Any]]]] = {}
    for dataset in datasets:
        for ref in dataset.refs:
            of_image.setdefault(str(ref["image_id"]), []).append((dataset, ref))
    for key, pairs in of_image.items():
        dataset = pairs[0][0]
        if not re.fullmatch(r"[\w-]{1,80}", key):
            raise RefsegError(f"The image {key!r} of {dataset.name} cannot be the name of a member of a shard.")
        refs = list({ref["ref_id"]: ref for _, ref in pairs}.values())  # ReferIt's test splits share some
        annotations = {str(ref["ann_id"]): of.segmentation(ref["ann_id"]) for of, ref in pairs}
        yield dataset, key, {"image": dataset.record(key), "refs": refs, "segmentations": annotations}
