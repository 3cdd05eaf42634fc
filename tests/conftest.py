"""One thread and one seed for every test, so that numbers do not depend on the machine; a small RefShapes."""

import ctypes
import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib: no windows
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
SMALL_REFSHAPES = {"train": 12, "val": 7, "testA": 3, "testB": 3, "testC": 3}


@pytest.fixture(autouse=True)
def deterministic():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def give_memory_back(request):
    """After a large test glibc keeps what was freed: a worker would grow to the sum of its largest tests."""
    yield
    if request.node.get_closest_marker("slow") and sys.platform == "linux":
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
        if trim:
            trim(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Genuine samples and parity numbers that lie beside the project; tests that need them skip where they do not."""
    folder = Path(os.environ.get("REFSEG_SHARED") or SHARED)
    if not folder.is_dir():
        pytest.skip(f"no genuine samples at {folder}")
    return folder


@pytest.fixture(scope="session")
def small_data_dir(tmp_path_factory) -> Path:
    """A data folder that holds a RefShapes of a few pictures."""
    from refseg.datasets.refshapes import ensure

    folder = tmp_path_factory.mktemp("small-data")
    ensure(folder / "refshapes", SMALL_REFSHAPES)
    return folder


@pytest.fixture
def tiny_refshapes(small_data_dir, monkeypatch) -> Path:
    """``build_dataset("refshapes", ...)`` reads the small RefShapes, in this process."""
    monkeypatch.setenv("REFSEG_DATA", str(small_data_dir))
    monkeypatch.setattr("refseg.datasets.refshapes.IMAGES", SMALL_REFSHAPES)
    return small_data_dir


@pytest.fixture
def tiny_experiment(tiny_refshapes):
    """Every part of the lesson's network at its smallest, 13 steps on the small RefShapes."""
    from refseg.models.backbones import SmallBackboneConfig
    from refseg.models.blocks.cmsa import CMSAConfig
    from refseg.models.blocks.mask_head import SkipMaskHeadConfig
    from refseg.models.cmsa_net import CMSANetConfig
    from refseg.models.fusion import GMLFConfig
    from refseg.models.text import ContextualWordsConfig
    from refseg.training.experiment import DataConfig, Experiment, OptimConfig

    model = replace(
        CMSANetConfig.lesson(),
        backbone=SmallBackboneConfig(channels=(4, 4, 6, 6, 8)),
        text=ContextualWordsConfig(dim=8),
        cross_modal=CMSAConfig(dim=8),
        fusion=GMLFConfig(dim=8),
        head=SkipMaskHeadConfig(dim=4),
    )
    optim = OptimConfig(steps=13, batch_size=6, warmup_steps=3, eval_every=5, save_every=4, log_every=1)
    return Experiment(model, data=DataConfig(image_size=32, val_samples=5), optim=optim)


@pytest.fixture
def tiny_checkpoint(tiny_experiment, tmp_path) -> Path:
    """An untrained checkpoint that knows the words of the small RefShapes."""
    from refseg.checkpoint import Checkpoint, save_checkpoint
    from refseg.models import build_model
    from refseg.training.build import build_data

    _, _, tokenizer = build_data(tiny_experiment)
    model = build_model(tiny_experiment.model, len(tokenizer))
    save_checkpoint(tmp_path / "tiny", Checkpoint(model, tokenizer, tiny_experiment.data.image_size))
    return tmp_path / "tiny"


@pytest.fixture
def tiny_grounded(tiny_experiment, tmp_path) -> Path:
    """A small MagNet, untrained, with untrained heads for hidden words beside it."""
    from safetensors.torch import save_file

    from refseg.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from refseg.evaluation.hidden_words import HEADS, WordsAlone, grounding_of
    from refseg.models import build_model
    from refseg.models.backbones import HALVING
    from refseg.models.magnet import MagNetConfig
    from refseg.models.serialise import config_to_dict
    from refseg.objectives import MaskGroundingConfig, MaskLossConfig, ObjectiveConfig
    from refseg.training.build import build_data

    _, _, tokenizer = build_data(tiny_experiment)
    backbone = replace(HALVING, channels=(8, 8, 8, 12, 12))
    model = build_model(replace(MagNetConfig.lesson(), backbone=backbone), len(tokenizer))
    objective = ObjectiveConfig((MaskLossConfig(), MaskGroundingConfig(pixels="fused/c3", dim=8, heads=2)))
    record = {"experiment": config_to_dict(replace(tiny_experiment, model=model.config, objective=objective))}
    folder = tmp_path / "grounded"
    save_checkpoint(folder, Checkpoint(model, tokenizer, tiny_experiment.data.image_size), record=record)
    predictor = grounding_of(load_checkpoint(folder)).predictor.state_dict()
    parts = {"predictor": predictor, "alone": WordsAlone(len(tokenizer)).state_dict()}
    save_file({f"{part}.{name}": x for part, tensors in parts.items() for name, x in tensors.items()}, folder / HEADS)
    return folder


@pytest.fixture
def tiny_alignformer(tiny_experiment, tmp_path) -> Path:
    """A small AlignFormer, untrained."""
    from refseg.checkpoint import Checkpoint, save_checkpoint
    from refseg.models import build_model
    from refseg.models.alignformer import AlignFormerConfig
    from refseg.models.backbones import HALVING
    from refseg.training.build import build_data

    _, _, tokenizer = build_data(tiny_experiment)
    backbone = replace(HALVING, channels=(8, 8, 8, 12, 12))
    model = build_model(replace(AlignFormerConfig.lesson(), backbone=backbone), len(tokenizer))
    save_checkpoint(tmp_path / "alignformer", Checkpoint(model, tokenizer, 48))
    return tmp_path / "alignformer"


@pytest.fixture
def no_accelerate_state():
    """accelerate keeps the device of its first use for the whole process; tests choose their own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def refseg(monkeypatch, capsys):
    """Runs one command in this process; gives status, stdout, stderr."""
    from refseg import cli

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refseg", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as error:
            status = error.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def small_refcoco():
    """``small_refcoco(folder)`` writes a benchmark in the layout of RefCOCO there."""

    def write(folder, splits=("train", "train", "val", "val", "train"), name="COCO_train2014_{:012d}.jpg"):
        """Noisy JPEGs of 40 x 60 pixels in the layout of RefCOCO, two sentences about each; of each split some."""
        pictures = folder / "images" / "train2014"
        pictures.mkdir(parents=True)
        instances = {"images": [], "annotations": []}
        refs = []
        for i, split in enumerate(splits):
            pixels = torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
            Image.fromarray(pixels.numpy()).save(pictures / name.format(100 + i))
            instances["images"].append({"id": 100 + i, "file_name": name.format(100 + i), "height": 40, "width": 60})
            box = [10, 10, 30 + i, 10, 30 + i, 25, 10, 25]
            instances["annotations"].append({"id": i, "image_id": 100 + i, "segmentation": [box], "category_id": 1})
            said = [{"sent_id": 2 * i + k, "sent": f"box {k} of {i}", "raw": "Box", "tokens": ["box"]} for k in (0, 1)]
            refs.append({"ref_id": i, "ann_id": i, "image_id": 100 + i, "split": split, "sentences": said})
        (folder / "instances.json").write_text(json.dumps(instances))
        (folder / "refs(unc).json").write_text(json.dumps(refs))
        return folder

    return write
