"""From the authors' TensorFlow checkpoints of CMSA (lwye/CMSA-Net) to checkpoint folders of ours.

The names of the variables follow from the order in which the release creates its layers: ``tf.layers`` numbers them
inside each scope (conv3d, conv3d_1, ...). We could not compare them with the authors' own file, which we do not have;
shapes are checked, and what is missing or left over is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refseg.checkpoint import Checkpoint, refuse_other_folder, save_checkpoint
from refseg.convert.conversion import Conversion, unused_names
from refseg.convert.tf_checkpoint import TensorFlowCheckpoint
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import DeepLabBackboneConfig
from refseg.models.cmsa_net import LEVELS, CMSANet, CMSANetConfig
from refseg.tokenizer import ReleaseVocabulary

IMAGE_SIZE = 320
SCOPE = "text_objseg"
ATTENTION = {"c5": "CMSA", "c4": "CMSA_C4", "c3": "CMSA_C3"}
GATES = {"c5": "mgate/x1", "c4": "mgate/x2", "c3": "mgate/x3"}
# The order of creation, which numbers them.
ATTENTION_MAPS = {"query": "conv3d", "key": "conv3d_1", "value": "conv3d_2", "out": "conv3d_3"}
REDUCTIONS = {"c4": "conv3d", "c3": "conv3d_1"}
COMMON_WIDTH = {"c5": "conv2d", "c4": "conv2d_1", "c3": "conv2d_2"}


def convert_cmsa_release(
    checkpoint: Path, vocabulary: Path, out: Path, config: CMSANetConfig | None = None
) -> Conversion:
    """Write the release's weights as a checkpoint that ``evaluate`` and ``predict`` read.

    The network then computes what the release computes, its stem, colours and upsampling included. What differs is
    the image it gets: ours is scaled down with antialiasing (see ``evaluation.release_resize``).

    Args:
        checkpoint: the name that its .index and .data files begin with.
        vocabulary: the vocabulary file it was trained with, e.g. vocabulary_Gref.txt.
        out: folder to write; it may hold an older checkpoint and nothing else.
        config: other widths than those of the release.

    Raises:
        RefsegError: a file is missing or damaged, or the checkpoint is of another network or vocabulary.
    """
    refuse_other_folder(out)  # now, and not after minutes of work
    tokenizer, lines = ReleaseVocabulary.from_file(vocabulary)
    config = config or replace(CMSANetConfig.release(), backbone=DeepLabBackboneConfig())
    model = build_model(config, len(tokenizer), fetch_weights=False)
    assert isinstance(model, CMSANet)
    source = TensorFlowCheckpoint(checkpoint)
    names = release_names(model)
    unused = unused_names(source.name, "CMSA", names.values(), source.variables, _of_training)
    weights = model.state_dict()
    for ours, theirs in names.items():
        numbers = source.read(theirs)
        if theirs == f"{SCOPE}/embedding":
            numbers = _known_rows(numbers, lines, vocabulary)
        weights[ours] = _rearranged(numbers, weights[ours], theirs)
    model.load_state_dict(weights)
    record = {"converted_from": source.name.name, "vocabulary_file": Path(vocabulary).name, "unused": unused}
    save_checkpoint(out, Checkpoint(model, tokenizer, IMAGE_SIZE), record=record)
    return Conversion(len(names), unused)


def release_names(model: CMSANet) -> dict[str, str]:
    """{name in our state dict: name of the release's variable}, for every weight of ``model``."""
    layers = {f"fusion.cell.{level}": f"{SCOPE}/{GATES[level]}/conv2d" for level in LEVELS}
    for level in LEVELS:
        for ours, theirs in ATTENTION_MAPS.items():
            layers[f"cross_modal.{level}.{ours}"] = f"{SCOPE}/{ATTENTION[level]}/{theirs}"
        layers[f"common_width.{level}"] = f"{SCOPE}/{COMMON_WIDTH[level]}"
    for level, theirs in REDUCTIONS.items():
        layers[f"cross_modal.{level}.reduce"] = f"{SCOPE}/{theirs}"
    names = {"text.table.weight": f"{SCOPE}/embedding"}
    for ours, theirs in layers.items():
        names |= {f"{ours}.weight": f"{theirs}/kernel", f"{ours}.bias": f"{theirs}/bias"}
    for ours, theirs in {"project_c5": "mlp_c5", "head.logits": "score"}.items():
        names |= {f"{ours}.weight": f"{SCOPE}/{theirs}/DW", f"{ours}.bias": f"{SCOPE}/{theirs}/biases"}
    names |= {f"fusion.share.{level}": f"{SCOPE}/{GATES[level]}/Variable" for level in LEVELS}
    depths = [len(list(stage.children())) for stage in model.backbone.blocks()]
    return names | _backbone_names(depths)


def _backbone_names(depths: Iterable[int]) -> dict[str, str]:
    """torchvision's names -> those of tensorflow-deeplab-resnet: res4b22_branch2c/weights, bn4b22_branch2c/gamma."""
    names = _convolution("conv1", "bn1", "conv1", "bn_conv1")
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            ours = f"layer{stage}.{block}."
            letters = f"b{block}" if stage in (2, 3) else "abc"[block : block + 1]
            theirs = f"{stage + 1}{'a' if block == 0 else letters}_branch"
            for i, branch in enumerate("abc", start=1):
                names |= _convolution(f"{ours}conv{i}", f"{ours}bn{i}", f"res{theirs}2{branch}", f"bn{theirs}2{branch}")
            if block == 0:
                names |= _convolution(f"{ours}downsample.0", f"{ours}downsample.1", f"res{theirs}1", f"bn{theirs}1")
    return {f"backbone.net.{name}": theirs for name, theirs in names.items()}


def _convolution(convolution: str, norm: str, their_convolution: str, their_norm: str) -> dict[str, str]:
    statistics = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    names = {f"{convolution}.weight": f"{their_convolution}/weights"}
    return names | {f"{norm}.{ours}": f"{their_norm}/{theirs}" for ours, theirs in statistics.items()}


def _of_training(name: str) -> bool:
    """What Adam and the learning rate keep, and DeepLab's own classifier."""
    of_training = ("Adam", "Adam_1", "beta1_power", "beta2_power", "global_step")
    return name.split("/")[-1] in of_training or name == f"{SCOPE}/Variable" or name.startswith("fc1_voc12")


def _known_rows(table: np.ndarray, lines: list[int], vocabulary: Path) -> np.ndarray:
    rows = table.shape[0] if table.ndim else 0
    if rows != max(lines) + 1:
        raise RefsegError(
            f"The checkpoint knows {rows} words, {vocabulary} lists {max(lines) + 1}: give the vocabulary that "
            "it was trained with."
        )
    return table[lines]


def _rearranged(numbers: np.ndarray, ours: Tensor, name: str) -> Tensor:
    """TensorFlow's kernels [..., in, out] as torch wants them: [out, in] or [out, in, rows, columns]."""
    if name.endswith(("/kernel", "/DW", "/weights")) and numbers.ndim > 2:
        numbers = np.moveaxis(numbers, (-1, -2), (0, 1))
        if ours.ndim == 2 and set(numbers.shape[2:]) == {1}:
            numbers = numbers.reshape(numbers.shape[:2])
    if numbers.shape != tuple(ours.shape):
        raise RefsegError(
            f"The variable {name} has shape {list(numbers.shape)} where {list(ours.shape)} belongs (torch's order): "
            "is the checkpoint of another network?"
        )
    return torch.from_numpy(np.array(numbers, order="C")).to(ours.dtype)
