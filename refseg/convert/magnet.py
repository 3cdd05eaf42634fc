"""From the authors' released MagNet (yxchng/mask-grounding) to a checkpoint folder of ours.

The names are those of the release's modules. We could not compare them with the authors' own file, which we do not
have; shapes are checked, and what is missing or left over is named.
"""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from refseg.checkpoint import Checkpoint, refuse_other_folder, save_checkpoint
from refseg.convert.conversion import Conversion, unused_names
from refseg.errors import RefsegError, first_line
from refseg.models import build_model
from refseg.models.magnet import MagNet, MagNetConfig
from refseg.models.text.base import STAGES
from refseg.models.text.bert import BertWordsConfig
from refseg.tokenizer import WordPieces

IMAGE_SIZE = 480
# Of a released checkpoint, what no mask depends on: the class head, the projection of the text for a loss, norms whose
# result nothing reads, what follows the last stage, biases that a softmax or a normalisation takes away, constants.
NO_MASK_DEPENDS_ON = re.compile(
    r"lang_proj\.|classifier\.predictor\.class_embed\.|image_model\.norm\d\.|image_model\.layers\.3\.res_gate\."
    r"|language_model\.(norms\.|pooler\.|pwams\.3\.|res_gates\.3\.)|.*\.f_key\.0\.bias$"
    r"|language_model\.pwams\.\d\.image_lang_att\.f_value\.0\.bias$|.*(relative_position_index|position_ids|attn_mask)$"
)
PWAM = {
    "own": "vis_project",
    "query": "image_lang_att.f_query",
    "key": "image_lang_att.f_key",
    "value": "image_lang_att.f_value",
    "out": "image_lang_att.W",
    "project": "project_mm",
}
ENCODER_LAYER = {
    "attention.offsets": "self_attn.sampling_offsets",
    "attention.scores": "self_attn.attention_weights",
    "attention.value": "self_attn.value_proj",
    "attention.out": "self_attn.output_proj",
    "attention_norm": "norm1",
    "feed_forward.0": "linear1",
    "feed_forward.2": "linear2",
    "feed_forward_norm": "norm2",
}
DECODER_LAYER = {  # ours, then the release's list of layers and what is in one
    "attention": ("cross_attention", "multihead_attn"),
    "attention_norm": ("cross_attention", "norm"),
    "itself.1": ("self_attention", "self_attn.out_proj"),
    "itself_norm": ("self_attention", "norm"),
    "feed_forward.0": ("ffn", "linear1"),
    "feed_forward.2": ("ffn", "linear2"),
    "feed_forward_norm": ("ffn", "norm"),
}
PYRAMID = {"widen": 1, "norm": 2, "narrow": 3, "reduce": 5}
# How our names begin, levels already counted, and how the release's begin. What comes after "#" says which rows of the
# tensor are meant: one level, or the values in the self-attention of a single query, of which only these count.
BEGINNINGS = {
    r"backbone\.patch": "image_model.patch_embed",
    r"backbone\.stages": "image_model.layers",
    r"text\.embeddings": "language_model.embeddings",
    r"text\.layer": "language_model.encoder.layer",
    r"align_pixels\.(\d)\.attend": r"image_model.layers.\1.fusion",
    r"align_pixels\.(\d)\.attend_pooled": r"image_model.layers.\1.fusions",
    r"align_pixels\.(\d)\.mixer": r"image_model.layers.\1.mixer",
    **{
        rf"align_pixels\.(\d)\.pyramid\.(\d)\.{k}": rf"image_model.layers.\1.pyramids.\2.{n}"
        for k, n in PYRAMID.items()
    },
    r"gates\.(\d)\.gate": r"image_model.layers.\1.res_gate",
    r"align_words\.(\d)\.gate\.gate": r"language_model.res_gates.\1",
    r"align_words\.(\d)\.attend": r"language_model.pwams.\1",
    r"pixel_decoder\.pixels": "classifier.pixel_decoder.mask_features",
    r"pixel_decoder\.level_embedding": "classifier.pixel_decoder.transformer.level_embed#",
    r"pixel_decoder\.project": "classifier.pixel_decoder.input_proj",
    **{
        rf"pixel_decoder\.layers\.(\d+)\.{ours}": rf"classifier.pixel_decoder.transformer.encoder.layers.\1.{theirs}"
        for ours, theirs in ENCODER_LAYER.items()
    },
    r"decoder\.query": "classifier.predictor.query_feat.weight",
    r"decoder\.query_position": "classifier.predictor.query_embed.weight",
    r"decoder\.level_embedding": "classifier.predictor.level_embed.weight#",
    r"decoder\.norm": "classifier.predictor.decoder_norm",
    **{rf"decoder\.to_pixels\.{2 * n}": f"classifier.predictor.mask_embed.layers.{n}" for n in range(3)},
    r"decoder\.layers\.(\d+)\.itself\.0\.(\w+)": (
        r"classifier.predictor.transformer_self_attention_layers.\1.self_attn.in_proj_\2#values"
    ),
    **{
        rf"decoder\.layers\.(\d+)\.{ours}": rf"classifier.predictor.transformer_{group}_layers.\1.{theirs}"
        for ours, (group, theirs) in DECODER_LAYER.items()
    },
}
Source = tuple[str, slice | int]  # a tensor of the release and which of its rows


def convert_magnet_release(
    checkpoint: Path, vocabulary: str, out: Path, config: MagNetConfig | None = None
) -> Conversion:
    """Write the released MagNet weights as a checkpoint that ``evaluate`` and ``predict`` read.

    The network then computes what the release computes, the words' side with its defects. What differs is around it:
    the release squashes images to 480 x 480 and enlarges its logits from corner to corner, we letterbox and enlarge
    from centre to centre; of an expression longer than 20 pieces we keep [SEP].

    Args:
        checkpoint: the file of the release, as ``torch.save`` wrote it.
        vocabulary: of bert-base-uncased, see ``WordPieces.from_pretrained``.
        out: folder to write; it may hold an older checkpoint and nothing else.
        config: other widths than those of the release.

    Raises:
        RefsegError: the file is missing, damaged, of another network, or holds what could run code.
    """
    refuse_other_folder(out)  # now, and not after minutes of work
    tokenizer = WordPieces.from_pretrained(vocabulary)
    model = build_model(config or MagNetConfig.release(), len(tokenizer), fetch_weights=False)
    assert isinstance(model, MagNet)
    source, names = _read_released(checkpoint), magnet_release_names(model)
    taken = sorted({name for name, _ in names.values()})
    unused = unused_names(checkpoint, "MagNet", taken, source, NO_MASK_DEPENDS_ON.match)
    weights = model.state_dict()
    model.load_state_dict({ours: _rows(source, names[ours], weights[ours]) for ours in weights})
    record = {"converted_from": Path(checkpoint).name, "unused": unused}
    save_checkpoint(out, Checkpoint(model, tokenizer, IMAGE_SIZE), record=record)
    return Conversion(len(taken), unused)


def magnet_release_names(model: MagNet) -> dict[str, Source]:
    """{name in our state dict: its name in the release}, for every weight of ``model``."""
    return {ours: _source(ours, model) for ours in model.state_dict()}


def _source(name: str, model: MagNet) -> Source:
    text = model.config.text
    depth = text.layers // STAGES if isinstance(text, BertWordsConfig) else 0
    dim = model.config.pixel_decoder.dim
    # Ours begins a stage with the merging of patches, theirs ends the stage before with it.
    name = re.sub(r"stages\.c(\d)\.downsample", lambda m: f"stages.{int(m[1]) - 3}.downsample", name)
    # In the decoders levels are counted from the coarsest.
    coarsest_first = name.startswith(("pixel_decoder.", "decoder."))
    name = re.sub(r"\.c(\d)\b", lambda m: f".{5 - int(m[1]) if coarsest_first else int(m[1]) - 2}", name)
    name = re.sub(r"^text\.stages\.(\d)\.layers\.(\d+)", lambda m: f"text.layer.{int(m[1]) * depth + int(m[2])}", name)
    pwam = re.fullmatch(r"(align_(?:pixels|words)\.\d\.attend.*?)\.([a-z]+)(\.\d)?\.(weight|bias)", name)
    if pwam:  # a single layer of ours is the first of a sequence in theirs
        name = f"{pwam[1]}.{PWAM[pwam[2]]}{pwam[3] or '.0'}.{pwam[4]}"
    for begin, theirs in BEGINNINGS.items():
        if match := re.match(rf"{begin}(?=\.|$)", name):
            name = match.expand(theirs) + name[match.end() :]
            break
    name, _, rows = name.replace("#.", "#").partition("#")
    return name, slice(2 * dim, 3 * dim) if rows == "values" else int(rows) if rows else slice(None)


def _read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file, without the "module." of a training in several processes."""
    try:
        with torch.serialization.safe_globals([Namespace]):  # LAVT's way of storing the command line; it runs nothing
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RefsegError(f"There is no file {path}: name the checkpoint of the MagNet release.") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RefsegError(f"{path} cannot be read as weights alone ({first_line(error)}): fetch it again.") from error
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
