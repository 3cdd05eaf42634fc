"""RefShapes and RefShapes-Video: benchmarks drawn by a program, with the truth about every word.

This package draws and writes. It knows nothing of ``refseg``, which reads the files like those of any other data set
and has them drawn on first use (``refseg.datasets.refshapes``). RefShapes is in the REFER layout, as RefCOCO is:
``instances.json`` (polygons, and RLE where a thing is partly hidden), ``refs(refseg).json``, ``images/``. Deterministic
by ``SEED``: every image depends on the seed and its own number alone. The data card is data/README.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm.auto import tqdm

from refshapes.language import KINDS, Form, find_form
from refshapes.scene import (
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
from refshapes.wording import Word, word_form

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


def draw(folder: Path, images: dict[str, int] = IMAGES, seed: int = SEED) -> None:
    """Draw the whole benchmark into a folder.

    Args:
        folder: an empty one.
        images: images per split (tests draw fewer).
        seed: another seed draws another benchmark of the same kind.
    """
    (folder / "images").mkdir()
    numbered = [(split, index) for split, count in images.items() for index in range(count)]
    index = {"images": [], "annotations": [], "refs": []}
    for image_id, (split, number) in enumerate(tqdm(numbered, desc="drawing RefShapes", unit="image"), start=1):
        image = _add_image(index, image_id, split, scene_rng(seed, split, number))
        Image.fromarray(image).save(folder / "images" / f"{image_id:06d}.png", compress_level=4)
    instances = {
        "info": {"description": "RefShapes, drawn by refseg", "version": VERSION, "seed": seed},
        "licenses": [{"id": 1, "name": "CC0 1.0"}],
        "images": index["images"],
        "annotations": index["annotations"],
        "categories": [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES, 1)],
        "attributes": {name: values for name, values in ATTRIBUTES.items() if name != "shape"},
    }
    (folder / "instances.json").write_text(json.dumps(instances, separators=(",", ":")))
    (folder / "refs(refseg).json").write_text(json.dumps(index["refs"], separators=(",", ":")))


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


__all__ = ["IMAGES", "KINDS", "SEED", "VERSION", "draw"]
