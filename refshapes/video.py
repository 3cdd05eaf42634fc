"""RefShapes-Video: the embedded video benchmark, drawn by us on first use and written in the A2D-Sentences layout.

``datasets.a2d.A2DDataset`` reads it like A2D-Sentences. Deterministic by ``SEED``: every clip depends on the seed, its
split and its own number alone, however many processes draw. The data card is data/README.md.

Beyond A2D's files there are ``facts.json`` (what is known of every sentence), ``attributes.json`` (of every thing) and
``tracks.json`` (where every thing is in every frame).
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from refshapes.motion import CENTRE, FRAMES, KINDS, MOTIONS, SIDE, STATIC_KINDS, Clip, Sentence
from refshapes.motion_drawing import invent
from refshapes.scene import COLOURS, SHAPES, paint_clip

VERSION = 1  # raise it when a change alters a single pixel or word: folders of another version are drawn again
SEED = 2018  # the year of A2D-Sentences

CLIPS = {"train": 6000, "val": 400, "test": 400}

_SUBSETS = {"train": 0, "test": 1, "val": 2}  # A2D has the first two
_NOISE = 1.0  # grey levels; RefShapes has 4, which would make files a third larger
_WORTH_A_PROCESS = 200  # clips


def draw(folder: Path, clips: dict[str, int] = CLIPS, seed: int = SEED) -> None:
    """Draw the whole benchmark into a folder.

    Args:
        folder: an empty one.
        clips: clips per split (tests draw fewer).
        seed: another seed draws another benchmark of the same kind.
    """
    numbered = [(split, number) for split, count in clips.items() for number in range(count)]
    texts, release = folder / "text_annotations", folder / "Release"
    for place in (release / "frames", texts / "a2d_annotation_with_instances"):
        place.mkdir(parents=True)
    rows, sentences = [], []
    facts: dict[str, dict] = {}
    objects: dict[str, dict] = {}
    tracks: dict[str, dict] = {}
    drawn = _map(partial(_draw, folder, seed), numbered)
    drawn = tqdm(drawn, total=len(numbered), desc="drawing RefShapes-Video", unit="clip")
    for (split, number), (motions, frames, asked) in zip(numbered, drawn):
        video = video_name(split, number)
        rows.append([video, 0, 1, FRAMES, SIDE, SIDE, FRAMES, 1, _SUBSETS[split]])
        for sentence in asked:
            sentences.append([video, sentence.referent, sentence.text])
            facts[f"{video}/{sentence.referent}"] = _facts(sentence)
        objects[video] = {
            i: {"shape": thing.shape, "colour": thing.colour, "motion": motion}
            for i, (thing, motion) in enumerate(zip(frames[CENTRE], motions))
        }
        tracks[video] = {
            i: {"shape": track[0].shape, "colour": track[0].colour, "track": [_state(thing) for thing in track]}
            for i, track in enumerate(zip(*frames))
        }
    _write_csv(release / "videoset.csv", rows)
    _write_csv(texts / "a2d_annotation.txt", [["video_id", "instance_id", "query"], *sentences])
    attributes = {"shape": SHAPES, "colour": tuple(COLOURS), "motion": MOTIONS}
    _write_json(texts / "facts.json", facts)
    _write_json(texts / "attributes.json", {"attributes": attributes, "objects": objects})
    _write_json(texts / "tracks.json", tracks)


def clip_rng(seed: int, split: str, number: int) -> Random:
    """The source of chance of one clip: it depends on nothing but seed, split and number."""
    return Random(f"refshapes-video/{seed}/{split}/{number}")


def video_name(split: str, number: int) -> str:
    """``train00007``"""
    return f"{split}{number:05d}"


def _map(function, items: list) -> Iterator:
    """``map`` with two processes where they are cheap; the results come in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if sys.platform != "linux" or cores < 2 or len(items) < _WORTH_A_PROCESS:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(2, get_context("fork")) as pool:  # spawn would run a caller's script a second time
        yield from pool.map(function, items, chunksize=20)


def _draw(root: Path, seed: int, item: tuple[str, int]) -> tuple[list[str], list, list[Sentence]]:
    """Invent one clip, write its frames and masks, and return names of motions, frames and sentences."""
    rng = clip_rng(seed, *item)
    clip, motions, asked = invent(rng)
    name = video_name(*item)
    folder = root / "Release" / "frames" / name
    folder.mkdir()
    for number, image in enumerate(paint_clip(clip.frames, rng.randrange(2**32), SIDE, _NOISE), start=1):
        Image.fromarray(image).save(folder / f"{number:05d}.png", compress_level=4)
    folder = root / "text_annotations" / "a2d_annotation_with_instances" / name
    folder.mkdir()
    (folder / f"{CENTRE + 1:05d}.h5").write_bytes(_annotation(clip))
    return motions, clip.frames, asked


def _annotation(clip: Clip) -> bytes:
    """The h5 file of the annotated frame, with every thing of it, as MATLAB writes them: masks transposed."""
    import h5py  # takes a moment to load, and the table of data sets imports this module

    masks = np.stack(clip.masks)
    boxes = [(np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))) for m in masks]
    # In memory; the file format of HDF5 1.10, because that of 1.0 takes three times the room.
    with h5py.File("annotation.h5", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file["instance"] = np.arange(len(masks), dtype=np.float64)
        file["id"] = np.array([[SHAPES.index(thing.shape) + 1 for thing in clip.centre]], np.float64)
        file["reBBox"] = np.array([(x[0], y[0], x[-1], y[-1]) for x, y in boxes], np.float64).T
        transposed = masks.transpose(0, 2, 1).astype(np.uint8)  # (N,W,H); a clip has at least three things
        file.create_dataset("reMask", data=transposed, chunks=transposed.shape, compression="gzip")
        file.flush()
        return file.id.get_file_image()


def _facts(sentence: Sentence) -> dict:
    return {
        "kind": sentence.kind,
        "motion": sentence.kind not in STATIC_KINDS,
        "form": sentence.form,
        "candidates": sentence.candidates,  # the instances that it fits if motion or place is not heard
    }


def _state(thing) -> list[float]:
    return [thing.x, thing.y, thing.radius, thing.angle]


def _write_csv(path: Path, rows: list[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))


__all__ = ["CLIPS", "KINDS", "MOTIONS", "SEED", "VERSION", "clip_rng", "draw", "video_name"]
