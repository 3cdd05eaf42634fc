"""Released MagNet weights become a checkpoint of ours: on files of the right names and shapes that this test makes."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from refseg.checkpoint import load_checkpoint
from refseg.convert.conversion import Conversion
from refseg.convert.magnet import convert_magnet_release, magnet_release_names
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import SwinConfig
from refseg.models.blocks.cross_modal_alignment import CAMConfig
from refseg.models.blocks.deformable_pixel_decoder import DeformableConfig
from refseg.models.blocks.mask2former_decoder import MaskDecoderConfig
from refseg.models.magnet import MagNetConfig
from refseg.models.text import BertWordsConfig
from refseg.tokenizer import WordPieces

pytest.importorskip("timm")
pytest.importorskip("transformers")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "star", "##s", "left"]
CONFIG = replace(
    MagNetConfig.release(),
    backbone=SwinConfig(dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=3, drop_path=0.0),
    text=BertWordsConfig(dim=20, layers=8, heads=2, max_words=23),
    alignment=CAMConfig(released_words=True),
    pixel_decoder=DeformableConfig(dim=16, layers=2, heads=2, points=3, inner=11, groups=4),
    decoder=MaskDecoderConfig(layers=4, heads=2, inner=13),
)


def released_file(swin, bert, pixel, decoder, config=CONFIG):
    """Random tensors under the names and in the shapes of the release, written down from its modules."""
    tensors = {}

    def put(name, *shape):
        tensors[name] = torch.randn(*shape) / 8

    def layer(name, *shape, bias=True):
        put(f"{name}.weight", *shape)
        if bias:
            put(f"{name}.bias", shape[0])

    def norm(name, width):
        layer(name, width)

    def pixel_pwam(name, width):
        layer(f"{name}.vis_project.0", width, width, 1)
        layer(f"{name}.image_lang_att.f_query.0", width, width)
        norm(f"{name}.image_lang_att.f_query.1", width)
        for part in ("f_key", "f_value"):
            layer(f"{name}.image_lang_att.{part}.0", width, bert.dim, 1)
        layer(f"{name}.image_lang_att.W.0", width, width)
        norm(f"{name}.image_lang_att.W.1", width)
        layer(f"{name}.project_mm.0", width, width, 1)

    layer("image_model.patch_embed.proj", swin.dim, 3, 4, 4)
    norm("image_model.patch_embed.norm", swin.dim)
    for stage in range(4):
        width, where = swin.dim * 2**stage, f"image_model.layers.{stage}"
        for block in range(swin.depths[stage]):
            inside = f"{where}.blocks.{block}"
            norm(f"{inside}.norm1", width)
            norm(f"{inside}.norm2", width)
            put(f"{inside}.attn.relative_position_bias_table", (2 * swin.window - 1) ** 2, swin.heads[stage])
            put(f"{inside}.attn.relative_position_index", swin.window**2, swin.window**2)
            layer(f"{inside}.attn.qkv", 3 * width, width)
            layer(f"{inside}.attn.proj", width, width)
            layer(f"{inside}.mlp.fc1", 4 * width, width)
            layer(f"{inside}.mlp.fc2", width, 4 * width)
        if stage < 3:
            norm(f"{where}.downsample.norm", 4 * width)
            layer(f"{where}.downsample.reduction", 2 * width, 4 * width, bias=False)
        norm(f"image_model.norm{stage}", width)
        pixel_pwam(f"{where}.fusion", width)
        for scale in range(4):
            pixel_pwam(f"{where}.fusions.{scale}", width // 4)
            layer(f"{where}.pyramids.{scale}.1", 4 * width, width, 1, 1, bias=False)
            norm(f"{where}.pyramids.{scale}.2", 4 * width)
            layer(f"{where}.pyramids.{scale}.3", width, 4 * width, 1, 1, bias=False)
            layer(f"{where}.pyramids.{scale}.5", width // 4, width, 1, 1, bias=False)
        for place in (0, 2):
            layer(f"{where}.res_gate.{place}", width, width, bias=False)
        layer(f"{where}.mixer.0", width, 2 * width)
        norm(f"{where}.mixer.1", width)
        layer(f"{where}.mixer.2", width, width)

        text = f"language_model.pwams.{stage}"
        layer(f"{text}.vis_project.0", bert.dim, bert.dim)
        layer(f"{text}.image_lang_att.f_query.0", bert.dim, bert.dim, 1)
        for part in ("f_key", "f_value"):
            layer(f"{text}.image_lang_att.{part}.0", bert.dim, width, 1)
        layer(f"{text}.image_lang_att.W.0", bert.dim, bert.dim, 1)
        layer(f"{text}.project_mm.0", bert.dim, bert.dim, 1)
        norm(f"language_model.norms.{stage}", bert.dim)
        for place in (0, 2):
            layer(f"language_model.res_gates.{stage}.{place}", bert.dim, bert.dim, bias=False)

    for table, rows in {"word": len(PIECES), "position": bert.max_words, "token_type": 2}.items():
        put(f"language_model.embeddings.{table}_embeddings.weight", rows, bert.dim)
    put("language_model.embeddings.position_ids", 1, bert.max_words)
    norm("language_model.embeddings.LayerNorm", bert.dim)
    for number in range(bert.layers):
        where = f"language_model.encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            layer(f"{where}.attention.{part}", bert.dim, bert.dim)
        norm(f"{where}.attention.output.LayerNorm", bert.dim)
        layer(f"{where}.intermediate.dense", 4 * bert.dim, bert.dim)
        layer(f"{where}.output.dense", bert.dim, 4 * bert.dim)
        norm(f"{where}.output.LayerNorm", bert.dim)
    layer("language_model.pooler.dense", bert.dim, bert.dim)
    layer("lang_proj", pixel.dim, bert.dim)

    where, samples = "classifier.pixel_decoder", pixel.heads * 4 * pixel.points
    for number, stage in enumerate((3, 2, 1, 0)):
        layer(f"{where}.input_proj.{number}.0", pixel.dim, swin.dim * 2**stage, 1, 1)
        norm(f"{where}.input_proj.{number}.1", pixel.dim)
    put(f"{where}.transformer.level_embed", 4, pixel.dim)
    for number in range(pixel.layers):
        inside = f"{where}.transformer.encoder.layers.{number}"
        layer(f"{inside}.self_attn.sampling_offsets", 2 * samples, pixel.dim)
        layer(f"{inside}.self_attn.attention_weights", samples, pixel.dim)
        for part in ("value_proj", "output_proj"):
            layer(f"{inside}.self_attn.{part}", pixel.dim, pixel.dim)
        layer(f"{inside}.linear1", pixel.inner, pixel.dim)
        layer(f"{inside}.linear2", pixel.dim, pixel.inner)
        norm(f"{inside}.norm1", pixel.dim)
        norm(f"{inside}.norm2", pixel.dim)
    layer(f"{where}.mask_features", pixel.dim, pixel.dim, 1, 1)

    where = "classifier.predictor"
    for number in range(decoder.layers):
        for group, attention in {"self": "self_attn", "cross": "multihead_attn"}.items():
            inside = f"{where}.transformer_{group}_attention_layers.{number}"
            put(f"{inside}.{attention}.in_proj_weight", 3 * pixel.dim, pixel.dim)
            put(f"{inside}.{attention}.in_proj_bias", 3 * pixel.dim)
            layer(f"{inside}.{attention}.out_proj", pixel.dim, pixel.dim)
            norm(f"{inside}.norm", pixel.dim)
        inside = f"{where}.transformer_ffn_layers.{number}"
        layer(f"{inside}.linear1", decoder.inner, pixel.dim)
        layer(f"{inside}.linear2", pixel.dim, decoder.inner)
        norm(f"{inside}.norm", pixel.dim)
    norm(f"{where}.decoder_norm", pixel.dim)
    put(f"{where}.query_feat.weight", 1, pixel.dim)
    put(f"{where}.query_embed.weight", 1, pixel.dim)
    put(f"{where}.level_embed.weight", 3, pixel.dim)
    layer(f"{where}.class_embed", 2, pixel.dim)
    for number in range(3):
        layer(f"{where}.mask_embed.layers.{number}", pixel.dim, pixel.dim)
    return tensors


@pytest.fixture(scope="module")
def tensors():
    return released_file(CONFIG.backbone, CONFIG.text, CONFIG.pixel_decoder, CONFIG.decoder)


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return str(tmp_path / "vocab.txt")


def test_every_tensor_of_the_release_is_used_or_known_to_be_needless(tmp_path, tensors, vocabulary):
    torch.save({"model": tensors, "args": Namespace(lr=5e-5), "epoch": 39}, tmp_path / "model.pth")
    conversion = convert_magnet_release(tmp_path / "model.pth", vocabulary, tmp_path / "out", CONFIG)
    assert conversion.unused == []
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["record"]["converted_from"] == "model.pth" and record["image_size"] == 480
    loaded = load_checkpoint(tmp_path / "out")
    assert type(loaded.tokenizer) is WordPieces and loaded.tokenizer.words == PIECES
    state = loaded.model.state_dict()
    for ours, theirs in {
        "backbone.patch.proj.weight": "image_model.patch_embed.proj.weight",
        "backbone.stages.c3.downsample.reduction.weight": "image_model.layers.0.downsample.reduction.weight",
        "backbone.stages.c3.blocks.1.attn.qkv.bias": "image_model.layers.1.blocks.1.attn.qkv.bias",
        "text.stages.1.layers.1.output.dense.bias": "language_model.encoder.layer.3.output.dense.bias",
        "align_pixels.c4.attend_pooled.2.out.1.bias": "image_model.layers.2.fusions.2.image_lang_att.W.1.bias",
        "align_words.c2.gate.gate.2.weight": "language_model.res_gates.0.2.weight",
        "decoder.to_pixels.4.weight": "classifier.predictor.mask_embed.layers.2.weight",
    }.items():
        assert torch.equal(state[ours], tensors[theirs]), ours
    pixel = tensors["classifier.pixel_decoder.transformer.level_embed"]
    assert torch.equal(state["pixel_decoder.level_embedding.c5"], pixel[0])
    assert torch.equal(state["pixel_decoder.level_embedding.c2"], pixel[3])
    own = tensors["classifier.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight"]
    assert torch.equal(state["decoder.layers.1.itself.0.weight"], own[32:])
    matrix = tensors["image_model.layers.3.pyramids.1.5.weight"]
    assert torch.equal(state["align_pixels.c5.pyramid.1.reduce.weight"], matrix[..., 0, 0])


def test_every_weight_of_the_network_has_a_name_at_the_released_size():
    with torch.device("meta"):
        model = build_model(MagNetConfig.release(), 30522)
    names = magnet_release_names(model)
    assert names.keys() == model.state_dict().keys() and len(set(map(str, names.values()))) == len(names)


def refused(tmp_path, path, vocabulary, *parts):
    with pytest.raises(RefsegError) as caught:
        convert_magnet_release(path, vocabulary, tmp_path / "out", CONFIG)
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == [], message
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused_in_a_sentence(tmp_path, tensors, vocabulary):
    path = tmp_path / "model.pth"
    refused(tmp_path, path, vocabulary, "There is no file")
    path.write_bytes(b"not a checkpoint")
    refused(tmp_path, path, vocabulary, "cannot be read as weights alone", "fetch it again")
    torch.save({"model": {"other.weight": torch.ones(2)}}, path)
    refused(tmp_path, path, vocabulary, "lacks classifier.pixel_decoder", "what it has instead is other.weight")
    name = "classifier.predictor.decoder_norm.weight"
    torch.save({"model": tensors | {name: torch.ones(17)}}, path)
    refused(tmp_path, path, vocabulary, name, "[17]", "[16]")


class Harmful:
    def __reduce__(self):
        return print, ("run!",)


def test_nothing_in_the_file_is_run(tmp_path, vocabulary, capsys):
    torch.save({"model": {}, "args": Harmful()}, tmp_path / "model.pth")
    refused(tmp_path, tmp_path / "model.pth", vocabulary, "cannot be read as weights alone")
    assert "run!" not in capsys.readouterr().out


def test_the_prefix_of_several_processes_is_taken_off(tmp_path, tensors, vocabulary):
    torch.save({"model": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "model.pth")
    assert convert_magnet_release(tmp_path / "model.pth", vocabulary, tmp_path / "out", CONFIG).unused == []


def test_the_command_says_what_it_used_and_what_not(refseg, tmp_path, monkeypatch):
    def convert(checkpoint, vocabulary, out):
        assert (str(checkpoint), vocabulary, out) == ("a.pth", "words.txt", tmp_path / "x")
        return Conversion(900, ["ema.weight"])

    monkeypatch.setattr("refseg.convert.magnet.convert_magnet_release", convert)
    answer = refseg("convert-magnet-release", "a.pth", "--out", tmp_path / "x", "--vocabulary", "words.txt")
    assert answer == (0, f"900 tensors are now the network in {tmp_path / 'x'}.\n", "Not used: ema.weight\n")
