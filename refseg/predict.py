"""One image or clip, one expression, one answer; and the answer as files.

From the image to the mask it takes the same path as the scores do, ``refseg.inference``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from refseg.checkpoint import Checkpoint
from refseg.datasets.clip_files import Clip
from refseg.datasets.clips import window
from refseg.datasets.images import ImageLike, to_image
from refseg.datasets.transforms import resize_mask, undo_letterbox, within
from refseg.errors import RefsegError
from refseg.files import disk_refusals, write_text, written
from refseg.hub import from_pretrained
from refseg.inference import choose_device, infer, prepare, to_batch
from refseg.models.serialise import config_to_dict
from refseg.types import MASK_THRESHOLD, RefBatch, size_of
from refseg.viz import clip_sheet, overlay

MAP_SIDE = 640  # longest side of a word map; the attention grid is far coarser than that
OVERLAY_SIDE = 2048  # longest side of the saved image; the bare mask keeps the size of the photo
SHEET_FRAMES, SHEET_SIDE = 24, 320  # frames of a clip that its sheet shows, and their longest side
SIGNATURE = PngImagePlugin.PngInfo()
SIGNATURE.add_text("Software", "refseg")
MASKS, SHEET, ABOUT = "masks", "sheet.png", "prediction.json"  # what save_clip writes into its folder


@dataclass
class PredictionResult:
    """What a model finds in one image for one expression."""

    image: Tensor  # [3,height,width] uint8, upright
    expression: str
    words: list[str]  # the L words the model read, unknown ones as they were written
    unknown_words: list[str]  # those the vocabulary does not hold
    pred_mask: Tensor  # [height,width] bool
    mask_prob: Tensor  # [height,width] float32
    word_maps: dict[str, Tensor]  # level -> [L,h,w] attention weights, in the image's proportions; {} if it has none


class Predictor:
    """A checkpoint, ready for images of any size.

    >>> from refseg import Predictor
    >>> predictor = Predictor("cmsa_refshapes", device="cpu")
    >>> predictor.checkpoint.image_size
    96

    Args:
        checkpoint: its folder, the name of a shipped one, "owner/repository" on the hub, or one already loaded.
        device: default is a GPU if there is one.

    Raises:
        RefsegError: there is no checkpoint, or it is damaged.
    """

    def __init__(self, checkpoint: str | Path | Checkpoint, device: str | torch.device | None = None):
        self.device = choose_device(device)
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else from_pretrained(checkpoint)
        self.checkpoint, self.model = loaded, loaded.model.to(self.device).eval()

    @torch.inference_mode()
    def predict(self, image: ImageLike, expression: str, *, word_maps: bool = True) -> PredictionResult:
        """Find what ``expression`` means.

        Args:
            image: a file (turned upright as its EXIF orientation says), a PIL image, an array [H,W,3], [H,W,4] or
                [H,W] uint8, or a tensor [3,H,W] uint8.
            word_maps: also say where each word looks. It comes from the same forward pass.

        Raises:
            RefsegError: no readable image, an expression without words, or a model that gives undefined values.
        """
        pixels = to_image(image)
        frames, valid = prepare(pixels, self.checkpoint.image_size)
        batch = to_batch(frames, valid, size_of(pixels), expression, self.checkpoint.tokenizer)
        batch = batch.to(self.device)
        (logits,), prediction = infer(self.model, batch)
        maps = self.model.explain(batch, prediction).word_maps if word_maps else {}
        tokenizer = self.checkpoint.tokenizer
        return PredictionResult(
            image=pixels,
            expression=expression,
            words=tokenizer.split(expression)[: tokenizer.max_words],
            unknown_words=tokenizer.unknown(expression),
            pred_mask=(logits > MASK_THRESHOLD).cpu(),
            mask_prob=logits.sigmoid_().cpu(),
            word_maps=_at_image_size(maps, batch),
        )

    @torch.inference_mode()
    def predict_clip(self, clip: Clip, expression: str, frames: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Find what ``expression`` means in every frame of a clip, each in the middle of its window of frames.

        The window is the one the network was trained with, shorter at the ends of the clip. Every frame is read once,
        in order, and only those of one window are in memory, at the size that the network sees.

        Args:
            clip: see ``open_clip``.
            frames: which frames to predict, counted from 0; the answers come in the clip's order. Default all.

        Yields:
            The predicted mask [height,width] bool, one per frame.

        Raises:
            RefsegError: a broken frame, an expression without words, or a model that gives undefined values.
            IndexError: a number in ``frames`` is not one of the clip's.
        """
        stride, num_frames = self.checkpoint.frame_stride, self.checkpoint.num_frames
        reach = num_frames // 2 * stride
        near: dict[int, Tensor] = {}
        unread = 0
        for index in sorted(set(range(len(clip)) if frames is None else frames)):
            if not 0 <= index < len(clip):
                raise IndexError(f"{clip.path} has {len(clip)} frames, there is no frame {index} (counted from 0).")
            indices, target = window(len(clip), index, num_frames, stride)
            near = {number: frame for number, frame in near.items() if number >= index - reach}
            for number in range(max(unread, index - reach), indices[-1] + 1):
                near[number], valid = prepare(clip.frame(number), self.checkpoint.image_size)
            unread = max(unread, indices[-1] + 1)
            seen = torch.cat([near[number] for number in indices])
            batch = to_batch(seen, valid, clip.size, expression, self.checkpoint.tokenizer, target)
            (logits,), _ = infer(self.model, batch.to(self.device))
            yield (logits > MASK_THRESHOLD).cpu()


def _at_image_size(maps: dict[str, Tensor], batch: RefBatch) -> dict[str, Tensor]:
    """Word maps without padding, up to ``MAP_SIDE`` pixels large so that a big photo stays cheap."""
    size, valid = within(batch.original_sizes[0], MAP_SIDE), batch.pixel_valid[0]
    return {
        level: torch.stack([undo_letterbox(word_map, valid, size) for word_map in of_level[0]]).cpu()
        for level, of_level in maps.items()
    }


def save_prediction(result: PredictionResult, out_path: str | Path) -> list[Path]:
    """Write the image with the mask drawn on it and, beside it, the bare mask.

    Args:
        out_path: a .png file; up to ``OVERLAY_SIDE`` pixels large. The mask goes to ``NAME_mask.png``, 255 where the
            referent is and 0 elsewhere, at the size of the image.

    Returns:
        The files written: all of them or none.

    Raises:
        RefsegError: the name does not end in .png, a file that is not ours has it or the mask's, or the disk refuses.
    """
    out_path = Path(out_path)
    if out_path.suffix.lower() != ".png":
        raise RefsegError(
            f"{out_path} does not end in .png: images are written as PNG, so name it {out_path.stem}.png."
        )
    if out_path.is_dir():
        raise RefsegError(f"{out_path} is a folder: name a file in it, e.g. {out_path / 'prediction.png'}.")
    image, mask = result.image, result.pred_mask
    size = within(size_of(mask), OVERLAY_SIDE)
    if size != size_of(mask):
        image, mask = F.resize(image, list(size), antialias=True), resize_mask(mask, size)
    mask_path = out_path.with_name(f"{out_path.stem}_mask.png")
    files = {out_path: Image.fromarray(overlay(image, mask)), mask_path: _as_picture(result.pred_mask)}
    for path in files:  # nobody has chosen the mask's name
        if path.exists() and not (path.is_file() and _is_ours(path)):
            raise RefsegError(f"{path} is in the way: it is not from refseg predict. Name another file, or move it.")
    with ExitStack() as all_or_none:
        for path, picture in files.items():
            picture.save(all_or_none.enter_context(written(path)), "PNG", pnginfo=SIGNATURE)
    return list(files)


def _is_ours(path: Path) -> bool:
    with suppress(Exception), Image.open(path, formats=["PNG"]) as picture:
        return picture.info.get("Software") == "refseg"
    return False


def _as_picture(mask: Tensor) -> Image.Image:
    return Image.fromarray(mask.to(torch.uint8).mul_(255).numpy())


# ---- a clip on disk --------------------------------------------------------------------------------------------


def save_clip(
    predictor: Predictor, clip: Clip, expression: str, folder: str | Path, *, progress: bool = True
) -> tuple[list[Path], str]:
    """Predict every frame of a clip and write its mask; stopped at any moment, the same call continues.

    ``folder/masks`` gets a PNG per frame, named like the frame, 255 where the referent is and 0 elsewhere, at the size
    of the frames; ``folder/sheet.png`` shows up to ``SHEET_FRAMES`` of them and ``folder/prediction.json`` says which
    clip, network and expression they belong to. Masks of another network or expression are predicted again.

    Args:
        folder: a new or empty one, or one that holds a prediction of the same clip.
        progress: show a bar.

    Returns:
        The files of the masks, and the sheet in words.

    Raises:
        RefsegError: ``folder`` holds something else, or cannot be written; and see ``Predictor.predict_clip``.
    """
    folder = Path(folder)
    predictor.checkpoint.tokenizer.encode(expression)  # before anything is written: it must have words
    files = [folder / MASKS / f"{clip.frame_name(index)}.png" for index in range(len(clip))]
    with disk_refusals(folder):
        _begin(folder, _about(predictor, clip, expression), files)
    missing = [index for index, path in enumerate(files) if not _is_whole(path, clip.size)]
    masks = predictor.predict_clip(clip, expression, missing)
    done = len(files) - len(missing)
    with tqdm(total=len(files), initial=done, desc="predicting", unit="frame", disable=not progress) as bar:
        for index, mask in zip(missing, masks, strict=True):
            with written(files[index]) as temporary:
                _as_picture(mask).save(temporary, "PNG")
            bar.update()
    sheet, in_words = _sheet(clip, files, expression)
    with written(folder / SHEET) as temporary:
        sheet.save(temporary, "PNG")
    return files, in_words


def _about(predictor: Predictor, clip: Clip, expression: str) -> dict[str, Any]:
    """What a prediction belongs to; frames of a clip count by name, size and time, not by content."""
    given, model = predictor.checkpoint, predictor.model
    feed = given.image_size, given.num_frames, given.frame_stride, given.tokenizer.words, given.tokenizer.max_words
    network = hashlib.sha256(repr((config_to_dict(model.config), feed)).encode())
    for tensor in model.state_dict().values():
        network.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    frames = sorted(clip.path.iterdir()) if clip.path.is_dir() else [clip.path]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in frames if path.is_file()]
    return {
        "clip": clip.path.name,
        "frames": len(clip),
        "size": list(clip.size),
        "clip_digest": hashlib.sha256(repr(stats).encode()).hexdigest()[:16],
        "expression": expression,
        "network": network.hexdigest()[:16],
    }


def _begin(folder: Path, about: dict[str, Any], files: list[Path]) -> None:
    """Make sure that every mask in ``folder`` belongs to ``about``, which ``prediction.json`` then says.

    Raises:
        RefsegError: the folder holds something that is not a prediction of this clip.
    """
    if folder.is_file():
        raise RefsegError(f"{folder} is a file: name a folder for the masks.")
    try:
        stored = json.loads((folder / ABOUT).read_bytes())
        same_clip = all(stored[key] == about[key] for key in ("frames", "size", "clip_digest"))
        other = "" if same_clip else "the masks of another clip"
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        stored, other = None, f"other files and no readable {ABOUT}"
    if other and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RefsegError(f"{folder} holds {other}: name another folder for the masks, or remove it.")
    if stored != about:  # the masks go before the old prediction.json does: a kill never leaves them beside a new one
        for path in (folder / SHEET, *files):
            path.unlink(missing_ok=True)
        write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            return picture.size == (size[1], size[0])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _sheet(clip: Clip, files: list[Path], expression: str) -> tuple[Image.Image, str]:
    """Frames evenly chosen, the first and the last among them, with their masks."""
    count = min(SHEET_FRAMES, len(files))
    chosen = [round(n * (len(files) - 1) / max(1, count - 1)) for n in range(count)]
    size = within(clip.size, SHEET_SIDE)
    frames, masks = [], []
    for index in chosen:
        with Image.open(files[index]) as picture:
            mask = torch.from_numpy(np.array(picture) > 0)
        frames.append(F.resize(clip.frame(index), list(size), antialias=True))
        masks.append(resize_mask(mask, size))
    return clip_sheet(frames, [clip.frame_name(index) for index in chosen], masks, expression)
