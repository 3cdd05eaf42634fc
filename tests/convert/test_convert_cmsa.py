"""The authors' TensorFlow checkpoint becomes one of ours: on checkpoints that these tests write."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.checkpoint import load_checkpoint
from refseg.convert.cmsa import convert_cmsa_release, release_names
from refseg.convert.conversion import Conversion
from refseg.convert.tf_checkpoint import LANE, TensorFlowCheckpoint, crc32c, masked
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.backbones import DeepLabBackboneConfig
from refseg.models.blocks.cmsa_release import CMSAReleaseConfig, CMSAReleaseLevelsConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.fusion import ReleaseGMLFConfig
from refseg.models.text import WordEmbeddingConfig
from refseg.tokenizer import PAD, UNK, ReleaseVocabulary

LINES = [PAD, "<go>", "<eos>", UNK, "man", ".", "left", "man", "red"]
CONFIG = replace(
    CMSANetConfig.release(),
    backbone=DeepLabBackboneConfig(layers=(1, 1, 1, 1)),
    text=WordEmbeddingConfig(dim=7),
    cross_modal=CMSAReleaseLevelsConfig(
        c3=CMSAReleaseConfig(5, 13), c4=CMSAReleaseConfig(7, 17), c5=CMSAReleaseConfig(11)
    ),
    fusion=ReleaseGMLFConfig(dim=6),
    c5_dim=19,
)


# ---- a writer of the format, as small as possible --------------------------------------------------------------


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def slow_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def block(entries):
    """Keys with shared beginnings, a fresh start every third, and the trailer."""
    body, starts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % 3 == 0:
            starts.append(len(body))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    body += struct.pack(f"<{len(starts) + 1}I", *starts, len(starts)) + b"\0"
    return body + struct.pack("<I", masked(slow_crc32c(body)))


def table(entries, per_block=11):
    """{key: value}, sorted, over several blocks."""
    ordered, blob, index = sorted(entries.items()), b"", []
    for first in range(0, len(ordered), per_block):
        part = ordered[first : first + per_block]
        written = block(part)
        index.append((part[-1][0] + b"~", varint(len(blob)) + varint(len(written) - 5)))
        blob += written
    handles = []
    for last_blocks in (block([]), block(index)):
        handles.append(varint(len(blob)) + varint(len(last_blocks) - 5))
        blob += last_blocks
    return blob + b"".join(handles).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def write_checkpoint(path, arrays):
    data, entries = b"", {b"": field(1, 1)}
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        numbers = array.tobytes()
        dtype = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10}[array.dtype.name]
        entry = field(1, dtype) + field(2, shape) + field(5, len(numbers))
        entry += field(4, len(data)) if data else b""  # zero is not written
        entries[name.encode()] = entry + varint(6 << 3 | 5) + struct.pack("<I", masked(crc32c(numbers)))
        data += numbers
    Path(f"{path}.index").write_bytes(table(entries))
    Path(f"{path}.data-00000-of-00001").write_bytes(data)
    return path


# ---- the reader ------------------------------------------------------------------------------------------------


def test_checksum_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert crc32c(b"") == 0 and crc32c(bytes(32)) == 0x8A9136AA


def test_checksum_in_lanes_is_the_slow_one():
    for size in [1, LANE - 1, LANE, LANE + 1, 3 * LANE + 17]:
        data = np.random.default_rng(size).bytes(size)
        assert crc32c(data) == slow_crc32c(data)


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    arrays = {f"scope/layer_{i}/kernel": random.normal(size=(2, 3, i + 1)).astype(np.float32) for i in range(29)}
    return arrays | {"scope/alpha": np.float32(0.25), "steps": np.int64(700_000), "double": np.arange(5.0)}


def test_reads_what_was_written(tmp_path, arrays):
    path = write_checkpoint(tmp_path / "model.ckpt-7", arrays)
    for name in (path, f"{path}.index"):
        checkpoint = TensorFlowCheckpoint(name)
        assert sorted(checkpoint.variables) == sorted(arrays)
        for variable, expected in arrays.items():
            read = checkpoint.read(variable)
            assert read.dtype == np.asarray(expected).dtype and np.array_equal(read, expected)


def refused(path, *parts, variable=None):
    with pytest.raises(RefsegError) as caught:
        checkpoint = TensorFlowCheckpoint(path)
        checkpoint.read(variable or next(iter(checkpoint.variables)))
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == [], message


def test_missing_files_and_variables_are_named(tmp_path, arrays):
    refused(tmp_path / "none", "There is no TensorFlow checkpoint", "none.index")
    (tmp_path / "old.ckpt").write_bytes(b"a table")
    refused(tmp_path / "old.ckpt", "format V1")
    path = write_checkpoint(tmp_path / "model", arrays)
    refused(path, "no variable 'weights'", variable="weights")
    Path(f"{path}.data-00000-of-00001").unlink()
    refused(path, "model.data-00000-of-00001", "copy the checkpoint again")


@pytest.mark.parametrize("kept", [0, 7, 47, 48, 200, -1])
def test_a_cut_index_is_refused(tmp_path, arrays, kept):
    path = write_checkpoint(tmp_path / "model", arrays)
    index = Path(f"{path}.index")
    index.write_bytes(index.read_bytes()[:kept])
    refused(path, "not a sound index")


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "model.index").write_bytes(np.random.default_rng(0).bytes(4096))
    refused(tmp_path / "model", "does not end as such files do")
    (tmp_path / "model.index").write_bytes(bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57))
    refused(tmp_path / "model", "not a sound index")


def test_a_changed_number_is_noticed(tmp_path, arrays):
    path = write_checkpoint(tmp_path / "model", arrays)
    data = Path(f"{path}.data-00000-of-00001")
    blob = bytearray(data.read_bytes())
    blob[3] ^= 1
    data.write_bytes(blob)
    refused(path, "checksum differs", variable="double")
    data.write_bytes(blob[:20])
    refused(path, "ends before it", variable="steps")


def test_no_changed_byte_of_the_index_gets_through(tmp_path, arrays):
    """Every byte but those of the empty block about blocks and the zeros of the footer changes what is read."""
    path = write_checkpoint(tmp_path / "model", dict(list(arrays.items())[:3]))
    index = Path(f"{path}.index")
    whole = index.read_bytes()
    through = []
    for at in range(len(whole)):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            TensorFlowCheckpoint(path)
        except RefsegError:
            continue
        through.append(at)
    assert len(through) < 13 + 40 and all(at >= len(whole) - 48 - 60 - 13 for at in through)


@pytest.mark.parametrize(
    "entry, message",
    [
        (field(1, 1) + field(2, field(2, field(1, 1 << 60))) + field(5, 4), "size does not fit its shape"),
        (field(1, 1) + field(2, field(2, field(1, 3))) + field(5, 12) + field(4, 1 << 50), "ends before it"),
        (field(1, 7) + field(5, 4), "not of a type that weights have"),
        (field(1, 1) + field(5, 4) + field(7, b""), "in parts"),
        (field(1, b"four"), "bytes where a number belongs"),
        (field(2, 5), "number where a message belongs"),
        (field(1, 1) + b"\x12\x7f", "cut off"),
        (b"\xff" * 11, "too long"),
        (b"\x0b", "cut off"),
    ],
)
def test_hostile_entries_are_refused(tmp_path, entry, message):
    """Their checksums are right: somebody meant it."""
    (tmp_path / "model.index").write_bytes(table({b"": field(1, 1), b"name": entry}))
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(16))
    refused(tmp_path / "model", message, variable="name")


def test_big_endian_and_compressed_are_refused(tmp_path):
    (tmp_path / "model.index").write_bytes(table({b"": field(1, 1) + field(2, 1)}))
    refused(tmp_path / "model", "big-endian")
    squeezed = bytearray(block([(b"", field(1, 1))]))
    squeezed[-5] = 1
    squeezed[-4:] = struct.pack("<I", masked(slow_crc32c(bytes(squeezed[:-4]))))
    index = block([(b"~", varint(0) + varint(len(squeezed) - 5))])
    handles = varint(0) + varint(0) + varint(len(squeezed)) + varint(len(index) - 5)
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    (tmp_path / "model.index").write_bytes(bytes(squeezed) + index + handles.ljust(40, b"\0") + magic)
    refused(tmp_path / "model", "compressed")


# ---- the conversion --------------------------------------------------------------------------------------------


def in_tensorflows_order(ours, name, theirs):
    """Our weight as the release would have stored it."""
    array = ours.numpy()
    if name == "text.table.weight" or array.ndim < 2:
        return array
    if array.ndim == 2:
        return array.T[None, None, None]  # conv3d
    return array.transpose(2, 3, 1, 0)


@pytest.fixture
def original():
    """A network with weights and statistics that all differ, and its variables as the release would store them."""
    vocabulary_lines = [0, 3, 1, 2, 7, 5, 6, 8]  # of <pad>, <unk>, <go>, <eos>, man (the last), ".", left, red
    model = build_model(CONFIG, len(vocabulary_lines)).eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith("running_var") else torch.randn_like(value) / 8)
    state, names = model.state_dict(), release_names(model)
    arrays = {theirs: in_tensorflows_order(state[ours], ours, theirs) for ours, theirs in names.items()}
    embedding = np.full((len(LINES), 7), 1e6, np.float32)  # the first "man" is never looked up
    embedding[vocabulary_lines] = arrays["text_objseg/embedding"]
    arrays["text_objseg/embedding"] = embedding
    return model, arrays


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("\n".join(LINES) + "\n")
    return tmp_path / "vocabulary.txt"


def test_a_converted_network_is_the_original(tmp_path, original, vocabulary, make_small_batch):
    model, arrays = original
    training = {"text_objseg/beta1_power": np.float32(0.9), "text_objseg/score/DW/Adam_1": np.zeros(3, np.float32)}
    surplus = {"fc1_voc12_c0/weights": np.zeros(2, np.float32), "text_objseg/lstm/kernel": np.zeros(5, np.float32)}
    path = write_checkpoint(tmp_path / "model.ckpt", arrays | training | surplus)
    conversion = convert_cmsa_release(path, vocabulary, tmp_path / "converted", CONFIG)
    assert conversion.unused == ["text_objseg/lstm/kernel"] and conversion.converted == len(arrays)
    loaded = load_checkpoint(tmp_path / "converted")
    assert type(loaded.tokenizer) is ReleaseVocabulary and loaded.image_size == 320
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    batch = make_small_batch(loaded.tokenizer.encode("red man left."))
    assert torch.equal(loaded.model(batch).mask_logits, model(batch).mask_logits)
    record = json.loads((tmp_path / "converted" / "config.json").read_text())["record"]
    assert record["converted_from"] == "model.ckpt"


@pytest.fixture
def make_small_batch():
    from refseg.types import Annotations, RefBatch

    def make(ids):
        nothing = torch.zeros(1, 1, 40, 56, dtype=torch.bool)
        ids = torch.tensor([ids])
        return RefBatch(
            frames=torch.randn(1, 1, 3, 40, 56),
            target_frame=torch.zeros(1, dtype=torch.long),
            token_ids=ids,
            token_valid=torch.ones_like(ids, dtype=torch.bool),
            mask=nothing,
            pixel_valid=~nothing,
            expressions=["red man left."],
            original_masks=[nothing[0, 0]],
            original_sizes=[(40, 56)],
            sample_ids=["0"],
            image_ids=["0"],
            annotations=[Annotations()],
        )

    return make


def test_every_weight_of_the_network_has_a_name():
    model = build_model(CONFIG, 5)
    names = release_names(model)
    assert len(set(names.values())) == len(names)
    assert set(names) == {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


def test_names_are_those_of_the_release():
    with torch.device("meta"):
        model = build_model(replace(CMSANetConfig.release(), backbone=DeepLabBackboneConfig()), 5)
    names = release_names(model)
    for ours, theirs in {
        "backbone.net.conv1.weight": "conv1/weights",
        "backbone.net.layer1.2.bn3.running_mean": "bn2c_branch2c/moving_mean",
        "backbone.net.layer2.0.downsample.0.weight": "res3a_branch1/weights",
        "backbone.net.layer2.3.conv1.weight": "res3b3_branch2a/weights",
        "backbone.net.layer3.22.bn2.weight": "bn4b22_branch2b/gamma",
        "backbone.net.layer4.1.conv2.weight": "res5b_branch2b/weights",
        "project_c5.weight": "text_objseg/mlp_c5/DW",
        "cross_modal.c5.query.weight": "text_objseg/CMSA/conv3d/kernel",
        "cross_modal.c3.out.bias": "text_objseg/CMSA_C3/conv3d_3/bias",
        "cross_modal.c3.reduce.weight": "text_objseg/conv3d_1/kernel",
        "common_width.c5.weight": "text_objseg/conv2d/kernel",
        "fusion.share.c5": "text_objseg/mgate/x1/Variable",
        "head.logits.bias": "text_objseg/score/biases",
    }.items():
        assert names[ours] == theirs


def assert_not_converted(tmp_path, arrays, vocabulary, *parts):
    path = write_checkpoint(tmp_path / "model", arrays)
    with pytest.raises(RefsegError) as caught:
        convert_cmsa_release(path, vocabulary, tmp_path / "converted", CONFIG)
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == [], message
    assert not (tmp_path / "converted").exists()


@pytest.fixture
def variables():
    """All variables of the release, each with one number, but an embedding of the right shape."""
    names = release_names(build_model(CONFIG, 5)).values()
    ones = {name: np.ones(1, np.float32) for name in names}
    return ones | {"text_objseg/embedding": np.ones((len(LINES), 7), np.float32)}


def test_missing_and_surplus_variables_are_named_together(tmp_path, variables, vocabulary):
    variables["text_objseg/mlp_new/DW"] = variables.pop("text_objseg/mlp_c5/DW")
    assert_not_converted(tmp_path, variables, vocabulary, "lacks text_objseg/mlp_c5/DW; what", "text_objseg/mlp_new/DW")


def test_another_shape_is_refused(tmp_path, variables, vocabulary):
    variables["text_objseg/mgate/x3/conv2d/kernel"] = np.zeros((3, 3, 6, 17), np.float32)
    parts = "text_objseg/mgate/x3/conv2d/kernel", "[17, 6, 3, 3]", "[18, 6, 3, 3]"
    assert_not_converted(tmp_path, variables, vocabulary, *parts)


def test_another_vocabulary_is_refused(tmp_path, variables, vocabulary):
    vocabulary.write_text("\n".join([*LINES, "dog"]) + "\n")
    assert_not_converted(tmp_path, variables, vocabulary, "9 words", "lists 10")


def test_the_command_refuses_in_one_line(refseg, tmp_path, vocabulary):
    answer = refseg("convert-cmsa-release", tmp_path / "none", "--out", tmp_path / "x", "--vocabulary", vocabulary)
    status, out, err = answer
    assert (status, out, err.count("\n")) == (2, "", 1) and "There is no TensorFlow checkpoint" in err


def test_the_command_says_what_it_used_and_what_not(refseg, tmp_path, monkeypatch):
    def convert(checkpoint, vocabulary, out):
        assert (checkpoint, vocabulary, out) == (Path("a.ckpt"), Path("words.txt"), tmp_path / "x")
        return Conversion(607, ["lstm/kernel", "lstm/bias"])

    monkeypatch.setattr("refseg.convert.cmsa.convert_cmsa_release", convert)
    status, out, err = refseg("convert-cmsa-release", "a.ckpt", "--out", tmp_path / "x", "--vocabulary", "words.txt")
    assert (status, err) == (0, "Not used: lstm/kernel, lstm/bias\n")
    assert out == f"607 variables are now the network in {tmp_path / 'x'}.\n"
