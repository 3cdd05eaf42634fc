"""Scores of a model on a data set: every sample, in order, one forward pass for all meters."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from refseg.datasets import Collate, build_dataset, build_transform, dataset_info
from refseg.datasets.wrappers import ReplacedExpressions, Samples, blank_expressions, other_expressions
from refseg.errors import RefsegError
from refseg.evaluation.protocols import ORIGINAL, ORIGINAL_VIDEO, Meter, choose_protocols
from refseg.hub import from_pretrained
from refseg.inference import choose_device, device_of, forward, in_eval_mode
from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import PROJECT

CONTROLS = {"blank": blank_expressions, "other": other_expressions}  # as the command line and the scores call them


def score(
    model: nn.Module,
    dataset: Samples,
    tokenizer: Any,
    meters: Sequence[Meter] = (),
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = True,
    num_workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Meter:
    """Run a model on every sample of ``dataset``, in order, and give its answers to every meter.

    Several processes that all call this with their ``share`` each do a part of the work, and afterwards the meters of
    every process have seen all samples: the numbers are exactly those of one process.

    Args:
        model: moved to ``device``; in eval mode while this runs, afterwards every part is as it was.
        dataset: gives RefSamples that went through ``build_transform``.
        tokenizer: as for ``Collate``.
        meters: fresh ones; default one of the protocol "original".
        device: default is where the model is.
        progress: show a bar on stderr.
        num_workers: processes that read samples.
        share: (this process, number of processes). The shares together are, in order, the batches of one process:
            through rounding, masks can depend on what else is in a batch, and so they do not.

    Returns:
        The first meter. ``.compute()`` gives its scores, and ``.ious`` one number per sample.

    Raises:
        RefsegError: the model gives undefined values; and see :meth:`Meter.update`.
    """
    meters = meters or (Meter(),)
    device = device_of(model) if device is None else torch.device(device)
    own = batches_of(len(dataset), batch_size, *share)
    loader = DataLoader(dataset, batch_sampler=own, num_workers=num_workers, collate_fn=Collate(tokenizer))
    with in_eval_mode(model.to(device)), tqdm(total=sum(map(len, own)), unit="sample", disable=not progress) as bar:
        for batch in loader:
            with torch.inference_mode():
                batch = batch.to(device)
                logits = forward(model, batch).mask_logits
                for answer in zip(logits, batch.pixel_valid, batch.original_masks, batch.annotations, strict=True):
                    for meter in meters:
                        meter.update(*answer)
            bar.update(len(batch))
    if share[1] > 1:
        _merge_processes(meters)
    return meters[0]


def _merge_processes(meters: Sequence[Meter]) -> None:
    """Every meter merges what the same meter has seen in all processes, in the order of the processes: the samples'."""
    for meter, twins in zip(meters, zip(*gather_object([list(meters)])), strict=True):
        meter.samples, meter.ranked = [], []
        for twin in twins:
            meter.merge(twin)


def batches_of(count: int, batch_size: int, process: int, processes: int) -> list[list[int]]:
    """The indices of ``count`` samples in batches, in order: the share of ``process`` among ``processes``."""
    batches = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    return batches[process * len(batches) // processes : (process + 1) * len(batches) // processes]


def evaluate(
    model: nn.Module, dataset: Samples, tokenizer: Any, meters: Sequence[Meter] = (), **options: Any
) -> dict[str, Any]:
    """oIoU, mIoU and P@K of ``model`` on all samples of ``dataset``.

    Args:
        model, dataset, tokenizer: see :func:`score`.
        meters: the first one's scores are the result; those of the others are added under "protocols".
        options: the further arguments of :func:`score`.

    Returns:
        JSON-able: "N", "oIoU", "mIoU", "P@0.5".., of a ranked protocol "mAP", "AP50".. and "n_predictions"; "protocol",
        "convention", "at_threshold", "seconds"; "protocols" with the scores of the other meters by name; "by_kind" with
        the scores per kind where ``annotations`` has one; "motion" and "static", those of the samples for which
        ``annotations.motion`` is true and false.

    Raises:
        RefsegError: no sample; and see :func:`score`.
    """
    start = time.perf_counter()
    meters = meters or (Meter(),)
    main = score(model, dataset, tokenizer, meters, **options)
    protocol = main.protocol
    result = main.compute() | {"protocol": protocol.name, "convention": protocol.convention}
    result["at_threshold"] = protocol.at_threshold
    if len(meters) > 1:
        result["protocols"] = {meter.protocol.name: meter.report() for meter in meters[1:]}
    result["seconds"] = round(time.perf_counter() - start, 2)
    result |= main.by_group(lambda known: {None: None, True: "motion", False: "static"}[known.motion])
    if by_kind := main.by_group(lambda known: known.kind):
        result["by_kind"] = by_kind
    return result


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    split: str,
    *,
    protocols: Sequence[str] = (),
    expression_control: str | None = None,
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    split_by: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores of a checkpoint on a split, with everything needed to report and repeat them.

    Clips are scored as papers on video do, by the protocol "original-video", and read in windows of the checkpoint's
    ``num_frames``. Under ``accelerate launch`` the processes share the samples.

    Args:
        checkpoint: its folder, the name of a shipped one, or "owner/repository" on the hub.
        data, split, root, image_root, split_by: as for ``build_dataset``.
        protocols: names from ``refseg.evaluation.protocols``: the same answers are scored by each of them as well.
        expression_control: "blank" or "other": give the model expressions that cannot identify the referent.
        device: default is a GPU if there is one.
        options: the further arguments of :func:`score`.

    Returns:
        What :func:`evaluate` returns, and "data", "split", "split_by", "checkpoint", "image_size", "num_frames",
        "frame_stride", "parameters", "seed" (of the training, None if not recorded), "commit", "versions", "machine";
        with a control "expression_control" and "left_out", the number of samples without another referent.

    Raises:
        RefsegError: no such checkpoint, data set, split, protocol or control; and see :func:`evaluate`.
    """
    if expression_control not in (None, *CONTROLS):
        raise RefsegError(f"There is no control {expression_control!r}: choose one of {', '.join(CONTROLS)}.")
    main = ORIGINAL_VIDEO if dataset_info(data).is_clips else ORIGINAL
    meters = [Meter(protocol) for protocol in (main, *choose_protocols(protocols))]
    loaded = from_pretrained(checkpoint)
    launched = launched_processes(device)
    if launched is not None:
        device, share = launched.device, (launched.process_index, launched.num_processes)
        options = {"share": share} | options | {"progress": share[0] == 0 and options.get("progress", True)}
    device, optim = choose_device(device), loaded.experiment.get("optim")
    window = {"num_frames": loaded.num_frames, "frame_stride": loaded.frame_stride}
    transform = build_transform(loaded.image_size)
    whole = build_dataset(data, split, transform, root=root, image_root=image_root, split_by=split_by, **window)
    dataset = whole if expression_control is None else ReplacedExpressions(whole, CONTROLS[expression_control])
    result = {
        "data": data,
        "split": split,
        "split_by": dataset_info(data).choose_split(split, split_by),
        "checkpoint": _short(checkpoint),
        "image_size": loaded.image_size,
        **window,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "seed": optim.get("seed") if isinstance(optim, dict) else None,
        "commit": git_commit(),
        "versions": versions(),
        "machine": describe_machine(device),
    }
    result |= evaluate(loaded.model, dataset, loaded.tokenizer, meters, device=device, **options)
    if expression_control is not None:
        result |= {"expression_control": expression_control, "left_out": len(whole) - len(dataset)}
    return result


def _short(checkpoint: str | Path) -> str:
    """The checkpoint as a results file may name it: within the checkout, or its last part; never a home folder."""
    folder = Path(checkpoint)
    if not folder.is_absolute() and not folder.exists():
        return str(checkpoint)  # a name
    folder = folder.resolve()
    return folder.relative_to(PROJECT).as_posix() if folder.is_relative_to(PROJECT) else folder.name


def is_main_process() -> bool:
    """Whether this process is alone or the first of those that ``accelerate launch`` has started."""
    launched = launched_processes()
    return launched is None or launched.is_main_process


def launched_processes(device: str | torch.device | None = None) -> PartialState | None:
    """The processes among which ``accelerate launch`` (or torchrun) has started this one; None if it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return PartialState(cpu=str(device) == "cpu")
