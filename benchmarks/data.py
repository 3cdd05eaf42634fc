"""How fast data sets are indexed, masks scored and images read, and an index's memory: data/results/data_speed.json.

    python benchmarks/data.py
    python benchmarks/data.py --only input    # the other numbers stay as they are

Scoring: the 3,800 true test masks of A2D-Sentences against each shifted by a distance of its own, from two JSON files
to the table, mAP included. Indexing: ReferIt's trainval metadata in the REFER layout, 59,976 expressions about 49,515
regions, each a run-length mask of its box. Memory: 150,000 expressions about 50,000 of 200,000 objects in 20,000
images, which is RefCOCO's size; measured in a process of its own. Input: from JPEG and polygons to batches of 320
pixels in two worker processes, as training reads them, on 128 images of COCO with three expressions about each object;
beside it a plain torchvision pipeline. The genuine files are looked for in ``--shared``.

Seconds are given twice: as a clock shows them, and of the processor, which other programs do not disturb.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from data_files import megabytes, shifted_masks, write_coco, write_large, write_referit
from measure import about, kilobytes, write_json
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from refseg.datasets import Collate, Letterbox, Normalize, build_dataset, build_transform, read_image
from refseg.datasets.masks import segmentation_mask
from refseg.datasets.refer import ReferDataset
from refseg.datasets.wrappers import SafeDataset, collate_readable
from refseg.evaluation.mask_files import score_files
from refseg.paths import PROJECT, results_dir
from refseg.tokenizer import WordVocabulary
from refseg.training.batches import ShuffledBatches
from refseg.training.experiment import OptimConfig
from refseg.types import IMAGENET_MEAN, IMAGENET_STD

A2D_TRUTH = "data/a2d_sentences/a2d_sentences_test_annotations_in_coco_format.json"
SIDE, BATCH, WORKERS = 320, 16, 2  # pixels, samples, processes
WARM_UP = 10  # batches that are not timed


@dataclass
class DataBenchmark:
    """Measure and write."""

    shared: Path = PROJECT.parent / "shared"  # Folder with the genuine files.
    repeats: int = 3  # The fastest of this many runs is reported.
    out: Path = results_dir() / "data_speed.json"
    only: Literal["all", "input"] = "all"  # input: only the pipeline from JPEG and polygons to batches.
    batches: int = 120  # The input pipeline is timed over this many.
    index_memory_of: Path | None = None
    """Used by the benchmark itself: print the memory that the index in this folder takes, and nothing else."""

    def run(self) -> None:
        """Everything."""
        if self.index_memory_of is not None:
            print(json.dumps(index_memory(self.index_memory_of)))
            return
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if self.only == "input":
                result = json.loads(self.out.read_text()) | {"input": self.input(folder) | about()}
            else:
                result = {
                    **about(),
                    "scoring_a2d": self.scoring(folder),
                    "indexing_referit": self.indexing(folder),
                    "index_of_150000": self.memory(folder),
                    "input": self.input(folder),
                }
        print(json.dumps(result, indent=1))
        write_json(self.out, result)

    def scoring(self, folder: Path) -> dict[str, Any]:
        """Seconds from files to scores."""
        truth = self.shared / A2D_TRUTH
        (folder / "predictions.json").write_text(json.dumps(shifted_masks(json.loads(truth.read_text()))))
        return fastest(self.repeats, lambda: score_files(truth, folder / "predictions.json"), ("N", "oIoU", "mAP"))

    def indexing(self, folder: Path) -> dict[str, Any]:
        """Seconds until all expressions of a split are indexed."""
        root = folder / "refclef"
        write_referit(self.shared / "data" / "referit_berkeley", root)
        found = fastest(self.repeats, lambda: {"sentences": len(build_dataset("referit", "trainval", root=root))})
        return found | {"file_megabytes": megabytes(root)}

    def input(self, folder: Path) -> dict[str, Any]:
        """Samples per second of two workers, and what one sample costs in which stage."""
        pictures = self.shared / "data" / "coco128"
        root = folder / "coco"
        write_coco(pictures, root)
        dataset = build_dataset("refcoco", "train", root=root, image_root=pictures, transform=build_transform(SIDE))
        collate = partial(collate_readable, Collate(WordVocabulary.build(dataset.expressions)))
        together = samples_per_second(SafeDataset(dataset), dataset.image_ids, collate, self.batches, 4)
        alone = samples_per_second(SafeDataset(dataset), dataset.image_ids, collate, self.batches, 1)
        plain = samples_per_second(PlainTorchvision(dataset), dataset.image_ids, None, self.batches, 1)
        return {
            "pixels": SIDE,
            "batch_size": BATCH,
            "workers": WORKERS,
            "four_sentences_of_a_picture_together": together,
            "every_sentence_alone": alone,
            "plain_torchvision": plain,
            "milliseconds_by_stage": stages(dataset, collate),
        }

    def memory(self, folder: Path) -> dict[str, Any]:
        """Megabytes of an index of RefCOCO's size, in a fresh process."""
        root = folder / "refcoco"
        write_large(root)
        words = [sys.executable, __file__, "--index-memory-of", str(root)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout) | {"file_megabytes": megabytes(root)}


def fastest(repeats: int, run: Callable[[], dict[str, Any]], keep: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The fewest seconds of several runs, by the clock and of the processor, and what the run returned."""
    walls, cpus = [], []
    for _ in range(repeats):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        found = run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    reported = {name: found[name] for name in keep or found}
    return {"seconds": round(min(walls), 2), "cpu_seconds": round(min(cpus), 2)} | reported


class PlainTorchvision(Dataset):
    """What one would write by hand: the image and its mask squashed to a square by torchvision's transforms.

    Args:
        dataset: whose images and polygons are read.
    """

    def __init__(self, dataset: ReferDataset):
        self.rows = [(dataset.find_image(ref["image_id"]), dataset.segmentation(ref["ann_id"]))
                     for ref in dataset.refs for _ in ref["sentences"]]  # fmt: skip
        kinds = {tv_tensors.Image: torch.float32, "others": None}
        steps = [v2.Resize((SIDE, SIDE)), v2.ToDtype(kinds, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path, polygons = self.rows[index]
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(path).convert("RGB")))
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *image.shape[-2:])))
        image, mask = self.transform(image, tv_tensors.Mask(mask[None]))
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


def samples_per_second(
    dataset: Dataset, image_ids: list, collate: Callable | None, batches: int, together: int
) -> dict[str, float]:
    """By the clock, and by the processor time of the workers: what two idle processors would give."""
    config = OptimConfig(steps=WARM_UP + batches, batch_size=BATCH, expressions_per_image=together)
    order = ShuffledBatches(image_ids, [1] * len(image_ids), config)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loader = iter(DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=WORKERS))
    for _ in range(WARM_UP):
        next(loader)
    start = time.perf_counter()
    count = sum(1 for _ in loader)
    seconds = time.perf_counter() - start
    del loader  # only then are the workers' seconds known
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"by_the_clock": round(BATCH * count / seconds, 1),
            "by_the_processors": round(WORKERS * BATCH * (WARM_UP + batches) / cpu, 1)}  # fmt: skip


def stages(dataset: ReferDataset, collate: Callable, count: int = 160) -> dict[str, float]:
    """Milliseconds of the processor that one sample takes, stage by stage."""
    raw = build_dataset("refcoco", "train", root=dataset.root, image_root=dataset.image_folders[0])
    refs, letterbox, normalize = raw.refs[:: max(1, len(raw.refs) // count)], Letterbox(SIDE), Normalize()
    taken: dict[str, float] = {}

    def timed(name: str, work: Callable, *of: Any) -> Any:
        start = time.process_time()
        result = work(*of)
        taken[name] = taken.get(name, 0.0) + time.process_time() - start
        return result

    samples = []
    for ref in refs:
        path, pieces = raw.find_image(ref["image_id"]), raw.segmentation(ref["ann_id"])
        picture = timed("decode the JPEG", read_image, path)
        size = tuple(picture.shape[-2:])
        timed("draw the polygons", segmentation_mask, pieces, size, "")
        sample = raw[3 * raw.refs.index(ref)]
        sample = timed("scale picture and mask", letterbox, sample)
        samples.append(timed("normalise", normalize, sample))
        if len(samples) == BATCH:
            timed("make the batch", collate, samples)
            samples = []
    return {name: round(1000 * seconds / len(refs), 2) for name, seconds in taken.items()}


def index_memory(root: Path) -> dict[str, Any]:
    """Megabytes that the index takes in this process, and the most that building it took."""
    before, cpu = _in_use(), time.process_time()
    dataset = build_dataset("refcoco", "train", root=root)
    cpu = time.process_time() - cpu
    peak = _in_use("VmHWM") - before
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free but not given back is not the index's
    held = _in_use() - before
    return {"sentences": len(dataset), "megabytes": round(held, 1), "peak_megabytes": round(peak, 1),
            "cpu_seconds": round(cpu, 2)}  # fmt: skip


def _in_use(what: str = "VmRSS") -> float:
    return kilobytes(what) * 1024 / 1e6


if __name__ == "__main__":
    tyro.cli(DataBenchmark).run()
