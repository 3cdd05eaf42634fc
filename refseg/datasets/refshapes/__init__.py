"""RefShapes: the embedded benchmark, drawn by us on first use and written in the REFER layout.

``datasets.refer.ReferDataset`` reads it like RefCOCO: ``instances.json`` (polygons, and RLE where a thing is partly
hidden), ``refs(refseg).json``, ``images/``. Deterministic by ``SEED``: every image depends on the seed and its own
number alone. The data card is data/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm.auto import tqdm

from refseg.datasets.refshapes.language import KINDS, Form, find_form
from refseg.datasets.refshapes.scene import (
    ATTRIBUTES,
    HELD_OUT,
    SHAPES,
    SIDE,
    Thing,
    draw_scene,
    paint,
    rasterise,
    visible_masks,
)
from refseg.datasets.refshapes.wording import Word, word_form
from refseg.errors import RefsegError
from refseg.files import filled
from refseg.paths import data_dir

VERSION = 3  # raise it when a change alters a single pixel or word: folders of another version are drawn again
SEED = 2019  # the year of CMSA
EXPRESSIONS_PER_IMAGE = 4

IMAGES = {"train": 8000, "val": 500, "testA": 500, "testB": 500, "testC": 500}

# How often each kind of expression is asked for. testA: attributes and positions; testB: relations; testC: every
# referent is of a colour-shape pair that no image of another split shows.
_KIND_WEIGHTS = {
    "train": {"attribute": 32, "superlative": 12, "position": 20, "ordinal": 4, "relation": 28, "two-step": 4},
    "val": {"attribute": 32, "superlative": 12, "position": 20, "ordinal": 4, "relation": 28, "two-step": 4},
    "testA": {"attribute": 50, "superlative": 15, "position": 27, "ordinal": 8},
    "testB": {"relation": 85, "two-step": 15},
    "testC": {"attribute": 50, "superlative": 10, "position": 15, "relation": 25},
}
_MARKER = "refshapes.json"  # written last: a folder without it is not complete


def ensure(root: Path | None = None, images: dict[str, int] | None = None, seed: int = SEED) -> Path:
    """The folder of RefShapes; drawn first if it is not there or was drawn by another version.

    Args:
        root: default ``data_dir()/refshapes``.
        images: images per split, default IMAGES (tests draw fewer).
        seed: another seed draws another benchmark of the same kind.

    Raises:
        RefsegError: the folder holds something that is not RefShapes, or cannot be written.
    """
    root = Path(root or data_dir() / "refshapes")
    marker = {"version": VERSION, "seed": seed, "images": images or IMAGES}
    return draw_once(root, _MARKER, marker, partial(_write, marker=marker))


class _AlreadyDrawn(Exception):
    """Another process was faster."""


def draw_once(root: Path, marker_name: str, marker: dict, write: Callable[[Path], None]) -> Path:
    """``root``, drawn by ``write`` first if its marker file is not there or says something else; all or nothing.

    Raises:
        RefsegError: the folder holds something else, or cannot be written.
    """

    def is_drawn() -> bool:
        try:
            return json.loads((root / marker_name).read_text()) == marker
        except (OSError, ValueError):
            return False

    if is_drawn():
        return root
    if root.exists() and any(root.iterdir()) and not (root / marker_name).exists():
        raise RefsegError(f"{root} is in the way and was not drawn by the kit: move it, or set REFSEG_DATA elsewhere.")
    with suppress(_AlreadyDrawn), filled(root, replace=True) as partial_root:
        write(partial_root)
        (partial_root / marker_name).write_text(json.dumps(marker))
        if is_drawn():
            raise _AlreadyDrawn
    return root


def _write(root: Path, marker: dict) -> None:
    """Draw everything into ``root`` but the marker."""
    (root / "images").mkdir()
    numbered = [(split, index) for split, count in marker["images"].items() for index in range(count)]
    index = {"images": [], "annotations": [], "refs": []}
    for image_id, (split, number) in enumerate(tqdm(numbered, desc="drawing RefShapes", unit="image"), start=1):
        image = _add_image(index, image_id, split, scene_rng(marker["seed"], split, number))
        Image.fromarray(image).save(root / "images" / f"{image_id:06d}.png", compress_level=4)
    instances = {
        "info": {"description": "RefShapes, drawn by refseg", "version": VERSION, "seed": marker["seed"]},
        "licenses": [{"id": 1, "name": "CC0 1.0"}],
        "images": index["images"],
        "annotations": index["annotations"],
        "categories": [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES, 1)],
        "attributes": {name: values for name, values in ATTRIBUTES.items() if name != "shape"},
    }
    (root / "instances.json").write_text(json.dumps(instances, separators=(",", ":")))
    (root / "refs(refseg).json").write_text(json.dumps(index["refs"], separators=(",", ":")))


def scene_rng(seed: int, split: str, number: int) -> Random:
    """The source of chance of one image: it depends on nothing but seed, split and number."""
    return Random(f"refshapes/{seed}/{split}/{number}")


def _add_image(index: dict[str, list], image_id: int, split: str, rng: Random) -> np.ndarray:
    """Invent one scene with its expressions, file it in ``index``, and return the image."""
    things, expressions = _invent(split, rng)
    first = len(index["annotations"]) + 1
    index["images"].append(
        {"id": image_id, "file_name": f"{image_id:06d}.png", "height": SIDE, "width": SIDE, "license": 1}
    )
    for number, (thing, mask) in enumerate(zip(things, visible_masks(things))):
        index["annotations"].append(_annotation(first + number, image_id, thing, mask, depth=number))
    for referent in sorted({meant for _, _, meant, _ in expressions}):
        index["refs"].append(_ref(index["refs"], split, image_id, first, referent, things, expressions))
    return paint(things, rng.randrange(2**32))


def _invent(split: str, rng: Random) -> tuple[list[Thing], list[tuple[str, Form, int, list[Word]]]]:
    """A scene and EXPRESSIONS_PER_IMAGE expressions (kind, form, referent, words) with at least two referents."""
    while True:
        things = draw_scene(rng, held_out=split == "testC")
        expressions: list[tuple[str, Form, int, list[Word]]] = []
        for _ in range(40):  # a scene of few or very unlike things may not carry four expressions: draw another
            found = _express(split, things, rng)
            if found is None or any(found[1] == form for _, form, _, _ in expressions):
                continue
            last = len(expressions) == EXPRESSIONS_PER_IMAGE - 1
            if last and {found[2]} == {referent for _, _, referent, _ in expressions}:
                continue
            expressions.append(found)
            if last:
                return things, expressions


def _express(split: str, things: list[Thing], rng: Random) -> tuple[str, Form, int, list[Word]] | None:
    weights = _KIND_WEIGHTS[split]
    (kind,) = rng.choices(tuple(weights), tuple(weights.values()))
    found = find_form(kind, things, rng)
    if found is None:
        return None
    form, referent = found
    if split == "testC" and (things[referent].colour, things[referent].shape) not in HELD_OUT:
        return None
    words = word_form(form, things, rng)
    return (kind, form, referent, words) if words else None


def _annotation(ann_id: int, image_id: int, thing: Thing, mask: np.ndarray, depth: int) -> dict:
    """A COCO annotation of the visible pixels, with what the thing is beside it."""
    rle: Any = coco_mask.encode(np.asfortranarray(mask))
    hidden = mask.sum() < rasterise(thing.outline()).sum()
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": SHAPES.index(thing.shape) + 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()} if hidden else [thing.outline()],
        "attributes": {name: getattr(thing, name) for name in ATTRIBUTES if name != "shape"},
        "thing": asdict(thing),
        "depth": depth,  # 0 is farthest behind
    }


def _ref(refs: list, split: str, image_id: int, first: int, referent: int, things: list, expressions: list) -> dict:
    """The ref of one referent with all of its sentences, in the REFER layout."""
    sentences = []
    for sent_id, (kind, form, meant, words) in enumerate(expressions, start=EXPRESSIONS_PER_IMAGE * image_id):
        if meant != referent:
            continue
        text = " ".join(word.text for word in words)
        sentences.append(
            {
                "sent_id": sent_id,
                "tokens": text.split(),
                "raw": text,
                "sent": text,
                "kind": kind,
                "form": form,
                # For every word the annotations that it is true of; null for a word that is true of nothing alone.
                "word_objects": [word.things and sorted(first + i for i in word.things) for word in words],
            }
        )
    return {
        "ref_id": len(refs) + 1,
        "ann_id": first + referent,
        "image_id": image_id,
        "category_id": SHAPES.index(things[referent].shape) + 1,
        "file_name": f"{image_id:06d}_{referent}.png",
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


__all__ = ["IMAGES", "KINDS", "SEED", "VERSION", "ensure"]
