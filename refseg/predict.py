"""One picture or clip, one expression, one answer; and the answer as pictures on disk.

The way from model to mask is ``refseg.inference``, the same that scores are taken from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from refseg.checkpoint import Checkpoint, load_checkpoint
from refseg.datasets import Collate, build_transform, read_image, undo_letterbox
from refseg.datasets.clip_files import Clip
from refseg.datasets.clips import window
from refseg.datasets.transforms import resize_mask
from refseg.errors import RefsegError
from refseg.inference import infer
from refseg.models.serialise import config_to_dict
from refseg.types import MASK_THRESHOLD, Prediction, RefBatch, RefSample
from refseg.viz import Picture, clip_figure, overlay, to_png_bytes

MAP_SIDE = 640  # longest side of a word map; the attention grid is far coarser than that
OVERLAY_SIDE = 2048  # longest side of the saved picture; the bare mask keeps the size of the photo
SHEET_FRAMES, SHEET_SIDE = 24, 320  # frames of a clip that its sheet shows, and their longest side
MASKS, SHEET, ABOUT = "masks", "sheet.png", "prediction.json"  # what save_clip writes into its folder
_MARK = "refseg"  # the text in a mask's PNG that says which prediction it belongs to


@dataclass
class PredictionResult:
    """What a model says about one picture and one expression."""

    image: Tensor  # [3,height,width] uint8, upright
    expression: str
    words: list[str]  # the L words the model read, unknown ones as they were written
    unknown_words: list[str]  # those the vocabulary does not hold
    pred_mask: Tensor  # [height,width] bool
    mask_prob: Tensor  # [height,width] float32
    word_maps: dict[str, Tensor]  # level -> [L,h,w] attention weights, in the picture's proportions; {} if it has none


class Predictor:
    """A checkpoint, ready for pictures of any size.

    Args:
        checkpoint: its folder, or one already loaded.
        device: None takes a GPU if there is one.

    Raises:
        RefsegError: there is no checkpoint, or it is damaged.
    """

    def __init__(self, checkpoint: str | Path | Checkpoint, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.loaded = (
            checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(Path(checkpoint), self.device)
        )
        self.model = self.loaded.model.to(self.device).eval()

    @torch.inference_mode()
    def predict(self, image: str | Path | Tensor, expression: str) -> PredictionResult:
        """Find what ``expression`` means.

        Args:
            image: a picture file (turned upright as its EXIF orientation says), or [3,H,W] uint8.

        Raises:
            RefsegError: no readable picture, an expression without words, or a model that gives undefined values.
        """
        picture = _checked(image) if isinstance(image, Tensor) else read_image(image, upright=True)
        batch = self._batch(picture, expression).to(self.device)
        (logits,), prediction = infer(self.model, batch)
        tokenizer = self.loaded.tokenizer
        return PredictionResult(
            image=picture,
            expression=expression,
            words=tokenizer.split(expression)[: tokenizer.max_words],
            unknown_words=tokenizer.unknown(expression),
            pred_mask=(logits > MASK_THRESHOLD).cpu(),
            mask_prob=logits.sigmoid_().cpu(),
            word_maps=self._word_maps(batch, prediction),
        )

    @torch.inference_mode()
    def predict_clip(self, clip: Clip, expression: str, frames: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Find what ``expression`` means in every frame of a clip, each in the middle of its window of frames.

        The window is the one the network was trained with, shorter at the ends of the clip. Every frame is read once,
        in order, and only those of one window are in memory, at the size that the network sees.

        Args:
            clip: see ``open_clip``.
            frames: numbers from 0 of those to predict, in the order of the clip whatever theirs is; default all.

        Yields:
            The predicted mask [height,width] bool, one per frame.

        Raises:
            RefsegError: a broken frame, an expression without words, or a model that gives undefined values.
            IndexError: a number in ``frames`` is not one of the clip's.
        """
        stride = self.loaded.frame_stride
        reach = self.loaded.num_frames // 2 * stride
        near: dict[int, RefSample] = {}
        unread = 0
        for index in sorted(set(range(len(clip)) if frames is None else frames)):
            if not 0 <= index < len(clip):
                raise IndexError(f"{clip.path} has {len(clip)} frames, there is no frame {index} (counted from 0).")
            indices, target = window(len(clip), index, self.loaded.num_frames, stride)
            near = {number: sample for number, sample in near.items() if number >= index - reach}
            for number in range(max(unread, index - reach), indices[-1] + 1):
                near[number] = self._sample(clip.frame(number), expression, f"frame {clip.frame_name(number)}")
            unread = max(unread, indices[-1] + 1)
            seen = torch.cat([near[number].frames for number in indices])
            batch = self._collated(replace(near[index], frames=seen, target_frame=target)).to(self.device)
            (logits,) = infer(self.model, batch)[0]
            yield (logits > MASK_THRESHOLD).cpu()

    def _batch(self, picture: Tensor, expression: str) -> RefBatch:
        return self._collated(self._sample(picture, expression, "picture"))

    def _sample(self, picture: Tensor, expression: str, name: str) -> RefSample:
        size = tuple(picture.shape[-2:])
        nothing = torch.zeros(size, dtype=torch.bool)  # the truth is not known here
        sample = RefSample(picture[None], nothing, expression, name, "predict", size, nothing)
        return build_transform(self.loaded.image_size)(sample)

    def _collated(self, sample: RefSample) -> RefBatch:
        return Collate(self.loaded.tokenizer)([sample])

    def _word_maps(self, batch: RefBatch, prediction: Prediction) -> dict[str, Tensor]:
        """Maps of the model, padding cut away, at most ``MAP_SIDE`` pixels large so that a big photo stays cheap."""
        maps = self.model.explain(batch, prediction).word_maps
        size = _within(batch.original_sizes[0], MAP_SIDE)
        valid = batch.pixel_valid[0]
        return {
            level: torch.stack([undo_letterbox(word_map, valid, size) for word_map in of_level[0]]).cpu()
            for level, of_level in maps.items()
        }


def save_prediction(result: PredictionResult, out_path: str | Path, *, with_mask: bool = True) -> list[Path]:
    """Write the picture with the mask drawn on it and, beside it, the bare mask.

    Args:
        out_path: a .png file in a folder that exists; at most ``OVERLAY_SIDE`` pixels large. The mask goes to
            ``NAME_mask.png``, 255 where the referent is and 0 elsewhere, at the size of the photo.

    Returns:
        The files written. A file that could not be completed is not left behind, and an older one stays as it was.

    Raises:
        RefsegError: the folder is missing, the name does not end in .png, or the disk refuses.
    """
    out_path = Path(out_path)
    _check_target(out_path)
    size = _within(tuple(result.pred_mask.shape), OVERLAY_SIDE)
    image, mask = result.image, result.pred_mask
    if size != tuple(mask.shape):
        image, mask = F.resize(image, list(size), antialias=True), resize_mask(mask, size)
    files = {out_path: Image.fromarray(overlay(image, mask))}
    if with_mask:
        bare = result.pred_mask.to(torch.uint8).mul_(255).numpy()
        files[out_path.with_name(f"{out_path.stem}_mask.png")] = Image.fromarray(bare)
    _write_together({path: lambda file, picture=picture: picture.save(file, "PNG") for path, picture in files.items()})
    return list(files)


# ---- a clip on disk --------------------------------------------------------------------------------------------


def save_clip(
    predictor: Predictor, clip: Clip, expression: str, folder: str | Path, *, progress: bool = True
) -> tuple[list[Path], Picture]:
    """Predict every frame of a clip and write its mask; stopped at any moment, the same call goes on where it was.

    ``folder/masks`` gets a PNG per frame, called like the frame, 255 where the referent is and 0 elsewhere, at the size
    of the frames; ``folder/sheet.png`` shows up to ``SHEET_FRAMES`` of them and ``folder/prediction.json`` says what
    they are of. A mask that is there is kept if it belongs to the same clip, network and expression (its PNG holds
    a digest of the three), and else predicted anew.

    Args:
        folder: a new or empty one, or one that holds such a prediction of the same clip.
        progress: show a bar.

    Returns:
        The files of the masks, and the sheet as a ``Picture`` with its alternative text.

    Raises:
        RefsegError: ``folder`` holds something else, or cannot be written; and see ``Predictor.predict_clip``.
    """
    folder = Path(folder)
    predictor.loaded.tokenizer.encode(expression)  # before anything is written: it must have words
    about = _about(predictor, clip, expression)
    _begin(folder, about)
    files = [folder / MASKS / f"{clip.frame_name(index)}.png" for index in range(len(clip))]
    missing = [index for index, path in enumerate(files) if not _belongs(path, about["digest"], clip.size)]
    mark = PngInfo()
    mark.add_text(_MARK, about["digest"])
    masks = predictor.predict_clip(clip, expression, missing)
    done = len(files) - len(missing)
    with tqdm(total=len(files), initial=done, desc="predicting", unit="frame", disable=not progress) as bar:
        for index, mask in zip(missing, masks, strict=True):
            picture = Image.fromarray(mask.to(torch.uint8).mul_(255).numpy())
            _write_together({files[index]: lambda file, picture=picture: picture.save(file, "PNG", pnginfo=mark)})
            bar.update()
    sheet = _sheet(clip, files, expression)
    _write_together({folder / SHEET: lambda file: file.write(to_png_bytes(sheet))})
    return files, sheet


def _about(predictor: Predictor, clip: Clip, expression: str) -> dict[str, Any]:
    """What a prediction is of, and a digest of it; pictures of a clip count by name, size and time, not by content."""
    loaded, network = predictor.loaded, hashlib.sha256()
    feed = loaded.image_size, loaded.num_frames, loaded.frame_stride, loaded.tokenizer.words
    network.update(repr((type(predictor.model).__name__, *feed, loaded.tokenizer.max_words)).encode())
    if config := getattr(predictor.model, "config", None):
        network.update(json.dumps(config_to_dict(config), sort_keys=True).encode())
    for name, tensor in predictor.model.state_dict().items():
        network.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    pictures = sorted(clip.path.iterdir()) if clip.path.is_dir() else [clip.path]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in pictures if path.is_file()]
    about = {
        "clip": clip.path.name,
        "frames": len(clip),
        "size": list(clip.size),
        "clip_digest": hashlib.sha256(repr(stats).encode()).hexdigest()[:16],
        "expression": expression,
        "network": network.hexdigest()[:16],
    }
    return about | {"digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder, or find that it is one of ours about the same clip; then ``prediction.json`` tells ``about``."""
    if folder.exists() and not folder.is_dir():
        raise RefsegError(f"{folder} is a file: name a folder for the masks.")
    try:
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            other = _other_clip(folder, about)
            if other:
                raise RefsegError(f"{folder} holds {other}: name another folder for the masks, or remove it.")
        (folder / MASKS).mkdir(parents=True, exist_ok=True)
        (folder / SHEET).unlink(missing_ok=True)  # else that of another expression would stand beside new masks
    except OSError as error:
        raise RefsegError(f"{folder} could not be made ({error.strerror}): name a folder you may write to.") from error
    text = json.dumps(about, indent=1) + "\n"
    _write_together({folder / ABOUT: lambda file: file.write(text.encode())})


def _other_clip(folder: Path, about: dict[str, Any]) -> str:
    """What a folder that is not empty holds, in words, if it is not a prediction about the same clip."""
    try:
        stored = json.loads((folder / ABOUT).read_bytes())
        same = [stored[key] == about[key] for key in ("frames", "size", "clip_digest")]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return f"other files and no readable {ABOUT}"
    return "" if all(same) else "the masks of another clip"


def _belongs(path: Path, digest: str, size: tuple[int, int]) -> bool:
    """Whether the mask is there, whole, and one of the prediction with that digest."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.info.get(_MARK) != digest or picture.size != (size[1], size[0]):
                return False
            picture.load()
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _sheet(clip: Clip, files: list[Path], expression: str) -> Picture:
    """Frames evenly chosen, the first and the last among them, with what their masks say."""
    count = min(SHEET_FRAMES, len(files))
    chosen = [round(n * (len(files) - 1) / max(1, count - 1)) for n in range(count)]
    size = _within(clip.size, SHEET_SIDE)
    frames, masks = [], []
    for index in chosen:
        with Image.open(files[index]) as picture:
            mask = torch.from_numpy(np.array(picture) > 0)
        frames.append(F.resize(clip.frame(index), list(size), antialias=True))
        masks.append(resize_mask(mask, size))
    return clip_figure(frames, [clip.frame_name(index) for index in chosen], masks, expression)


# ---- small parts -----------------------------------------------------------------------------------------------


def _checked(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise RefsegError(f"The picture is {image.dtype} of shape {tuple(image.shape)}: give [3,H,W] uint8, 0..255.")
    return image.cpu()


def _within(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """``size`` (height, width), shrunk in proportion if it is larger than ``longest_side``."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _check_target(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise RefsegError(f"{path} does not end in .png: pictures are written as PNG, so name it {path.stem}.png.")
    if not path.parent.is_dir():
        raise RefsegError(f"There is no folder {path.parent} to write {path.name} to: make it or name another one.")
    if path.is_dir():
        raise RefsegError(f"{path} is a folder: name a file in it, e.g. {path / 'prediction.png'}.")


def _write_together(writers: dict[Path, Callable]) -> None:
    """Every file is completed under another name first; only then do all of them take their places."""
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in writers}
    try:
        for path, write in writers.items():
            with partial[path].open("wb") as file:
                write(file)
        for path, finished in partial.items():
            finished.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RefsegError(
            f"{next(iter(writers))} could not be written ({reason}): make room on the disk or name a folder you may "
            "write to."
        ) from error
    finally:
        for leftover in partial.values():
            leftover.unlink(missing_ok=True)
