"""From the authors' own checkpoints, CMSA's (lwye/CMSA-Net) and MagNet's (yxchng/mask-grounding), to folders of ours.

CMSA: the names of its TensorFlow variables follow from the order in which the release creates its layers: ``tf.layers``
numbers them inside each scope (conv3d, conv3d_1, ...). MagNet: the names are those of the release's modules. We could
hold neither against the authors' own file, which we do not have; shapes are checked, and what is missing or left over
is named.
"""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refseg.checkpoint import Checkpoint, save_checkpoint
from refseg.convert.tf_checkpoint import TensorFlowCheckpoint
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import DeepLabBackboneConfig
from refseg.models.cmsa_net import LEVELS, CMSANet, CMSANetConfig
from refseg.models.magnet import MagNet, MagNetConfig
from refseg.tokenizer import ReleaseVocabulary, WordPieces

IMAGE_SIZE = 320
SCOPE = "text_objseg"
ATTENTION = {"c5": "CMSA", "c4": "CMSA_C4", "c3": "CMSA_C3"}
GATES = {"c5": "mgate/x1", "c4": "mgate/x2", "c3": "mgate/x3"}
# The order of creation, which numbers them.
ATTENTION_MAPS = {"query": "conv3d", "key": "conv3d_1", "value": "conv3d_2", "out": "conv3d_3"}
REDUCTIONS = {"c4": "conv3d", "c3": "conv3d_1"}
COMMON_WIDTH = {"c5": "conv2d", "c4": "conv2d_1", "c3": "conv2d_2"}
NAMED_AT_MOST = 8  # variables in one sentence


@dataclass
class Conversion:
    """What became of a checkpoint."""

    converted: int  # variables that the network took
    unused: list[str]  # names of the others, without what only training needs


def convert_cmsa_release(
    checkpoint: Path, vocabulary: Path, out: Path, config: CMSANetConfig | None = None
) -> Conversion:
    """Write the release's weights as a checkpoint that ``evaluate`` and ``predict`` read.

    The network then computes what the release computes, its stem, colours and upsampling included. What differs is
    the picture it gets: ours is scaled down with antialiasing (see ``evaluation.release_resize``).

    Args:
        checkpoint: the name that its .index and .data files begin with.
        vocabulary: the vocabulary file it was trained with, e.g. vocabulary_Gref.txt.
        out: folder to write.
        config: other widths than those of the release.

    Raises:
        RefsegError: a file is missing or damaged, or the checkpoint is of another network or vocabulary.
    """
    tokenizer, lines = ReleaseVocabulary.from_file(vocabulary)
    if config is None:
        config = replace(CMSANetConfig.release(), backbone=DeepLabBackboneConfig())
    model = build_model(config, len(tokenizer), fetch_weights=False)
    source = TensorFlowCheckpoint(checkpoint)
    names = release_names(model)
    unused = [name for name in source.variables if name not in names.values() and not _of_training(name)]
    missing = [name for name in names.values() if name not in source.variables]
    if missing:
        instead = f"; what it has instead is {_listed(unused)}" if unused else ""
        raise RefsegError(
            f"{source.name} is no checkpoint of the CMSA release: it lacks {_listed(missing)}{instead}; name another."
        )
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
    return names | _backbone_names(model.config.backbone.layers)


def _backbone_names(depths: tuple[int, int, int, int]) -> dict[str, str]:
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
    last = name.split("/")[-1]
    return (
        last in ("Adam", "Adam_1", "beta1_power", "beta2_power", "global_step")
        or name == f"{SCOPE}/Variable"
        or name.startswith("fc1_voc12")
    )


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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more


# ---- MagNet ----------------------------------------------------------------------------------------------------

MAGNET_IMAGE_SIZE = 480
STAGES = ("c2", "c3", "c4", "c5")
# Of a released checkpoint, what no mask depends on: the class head, the projection of the text for a loss, norms whose
# result nothing reads, what follows the last stage, biases that a softmax or a normalisation takes away, constants.
NO_MASK_DEPENDS_ON = re.compile(
    r"lang_proj\.|classifier\.predictor\.class_embed\.|image_model\.norm\d\.|image_model\.layers\.3\.res_gate\."
    r"|language_model\.(norms\.|pooler\.|pwams\.3\.|res_gates\.3\.)|.*\.f_key\.0\.bias$"
    r"|language_model\.pwams\.\d\.image_lang_att\.f_value\.0\.bias$|.*(relative_position_index|position_ids|attn_mask)$"
)
PWAM = {
    "own": "vis_project.0",
    "query": "image_lang_att.f_query.0",
    "key": "image_lang_att.f_key.0",
    "value": "image_lang_att.f_value.0",
    "out": "image_lang_att.W.0",
    "project": "project_mm.0",
}
Source = tuple[str, slice | int]  # a tensor of the release and which of its rows
EVERY_ROW = slice(None)


def convert_magnet_release(
    checkpoint: Path, vocabulary: str, out: Path, config: MagNetConfig | None = None
) -> Conversion:
    """Write the released MagNet weights as a checkpoint that ``evaluate`` and ``predict`` read.

    The network then computes what the release computes, the words' side with its defects. What differs is around it:
    the release squashes pictures to 480 x 480 and enlarges its logits from corner to corner, we letterbox and enlarge
    from centre to centre; of an expression longer than 20 pieces we keep [SEP].

    Args:
        checkpoint: the file of the release, as ``torch.save`` wrote it.
        vocabulary: of bert-base-uncased, see ``WordPieces.from_pretrained``.
        out: folder to write.
        config: other widths than those of the release.

    Raises:
        RefsegError: the file is missing, damaged, of another network, or holds what could run code.
    """
    tokenizer = WordPieces.from_pretrained(vocabulary)
    model = build_model(config or MagNetConfig.release(), len(tokenizer), fetch_weights=False)
    source, names = _read_released(checkpoint), magnet_release_names(model)
    taken = {name for name, _ in names.values()}
    unused = [name for name in source if name not in taken and not NO_MASK_DEPENDS_ON.match(name)]
    missing = sorted(taken - source.keys())
    if missing:
        instead = f"; what it has instead is {_listed(unused)}" if unused else ""
        raise RefsegError(
            f"{checkpoint} is no checkpoint of the MagNet release: it lacks {_listed(missing)}{instead}; name another."
        )
    weights = model.state_dict()
    model.load_state_dict({ours: _rows(source, names[ours], weights[ours]) for ours in weights})
    record = {"converted_from": Path(checkpoint).name, "unused": unused}
    save_checkpoint(out, Checkpoint(model, tokenizer, MAGNET_IMAGE_SIZE), record=record)
    return Conversion(len(taken), unused)


def magnet_release_names(model: MagNet) -> dict[str, Source]:
    """{name in our state dict: where it stands in the release}, for every weight of ``model``."""
    names = {}
    for ours in model.state_dict():
        part, rest = ours.split(".", 1)
        theirs = {
            "backbone": _swin_name,
            "text": _bert_name,
            "align_pixels": _align_pixels_name,
            "gates": _gate_name,
            "align_words": _align_words_name,
            "pixel_decoder": _pixel_decoder_name,
            "decoder": _decoder_name,
        }[part](rest, model)
        names[ours] = theirs if isinstance(theirs, tuple) else (theirs, EVERY_ROW)
    return names


def _swin_name(name: str, model: MagNet) -> str:
    """Ours begins a stage with the merging of patches, theirs ends the stage before with it."""
    if name.startswith("patch."):
        return f"image_model.patch_embed.{name.removeprefix('patch.')}"
    _, level, rest = name.split(".", 2)
    stage = STAGES.index(level) - rest.startswith("downsample.")
    return f"image_model.layers.{stage}.{rest}"


def _bert_name(name: str, model: MagNet) -> str:
    if name.startswith("embeddings."):
        return f"language_model.{name}"
    _, stage, _, layer, rest = name.split(".", 4)
    depth = model.config.text.layers // len(STAGES)
    return f"language_model.encoder.layer.{int(stage) * depth + int(layer)}.{rest}"


def _align_pixels_name(name: str, model: MagNet) -> str:
    level, part, rest = name.split(".", 2)
    where = f"image_model.layers.{STAGES.index(level)}"
    if part == "attend":
        return f"{where}.fusion.{_pwam_name(rest)}"
    if part == "mixer":
        return f"{where}.mixer.{rest}"
    scale, rest = rest.split(".", 1)
    if part == "attend_pooled":
        return f"{where}.fusions.{scale}.{_pwam_name(rest)}"
    layer, kind = rest.split(".")
    return f"{where}.pyramids.{scale}.{dict(widen=1, norm=2, narrow=3, reduce=5)[layer]}.{kind}"


def _pwam_name(name: str) -> str:
    """From "query.1.weight" "image_lang_att.f_query.1.weight"; what is no sequence in ours stands first in theirs."""
    part, *place, kind = name.split(".")
    return f"{PWAM[part][:-1]}{place[0] if place else 0}.{kind}"


def _gate_name(name: str, model: MagNet) -> str:
    level, _, rest = name.split(".", 2)
    return f"image_model.layers.{STAGES.index(level)}.res_gate.{rest}"


def _align_words_name(name: str, model: MagNet) -> str:
    level, part, rest = name.split(".", 2)
    stage = STAGES.index(level)
    if part == "gate":
        return f"language_model.res_gates.{stage}.{rest.removeprefix('gate.')}"
    return f"language_model.pwams.{stage}.{_pwam_name(rest)}"


def _pixel_decoder_name(name: str, model: MagNet) -> str | Source:
    """Levels are counted from the coarsest."""
    where = "classifier.pixel_decoder"
    part, first, *rest = name.split(".")
    if part == "pixels":
        return f"{where}.mask_features.{first}"
    if part == "level_embedding":
        return f"{where}.transformer.level_embed", STAGES[::-1].index(first)
    if part == "project":
        return f"{where}.input_proj.{STAGES[::-1].index(first)}.{'.'.join(rest)}"
    inner = ".".join(rest[:-1])
    theirs = {
        "attention.offsets": "self_attn.sampling_offsets",
        "attention.scores": "self_attn.attention_weights",
        "attention.value": "self_attn.value_proj",
        "attention.out": "self_attn.output_proj",
        "attention_norm": "norm1",
        "feed_forward.0": "linear1",
        "feed_forward.2": "linear2",
        "feed_forward_norm": "norm2",
    }[inner]
    return f"{where}.transformer.encoder.layers.{first}.{theirs}.{rest[-1]}"


def _decoder_name(name: str, model: MagNet) -> str | Source:
    """Of the self-attention of one query only the rows of the values count."""
    where = "classifier.predictor"
    part, *rest = name.split(".")
    if part in ("query", "query_position"):
        return f"{where}.query_{'feat' if part == 'query' else 'embed'}.weight"
    if part == "level_embedding":
        return f"{where}.level_embed.weight", STAGES[::-1].index(rest[0])
    if part == "norm":
        return f"{where}.decoder_norm.{rest[0]}"
    if part == "to_pixels":
        return f"{where}.mask_embed.layers.{int(rest[0]) // 2}.{rest[1]}"
    number, inner, kind = rest[0], ".".join(rest[1:-1]), rest[-1]
    if inner == "itself.0":
        dim = model.config.pixel_decoder.dim
        return f"{where}.transformer_self_attention_layers.{number}.self_attn.in_proj_{kind}", slice(2 * dim, 3 * dim)
    group, theirs = {
        "regions": ("cross_attention", "multihead_attn"),
        "regions.out_proj": ("cross_attention", "multihead_attn.out_proj"),
        "regions_norm": ("cross_attention", "norm"),
        "itself.1": ("self_attention", "self_attn.out_proj"),
        "itself_norm": ("self_attention", "norm"),
        "feed_forward.0": ("ffn", "linear1"),
        "feed_forward.2": ("ffn", "linear2"),
        "feed_forward_norm": ("ffn", "norm"),
    }[inner]
    return f"{where}.transformer_{group}_layers.{number}.{theirs}.{kind}"


def _read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file, without the "module." of a training in several processes."""
    try:
        with torch.serialization.safe_globals([Namespace]):  # LAVT's way of storing the command line; it runs nothing
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RefsegError(f"There is no file {path}: name the checkpoint of the MagNet release.") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RefsegError(f"{path} cannot be read as weights alone ({reason}): fetch it again.") from error
    tensors = stored.get("model", stored) if isinstance(stored, dict) else {}
    return {name.removeprefix("module."): value for name, value in tensors.items() if isinstance(value, Tensor)}


def _rows(source: dict[str, Tensor], where: Source, ours: Tensor) -> Tensor:
    """A convolution over one place is a matrix, and a table of one row a vector."""
    name, rows = where
    numbers = source[name][rows]
    if numbers.numel() != ours.numel() or [n for n in numbers.shape if n > 1] != [n for n in ours.shape if n > 1]:
        raise RefsegError(
            f"The tensor {name} has shape {list(source[name].shape)} where {list(ours.shape)} belongs: is the "
            "checkpoint of another network?"
        )
    return numbers.reshape(ours.shape).to(ours.dtype)
