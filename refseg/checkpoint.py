"""A checkpoint is a folder: ``model.safetensors`` and ``config.json``, nothing that could run code.

``config.json`` holds all that is needed to rebuild the model and to feed it: the model's config, the vocabulary, the
size of its input (in pixels, and in frames of a clip), and for the record the experiment and its results. A checkpoint
of a run that can be resumed has ``training.safetensors`` (optimiser, random state) beside it.

Writing is all or nothing. The new folder is completed under another name and then takes the place of the old one, so
a kill or a full disk leaves the old checkpoint as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refseg import __version__
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.tokenizer import TOKENIZERS, WordVocabulary

FORMAT = 1
WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.safetensors"


@dataclass
class Checkpoint:
    """A checkpoint in memory."""

    model: nn.Module  # in eval mode
    tokenizer: WordVocabulary
    image_size: int
    config: dict[str, Any]  # config.json as stored
    training: dict[str, Tensor] | None = None  # what save_checkpoint was given as ``training``
    num_frames: int = 1  # of the clips it was trained on, and how far apart the frames were
    frame_stride: int = 1


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    tokenizer: WordVocabulary,
    image_size: int,
    *,
    num_frames: int = 1,
    frame_stride: int = 1,
    record: dict[str, Any] | None = None,
    training: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; an older one in ``folder`` is replaced only when the new one is complete.

    Args:
        image_size: pixels, of the side of the square that pictures are letterboxed to.
        num_frames, frame_stride: the window of frames that the model is to be fed with, see ``A2DDataset``.
        record: JSON-able facts for the reader (experiment, results, step), stored under "record".
        training: named tensors needed to resume.

    Raises:
        RefsegError: the disk is full or not writable; the old checkpoint is still there.
    """
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "refseg": __version__,
        "model": config_to_dict(model.config),
        "tokenizer": type(tokenizer).__name__,
        "vocabulary": tokenizer.vocabulary,
        "max_words": tokenizer.max_words,
        "image_size": image_size,
        "num_frames": num_frames,
        "frame_stride": frame_stride,
        "record": record or {},
    }
    partial, previous = _beside(folder, "partial"), _beside(folder, "previous")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_plain(model.state_dict()), partial / WEIGHTS)
        if training is not None:
            save_file(_plain(training), partial / TRAINING)
        (partial / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        if folder.exists():  # else what is in ``previous`` is the last complete one, left there by a kill
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        partial.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RefsegError(
            f"The checkpoint {folder} could not be written ({error}): make room on the disk or name another "
            "folder; the last complete checkpoint is unharmed."
        ) from error


def exists(folder: Path) -> bool:
    """True if ``folder`` holds a complete checkpoint, or a kill in the middle of a replacement left one beside it."""
    return (_whole(Path(folder)) / CONFIG).is_file()


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Rebuild the model of a checkpoint and load its weights.

    Raises:
        RefsegError: no checkpoint there, written by a newer version, damaged, or weights of another config.
    """
    folder = _whole(Path(folder))
    config = _read_config(folder)
    try:
        tokenizer = TOKENIZERS[config["tokenizer"]](config["vocabulary"], config["max_words"])
        model = build_model(config_from_dict(config["model"]), len(tokenizer), fetch_weights=False)
    except RefsegError as error:
        raise RefsegError(f"{folder / CONFIG} cannot be used. {error}") from error
    weights = _read_tensors(folder / WEIGHTS)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise RefsegError(
            f"The weights in {folder / WEIGHTS} do not fit the config beside them ({problem}): "
            f"the two files come from different checkpoints; copy the whole folder again."
        ) from error
    training = _read_tensors(folder / TRAINING) if (folder / TRAINING).is_file() else None
    window = config["num_frames"], config["frame_stride"]
    return Checkpoint(model.to(device).eval(), tokenizer, config["image_size"], config, training, *window)


def begin_with(model: nn.Module, tokenizer: WordVocabulary, folder: Path, parts: Collection[str] = ()) -> list[str]:
    """Give ``model`` the weights of another checkpoint wherever name and shape agree; words keep their vectors by name.

    Args:
        model: changed in place, e.g. a network for video that begins with one trained on pictures.
        tokenizer: of ``model``.
        folder: the other checkpoint.
        parts: only these parts of ``model``, e.g. ("backbone",); empty means all.

    Returns:
        The names that keep their fresh weights.

    Raises:
        RefsegError: see ``load_checkpoint``, or nothing in it fits.
    """
    given = load_checkpoint(folder)
    weights, own = given.model.state_dict(), model.state_dict()
    wanted = {name for name in own.keys() & weights.keys() if not parts or name.partition(".")[0] in parts}
    tables = wanted & _word_tables(model, len(tokenizer)) & _word_tables(given.model, len(given.tokenizer))
    same = {name for name in wanted - tables if own[name].shape == weights[name].shape}
    if not same:
        which = f"the {' and '.join(parts)} of this model" if parts else "this model"
        raise RefsegError(f"No weight of {folder} fits {which}: begin with the checkpoint of one of the same parts.")
    shared = [
        (own_id, given.tokenizer.ids[word]) for word, own_id in tokenizer.ids.items() if word in given.tokenizer.ids
    ]
    own_ids, given_ids = map(list, zip(*shared))
    with torch.no_grad():
        for name in same:
            own[name].copy_(weights[name])
        for name in tables:
            own[name][own_ids] = weights[name][given_ids]
    return sorted(own.keys() - same - tables)


def _word_tables(model: nn.Module, words: int) -> set[str]:
    """The names of the weights with one row per word."""
    tables = {name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    return {f"{name}.weight" for name, table in tables.items() if table.num_embeddings == words}


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise RefsegError(
            f"There is no checkpoint in {folder}: a checkpoint is a folder with {CONFIG} and {WEIGHTS} in it."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RefsegError(f"{folder / CONFIG} is damaged ({error}): copy the checkpoint again.") from error
    if not isinstance(config, dict) or "format" not in config:
        raise RefsegError(f"{folder / CONFIG} is not the config of a refseg checkpoint: name another folder.")
    if config["format"] != FORMAT:  # before the other fields, because another format may have others
        raise RefsegError(
            f"{folder} has checkpoint format {config['format']}, this refseg {__version__} reads format {FORMAT}: "
            "install the version that wrote it."
        )
    config = _OF_THE_FIRST | config
    for field, sound in _FIELDS.items():
        if not sound(config.get(field)):
            raise RefsegError(f"{folder / CONFIG} is damaged (its field {field!r}): copy the checkpoint again.")
    return config


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


# What checkpoints that are older than the field mean: they knew no other.
_OF_THE_FIRST = {"tokenizer": WordVocabulary.__name__, "num_frames": 1, "frame_stride": 1}
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict),
    "tokenizer": lambda value: isinstance(value, str) and value in TOKENIZERS,
    "vocabulary": lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    "max_words": _is_count,
    "image_size": _is_count,
    "num_frames": lambda value: _is_count(value) and value % 2 == 1,
    "frame_stride": _is_count,
    "record": lambda value: isinstance(value, dict),
}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RefsegError(f"{path} is missing: copy the whole checkpoint folder again.") from None
    except (OSError, SafetensorError) as error:
        raise RefsegError(f"{path} is damaged ({error}): copy the checkpoint again.") from error


def _whole(folder: Path) -> Path:
    """``folder``, or what a kill between the two renames of save_checkpoint left in its place."""
    previous = _beside(folder, "previous")
    return previous if not folder.exists() and previous.exists() else folder


def _beside(folder: Path, suffix: str) -> Path:
    return folder.parent / f"{folder.name}.{suffix}"  # with_name would not take Path(".")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the usual memory layout: safetensors refuses shared and strided memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
