"""Checkpoints by name, and on the Hugging Face hub: the same folder there as here, config.json and model.safetensors.

huggingface_hub is imported only when the hub is asked (``pip install "refseg[hub]"``). What comes from the hub is data
and is loaded without running code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from refseg.checkpoint import CARD, CONFIG, WEIGHTS, Checkpoint, exists, load_checkpoint, save_checkpoint
from refseg.errors import RefsegError, first_line, require
from refseg.paths import shipped, shipped_names

_FRONT = """---
library_name: refseg
pipeline_tag: image-segmentation
tags:
- referring-segmentation
---
"""


def save_pretrained(loaded: Checkpoint, folder: Path, card: str = "") -> None:
    """Write a checkpoint with a model card, as the hub expects it.

    Args:
        loaded: from ``load_checkpoint``; the state needed to resume its training is left out.
        folder: an older checkpoint in it is replaced when the new one is complete.
        card: Markdown; say what it was trained on, and with which weights its backbone began.

    Raises:
        RefsegError: see ``save_checkpoint``.
    """
    save_checkpoint(folder, loaded, card=f"{_FRONT}{card or '# ' + Path(folder).name}\n")


def locate(name: str | Path) -> Path | None:
    """The folder of a checkpoint on this machine: ``name`` itself, else the shipped one of that name, else None."""
    return next((folder for folder in (Path(name), shipped(str(name))) if exists(folder)), None)


def from_pretrained(name: str | Path, revision: str | None = None, device: str | torch.device = "cpu") -> Checkpoint:
    """A checkpoint by its folder, by the name of a shipped one, or from the hub, whose files are kept in its cache.

    Args:
        name: a folder; else a name such as "cmsa_refshapes"; else "owner/repository" on the hub.
        revision: branch, tag or commit on the hub; only a commit always stays the same.

    Raises:
        RefsegError: nothing has that name, there is no network, huggingface_hub is missing, or see ``load_checkpoint``.
    """
    if (folder := locate(name)) is not None:
        return load_checkpoint(folder, device)
    missing = (
        f"There is no checkpoint in {name}: name a folder with {CONFIG} and {WEIGHTS}, one shipped with refseg "
        f"({', '.join(shipped_names())}), or owner/repository on the Hugging Face hub"
    )
    if os.path.exists(name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise RefsegError(f"{missing}.")
    try:
        folder = _hub().snapshot_download(str(name), revision=revision, allow_patterns=[CONFIG, WEIGHTS])
    except Exception as error:  # the hub and the network raise many kinds
        raise RefsegError(f"{missing} (which could not be loaded: {first_line(error)}).") from error
    return load_checkpoint(Path(folder), device)


def push_to_hub(folder: Path, repository: str, private: bool = True, token: str | None = None) -> str:
    """Upload a checkpoint: config, weights and model card, nothing else in its folder.

    Args:
        folder: as ``save_pretrained`` or a training leaves it.
        repository: "owner/name"; created if it does not exist.
        private: of a new repository: only its owner sees it. Published weights cannot be taken back.
        token: default is the one that ``hf auth login`` has stored.

    Returns:
        The address of the repository.

    Raises:
        RefsegError: there is no checkpoint, huggingface_hub is missing, or the hub or the network refuse.
    """
    load_checkpoint(Path(folder))  # nothing damaged is published
    api = _hub().HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=[CONFIG, WEIGHTS, CARD], commit_message="refseg"
        )
    except Exception as error:  # as in from_pretrained
        raise RefsegError(f"{folder} could not be uploaded to {repository} ({first_line(error)}).") from error
    return str(address)


def _hub() -> Any:
    return require("huggingface_hub", 'The hub needs huggingface_hub: pip install "refseg[hub]".')
