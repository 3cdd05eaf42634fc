"""Where the time of a training step goes in the whole paper-size network, and how fast it trains.

    python benchmarks/network.py                  # CPU, batch 1: the share of CMSA and GMLF in a step
    python benchmarks/network.py --device cuda    # images per second and the largest batch, literal against ours
    python benchmarks/network.py --frames 5       # the network for clips (preset cmsa_a2d) instead; on a GPU its rate

Writes data/results/cmsa_network.json (with the frames and, on a GPU, the device in its name).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from cmsa_forms import whole_block
from measure import about, median_seconds, write_json
from torch import Tensor, nn

from refseg.models import build_model
from refseg.models.blocks.attention import regions_with_pixels
from refseg.models.cmsa_net import LEVELS, CMSANet, CMSANetConfig
from refseg.objectives import MaskLossConfig, ObjectiveConfig, build_objective
from refseg.paths import results_dir
from refseg.training.presets import PRESETS
from refseg.types import Annotations, RefBatch

VOCABULARY = 12_112  # of the authors' release


def make_batch(samples: int, size: int, words: int, frames: int = 1) -> RefBatch:
    """Random images or clips, words and masks; nothing is padded, the middle frame is the target."""
    ids = torch.randint(2, VOCABULARY, (samples, words))
    mask = torch.rand(samples, 1, size, size) > 0.9
    names = [str(number) for number in range(samples)]
    return RefBatch(
        frames=torch.randn(samples, frames, 3, size, size),
        target_frame=torch.full((samples,), frames // 2),
        token_ids=ids,
        token_valid=torch.ones_like(ids, dtype=torch.bool),
        mask=mask,
        pixel_valid=torch.ones_like(mask),
        expressions=names,
        original_masks=list(mask[:, 0]),
        original_sizes=[(size, size)] * samples,
        sample_ids=names,
        image_ids=names,
        annotations=[Annotations()] * samples,
    )


def make_literal(model: CMSANet) -> None:
    """Let every block compute the equation as written, through torch's fused attention."""
    for level in LEVELS:
        model.cross_modal[level].forward = partial(literal_forward, model.cross_modal[level])


def literal_forward(block: nn.Module, pixels: Tensor, words: Tensor, valid: Tensor, *_) -> Tensor:
    """[B,C,h,w], where nothing is padded."""
    return whole_block("literal_sdpa", block, pixels, words, valid).unflatten(2, pixels.shape[-2:])


def training_step(model: CMSANet, batch: RefBatch, precision: torch.dtype | None) -> Callable[[], None]:
    """One update as ``refseg train`` makes it."""
    objective = build_objective(ObjectiveConfig((MaskLossConfig(dice=0.0),)))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)
    device = batch.mask.device.type

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, precision, enabled=precision is not None):
            _, losses = objective(model, batch)
        losses["bce"].backward()
        optimizer.step()

    return step


def parts(model: CMSANet, batch: RefBatch) -> dict[str, Callable[[], None]]:
    """Forward and backward of each CMSA block and of GMLF alone, on inputs of the shapes they meet in the network."""
    with torch.no_grad():
        features = model.features(batch)
        words, valid = model.text(batch.token_ids, batch.token_valid)
        fused = model.fuse_words(features, words, valid, batch.pixel_valid, {})
    regions = regions_with_pixels(batch.pixel_valid, features["c5"].shape[-2:])

    def passes(module: nn.Module, *inputs: Tensor) -> Callable[[], None]:
        leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
        return lambda: module(*leaves).sum().backward()

    found = {
        f"CMSA {level}": passes(model.cross_modal[level], features[level], words, valid, regions) for level in LEVELS
    }
    leaves = {level: x.detach().requires_grad_() for level, x in fused.items()}
    return {**found, "GMLF": lambda: model.fusion(leaves).sum().backward()}


def seconds(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median time of each, after a round for warming up."""
    for step in work.values():
        step()
    return median_seconds(work, rounds)


@dataclass
class Network:
    """Profile the paper-size network: ResNet-101, 320 px, 20 words, 512-d attention, 500-d fusion."""

    device: str = "cpu"  # cpu or cuda.
    size: int = 320  # Side of the images.
    words: int = 20  # Words per expression.
    frames: int = 1  # Frames per clip; more than one takes the network for clips.
    rounds: int = 3  # Timed rounds.

    def run(self) -> None:
        """Measure, print, write."""
        torch.manual_seed(0)
        config = CMSANetConfig.paper() if self.frames == 1 else PRESETS["cmsa_a2d"].model
        model = build_model(config, VOCABULARY, fetch_weights=False).to(self.device).train()
        result = self.shares(model) if self.device == "cpu" else {"training": self.rates(model)}
        clips = {} if self.frames == 1 else {"frames": self.frames}
        name = "cmsa_network" + f"_{self.frames}_frames" * bool(clips) + f"_{self.device}" * (self.device != "cpu")
        path = results_dir() / f"{name}.json"
        write_json(path, {"size": self.size, "words": self.words, **clips, **result, **about(self.device)})
        print(json.dumps(result, indent=1))
        print(f"Written: {path}")

    def shares(self, model: CMSANet) -> dict:
        """Seconds of a training step at batch 1, everything trained, and of CMSA and GMLF; of clips the first."""
        batch = make_batch(1, self.size, self.words, self.frames)
        step = {"training step": training_step(model, batch, None)}
        if self.frames > 1:
            return {"seconds": seconds(step, self.rounds)}
        work = {**step, **parts(model, batch)}
        found = seconds(work, self.rounds)
        share = sum(value for name, value in found.items() if name != "training step") / found["training step"]
        return {"seconds": found, "share of CMSA and GMLF": share}

    def rates(self, model: CMSANet) -> dict:
        """Samples per second by batch and the largest (a power of two) that fits, bfloat16; of images literal too."""
        found = {}
        for form in ("ours", "literal") if self.frames == 1 else ("ours",):
            if form == "literal":
                make_literal(model)
            rows, samples = {}, 1
            while samples <= 512:
                try:
                    batch = make_batch(samples, self.size, self.words, self.frames).to(self.device)
                    step = training_step(model, batch, torch.bfloat16)
                    rows[samples] = samples / seconds({"step": step}, self.rounds)["step"]
                except torch.cuda.OutOfMemoryError:
                    break
                finally:
                    torch.cuda.empty_cache()
                samples *= 2
            found[form] = {"samples per second by batch": rows, "largest batch": max(rows, default=0)}
        return found


if __name__ == "__main__":
    tyro.cli(Network).run()
