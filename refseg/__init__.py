"""refseg: learn, explore and reproduce referring segmentation.

Given an image or a clip and an expression ("the woman left of the red car"), find the pixels that it refers to.

>>> import refseg
>>> found = refseg.load("cmsa_refshapes").predict(photo, "the red star")
>>> found.pred_mask.shape == found.image.shape[1:]
True

``import refseg`` costs nothing: the names below are loaded when they are first used. The map of the package is in
CONTRIBUTING.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from refseg.datasets import build_dataset
    from refseg.errors import RefsegError
    from refseg.models import build_model
    from refseg.predict import Predictor
    from refseg.training.experiment import Experiment
    from refseg.training.presets import PRESETS

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "Predictor",
    "RefsegError",
    "__version__",
    "build_dataset",
    "build_model",
    "evaluate",
    "load",
    "train",
]

_HOMES = {
    "PRESETS": "refseg.training.presets",
    "Predictor": "refseg.predict",
    "RefsegError": "refseg.errors",
    "build_dataset": "refseg.datasets",
    "build_model": "refseg.models",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'refseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(checkpoint: str | Path, device: str | None = None) -> Predictor:
    """A trained network, ready to find things in images.

    >>> network = refseg.load("cmsa_refshapes", device="cpu")
    >>> found = network.predict(photo, "the red star")
    >>> found.words
    ['the', 'red', 'star']

    Args:
        checkpoint: the name of one shipped with refseg, a folder, or "owner/repository" on the Hugging Face hub.
        device: by default, as for "auto", a GPU if there is one; else "cpu", "cuda:1", ...

    Raises:
        RefsegError: there is no such checkpoint; the message lists those shipped with refseg.
    """
    from refseg.predict import Predictor

    return Predictor(checkpoint, device)


def evaluate(checkpoint: str | Path, data: str = "refshapes", split: str = "val", **options: Any) -> dict[str, Any]:
    """oIoU, mIoU and P@K of a checkpoint on a split of a data set.

    >>> scores = refseg.evaluate("cmsa_refshapes", "refshapes", "val", device="cpu", progress=False)
    >>> sorted(scores)[:2], 0 <= scores["mIoU"] <= 1
    (['N', 'P@0.5'], True)

    Args:
        checkpoint: as for :func:`load`.
        data, split: the message for a wrong name lists the right ones.
        options: see ``refseg.evaluation.evaluate.evaluate_checkpoint``, for instance ``protocols=["lavt480"]``.

    Raises:
        RefsegError: no such checkpoint, data set or split, or a file of the data set is missing.
    """
    from refseg.evaluation.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(checkpoint, data, split, **options)


def train(experiment: str | Experiment, out: str | Path | None = None, device: str = "auto") -> Path:
    """Train a network, or continue the training in ``out``; returns the folder of the best checkpoint.

    >>> from refseg.training.experiment import variant
    >>> short = variant(refseg.PRESETS["cmsa_refshapes"], optim={"steps": 1, "batch_size": 2})
    >>> best = refseg.train(short, out="runs/short", device="cpu")
    >>> best.name
    'best'

    Args:
        experiment: the name of a preset, or an experiment made from one.
        out: folder for the log and the checkpoints; default ``runs/PRESET``.
        device: "auto" takes a GPU if there is one; "cpu".

    Raises:
        RefsegError: there is no such preset, or see ``refseg.training.loop.train``.
    """
    from pathlib import Path

    from refseg.errors import RefsegError
    from refseg.paths import runs_dir
    from refseg.training.loop import train
    from refseg.training.presets import find_preset

    if isinstance(experiment, str):
        out, experiment = out or runs_dir() / experiment, find_preset(experiment)
    if out is None:
        raise RefsegError("An experiment of your own has no name yet: say where it goes, train(experiment, out=...).")
    return train(experiment, Path(out), device=device)
