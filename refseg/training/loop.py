"""One loop for every model, objective and data set: on a CPU, on one GPU, in many processes.

    prediction, losses = objective(model, batch)
    loss = sum(weight * losses[name])

A run lives in one folder: ``log.jsonl`` (a line per logged step and per validation), ``last/`` (to resume from) and
``best/`` (highest validation mIoU). The batch of a step depends on the seed and the step alone, and ``last/`` holds
optimiser and random state, so a run that was killed resumes to the same weights as one that was not (on CPU).

``accelerate launch`` starts it in many processes, each with its share of every batch; any number of them may go on with
a run. What they minimise is the mean of the processes' losses: that of one process where a loss is a mean over samples,
and very nearly so where it is one over pixels (BCE) and pictures are padded differently. BatchNorm that learns sees a
process' share on a CPU, the whole batch on GPUs. Where parts draw random numbers, each process draws its own.
Launched with ``--use_fsdp`` they divide the weights, see ``sharding``: losses and checkpoints are the same.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from tqdm.auto import tqdm

from refseg import checkpoint
from refseg.datasets import build_dataset
from refseg.datasets.collate import Collate
from refseg.datasets.transforms import build_transform, swap_left_right
from refseg.datasets.wrappers import (
    CachedFeatures,
    FeatureExtractor,
    Mirrored,
    ReplacedExpressions,
    SafeDataset,
    Unreadable,
    collate_readable,
)
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import evaluate
from refseg.files import cannot_write
from refseg.models import build_model
from refseg.models.backbones import Backbone
from refseg.models.serialise import config_to_dict
from refseg.objectives import build_objective, objective_from_dict
from refseg.paths import checkpoints_dir
from refseg.tokenizer import PAD, UNK, WordPieces, WordVocabulary, split_words
from refseg.training import sharding
from refseg.training.experiment import DataConfig, Experiment, OptimConfig, experiment_to_dict
from refseg.training.tuning import average_of, fit_to_machine
from refseg.types import RefBatch

MAY_CHANGE = ("root", "workers", "skip_unreadable")  # fields of DataConfig that decide nothing about what is learned


@dataclass
class Progress:
    """Where a run stands; stored in ``last/`` beside the weights."""

    step: int = 0  # updates done
    seconds: float = 0.0  # spent so far, validation included, all sittings together
    best: float = -1.0  # highest validation mIoU
    broken: int = 0  # samples that could not be read and were left out, counted each time


class ShuffledBatches(Sampler[list[int]]):
    """Index lists for the steps ``first_step`` .. ``steps``: all samples in a fresh order every epoch.

    Up to ``expressions_per_image`` samples of one picture stay together: the backbone then sees the picture once for
    all of them, and what tells them apart can only be the expression. The first ``curriculum_steps`` steps take short
    expressions only. The order is a function of (seed, step) alone, so that a resumed run sees what it would have
    seen. A batch may straddle two epochs: no sample is dropped. Of every batch, process ``rank`` of ``world`` takes
    its share, neighbours together.

    With ``flips`` every epoch asks for mirror images of about half of the samples, see ``Mirrored``. Those that
    stay together are mirrored together, and the order is the same as without.

    Args:
        image_ids: of every sample, in the order of the data set.
        lengths: how many words each sample's expression has.
        config: seed, steps, batch size and the rest.
        flips: the data set goes on with as many mirror images.
        share: of the pictures, the first ones of the data set.

    Raises:
        RefsegError: the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        image_ids: Sequence[object],
        lengths: Sequence[int],
        config: OptimConfig,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        flips: bool = False,
        share: float = 1.0,
    ):
        if config.batch_size % world:
            raise RefsegError(f"A batch of {config.batch_size} cannot be shared by {world} processes: use a multiple.")
        if config.batch_size // world % config.accumulate:
            raise RefsegError(
                f"{config.batch_size // world} samples of a batch per process cannot be worked through in "
                f"{config.accumulate} equal parts: change batch_size or accumulate."
            )
        self.config, self.first_step, self.rank, self.world = config, first_step, rank, world
        self.flips = flips
        pictures = list(dict.fromkeys(image_ids))
        taken = set(pictures[: max(1, round(share * len(pictures)))])
        every = [index for index in range(len(lengths)) if image_ids[index] in taken]
        self.first_mirror_image = len(lengths)
        short = (
            [index for index in every if lengths[index] <= config.curriculum_words] if config.curriculum_steps else []
        )
        self.groups = {"short": self._grouped(short, image_ids), "all": self._grouped(every, image_ids)}

    def _grouped(self, indices: Sequence[int], image_ids: Sequence[object]) -> list[list[int]]:
        """``indices`` in groups of one picture, each of at most ``expressions_per_image``."""
        of_image: dict[object, list[int]] = {}
        for index in indices:
            of_image.setdefault(image_ids[index], []).append(index)
        size = self.config.expressions_per_image
        return [own[start : start + size] for own in of_image.values() for start in range(0, len(own), size)]

    def __len__(self) -> int:
        return self.config.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        curriculum_steps = min(self.config.curriculum_steps, self.config.steps) if self.groups["short"] else 0
        yield from self._batches("short", min(self.first_step, curriculum_steps), curriculum_steps)
        done = max(self.first_step, curriculum_steps) - curriculum_steps
        yield from self._batches("all", done, self.config.steps - curriculum_steps)

    def _batches(self, part: str, first: int, last: int) -> Iterator[list[int]]:
        """Batches number ``first`` to ``last`` - 1 of one part of the data."""
        size, count = self.config.batch_size, sum(map(len, self.groups[part]))
        epoch, order = -1, []
        for step in range(first, last):
            batch = []
            for position in range(step * size, (step + 1) * size):
                if position // count != epoch:
                    epoch = position // count
                    order = self._order(part, epoch)
                batch.append(order[position % count])
            share = size // self.world
            yield batch[self.rank * share : (self.rank + 1) * share]

    def _order(self, part: str, epoch: int) -> list[int]:
        groups = self.groups[part]
        generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + epoch)
        order = torch.randperm(len(groups), generator=generator).tolist()
        if self.flips:
            mirrored = (torch.rand(len(groups), generator=generator) < 0.5).tolist()
            groups = [[i + self.first_mirror_image * flip for i in group] for group, flip in zip(groups, mirrored)]
        return [index for group in order for index in groups[group]]


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear warm-up to the peak, then half a cosine that would reach zero one step behind the last."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; biases, normalisation and scalars are not decayed, and a backbone may have a rate of its own."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    of_backbone = {id(p) for part in module.modules() if isinstance(part, Backbone) for p in part.parameters()}
    parts = [(1.0, parameters)]
    if config.backbone_rate != 1:
        parts = [
            (1.0, [p for p in parameters if id(p) not in of_backbone]),
            (config.backbone_rate, [p for p in parameters if id(p) in of_backbone]),
        ]
    groups = []
    for rate, members in parts:
        decayed, free = [p for p in members if p.ndim > 1], [p for p in members if p.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": config.weight_decay, "rate": rate})
        groups.append({"params": free, "weight_decay": 0.0, "rate": rate})
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def build_data(experiment: Experiment) -> tuple[Dataset, Dataset, WordVocabulary]:
    """Training set, validation set, and the vocabulary of the training expressions."""
    config, objects = experiment.data, experiment.objective.needs_objects
    transform = build_transform(config.image_size)
    shared = {"split_by": config.split_by, "num_frames": config.num_frames, "frame_stride": config.frame_stride}
    shared["root"] = config.root
    train_set = build_dataset(config.name, config.train_split, transform, objects=objects, **shared)
    val_set = build_dataset(config.name, config.val_split, transform, **shared)
    tokenizer = build_tokenizer(config, train_set.expressions)
    if config.val_samples and config.val_samples < len(val_set):
        stride = len(val_set) / config.val_samples
        val_set = Subset(val_set, [int(i * stride) for i in range(config.val_samples)])
    if config.hide_expressions:
        train_set, val_set = ReplacedExpressions(train_set, "blank"), ReplacedExpressions(val_set, "blank")
    return train_set, val_set, tokenizer


def build_tokenizer(config: DataConfig, expressions: Sequence[str]) -> WordVocabulary:
    """The words of the training expressions, or the pretrained pieces that the config names."""
    if config.pretrained_tokenizer is not None:
        return WordPieces.from_pretrained(config.pretrained_tokenizer, config.max_words)
    tokenizer = WordVocabulary.build(expressions, config.min_word_count, config.max_words)
    if config.mirror:  # "leftmost" may be known where "rightmost" was never said
        mirrored = [swap_left_right(word) for word in tokenizer.words if word not in (PAD, UNK)]
        unsaid = [word for word in mirrored if word not in tokenizer.ids]
        tokenizer = WordVocabulary([*tokenizer.vocabulary, *unsaid], config.max_words)
    return tokenizer


def build_modules(
    experiment: Experiment, train_set: Dataset, tokenizer: WordVocabulary
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Model, objective, and the optimiser of both, with the sizes that only the training set knows."""
    model = build_model(experiment.model, len(tokenizer))
    if experiment.init_from:
        shipped = checkpoints_dir() / experiment.init_from
        folder = shipped if checkpoint.exists(shipped) else Path(experiment.init_from)
        checkpoint.begin_with(model, tokenizer, folder, experiment.init_parts)
    classes = [len(names) for names in train_set.class_names.values()]
    objective = build_objective(experiment.objective, model, classes, tokenizer)
    return model, objective, build_optimizer(nn.ModuleList([model, objective]), experiment.optim)


def train(experiment: Experiment, folder: Path, *, device: str | None = None, progress: bool = True) -> Path:
    """Train, or go on where the last sitting in ``folder`` stopped.

    Args:
        experiment: what to train; a folder that holds another experiment is refused.
        folder: log.jsonl, last/ and best/ go here.
        device: "cpu" keeps away from a GPU that is there.
        progress: show a bar.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RefsegError: the loss is not finite (the message names the step), the folder is another run's, the disk is full,
            another process has stopped, --use_fsdp does not go with the experiment (``sharding.check``), or a sample
            cannot be read. Training samples that cannot are left out where ``data.skip_unreadable``; validation stops
            at one, because a score over fewer samples is another score.
    """
    folder, config = Path(folder), experiment.optim
    accelerator = Accelerator(cpu=device == "cpu")
    divided = sharding.asked_for(accelerator)
    if divided:
        sharding.check(experiment)
        sharding.load_everywhere()
    torch.manual_seed(config.seed)
    train_set, val_set, tokenizer = build_data(experiment)
    model, objective, optimizer = build_modules(experiment, train_set, tokenizer)
    recipe = experiment_to_dict(experiment)
    average = average_of(model, config.ema) if config.ema else None
    state = _resume(folder / "last", model, objective, optimizer, average, recipe, tokenizer)
    if average is not None:
        average.to(accelerator.device)
    together = copy.deepcopy(model) if divided else None
    model, objective, optimizer = _prepare(accelerator, model, objective, optimizer, config, average)
    bare = accelerator.unwrap_model(model)
    averaged = bare if average is None else average.module
    share = accelerator.process_index, accelerator.num_processes
    _own_random_numbers(config.seed, state.step, share[0])
    loader = _loader(train_set, tokenizer, experiment, bare, state.step, *share)
    log = _Log(folder / "log.jsonl", state.step, accelerator.is_main_process)
    unread = _Unread(experiment.data.skip_unreadable)
    hidden = not progress or log.path is None
    resumed_at, started = state.seconds, time.perf_counter()

    def undivided(network: nn.Module) -> nn.Module:
        return network if together is None else sharding.put_together(network, together)

    def save(name: str, network: nn.Module, training: dict[str, Tensor] | None, results: dict[str, Any]) -> None:
        if accelerator.is_main_process:
            record = {"experiment": recipe, "progress": asdict(state), "results": results}
            data = experiment.data
            checkpoint.save_checkpoint(
                folder / name,
                network,
                tokenizer,
                data.image_size,
                num_frames=data.num_frames,
                frame_stride=data.frame_stride,
                record=record,
                training=training,
            )

    with (
        _told_if_another_stops(),
        tqdm(total=config.steps, initial=state.step, desc="training", unit="step", disable=hidden) as bar,
    ):
        for batch in loader:
            batch = unread.without(batch)
            losses = train_step(model, objective, optimizer, batch, accelerator, state.step, config)
            if average is not None:
                average.update_parameters(bare)
            state.step += 1
            state.seconds = resumed_at + time.perf_counter() - started
            bar.update()
            if state.step % config.log_every == 0 or state.step == config.steps:
                told = unread.told()
                state.broken += told.get("broken", 0)
                log.write(step=state.step, seconds=round(state.seconds, 2), **losses, **told)
                bar.set_postfix(loss=f"{losses['loss']:.3f}", refresh=False)
            if state.step % config.eval_every == 0 or state.step == config.steps:
                scored = undivided(averaged).to(accelerator.device)
                for statistics in scored.buffers():  # each process has its own; those of the first are scored and saved
                    broadcast(statistics)
                results = evaluate(scored, val_set, tokenizer, progress=False, share=share)
                log.write(step=state.step, seconds=round(state.seconds, 2), val=results)
                if results["mIoU"] > state.best:
                    state.best = results["mIoU"]
                    save("best", scored, None, results)
                if divided:
                    scored.cpu()  # there is room for a share of the weights, not for all of them beside it
            if state.step % config.save_every == 0 or state.step == config.steps:
                training = _training_state(accelerator.unwrap_model(objective), optimizer, average)
                save("last", undivided(bare), training, {})
                _own_random_numbers(config.seed, state.step, share[0])
        accelerator.wait_for_everyone()
    if state.broken and not hidden:
        print(f"{state.broken} samples could not be read and were left out: {log.path} names them.", file=sys.stderr)
    return folder / "best"


def _prepare(
    accelerator: Accelerator,
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    average: AveragedModel | None = None,
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Onto the device and, in several processes, wrapped or divided; torch does not wrap what has no weights."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # torch has it for GPUs only
    fit_to_machine(
        model,
        channels_last=config.channels_last,
        compile=config.compile,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if sharding.asked_for(accelerator):
        parts = [model, objective] if average is None else [model, objective, average.module]
        sharding.shard(parts, optimizer, accelerator.device)
        return model, objective, optimizer
    model, optimizer = accelerator.prepare(model, optimizer)
    has_weights = any(parameter.requires_grad for parameter in objective.parameters())
    return model, accelerator.prepare(objective) if has_weights else objective.to(accelerator.device), optimizer


def _own_random_numbers(seed: int, step: int, process: int) -> None:
    """Behind a checkpoint the first process goes on with the numbers stored there, others begin a stream of their own.

    Such a stream hangs on seed, step and process alone, so that a run which resumes draws what it would have drawn.
    """
    if process:
        torch.manual_seed((1_000_003 * seed + step) * 65_537 + process)


@contextmanager
def _told_if_another_stops() -> Iterator[None]:
    """Whatever the connections between processes say when one of them is gone becomes one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "peer" not in str(error):
            raise
        raise RefsegError(
            "Another process of this run has stopped, its own message says why: start all of them again, with any "
            "number of processes, and the run goes on from its last checkpoint."
        ) from error


def _frozen_backbone(model: nn.Module) -> FeatureExtractor:
    """What the model's backbone sees in frames, wherever they lie.

    Raises:
        RefsegError: it still learns, so what it sees today is not what it will see tomorrow.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None or not backbone.frozen:
        raise RefsegError(
            "cache_features needs a backbone that does not change: set frozen in its config, or leave it."
        )
    return lambda frames: backbone(frames.to(next(backbone.parameters()).device))


def _loader(
    dataset: Dataset,
    tokenizer: WordVocabulary,
    experiment: Experiment,
    model: nn.Module,
    first_step: int,
    rank: int,
    world: int,
) -> DataLoader:
    lengths = [len(split_words(expression)) for expression in dataset.expressions]
    flips = experiment.data.mirror
    share = experiment.data.train_fraction
    batches = ShuffledBatches(dataset.image_ids, lengths, experiment.optim, first_step, rank, world, flips, share)
    if flips:
        dataset = Mirrored(dataset)
    if experiment.data.cache_features:
        dataset = CachedFeatures(dataset, _frozen_backbone(model))
    return DataLoader(
        SafeDataset(dataset),
        batch_sampler=batches,
        collate_fn=partial(collate_readable, Collate(tokenizer)),
        num_workers=experiment.data.workers,
        generator=torch.Generator(),  # else every sitting would take a number from the stream that is resumed
    )


def train_step(
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch,
    accelerator: Accelerator,
    step: int,
    config: OptimConfig,
) -> dict[str, float]:
    """One update. Returns every loss by its name, their weighted sum as "loss", and the learning rate as "lr".

    The batch is worked through in ``config.accumulate`` parts, which add up to the same gradient and take less memory.
    The losses are means over all parts and processes, so that all processes stop together where one of them diverges.
    """
    model.train()
    objective.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config) * group["rate"]
    optimizer.zero_grad(set_to_none=True)
    weights, parts, found = accelerator.unwrap_model(objective).weights, batch.parts(config.accumulate), []
    for number, part in enumerate(parts, start=1):
        with ExitStack() as waiting:
            if number < len(parts):  # processes exchange their gradients once, after the last part
                for module in (model, objective):
                    waiting.enter_context(getattr(module, "no_sync", nullcontext)())
            part = part.to(accelerator.device)
            # bfloat16 has the range of float32 and needs no gradient scaler: torch's own autocast is all it takes.
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.mixed_precision):
                _, losses = objective(model, part)
            accelerator.backward(sum(weights[name] * value for name, value in losses.items()) / len(parts))
        found.append(torch.stack([value.detach() for value in losses.values()]))
    means = accelerator.reduce(torch.stack(found).mean(0), "mean").tolist()
    named = dict(zip(losses, means))
    total = sum(weights[name] * value for name, value in named.items())
    if not math.isfinite(total):
        terms = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        raise _diverged(f"loss is not finite at step {step + 1} ({terms})")
    norm = accelerator.clip_grad_norm_([*model.parameters(), *objective.parameters()], config.clip_norm)
    if not torch.isfinite(sharding.full(norm)):
        raise _diverged(f"gradient is not finite at step {step + 1}")
    optimizer.step()
    rounded = {name: round(value, 5) for name, value in {**named, "loss": total}.items()}
    return {**rounded, "lr": round(optimizer.param_groups[0]["lr"], 7)}


def _diverged(what: str) -> RefsegError:
    return RefsegError(
        f"The {what}: begin anew with a lower --learning-rate; the last checkpoint is from before this step."
    )


def seconds_per_step(experiment: Experiment, steps: int = 12, device: str | None = None) -> float:
    """How long an update takes on this machine, reading the data included: the median of ``steps``, after a warm-up."""
    config = replace(experiment.optim, steps=steps + 3, curriculum_steps=0)  # short expressions take less time
    accelerator = Accelerator(cpu=device == "cpu")
    train_set, _, tokenizer = build_data(experiment)
    model, objective, optimizer = _prepare(accelerator, *build_modules(experiment, train_set, tokenizer), config)
    bare = accelerator.unwrap_model(model)
    loader = _loader(train_set, tokenizer, replace(experiment, optim=config), bare, 0, 0, 1)
    ends = [time.perf_counter()]
    unread = _Unread(experiment.data.skip_unreadable)
    for step, batch in enumerate(map(unread.without, loader)):
        train_step(model, objective, optimizer, batch, accelerator, step, config)
        ends.append(time.perf_counter())
    durations = sorted(end - start for start, end in zip(ends[3:], ends[4:]))
    return durations[len(durations) // 2]


class _Unread:
    """The samples that could not be read: ends the run at the first one, or counts them all and names each once."""

    def __init__(self, skip: bool):
        self.skip, self.count = skip, 0
        self.known: set[str] = set()
        self.new: list[str] = []  # not yet told

    def without(self, batch: RefBatch | Unreadable) -> RefBatch:
        """The batch of what could be read.

        Raises:
            RefsegError: something could not, and that is to end the run; or nothing could.
        """
        sentences = batch.reasons if isinstance(batch, Unreadable) else batch.unreadable
        if sentences and not self.skip:
            raise RefsegError(f"{sentences[0]} Or train without such samples: --skip-unreadable.")
        if isinstance(batch, Unreadable):
            raise RefsegError(f"Not one sample of a batch could be read. {sentences[0]}")
        self.count += len(sentences)
        self.new += [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.known]
        self.known.update(sentences)
        return batch

    def told(self) -> dict[str, Any]:
        """For the log: how many since the last time, in all processes, and what is new among them; {} if none."""
        if not self.skip:
            return {}
        found = gather_object([(self.count, self.new)])
        self.count, self.new = 0, []
        count = sum(of_process for of_process, _ in found)
        names = list(dict.fromkeys(name for _, of_process in found for name in of_process))
        return {"broken": count, "broken_samples": names} if count else {}


class _Log:
    """JSON lines; on resuming, what was logged after the checkpoint is cut off, for it will come again."""

    def __init__(self, path: Path, first_step: int, main: bool):
        self.path = path if main else None
        if self.path is None:
            return
        with self._told_if_full():
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(path) if line["step"] <= first_step]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            partial.replace(path)

    def write(self, **line: Any) -> None:
        if self.path is not None:
            with self._told_if_full(), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    @contextmanager
    def _told_if_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RefsegError(cannot_write(error, self.path.parent)) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``; a last line that a kill cut short is left out."""
    lines = []
    if Path(path).is_file():
        for text in Path(path).read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def _training_state(
    objective: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> dict[str, Tensor]:
    """Optimiser, objective heads, averaged weights and random state as named tensors: nothing that could run code."""
    tensors = {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    tensors = sharding.whole(tensors.items())
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return tensors


def _resume(
    folder: Path,
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    recipe: dict[str, Any],
    tokenizer: WordVocabulary,
) -> Progress:
    """Load ``last/`` into model, objective and optimiser if it is there; else begin at step 0."""
    if not checkpoint.exists(folder):
        return Progress()
    loaded = checkpoint.load_checkpoint(folder)
    record, tensors = loaded.config["record"], loaded.training
    if tensors is None or not record.keys() >= {"experiment", "progress"}:
        raise RefsegError(f"{folder} is a checkpoint that cannot be trained on: name another folder with --out.")
    changed = None
    stored = migrated(record["experiment"]) | {"about": recipe["about"]}
    stored = {**stored, "data": stored["data"] | {name: recipe["data"][name] for name in MAY_CHANGE}}
    if stored != recipe:
        changed = _first_difference(stored, recipe)
    elif loaded.tokenizer.words != tokenizer.words:
        changed = "the words of the training set were others"
    if changed:
        raise RefsegError(
            f"{folder.parent} holds another experiment ({changed}): name another folder with --out, or remove it."
        )
    model.load_state_dict(loaded.model.state_dict())
    for prefix, part in (("objective.", objective), ("average.", average)):
        if part is not None:
            part.load_state_dict(
                {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            )
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".")
            entries.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return Progress(**record["progress"])


def migrated(stored: dict[str, Any]) -> dict[str, Any]:
    """The record of an experiment, as ``experiment_to_dict`` would write it today."""
    data, optim = (
        {RENAMED.get(name, name): value for name, value in stored[part].items()} for part in ("data", "optim")
    )
    data |= {"skip_unreadable": data["skip_unreadable"] in (True, "skip")} if "skip_unreadable" in data else {}
    data |= {"hide_expressions": data["hide_expressions"] in (True, "blank")} if "hide_expressions" in data else {}
    optim |= {"mixed_precision": optim["mixed_precision"] in (True, "bf16")} if "mixed_precision" in optim else {}
    optim |= {"compile": bool(optim["compile"])} if "compile" in optim else {}
    data.pop("objects", None)
    return {
        "model": stored["model"],
        "objective": config_to_dict(objective_from_dict(stored["objective"])),
        "data": asdict(DataConfig()) | data,
        "optim": asdict(OptimConfig()) | optim,
        "init_from": stored.get("init_from", stored.get("begin_with")),
        "init_parts": stored.get("init_parts", stored.get("begin_parts", [])),
        "about": stored.get("about", ""),
    }


# Fields of DataConfig and OptimConfig that older runs know by another name.
RENAMED = {
    "train_share": "train_fraction",
    "pieces": "pretrained_tokenizer",
    "control": "hide_expressions",
    "flips": "mirror",
    "broken": "skip_unreadable",
    "keep_features": "cache_features",
    "short_steps": "curriculum_steps",
    "short_words": "curriculum_words",
    "recompute": "gradient_checkpointing",
}


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first field in which two described experiments differ, as "data.image_size was 96, now 128"."""
    old, new = (dict(enumerate(x)) if isinstance(x, list) else x for x in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{where}.{name}".lstrip("."))
    return f"{where} was {old}, now {new}"
