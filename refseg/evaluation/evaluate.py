"""Scores of a model on a data set: every sample, in order, at the size of the picture on disk.

From a model to masks it takes the same way as single predictions do, ``refseg.inference``.
"""

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
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from refseg.checkpoint import load_checkpoint
from refseg.datasets import CLIP_DATASETS, Collate, build_dataset, build_transform, undo_letterbox
from refseg.datasets.wrappers import ReplacedExpressions
from refseg.evaluation.metrics import RES, VIDEO, Convention, SegmentationMeter
from refseg.evaluation.protocols import ProtocolMeter, RankedMasks, choose_protocols, protocol_of
from refseg.inference import choose_device, device_of, forward, in_eval_mode
from refseg.machine import describe_machine, git_commit, versions
from refseg.paths import PROJECT
from refseg.types import MASK_THRESHOLD

# ---- scores ----------------------------------------------------------------------------------------------------


def score(
    model: nn.Module,
    dataset: Dataset,
    tokenizer: Any,
    *,
    batch_size: int = 32,
    convention: Convention = RES,
    device: str | torch.device | None = None,
    progress: bool = True,
    num_workers: int = 0,
    ranked: RankedMasks | None = None,
    moving: SegmentationMeter | None = None,
    others: Sequence[ProtocolMeter] = (),
    share: tuple[int, int] = (0, 1),
) -> SegmentationMeter:
    """A meter that has seen every sample in the order of ``dataset``; ``.ious`` has one number per sample.

    Of several processes each scores its share, the meters ``merge``. Arguments as for :func:`evaluate`.

    Args:
        share: (this process, number of processes): so many batches in a row that all shares together, in order, are
            the batches of one process. Masks can hang on what else is in a batch, by rounding; these do not.
        ranked: is given every mask too.
        moving: is given the samples that say in ``annotations.motion`` whether motion is asked for, as two groups.
        others: are given every sample too, each for its own protocol.
    """
    device = device_of(model) if device is None else torch.device(device)
    meter = SegmentationMeter(convention)
    own = batches_of(len(dataset), batch_size, *share)
    loader = DataLoader(dataset, batch_sampler=own, num_workers=num_workers, collate_fn=Collate(tokenizer))
    with in_eval_mode(model.to(device)), tqdm(total=sum(map(len, own)), unit="sample", disable=not progress) as bar:
        for batch in loader:
            with torch.inference_mode():
                batch = batch.to(device)
                answers = zip(forward(model, batch).mask_logits, batch.pixel_valid, strict=True)
                for (answer, valid), mask, known in zip(answers, batch.original_masks, batch.annotations, strict=True):
                    for other in others:
                        other.update(answer, valid, mask)
                    logits = undo_letterbox(answer, valid, tuple(mask.shape))
                    pred_mask = (logits > MASK_THRESHOLD).cpu()
                    meter.update(pred_mask, mask, known.kind)
                    if moving is not None and known.motion is not None:
                        moving.update(pred_mask, mask, "motion" if known.motion else "static")
                    if ranked is not None:
                        ranked.update(logits, mask)
            bar.update(len(batch))
    return meter


def batches_of(count: int, batch_size: int, process: int, processes: int) -> list[range]:
    """The indices of ``count`` samples in batches, in order: those that fall to ``process`` of ``processes``."""
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return batches[process * len(batches) // processes : (process + 1) * len(batches) // processes]


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    tokenizer: Any,
    *,
    batch_size: int = 32,
    convention: Convention = RES,
    device: str | torch.device | None = None,
    progress: bool = True,
    expression_control: str | None = None,
    num_workers: int = 0,
    rank: bool = False,
    protocols: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """oIoU, mIoU and P@K of ``model`` on all samples of ``dataset``.

    In several processes that all call this with their ``share`` each sample is scored by one of them, and every process
    returns the scores of all samples, the very numbers that one process finds.

    Args:
        model: moved to ``device``; in eval mode while this runs, afterwards every part is as it was.
        dataset: gives RefSamples that went through ``build_transform``.
        tokenizer: as for ``Collate``.
        device: default is where the model lies.
        progress: a bar on stderr.
        expression_control: "blank" or "other": score with expressions that cannot tell the referent.
        rank: average precision as well, of one prediction per sample, see :class:`RankedMasks`.
        protocols: names from ``refseg.evaluation.protocols``: the same answers scored by each of them as well.
        share: (this process, number of processes).

    Returns:
        JSON-able: "N", "oIoU", "mIoU", "P@0.5".., "protocol", "convention", "at_threshold", "seconds"; "protocols"
        with those of each that was asked for, by its name; "by_kind" with the scores per kind where ``annotations`` has
        one; "motion" and "static", those of the samples of which ``annotations.motion`` is true and false; with
        ``rank`` "mAP", "AP50".. and "n_predictions"; with a control "expression_control" and "left_out".

    Raises:
        RefsegError: no sample, an unknown control or protocol, or a model that gives undefined values.
    """
    scored = dataset if expression_control is None else ReplacedExpressions(dataset, expression_control)
    start = time.perf_counter()
    moving, ranked = SegmentationMeter(convention), RankedMasks() if rank else None
    others = [ProtocolMeter(protocol) for protocol in choose_protocols(protocols)]
    meter = score(
        model,
        scored,
        tokenizer,
        batch_size=batch_size,
        convention=convention,
        device=device,
        progress=progress,
        num_workers=num_workers,
        ranked=ranked,
        moving=moving,
        others=others,
        share=share,
    )
    if share[1] > 1:
        meter, moving, ranked, *others = _together([meter, moving, ranked, *others])
    result: dict[str, Any] = meter.compute()
    result |= ranked.compute() if ranked else {}
    result |= {"protocol": protocol_of(convention), "convention": convention.name}
    result["at_threshold"] = convention.at_threshold
    if others:
        result["protocols"] = {other.protocol.name: other.compute() for other in others}
    result["seconds"] = round(time.perf_counter() - start, 2)
    result |= moving.by_group()
    if by_kind := meter.by_group():
        result["by_kind"] = by_kind
    if expression_control is not None:
        result |= {"expression_control": expression_control, "left_out": len(dataset) - len(scored)}
    return result


def _together(own: list[Any]) -> list[Any]:
    """The meters of all processes merged, in the order of the processes: that of the samples."""
    first, *rest = gather_object([own])
    for meters in rest:
        for into, meter in zip(first, meters, strict=True):
            if into is not None:
                into.merge(meter)
    return first


def evaluate_checkpoint(
    folder: str | Path,
    data: str,
    split: str,
    *,
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    split_by: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores of a checkpoint on a split, with everything needed to say how they came about.

    Data sets of clips are scored as papers on video do: with MTTR's convention, and with average precision. Clips are
    read in windows of the checkpoint's ``num_frames``. Under ``accelerate launch`` the processes share the samples.

    Args:
        folder: the checkpoint.
        data, split, root, image_root, split_by: as for ``build_dataset``.
        device: None takes a GPU if there is one.
        options: the further arguments of :func:`evaluate`.

    Returns:
        What :func:`evaluate` returns, and "data", "split", "split_by", "checkpoint", "image_size", "num_frames",
        "frame_stride", "parameters", "seed" (of the training, None if not recorded), "commit", "versions", "machine".

    Raises:
        RefsegError: no such checkpoint, data set or split; and see :func:`evaluate`.
    """
    loaded = load_checkpoint(Path(folder))
    launched = launched_processes(device)
    if launched is not None:
        device, share = launched.device, (launched.process_index, launched.num_processes)
        options = {"share": share} | options | {"progress": share[0] == 0 and options.get("progress", True)}
    device = choose_device(device)
    window = {"num_frames": loaded.num_frames, "frame_stride": loaded.frame_stride}
    transform = build_transform(loaded.image_size)
    dataset = build_dataset(data, split, transform, root=root, image_root=image_root, split_by=split_by, **window)
    if data in CLIP_DATASETS:
        options = {"convention": VIDEO, "rank": True} | options
    about = {
        "data": data,
        "split": split,
        "split_by": getattr(dataset, "split_by", split_by),
        "checkpoint": _short(Path(folder)),
        "image_size": loaded.image_size,
        **window,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "seed": _seed(loaded.config.get("record", {})),
        "commit": git_commit(),
        "versions": versions(),
        "machine": describe_machine(device),
    }
    return about | evaluate(loaded.model, dataset, loaded.tokenizer, device=device, **options)


# ---- small parts -----------------------------------------------------------------------------------------------


def _short(folder: Path) -> str:
    """The folder as a results file may name it: below the checkout, else its last part, never somebody's home."""
    folder = folder.resolve()
    return folder.relative_to(PROJECT).as_posix() if folder.is_relative_to(PROJECT) else folder.name


def _seed(record: dict[str, Any]) -> int | None:
    """The seed of the training as ``train`` records it."""
    return record.get("experiment", {}).get("optim", {}).get("seed")


def launched_processes(device: str | torch.device | None = None) -> PartialState | None:
    """The processes among which ``accelerate launch`` (or torchrun) has started this one; None if it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return PartialState(cpu=str(device) == "cpu")
