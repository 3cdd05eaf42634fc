"""One picture, one expression, one answer; and the answer as a picture on disk.

The way from model to mask is ``evaluate.predict_logits``, the same that scores are taken from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from refseg.checkpoint import Loaded, load_checkpoint
from refseg.datasets import Collate, build_transform, read_image, undo_letterbox
from refseg.datasets.transforms import resize_mask
from refseg.errors import RefsegError
from refseg.evaluate import MASK_THRESHOLD, predict_logits
from refseg.types import RefBatch, RefSample
from refseg.viz import overlay

MAP_SIDE = 640  # longest side of a word map; the attention grid is far coarser than that
OVERLAY_SIDE = 2048  # longest side of the saved picture; the bare mask keeps the size of the photo


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

    def __init__(self, checkpoint: str | Path | Loaded, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.loaded = checkpoint if isinstance(checkpoint, Loaded) else load_checkpoint(Path(checkpoint), self.device)
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
        (logits,) = predict_logits(self.model, batch)
        tokenizer = self.loaded.tokenizer
        return PredictionResult(
            image=picture,
            expression=expression,
            words=tokenizer.split(expression)[: tokenizer.max_words],
            unknown_words=tokenizer.unknown(expression),
            pred_mask=(logits > MASK_THRESHOLD).cpu(),
            mask_prob=logits.sigmoid_().cpu(),
            word_maps=self._word_maps(batch),
        )

    def _batch(self, picture: Tensor, expression: str) -> RefBatch:
        size = tuple(picture.shape[-2:])
        nothing = torch.zeros(size, dtype=torch.bool)  # the truth is not known here
        sample = RefSample(picture[None], nothing, expression, "picture", "predict", size, nothing)
        return Collate(self.loaded.tokenizer)([build_transform(self.loaded.image_size)(sample)])

    def _word_maps(self, batch: RefBatch) -> dict[str, Tensor]:
        """Maps of the model, padding cut away, at most ``MAP_SIDE`` pixels large so that a big photo stays cheap."""
        try:
            maps = self.model.word_maps(batch)
        except (AttributeError, RefsegError):  # a model without attention over words
            return {}
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
