"""One loop for every model, objective and data set: on a CPU, on one GPU, in many processes.

A run lives in one folder: ``log.jsonl`` (a line per logged step and per validation), ``last/`` (to resume from) and
``best/`` (highest validation mIoU). The batch of a step depends on the seed and the step alone, and ``last/`` holds
optimiser and random state, so a run that was killed resumes to the same weights as one that was not (on CPU).

``accelerate launch`` starts it in many processes, each with its share of every batch; any number of them may resume a
run. What they minimise is the mean of the processes' losses: that of one process where a loss is a mean over samples,
and very nearly so where it is one over pixels (BCE) and images are padded differently. BatchNorm that learns sees a
process' share on a CPU, the whole batch on GPUs. Where parts draw random numbers, each process draws its own.
Launched with ``--use_fsdp`` they divide the weights, see ``sharding``: losses and checkpoints are the same.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm.auto import tqdm

from refseg.errors import RefsegError
from refseg.evaluation.evaluate import evaluate, launched_processes
from refseg.files import alone_in
from refseg.training import sharding
from refseg.training.batches import build_loader
from refseg.training.build import build_data, build_learner
from refseg.training.experiment import Experiment, OptimConfig
from refseg.training.log import Log, UnreadableLog
from refseg.training.state import RunState
from refseg.training.tuning import fit_to_machine
from refseg.types import RefBatch


def train_step(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[RefBatch],
    weights: Mapping[str, float],
    clip_norm: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """One update.

    Args:
        learner: (batch) -> prediction, {name: loss}, see ``Learner``.
        parts: the batch; in several parts of equal size it takes less memory, and their gradients add up to the same.
        weights: of the losses.
        clip_norm: a longer gradient is shortened to this norm.

    Returns:
        The losses, each the mean over the parts, and the norm that the gradient had.
    """
    optimizer.zero_grad()
    found = []
    for part in parts:
        _, losses = learner(part)
        loss = sum((weights[name] * value for name, value in losses.items()), torch.tensor(0.0))
        (loss / len(parts)).backward()
        found.append(torch.stack([value.detach() for value in losses.values()]))
    norm = sharding.full(nn.utils.clip_grad_norm_(learner.parameters(), clip_norm))
    if norm.isfinite():  # else the weights stay as they are, and ``Run.update`` ends the run
        optimizer.step()
    return dict(zip(losses, torch.stack(found).mean(0))), norm


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear warm-up to the peak, then half a cosine that would reach zero one step after the last."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(experiment: Experiment, folder: Path, *, device: str | None = None, progress: bool = True) -> Path:
    """Train, or resume where the last sitting in ``folder`` stopped.

    Args:
        experiment: what to train; a folder that holds another experiment is refused.
        folder: log.jsonl, last/ and best/ go here.
        device: "cpu" avoids a GPU that is there.
        progress: show a bar.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RefsegError: the loss is not finite (the message names the step), the folder is another run's or holds other
            files where ours go, another training is writing to it, the disk is full, another process has stopped,
            --use_fsdp does not go with the experiment (``sharding.check``), or a sample cannot be read. Training
            samples that cannot are left out with ``data.skip_unreadable``; validation stops at one, because a score
            over fewer samples is another score.
    """
    folder, launched = Path(folder), launched_processes(device)
    with alone_in(folder) if launched is None or launched.is_main_process else nullcontext():
        return _train(experiment, folder, device, progress)


def _train(experiment: Experiment, folder: Path, device: str | None, progress: bool) -> Path:
    config, run = experiment.optim, Run(experiment, folder, device)
    now, log = run.state.progress, Log(folder / "log.jsonl", run.state.progress.step, run.is_main)
    unreadable = UnreadableLog(experiment.data.skip_unreadable)
    hidden = not progress or not run.is_main
    resumed_at, started = now.seconds, time.perf_counter()
    with (
        explain_lost_process(),
        tqdm(total=config.steps, initial=now.step, desc="training", unit="step", disable=hidden) as bar,
    ):
        for batch in run.loader:
            losses = run.update(unreadable.readable(batch))
            now.seconds = resumed_at + time.perf_counter() - started
            bar.update()
            if run.is_due(config.log_every):
                left_out = unreadable.report()
                now.unreadable += left_out.get("unreadable", 0)
                log.write(step=now.step, seconds=round(now.seconds, 2), **losses, **left_out)
                bar.set_postfix(loss=f"{losses['loss']:.3f}", refresh=False)
            if run.is_due(config.eval_every):
                log.write(step=now.step, seconds=round(now.seconds, 2), val=run.validate(folder / "best"))
            if run.is_due(config.save_every):
                run.save(folder / "last")
        run.accelerator.wait_for_everyone()
    if now.unreadable and not hidden:
        print(f"{now.unreadable} samples could not be read and were left out: {log.path} names them.", file=sys.stderr)
    return folder / "best"


class Run:
    """A training, ready to run: the data, the learner and its optimiser on their device, and where it stands.

    Args:
        experiment: what to train.
        folder: it resumes from ``last/`` in there, if there is one.
        device: "cpu" avoids a GPU that is there.
    """

    def __init__(self, experiment: Experiment, folder: Path | None, device: str | None = None):
        self.config = experiment.optim
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.is_main = self.accelerator.is_main_process
        self.share = self.accelerator.process_index, self.accelerator.num_processes
        divided = sharding.asked_for(self.accelerator)
        if divided:
            sharding.check(experiment)
            sharding.load_everywhere()
        torch.manual_seed(self.config.seed)
        train_set, self.val_set, tokenizer = build_data(experiment)
        learner, optimizer = build_learner(experiment, train_set, tokenizer)
        self.state = RunState(experiment, tokenizer, learner, optimizer)
        if folder is not None:
            self.state.resume(folder / "last")
        self.whole = copy.deepcopy(learner.model) if divided else None  # takes the divided weights, put together
        self.learner = self._distribute()
        self._own_random_numbers()
        self.loader = build_loader(
            train_set, tokenizer, experiment, learner.model, self.state.progress.step, *self.share
        )

    def _distribute(self) -> nn.Module:
        """The learner on its device and, in several processes, wrapped or divided."""
        state, accelerator, config = self.state, self.accelerator, self.config
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(state.learner)  # torch has it for GPUs only
        fit_to_machine(state.learner.model, config)
        if config.mixed_precision:  # bfloat16 has the range of float32 and needs no gradient scaler
            state.learner.forward = torch.autocast(accelerator.device.type, torch.bfloat16)(state.learner.forward)
        if state.average is not None:
            state.average.to(accelerator.device)
        if self.whole is None:
            learner, state.optimizer = accelerator.prepare(state.learner, state.optimizer)
            return learner
        parts = [state.learner] if state.average is None else [state.learner, state.average.module]
        sharding.shard(parts, state.optimizer, accelerator.device)
        return state.learner

    def _own_random_numbers(self) -> None:
        """After a checkpoint the first process continues with the numbers stored there, others start their own stream.

        It depends on seed, step and process alone, so that a run which resumes draws what it would have drawn.
        """
        if self.share[0]:
            torch.manual_seed((1_000_003 * self.config.seed + self.state.progress.step) * 65_537 + self.share[0])

    def is_due(self, every: int) -> bool:
        """True after every ``every`` steps, and after the last one."""
        return self.state.progress.step % every == 0 or self.state.progress.step == self.config.steps

    def update(self, batch: RefBatch) -> dict[str, float]:
        """One step. Returns every loss by its name, their weighted sum as "loss", and the learning rate as "lr".

        The losses are means over all processes, so that all of them stop together where one of them diverges.
        """
        step, weights = self.state.progress.step, self.state.learner.objective.weights
        rate = learning_rate(step, self.config)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.learner.train()
        parts = Parts(batch, self.learner, self.config.accumulate, self.accelerator.device)
        losses, norm = train_step(self.learner, self.state.optimizer, parts, weights, self.config.clip_norm)
        means: Any = self.accelerator.reduce(torch.stack(list(losses.values())), "mean")
        named = dict(zip(losses, means.tolist()))
        total = sum(weights[name] * value for name, value in named.items())
        if not (math.isfinite(total) and norm.isfinite()):
            what = "gradient" if math.isfinite(total) else "loss"
            terms = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
            raise RefsegError(
                f"The {what} is not finite at step {step + 1} ({terms}): start again with a lower --learning-rate; the "
                f"last checkpoint is from before this step."
            )
        if self.state.average is not None:
            self.state.average.update_parameters(self.state.learner.model)
        self.state.progress.step += 1
        rounded = {name: round(value, 5) for name, value in {**named, "loss": total}.items()}
        return {**rounded, "lr": round(self.state.optimizer.param_groups[0]["lr"], 7)}

    def validate(self, best: Path) -> dict[str, Any]:
        """Score the network, or the average of its weights, and write it to ``best`` if it is the best so far."""
        state = self.state
        network = self._undivided(state.learner.model if state.average is None else state.average.module)
        network.to(self.accelerator.device)
        for statistics in network.buffers():  # each process has its own; those of the first are scored and saved
            broadcast(statistics)
        results = evaluate(network, self.val_set, state.tokenizer, progress=False, share=self.share)
        if results["mIoU"] > state.progress.best:
            state.progress.best = results["mIoU"]
            if self.is_main:
                state.save(best, network, results)
        if self.whole is not None:
            network.cpu()  # the device has room for a share of the weights, not for all of them too
        return results

    def save(self, last: Path) -> None:
        """Write what the run resumes from."""
        network, training = self._undivided(self.state.learner.model), self.state.training()
        if self.is_main:
            self.state.save(last, network, {}, training)
        self._own_random_numbers()

    def _undivided(self, network: Any) -> Any:
        return network if self.whole is None else sharding.put_together(network, self.whole)


class Parts(Sequence[RefBatch]):
    """A batch in equal parts, each on ``device`` when its turn comes.

    While they are iterated, processes that share the work exchange their gradients once, after the last part.
    """

    def __init__(self, batch: RefBatch, learner: Any, count: int, device: torch.device):
        self.parts, self.learner, self.device = batch.parts(count), learner, device

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> RefBatch:
        part = self.parts[number].to(self.device)
        self.learner.require_backward_grad_sync = number == len(self) - 1  # what DistributedDataParallel.no_sync sets
        return part


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """When another process is gone, connections report it in many ways: raise one clear error instead."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "peer" not in str(error):
            raise
        raise RefsegError(
            "Another process of this run has stopped, and its own message says why: start all of them again, with any "
            "number of processes, and the run resumes from its last checkpoint."
        ) from error
