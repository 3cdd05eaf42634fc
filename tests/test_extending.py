"""Extending costs little: the classes below live in this file alone, and nothing in ``refseg/`` knows them.

A model, a way to fuse levels, an objective term and a data set, at most 40 lines each, train for two steps, are
evaluated, predicted with and explored. Start from a copy when you write one of your own.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from refseg.datasets.base import DatasetInfo, ReferringDataset
from refseg.datasets.registry import DATASETS
from refseg.models.base import Explanation, ModelConfig, ReferringModel
from refseg.models.fusion import Fusion, FusionConfig
from refseg.objectives import MaskLossConfig, ObjectiveConfig, ObjectiveContext, Term, TermConfig
from refseg.training.experiment import DataConfig, Experiment
from refseg.training.presets import PRESETS
from refseg.types import Annotations, Prediction, RefBatch, RefSample

MOST_LINES = 40


# ---- a model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DotProductConfig(ModelConfig):
    """The width of words and pixels."""

    dim: int = 8

    def build(self, vocabulary_size: int) -> DotProduct:
        return DotProduct(self, vocabulary_size)


class DotProduct(ReferringModel):
    """A pixel is meant if its feature points where the mean of the words does."""

    def __init__(self, config: DotProductConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(vocabulary_size, config.dim, padding_idx=0)
        self.pixels = nn.Conv2d(3, config.dim, 5, stride=4, padding=2)
        self.visual_channels = {"pixels": config.dim}
        self.trace_channels = {"words": config.dim, "sentence": config.dim, "pixels": config.dim}

    def forward(self, batch: RefBatch) -> Prediction:
        words, pixels = self.words(batch.token_ids), self.pixels(batch.images)
        sentence = words.sum(1) / batch.token_valid.sum(1, keepdim=True)
        logits = torch.einsum("bc,bchw->bhw", sentence, pixels)[:, None]
        return Prediction(logits, {"words": words, "sentence": sentence, "pixels": pixels})

    def explain(self, batch: RefBatch, prediction: Prediction, *, region_rows: bool = False) -> Explanation:
        scores = torch.einsum("blc,bchw->blhw", prediction.trace["words"], prediction.trace["pixels"])
        return Explanation(word_maps={"pixels": scores.flatten(2).softmax(-1).view_as(scores)})


# ---- a fusion ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaxFusionConfig(FusionConfig):
    """The width common to all levels."""

    def build(self, levels: tuple[str, ...]) -> MaxFusion:
        return MaxFusion(levels, self)


class MaxFusion(Fusion):
    """The largest value of any level."""

    def forward(self, x: dict[str, Tensor], kept: dict[str, Any] | None = None) -> Tensor:
        return torch.stack(list(x.values())).amax(0)


# ---- an objective term -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AreaConfig(TermConfig):
    """Weight of the loss "area"."""

    weight: float = 0.5

    def build(self, context: ObjectiveContext) -> Area:
        return Area({"area": self.weight})


class Area(Term):
    """The predicted area should be that of the mask."""

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        truth = batch.mask.float().mean((1, 2, 3))
        return {"area": F.l1_loss(prediction.mask_logits.sigmoid().mean((1, 2, 3)), truth)}


# ---- a data set --------------------------------------------------------------------------------------------------


class Halves(ReferringDataset):
    """Noise of 24 x 40 pixels, of which "left half" and "right half" mean what they say."""

    def __init__(self, info: DatasetInfo, split: str, transform=None):
        self.source, self.transform = f"{info.name}/{split}", transform
        self.expressions = ["left half", "right half"] * 6
        self.image_ids = [index // 2 for index in range(12)]
        self.referent_ids = list(range(12))

    def __getitem__(self, index: int) -> RefSample:
        noise = torch.Generator().manual_seed(self.image_ids[index])
        frames = torch.randint(0, 256, (1, 3, 24, 40), dtype=torch.uint8, generator=noise)
        mask = torch.zeros(24, 40, dtype=torch.bool)
        mask[:, 20 * (index % 2) : 20 * (index % 2) + 20] = True
        known = Annotations(image_id=self.image_ids[index])
        sample = RefSample(frames, mask, self.expressions[index], str(index), self.source, (24, 40), mask)
        sample = replace(sample, annotations=known)
        return self.transform(sample) if self.transform else sample


# ---- all of them at work -----------------------------------------------------------------------------------------


@pytest.fixture
def halves(monkeypatch) -> DatasetInfo:
    info = DatasetInfo("halves", Halves, splits={"us": {"train": {}, "val": {}}})
    monkeypatch.setitem(DATASETS, "halves", info)
    return info


def test_each_fits_on_a_page():
    for parts in ([DotProductConfig, DotProduct], [MaxFusionConfig, MaxFusion], [AreaConfig, Area], [Halves]):
        lines = sum(len(inspect.getsource(part).splitlines()) for part in parts)
        assert lines <= MOST_LINES, f"{parts[0].__name__} takes {lines} lines"


@pytest.mark.parametrize("which", ["model", "fusion"])
def test_everything_works_with_them(which, halves, tiny_experiment, refseg, tmp_path, monkeypatch, no_accelerate_state):
    """Through the commands that a person types, because nothing may depend on a name in a list."""
    monkeypatch.chdir(tmp_path)
    model = DotProductConfig(dim=7)
    if which == "fusion":
        model = replace(tiny_experiment.model, fusion=MaxFusionConfig(dim=8))
    objective = ObjectiveConfig((MaskLossConfig(), AreaConfig()))
    optim = replace(tiny_experiment.optim, steps=2, eval_every=2, save_every=1)
    experiment = Experiment(model, objective, DataConfig("halves", image_size=32), optim)
    monkeypatch.setitem(PRESETS, "mine", experiment)

    status, out, err = refseg("train", "--preset", "mine", "--out", "run", "--device", "cpu")
    assert status == 0, err
    assert '"area"' in (tmp_path / "run/log.jsonl").read_text()
    status, out, err = refseg("train", "--preset", "mine", "--out", "run", "--device", "cpu")
    assert status == 0, f"a finished run of one's own parts is not read back: {err}"

    status, out, err = refseg("evaluate", "--checkpoint", "run/best", "--data", "halves", "--device", "cpu")
    assert status == 0 and "12" in out, err

    photo = halves.reader(halves, "val")[0].frames[0]
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save("photo.png")
    said = "--image", "photo.png", "--expression", "left half", "--checkpoint", "run/best"
    status, out, err = refseg("predict", *said, "--out", "found.png")
    assert status == 0 and (tmp_path / "found_mask.png").exists(), err
    status, out, err = refseg("explore", *said, "--out", "page.html")
    assert status == 0 and (tmp_path / "page.html").exists(), err

    status, out, err = refseg("check-data", "halves")
    assert status == 0, out + err
