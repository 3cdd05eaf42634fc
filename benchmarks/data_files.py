"""Files in the layouts of the published data sets, written for ``data.py`` from genuine metadata or made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def write_coco(source: Path, root: Path) -> None:
    """COCO's instances in the REFER layout: three expressions about each that is not a crowd."""
    instances = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    objects = [annotation for annotation in instances["annotations"] if not annotation["iscrowd"]]
    refs = []
    for n, annotation in enumerate(objects):
        name = names[annotation["category_id"]]
        texts = [name, f"the {name}", f"{name} number {n}"]
        said = [
            {"sent_id": 3 * n + k, "sent": text, "raw": text, "tokens": text.split()} for k, text in enumerate(texts)
        ]
        ids = {"ref_id": n, "ann_id": annotation["id"], "image_id": annotation["image_id"]}
        refs.append(ids | {"split": "train", "sentences": said})
    write(root, "unc", refs, instances["annotations"], instances["images"])


def shifted_masks(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Predictions: the n-th true mask moved to the right by 7 n mod 41 pixels, with the score (13 n mod 101) / 101."""
    predictions = []
    for annotation in truth["annotations"]:
        n, mask = annotation["id"], coco_mask.decode(annotation["segmentation"])
        moved, distance = np.zeros_like(mask, order="F"), 7 * n % 41
        moved[:, distance:] = mask[:, : mask.shape[1] - distance]
        encoded = coco_mask.encode(moved)
        entry = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        about = {"image_id": annotation["image_id"], "category_id": 1, "score": 13 * n % 101 / 101}
        predictions.append(about | {"segmentation": entry})
    return predictions


def write_referit(source: Path, root: Path) -> None:
    """The Berkeley metadata of train and val in the REFER layout; a region's mask is its box."""
    sizes = json.loads((source / "referit_imsize.json").read_text())
    boxes = json.loads((source / "referit_bbox.json").read_text())
    refs, annotations, pictures, sent_id = [], [], {}, 0
    for split in ("train", "val"):
        for region, sentences in json.loads((source / f"referit_query_{split}.json").read_text()).items():
            image = region.split("_")[0]
            width, height = sizes[f"{image}.jpg"]
            pictures[image] = {"id": int(image), "file_name": f"{image}.jpg", "height": height, "width": width}
            annotations.append(
                {"id": region, "image_id": int(image), "segmentation": [box_mask(boxes[region], height, width)]}
            )
            said = [
                {"sent_id": sent_id + n, "sent": text, "raw": text, "tokens": text.split()}
                for n, text in enumerate(sentences)
            ]
            sent_id += len(said)
            refs.append(
                {"ref_id": len(refs), "ann_id": region, "image_id": int(image), "split": split, "sentences": said}
            )
    write(root, "berkeley", refs, annotations, list(pictures.values()))


def box_mask(box: list[int], height: int, width: int) -> dict[str, Any]:
    """The run lengths of a box [xmin, ymin, xmax, ymax], both ends inside."""
    xmin, ymin, xmax, ymax = (int(value) for value in box)
    counts, inside = [xmin * height + ymin], ymax - ymin + 1
    counts += [inside, height - inside] * (xmax - xmin) + [inside]
    counts.append(height * width - sum(counts))
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode()}


def write_large(root: Path) -> None:
    """Made-up files of RefCOCO's size: ten objects per image with polygons of 20 to 60 points, 3 expressions a ref."""
    draw, noise, words = random.Random(0), np.random.default_rng(0), [f"word{n}" for n in range(10_000)]
    pictures = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 480, "width": 640,
         "coco_url": f"http://mscoco.org/images/{n}", "flickr_url": f"http://farm.static/{n}_z.jpg",
         "date_captured": "2013-11-14 11:18:45", "license": 3}
        for n in range(20_000)
    ]  # fmt: skip
    annotations = [
        {"id": n, "image_id": n // 10, "category_id": n % 80 + 1, "iscrowd": 0, "area": 1000.5, "bbox": [1.5, 2, 3, 4],
         "segmentation": [noise.uniform(0, 480, 2 * draw.randint(20, 60)).round(2).tolist()]}
        for n in range(200_000)
    ]  # fmt: skip
    refs = []
    for n in range(50_000):
        tokens = [[draw.choice(words) for _ in range(draw.randint(1, 6))] for _ in range(3)]
        said = [
            {"sent_id": 3 * n + k, "tokens": t, "raw": " ".join(t).upper(), "sent": " ".join(t)}
            for k, t in enumerate(tokens)
        ]
        about = {"file_name": f"COCO_train2014_{n:012d}_{n}.jpg", "category_id": 1, "split": "train"}
        ids = {"ref_id": n, "ann_id": 4 * n, "image_id": 4 * n // 10, "sent_ids": [s["sent_id"] for s in said]}
        refs.append(about | ids | {"sentences": said})
    write(root, "unc", refs, annotations, pictures)


def write(root: Path, owner: str, refs: list, annotations: list, pictures: list) -> None:
    """Both files of the REFER layout."""
    root.mkdir()
    (root / f"refs({owner}).json").write_text(json.dumps(refs))
    (root / "instances.json").write_text(json.dumps({"images": pictures, "annotations": annotations}))


def megabytes(root: Path) -> float:
    """Size of the annotation files."""
    return round(sum(path.stat().st_size for path in root.iterdir()) / 1e6, 1)
