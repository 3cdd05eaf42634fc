"""J-HMDB-Sentences: for testing only, with networks trained on A2D-Sentences.

    ROOT/jhmdb_annotation.txt                             video_id,query
    ROOT/jhmdb_sentences_samples_metadata.json            the three frames per video that published numbers are about
    ROOT/Rename_Images/ACTION/VIDEO/00001.png             320 x 240
    ROOT/puppet_mask/ACTION/VIDEO/puppet_mask.mat         part_mask (H,W,T): the one person of the clip

Sources: Jhuang et al., ICCV 2013 (clips and masks), Gavrilyuk et al., CVPR 2018 (sentences), mttr2021/MTTR (the list
of frames, drawn at random once and committed there; no other choice gives comparable numbers).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.datasets.a2d_files import read_rows
from refseg.datasets.base import MissingFile
from refseg.datasets.clip_files import Clip, plain_name
from refseg.datasets.clips import ClipDataset, ClipRow
from refseg.datasets.images import MAX_PIXELS
from refseg.errors import RefsegError, require
from refseg.files import read_json
from refseg.types import RefSample

_PREFIX = "./jhmdb_sentences/"  # MTTR's paths begin in the folder above
MTTR_LIST = "jhmdb_sentences_samples_metadata.json"
MAX_FRAMES = 10_000  # of one puppet_mask.mat; J-HMDB's clips have 40 at most


class JHMDBDataset(ClipDataset):
    """J-HMDB-Sentences; one sample per frame of MTTR's list, in its order, with the expressions of the official text.

    Building it reads the two texts; clips and masks are opened by ``[index]`` only. Where a clip has more frames than
    masks the frames after the last mask are not used, as in MTTR. A mask may have no pixel: the person has left the
    image.

    Args: as for ``ClipDataset``, and
        split: "test"; there is no other.
        image_root: the folder ``Rename_Images``, if it is not in ``root``.
        sample_list: MTTR's list, if it is not in ``root``.
    """

    annotation_file = "jhmdb_annotation.txt"

    def _read(self, image_root: Path | None, sample_list: str | Path | None, objects: bool) -> None:
        self.image_root = image_root or self.root / "Rename_Images"
        self.sentences = self._sentences()
        self._action: dict[str, str] = {}
        self.mask_counts: dict[str, int] = {}  # frames of each clip with a mask, as the list says
        path = Path(sample_list) if sample_list is not None else self.root / MTTR_LIST
        self._take(self._listed(path), path)

    def _sentences(self) -> dict[str, str]:
        """Video -> sentence."""
        path = self.root / self.annotation_file
        sentences: dict[str, str] = {}
        for line, (video, text) in read_rows(path, ("video_id", "query")):
            text = " ".join(text.split())
            plain_name(video, f"Line {line} of {path}")
            if video in sentences or not text:
                what = "is a second sentence for" if video in sentences else "has no words for"
                self._wrong(f"Line {line} of {path} {what} {video}: download the file again.")
            sentences.setdefault(video, text)
        return sentences

    def _listed(self, path: Path) -> list[ClipRow]:
        """The samples of MTTR's list: [video, path of a frame, path of the masks, number of frames, query]."""
        if not path.is_file():
            raise RefsegError(f"There is no {path}, the list of frames: `refseg check-data jhmdb` says where it is.")
        content = read_json(path)
        try:
            listed = [
                (str(video), *_frame_of(video, frame, masks), _whole(count), str(query))
                for video, frame, masks, count, query in content
            ]
        except (TypeError, ValueError) as error:
            raise RefsegError(f"{path} is not MTTR's list of samples ({error}): download it again.") from error
        rows = []
        for video, action, frame, count, query in listed:
            if video not in self.sentences or query.lower().split() != self.sentences[video].lower().split():
                official = self.sentences.get(video)
                self._wrong(
                    f"{path} holds {video} with the words {query!r} but {self.annotation_file} has {official!r}: "
                    f"download both again."
                )
                continue
            if self._action.setdefault(video, action) != action or self.mask_counts.setdefault(video, count) != count:
                self._wrong(f"{path} says two different things about the clip {video}: download it again.")
            rows.append(ClipRow(video, frame, 0, self.sentences[video], f"v_{video}_f_{frame}"))
        return rows

    def find_clip(self, video: str) -> Path:
        """See ``ClipDataset.find_clip``."""
        folder = self.image_root / self._action[video] / video
        if not folder.is_dir():
            raise MissingFile(
                f"There is no folder of frames {folder}: give image_root, or run `refseg check-data jhmdb` to see "
                f"where to get it."
            )
        return folder

    def _mask_file(self, video: str) -> Path:
        return self.root / "puppet_mask" / self._action[video] / video / "puppet_mask.mat"

    def _usable(self, clip: Clip, video: str) -> int:
        masks = mask_shape(self._mask_file(video))[2]
        if masks > len(clip):
            raise RefsegError(
                f"The clip {clip.path} has {len(clip)} frames but {masks} masks: frames are missing, download it again."
            )
        return masks

    def _check_mask(self, row: ClipRow, size: tuple[int, int]) -> None:
        path = self._mask_file(row.video)
        height, width, count = mask_shape(path)
        if (height, width) != size:
            raise RefsegError(
                f"{path} has masks of {width} x {height} pixels but the clip's frames are {size[1]} x {size[0]}: put "
                f"the original frames there."
            )
        if count != self.mask_counts[row.video]:
            raise RefsegError(
                f"{path} has {count} masks but the list of samples says {self.mask_counts[row.video]}: download it "
                f"again."
            )

    def _mask(self, row: ClipRow, size: tuple[int, int]) -> Tensor:
        self._check_mask(row, size)
        mask = read_part_mask(self._mask_file(row.video))[:, :, row.frame - 1]
        return torch.from_numpy(np.ascontiguousarray(mask != 0))

    def _annotated(self, sample: RefSample, row: ClipRow) -> RefSample:
        return replace(sample, annotations=replace(sample.annotations, action=self._action[row.video]))


def mask_shape(path: Path) -> tuple[int, int, int]:
    """(H, W, T) of the ``part_mask`` that a puppet_mask.mat declares; the masks themselves are not read.

    Raises:
        RefsegError: the file is missing, no MAT file, lacks part_mask, or declares a size that no clip has.
    """
    scipy_io = _import_scipy_io()
    if not path.is_file():
        raise RefsegError(f"There is no file of masks {path}: run `refseg check-data jhmdb` to see where to get it.")
    try:
        stored = {name: (shape, kind) for name, shape, kind in scipy_io.whosmat(path, appendmat=False)}
        shape, kind = stored.get("part_mask", ((), "nothing"))
        if not re.fullmatch(r"u?int\d+|logical|double|single", kind):
            raise ValueError(f"its part_mask is {kind}")
        shape = (*shape, 1) if len(shape) == 2 else shape  # MATLAB drops a last dimension of 1
        if len(shape) != 3 or not (0 < shape[0] * shape[1] <= MAX_PIXELS // 8 and 0 < shape[2] <= MAX_FRAMES):
            raise ValueError(f"its part_mask is of shape {shape}")
    except Exception as error:  # a damaged file raises nearly anything
        raise _unreadable(path, error) from error
    height, width, count = map(int, shape)
    return height, width, count


def read_part_mask(path: Path) -> np.ndarray:
    """The masks of one clip, [H,W,T], non-zero where the person is.

    Raises:
        RefsegError: see ``mask_shape``; or the numbers are damaged.
    """
    shape = mask_shape(path)
    try:
        content = _import_scipy_io().loadmat(path, appendmat=False, variable_names=["part_mask"])
        return np.asarray(content["part_mask"]).reshape(shape)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RefsegError:
    return RefsegError(f"{path} is not a readable MAT file of masks ({error}): download it again.")


def _import_scipy_io() -> Any:
    return require("scipy.io", "The masks of jhmdb are read by SciPy, which is not installed: pip install scipy.")


def _frame_of(video: Any, frame: Any, masks: Any) -> tuple[str, int]:
    """Action and number of the frame, from MTTR's two paths.

    Raises:
        ValueError: the paths do not lead to a frame and the masks of this very video.
    """
    folder, *parts = PurePosixPath(str(frame).removeprefix(_PREFIX)).parts
    if folder != "Rename_Images" or len(parts) != 3 or parts[1] != video:
        raise ValueError(f"{frame} is not a frame of {video}")
    action, _, name = parts
    number = re.fullmatch(r"(\d{1,9})\.(?:png|jpg)", name)
    expected = f"puppet_mask/{action}/{video}/puppet_mask.mat"
    if number is None or str(masks).removeprefix(_PREFIX) != expected or plain_name(action, str(frame)) != action:
        raise ValueError(f"{frame} and {masks} are not what {video} has")
    return action, int(number[1])


def _whole(count: Any) -> int:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{count!r} is not a number of frames")
    return count
