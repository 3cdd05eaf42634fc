"""Checkpoints on the Hugging Face hub: the same folder there as here, ``config.json`` and ``model.safetensors``.

huggingface_hub is asked for when one of these is called (``pip install "refseg[hub]"``), not when this is imported.
What comes from the hub is data: loading it runs nobody's code.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from refseg.checkpoint import CONFIG, WEIGHTS, Checkpoint, exists, load_checkpoint, save_checkpoint
from refseg.errors import RefsegError

CARD = "README.md"
_FRONT = """---
library_name: refseg
pipeline_tag: image-segmentation
tags:
- referring-segmentation
---
"""


def save_pretrained(loaded: Checkpoint, folder: Path, card: str = "") -> None:
    """Write a checkpoint as the hub has it, with a model card.

    Args:
        loaded: from ``load_checkpoint``; what is needed to resume its training is left out.
        folder: an older checkpoint in it is replaced when the new one is complete.
        card: Markdown; say what it was trained on, and which weights its backbone began with.

    Raises:
        RefsegError: see ``save_checkpoint``.
    """
    save_checkpoint(folder, loaded)
    try:
        (Path(folder) / CARD).write_text(f"{_FRONT}{card or '# ' + Path(folder).name}\n", encoding="utf-8")
    except OSError as error:
        raise RefsegError(f"{Path(folder) / CARD} could not be written ({error.strerror}).") from error


def from_pretrained(name: str | Path, revision: str | None = None, device: str | torch.device = "cpu") -> Checkpoint:
    """A checkpoint from a folder or, if there is none, from the hub, which is asked once and then kept in its cache.

    Args:
        name: a folder, or "owner/repository".
        revision: branch, tag or commit on the hub; a commit is the only one that stays what it is.

    Raises:
        RefsegError: neither is there, no network, huggingface_hub is missing, or see ``load_checkpoint``.
    """
    if exists(Path(name)):
        return load_checkpoint(Path(name), device)
    hub = _hub()
    try:
        folder = hub.snapshot_download(str(name), revision=revision, allow_patterns=[CONFIG, WEIGHTS])
    except Exception as error:  # whatever the hub or the network have to say
        raise RefsegError(
            f"{name} is no folder with a checkpoint and could not be had from the Hugging Face hub "
            f"({_first_line(error)})."
        ) from error
    return load_checkpoint(Path(folder), device)


def push_to_hub(folder: Path, repository: str, private: bool = True, token: str | None = None) -> str:
    """Upload a checkpoint: config, weights and model card, nothing else that lies in its folder.

    Args:
        folder: as ``save_pretrained`` or a training leaves it.
        repository: "owner/name"; made if it is not there.
        private: of a new repository: only its owner sees it. Published weights cannot be called back.
        token: default is the one that ``hf auth login`` has stored.

    Returns:
        The address of the repository.

    Raises:
        RefsegError: no checkpoint there, huggingface_hub is missing, or the hub or the network refuse.
    """
    load_checkpoint(Path(folder))  # nothing damaged goes out
    api = _hub().HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=[CONFIG, WEIGHTS, CARD], commit_message="refseg"
        )
    except Exception as error:  # as above
        raise RefsegError(f"{folder} could not be uploaded to {repository} ({_first_line(error)}).") from error
    return str(address)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise RefsegError('The hub needs huggingface_hub: pip install "refseg[hub]" brings it.') from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
