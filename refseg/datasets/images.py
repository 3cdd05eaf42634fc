"""Reading an image from disk: whatever mode it is stored in, three 8-bit channels or one clear error message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from refseg.errors import RefsegError

# 8000 x 6000 passes. Below the 89 million at which Pillow itself starts to warn of decompression bombs.
MAX_PIXELS = 80_000_000

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


def read_image(path: str | Path, *, upright: bool = False) -> Tensor:
    """The image in ``path`` as RGB, uint8 [3,H,W] in 0..255; of an animation the first frame.

    Transparent pixels are laid over white, as a browser shows them. 16-bit greyscale is scaled to 8 bits.

    Args:
        path: any format that Pillow reads.
        upright: turn the image as its EXIF orientation says. True is right for a user's photo. False, the default,
            is right for annotated data: the masks of COCO and ReferIt count the pixels as they are stored.

    Raises:
        RefsegError: no file there, no readable image in it, or more than ``MAX_PIXELS`` pixels.
    """
    with _opened(Path(path), path) as image:
        return _pixels(ImageOps.exif_transpose(image) if upright else image, path)


def to_image(image: ImageLike) -> Tensor:
    """An image that a person hands in, as [3,H,W] uint8.

    Args:
        image: a file, read upright; a PIL image, likewise; an array [H,W,3], [H,W,4] or [H,W] uint8; or a tensor
            [3,H,W] uint8.

    Raises:
        RefsegError: no image, or none of 8 bits.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, upright=True)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise RefsegError(f"The image is {image.dtype} of shape {tuple(image.shape)}: give [3,H,W] uint8, 0..255.")
        return image.cpu()
    if isinstance(image, np.ndarray):
        known = image.ndim == 2 or image.ndim == 3 and image.shape[2] in (3, 4)
        if image.dtype != np.uint8 or not image.size or not known:
            raise RefsegError(
                f"The image is an array of {image.dtype} of shape {image.shape}: give [H,W,3], [H,W,4] or [H,W] uint8."
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise RefsegError(
            f"An image cannot be a {type(image).__name__}: give a file, a PIL image, an array or a tensor."
        )
    try:
        return _pixels(ImageOps.exif_transpose(image), "The image")
    except OSError as error:  # Pillow reads a file only now
        raise RefsegError(f"The image is not readable ({error}): it may be cut short, so download it again.") from error


def decode_image(data: bytes, name: str) -> Tensor:
    """As ``read_image``, of an image whose bytes are in memory already; ``name`` begins the message of an error."""
    with _opened(BytesIO(data), name) as image:
        return _pixels(image, name)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) as the image's header says; no pixel is decoded.

    Raises:
        RefsegError: as ``read_image``, for what the header shows.
    """
    with _opened(Path(path), path) as image:
        return image.height, image.width


@contextmanager
def _opened(source: Path | BytesIO, path: str | Path) -> Iterator[Image.Image]:
    """The image, opened by Pillow; whatever goes wrong with it inside becomes one message about ``path``."""
    if isinstance(source, Path) and not source.is_file():
        raise RefsegError(f"There is no image at {path}: check the path or put the file there.")
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except RefsegError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        many = MAX_PIXELS // 1_000_000
        raise RefsegError(f"{path} has more than {many} million pixels: scale it down before using it.") from error
    except Exception as error:  # a decoder fed with broken bytes raises nearly anything: OSError, SyntaxError, ...
        raise RefsegError(
            f"{path} is not a readable image ({error}): it may be cut short or of another format, so download it again "
            f"or save it as PNG or JPEG."
        ) from error


def _pixels(image: Image.Image, path: str | Path) -> Tensor:
    """RGB, uint8 [3,H,W]."""
    if image.mode == "F":
        raise RefsegError(f"{path} holds floating point values of unknown range: save it as an 8-bit PNG.")
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion would clip everything above 255 to white
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return F.pil_to_tensor(image.convert("RGB")).contiguous()
