"""A checkpoint is a folder: ``model.safetensors`` and ``config.json``, nothing that could run code.

``config.json`` holds all that is needed to rebuild the model and to feed it: the model's config, the vocabulary, the
size of its input (in pixels, and in frames of a clip), and for the record the experiment and its results. A checkpoint
of a run that can be resumed also has ``training.pt`` (optimiser, random state), which only training reads.

Writing is all or nothing: a kill or a full disk leaves the old checkpoint as it was.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refseg import __version__
from refseg.errors import RefsegError
from refseg.files import filled, last_complete, refuse_others
from refseg.models import build_model
from refseg.models.base import ReferringModel
from refseg.models.serialise import config_from_dict, config_to_dict
from refseg.tokenizer import TOKENIZERS, WordVocabulary

FORMAT = 1
WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.pt"
OLD_TRAINING = "training.safetensors"  # of runs that began before there was training.pt
CARD = "README.md"
# What a checkpoint's folder may hold: these, and beside shipped ones ``hidden_words.HEADS`` and a score of their maps.
OURS = (CONFIG, WEIGHTS, TRAINING, OLD_TRAINING, "heads.safetensors", "pointing.json")
# How torch.load reports a damaged file.
UNREADABLE = OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError


@dataclass
class Checkpoint:
    """A checkpoint in memory: a model, and how it is fed."""

    model: ReferringModel  # in eval mode when it was loaded
    tokenizer: WordVocabulary
    image_size: int  # pixels, of the side of the square that images are letterboxed to
    config: dict[str, Any] = field(default_factory=dict)  # config.json as stored
    num_frames: int = 1  # the window of frames that the model sees, and how far apart they are, see ``A2DDataset``
    frame_stride: int = 1

    @property
    def record(self) -> dict[str, Any]:
        """Facts for the reader: experiment, progress, results."""
        return self.config.get("record", {})

    @property
    def experiment(self) -> dict[str, Any]:
        """What it was trained with, as the record says; {} if it does not."""
        experiment = self.record.get("experiment")
        return experiment if isinstance(experiment, dict) else {}


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    record: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    card: str = "",
) -> None:
    """Write a checkpoint; an older one in ``folder`` is replaced only when the new one is complete.

    Args:
        folder: made if it is missing; it may hold a checkpoint and nothing else.
        checkpoint: what to write.
        record: JSON-able facts for the reader; default is the record that the checkpoint was loaded with.
        training: what ``load_training`` is to return, of tensors, numbers, lists and dicts; without it the checkpoint
            cannot be resumed.
        card: a text for README.md; an older one is replaced too.

    Raises:
        RefsegError: ``folder`` holds something else, or the disk is full or not writable; the old checkpoint is still
            there.
    """
    config = {
        "format": FORMAT,
        "refseg": __version__,
        "model": config_to_dict(checkpoint.model.config),
        "tokenizer": type(checkpoint.tokenizer).__name__,
        "vocabulary": checkpoint.tokenizer.vocabulary,
        "max_words": checkpoint.tokenizer.max_words,
        "image_size": checkpoint.image_size,
        "num_frames": checkpoint.num_frames,
        "frame_stride": checkpoint.frame_stride,
        "record": checkpoint.record if record is None else record,
    }
    # safetensors refuses shared and strided memory
    weights = {name: x.detach().cpu().contiguous().clone() for name, x in checkpoint.model.state_dict().items()}
    ours = (*OURS, CARD) if card else OURS
    refuse_other_folder(folder, ours)
    with filled(folder, older=ours) as partial:
        try:
            save_file(weights, partial / WEIGHTS)
            if training is not None:
                torch.save(training, partial / TRAINING)
        except (SafetensorError, RuntimeError) as error:  # how the two libraries report a full disk
            raise OSError(None, str(error).splitlines()[0]) from error
        if card:
            (partial / CARD).write_text(card, encoding="utf-8")
        (partial / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def refuse_other_folder(folder: Path, ours: Sequence[str] = OURS) -> None:
    """Make sure that ``folder`` is not there, empty, or holds a checkpoint and nothing else.

    Raises:
        RefsegError: it holds anything else, or the config in it is not that of a checkpoint.
    """
    refuse_others(Path(folder), ours)
    if exists(folder):
        _read_config(last_complete(Path(folder)))


def exists(folder: Path) -> bool:
    """True if ``folder`` holds a complete checkpoint, or a kill in the middle of a replacement left one beside it."""
    try:
        return (last_complete(Path(folder)) / CONFIG).is_file()
    except (OSError, ValueError):  # what cannot be the name of a folder
        return False


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Rebuild the model of a checkpoint and load its weights.

    Raises:
        RefsegError: no checkpoint there, written by a newer version, damaged, or weights of another config.
    """
    folder = last_complete(Path(folder))
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
    window = config["num_frames"], config["frame_stride"]
    return Checkpoint(model.to(device).eval(), tokenizer, config["image_size"], config, *window)


def load_training(folder: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` was given as ``training``, on the CPU; None if there is nothing.

    The file is a pickle, so it is read with ``weights_only``: what it names is looked up in a short list of torch's
    own, and nothing in it runs.

    Raises:
        RefsegError: the file is damaged, or holds something else.
    """
    folder = last_complete(Path(folder))
    if not (folder / TRAINING).is_file():
        return _nested(_read_tensors(folder / OLD_TRAINING)) if (folder / OLD_TRAINING).is_file() else None
    try:
        training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _damaged(folder / TRAINING, str(error).partition("\n")[0]) from error
    if not isinstance(training, dict):
        raise _damaged(folder / TRAINING, f"it holds a {type(training).__name__}")
    return training


def _nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The training state of older runs: tensors named "optimizer.3.exp_avg", "objective.NAME", ..., no empty parts."""
    training: dict[str, Any] = {"objective": {}, "average": {}}
    for name, tensor in tensors.items():
        part, _, inner = name.partition(".")
        if part == "optimizer":
            index, _, entry = inner.partition(".")
            training.setdefault(part, {}).setdefault(int(index), {})[entry] = tensor
        else:
            training.setdefault(part, {})[inner] = tensor
    return training


def init_from(model: nn.Module, tokenizer: WordVocabulary, folder: Path, parts: Collection[str] = ()) -> list[str]:
    """Give ``model`` the weights of another checkpoint wherever name and shape agree; words keep their vectors by name.

    Args:
        model: changed in place, e.g. a network for video that begins with one trained on images.
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
        raise _damaged(folder / CONFIG, str(error)) from error
    if not isinstance(config, dict) or "format" not in config:
        raise RefsegError(f"{folder / CONFIG} is not the config of a refseg checkpoint: name another folder.")
    if config["format"] != FORMAT:  # before the other fields, because another format may have others
        raise RefsegError(
            f"{folder} has checkpoint format {config['format']}, this refseg {__version__} reads format {FORMAT}: "
            "install the version that wrote it."
        )
    config = _OLDER | config
    for name, is_valid in _FIELDS.items():
        if not is_valid(config.get(name)):
            raise _damaged(folder / CONFIG, f"its field {name!r}")
    return config


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


# Defaults for checkpoints older than the field.
_OLDER = {"tokenizer": WordVocabulary.__name__, "num_frames": 1, "frame_stride": 1}
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
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> RefsegError:
    return RefsegError(f"{path} is damaged ({why}): copy the checkpoint again.")
