"""Clips: frames one at a time from a folder of images or a video file.

Only the frames that are asked for are decoded and none is kept, so a clip may be of any length:

    with open_clip("walk.mp4") as clip:
        print(len(clip), clip.size)
        for frame in clip:  # uint8 [3,H,W]
            ...

Video files are read by PyAV, an optional package; a folder of images needs only Pillow.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg.datasets.ends_early import ends_early
from refseg.datasets.images import MAX_PIXELS, image_size, read_image
from refseg.errors import RefsegError, require
from refseg.files import leads_out
from refseg.types import size_of

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".m4v", ".mkv", ".webm")
_CUT_SHORT = "{} is cut short, as if its transfer had stopped: download it again."


class Clip(ABC):
    """``len(clip)`` frames of one size; use it in a ``with``, which closes the file afterwards."""

    path: Path
    size: tuple[int, int]  # (height, width) of every frame

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def frame(self, index: int) -> Tensor:
        """Frame ``index`` in 0..len-1 as RGB, uint8 [3,H,W]. Going forward is quick, going back may cost a search.

        Raises:
            IndexError: there is no such frame.
            RefsegError: it cannot be decoded or is of another size than the first one.
        """

    def frame_name(self, index: int) -> str:
        """What a file about that frame is called, without its ending: the frame's number from 1 with five digits."""
        return f"{index + 1:05d}"

    def __iter__(self) -> Iterator[Tensor]:
        return (self.frame(index) for index in range(len(self)))

    def check(self) -> None:  # noqa: B027, what can be found out without decoding is mostly found when opening
        """Look at every frame as far as that is possible without decoding it.

        Raises:
            RefsegError: the error that ``frame`` would raise for the first broken one.
        """

    def close(self) -> None:  # noqa: B027, a folder has nothing to close
        """Close the file; the clip cannot be read afterwards."""

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, there is no frame {index} (counted from 0).")

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        if size != self.size:
            raise RefsegError(
                f"Frame {index + 1} of the clip {self.path} is {size[1]} x {size[0]} pixels but the first one is "
                f"{self.size[1]} x {self.size[0]}: download its frames again."
            )


def open_clip(path: str | Path) -> Clip:
    """The clip at ``path``: a folder of numbered images, or a video file (needs PyAV).

    Raises:
        RefsegError: nothing there, frames missing, no readable video, a video cut short, or PyAV not installed.
    """
    path = Path(path)
    if path.is_dir():
        return FolderClip(path)
    if path.is_file():
        return VideoClip(path)
    raise RefsegError(f"There is no clip at {path}: give a video file or a folder of numbered images.")


class FolderClip(Clip):
    """Images whose names end in a number, 00001.png, 00002.png, ..., in the order of these numbers.

    Numbers begin with 1 (or 0) and leave none out. Files whose names begin with a dot, and files that are not
    images, are skipped.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._images = _numbered_images(self.path)
        self.size = image_size(self._images[0])

    def __len__(self) -> int:
        return len(self._images)

    def frame(self, index: int) -> Tensor:
        """See ``Clip.frame``."""
        self._check_index(index)
        image = read_image(self._images[index])
        self._check_size(index, size_of(image))
        return image

    def frame_name(self, index: int) -> str:
        """As the image is called."""
        return self._images[index].stem

    def check(self) -> None:
        """See ``Clip.check``: reads the header of every image."""
        for index, path in enumerate(self._images):
            self._check_size(index, image_size(path))


def _numbered_images(folder: Path) -> list[Path]:
    numbered: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_ENDINGS:
            continue
        digits = re.search(r"\d{1,9}$", path.stem)
        if digits is None:
            raise RefsegError(f"{path} is among the frames of a clip but its name ends in no number: move it away.")
        if int(digits[0]) in numbered:
            both = f"{numbered[int(digits[0])].name} and {path.name}"
            raise RefsegError(f"The clip {folder} has two images of number {int(digits[0])}, {both}: keep one.")
        numbered[int(digits[0])] = path
    if not numbered:
        raise RefsegError(f"The clip {folder} holds no images: download its frames again.")
    first = 0 if 0 in numbered else 1
    missing = max(numbered) - first + 1 - len(numbered)
    if missing:
        hole = next(number for number in range(first, max(numbered)) if number not in numbered)
        raise RefsegError(f"The clip {folder} lacks {missing} frames, the first is number {hole}: download it again.")
    return [numbered[number] for number in sorted(numbered)]


class VideoClip(Clip):
    """A video file, read by PyAV (FFmpeg). Frames are counted as they are shown, rotation flags are not applied.

    Opening reads the whole file once without decoding it, to learn when each frame is shown; a frame is then reached
    from the key frame before it.
    """

    def __init__(self, path: str | Path):
        self._av = require(
            "av",
            "Video files are read by PyAV, which is not installed: run `pip install av`, or extract the frames into a "
            "folder as 00001.png, 00002.png, ...",
        )
        self.path = Path(path).resolve()  # an absolute path is never taken for the address of some protocol
        self._container: Any = None  # PyAV's objects
        self._decoder: Any = None
        if ends_early(self.path):
            raise RefsegError(_CUT_SHORT.format(self.path))
        try:
            self._open()
            height, width = self._stream.codec_context.height, self._stream.codec_context.width
            if not 0 < height * width <= MAX_PIXELS:
                raise RefsegError(
                    f"{self.path} declares frames of {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} "
                    f"million or none: scale it down before using it."
                )
            self.size = (height, width)
            self._times, self._keys, self._count = self._survey()
            self._open()
        except Exception as error:
            self.close()
            if isinstance(error, RefsegError):
                raise
            raise RefsegError(
                f"{self.path} is not a readable video ({error}): it may be cut short or of another format, so download "
                f"it again."
            ) from error

    def __len__(self) -> int:
        return self._count

    def frame(self, index: int) -> Tensor:
        """See ``Clip.frame``."""
        self._check_index(index)
        try:
            image = self._reach(index)
        except self._av.error.FFmpegError as error:
            self._decoder = None
            raise RefsegError(
                f"Frame {index + 1} of {self.path} is damaged ({error}): download the file again."
            ) from error
        if image is None:
            self._decoder = None
            raise RefsegError(f"Frame {index + 1} of {self.path} cannot be decoded: download the file again.")
        self._check_size(index, (image.height, image.width))
        return torch.from_numpy(image.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()

    def close(self) -> None:
        """See ``Clip.close``."""
        self._decoder = None
        if self._container is not None:
            self._container.close()
        self._container = None

    def _open(self) -> None:
        """At the beginning of the file, whatever was read before.

        Only these formats: FFmpeg would otherwise follow a play list, under whatever name, to other files and hosts.
        """
        self.close()
        options = {"format_whitelist": "mov,avi,matroska", "protocol_whitelist": "file"}
        self._container = self._av.open(str(self.path), options=options)
        if not self._container.streams.video:
            raise RefsegError(f"{self.path} holds no images but only sound or text: give a video.")
        self._stream = self._container.streams.video[0]
        self._decoder, self._next = self._container.decode(self._stream), 0

    def _survey(self) -> tuple[list[int] | None, list[int], int]:
        """When each frame is shown, in order (None where the file does not say), which are key frames, how many."""
        times: list[int] = []
        untimed = False
        keys: list[int] = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:  # the sign for the end; a frame that is decoded but never shown
                continue
            if packet.is_corrupt:
                raise RefsegError(_CUT_SHORT.format(self.path))
            untimed |= packet.pts is None
            times.append(packet.pts or 0)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        if not times:
            raise RefsegError(f"{self.path} holds not a single frame: download it again.")
        if untimed or len(set(times)) < len(times):
            return None, [], len(times)
        times.sort()
        return times, sorted(bisect_right(times, key) - 1 for key in keys), len(times)

    def _reach(self, index: int) -> Any:
        """The decoded frame, or None if the decoder skips it."""
        if self._times is None:
            if self._decoder is None or index < self._next:
                self._open()
            return self._advance(index)
        key = self._keys[max(0, bisect_right(self._keys, index) - 1)] if self._keys else 0
        if self._decoder is None or index < self._next or key > self._next:
            self._container.seek(self._times[key], stream=self._stream)
            self._decoder, self._next = self._container.decode(self._stream), key
        found = self._advance(index)
        if found is None:  # some frames need a key frame farther back
            self._open()
            found = self._advance(index)
        return found

    def _advance(self, index: int) -> Any:
        """Decode until frame ``index`` comes out."""
        for image in self._decoder:
            if self._times is None:
                self._next += 1
                if self._next > index:
                    return image
            elif image.pts is not None and image.pts >= self._times[index]:
                self._next = index + 1
                return image if image.pts == self._times[index] else None
        return None


def plain_name(name: str, where: str) -> str:
    """``name`` if it can be one part of a path and nothing else.

    Raises:
        RefsegError: it is empty, holds a slash, or leads out of its folder.
    """
    if not name or name == "." or leads_out(name) or re.search(r"[/\\]", name) or name != name.strip():
        raise RefsegError(f"{where} names a video {name!r}, which cannot be the name of a folder: download it again.")
    return name
