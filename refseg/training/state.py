"""What a run needs to continue: its state in ``last/``, written and read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refseg import checkpoint
from refseg.checkpoint import Checkpoint
from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.models.serialise import TYPE, config_from_dict, config_to_dict
from refseg.tokenizer import WordVocabulary
from refseg.training import sharding
from refseg.training.build import Learner
from refseg.training.experiment import Experiment, first_difference

MAY_CHANGE = ("root", "workers", "skip_unreadable")  # fields of DataConfig that decide nothing about what is learned


@dataclass
class Progress:
    """Where a run stands; stored in ``last/`` beside the weights."""

    step: int = 0  # updates done
    seconds: float = 0.0  # spent so far, validation included, all sittings together
    best: float = -1.0  # highest validation mIoU
    unreadable: int = 0  # samples that could not be read and were left out, counted each time


@dataclass
class RunState:
    """All that changes in a run, and how it is stored."""

    experiment: Experiment
    tokenizer: WordVocabulary
    learner: Learner
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None  # the exponential moving average of the model's weights, if asked for
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self):
        if decay := self.experiment.optim.ema:
            self.average = AveragedModel(self.learner.model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def save(
        self, folder: Path, network: ReferringModel, results: dict[str, Any], training: dict[str, Any] | None = None
    ) -> None:
        """Write ``network`` with the record of this run. It must be undivided, so it may not be the learner's own."""
        record = {
            "experiment": config_to_dict(self.experiment),
            "progress": asdict(self.progress),
            "results": results,
        }
        data = self.experiment.data
        stored = Checkpoint(
            network, self.tokenizer, data.image_size, num_frames=data.num_frames, frame_stride=data.frame_stride
        )
        checkpoint.save_checkpoint(folder, stored, record=record, training=training)

    def training(self) -> dict[str, Any]:
        """Optimiser, heads of the objective, averaged weights and random state. All processes must call it."""
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        states = self.optimizer.state_dict()["state"]
        names = parameter_names(self.learner, self.optimizer)
        return {
            "objective": sharding.whole(self.learner.objective.state_dict()),
            "optimizer": {names[index]: sharding.whole(state) for index, state in states.items()},
            "average": sharding.whole(self.average.state_dict()) if self.average is not None else {},
            "random": random,
        }

    def resume(self, folder: Path) -> None:
        """Load ``folder`` into learner, optimiser, average and progress if it is there; else all stays as it is.

        Raises:
            RefsegError: the folder, or best/ beside it, is another run's, holds other files, or cannot be trained on.
        """
        best = folder.with_name("best")
        for place in (folder, best):
            checkpoint.refuse_other_folder(place)
        if not checkpoint.exists(folder):
            if checkpoint.exists(best):
                with torch.random.fork_rng(devices=[]):  # building a network draws numbers, which are those of training
                    self._check_unsaved(best, checkpoint.load_checkpoint(best))
            return
        loaded, training = checkpoint.load_checkpoint(folder), checkpoint.load_training(folder)
        if training is None:
            raise RefsegError(f"{folder} is a checkpoint that cannot be trained on: name another folder with --out.")
        if missing := {"objective", "optimizer", "average", "random"} - training.keys():
            raise RefsegError(f"{folder} is damaged: its training state lacks {min(missing)}. Copy the run again.")
        progress = self._check_experiment(folder, loaded)
        self.learner.model.load_state_dict(loaded.model.state_dict())
        self.learner.objective.load_state_dict(training["objective"])
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        self._load_optimizer(training["optimizer"])
        torch.set_rng_state(training["random"]["cpu"])
        if "cuda" in training["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(training["random"]["cuda"])
        self.progress = progress

    def _load_optimizer(self, states: dict[Any, Any]) -> None:
        """States by the names of their parameters; older runs have them by number."""
        names = parameter_names(self.learner, self.optimizer)
        if any(isinstance(key, int) for key in states):
            older = parameter_names(self.learner, self.optimizer, older=True)
            states = {older[number]: state for number, state in states.items()}
        numbered = {number: states[name] for number, name in enumerate(names) if name in states}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": numbered})

    def _check_unsaved(self, best: Path, loaded: Checkpoint) -> None:
        """Without last/ a run may begin again only if the one that left ``best`` was killed before it wrote last/."""
        if self._check_experiment(best, loaded).step > self.experiment.optim.save_every:
            raise RefsegError(
                f"{best} is of a run whose last/ is gone, and a new one would replace it: name another folder with "
                f"--out, or remove it."
            )

    def _check_experiment(self, folder: Path, loaded: Checkpoint) -> Progress:
        """Where the run that left ``folder`` stands.

        Raises:
            RefsegError: it is not of this experiment, or its record is damaged.
        """
        if not loaded.record.keys() >= {"experiment", "progress"}:
            raise RefsegError(f"{folder} is a checkpoint that cannot be trained on: name another folder with --out.")
        try:
            record = {TYPE: Experiment.__name__, **loaded.record["experiment"]}
            stored = config_from_dict(record, f"The experiment in {folder}")
            progress = Progress(
                **{"unreadable" if n == "broken" else n: x for n, x in loaded.record["progress"].items()}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RefsegError(
                f"{folder} holds another experiment, or its record is damaged ({error}): name another folder with "
                f"--out, or remove it."
            ) from error
        free = {name: getattr(self.experiment.data, name) for name in MAY_CHANGE}
        stored = replace(stored, data=replace(stored.data, **free))
        changed = None
        if stored != self.experiment:
            changed = first_difference(stored, self.experiment)
        elif loaded.tokenizer.words != self.tokenizer.words:
            changed = "the words of the training set were others"
        if changed:
            raise RefsegError(
                f"{folder.parent} holds another experiment ({changed}): name another folder with --out, or remove it."
            )
        return progress


def parameter_names(learner: Learner, optimizer: torch.optim.Optimizer, older: bool = False) -> list[str]:
    """The names of the optimiser's parameters, in its order, or in that of runs older than the list of terms.

    There an objective's own parameters, now for instance "objective.terms.2.log_temperature", came before its layers'.
    """
    name_of = {id(parameter): name for name, parameter in learner.named_parameters()}
    groups = [[name_of[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    if older:
        groups = [sorted(g, key=lambda n: n.startswith("objective.") and 1 + (n.count(".") > 3)) for g in groups]
    return [name for group in groups for name in group]
