"""What decides a training run, in frozen dataclasses: an experiment is a value, and so is a variant."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from refseg.datasets.clips import check_window
from refseg.errors import RefsegError
from refseg.models.base import ModelConfig
from refseg.models.serialise import TYPE, Config
from refseg.objectives import MaskLossConfig, ObjectiveConfig
from refseg.objectives.older import upgraded
from refseg.tokenizer import MAX_WORDS

# Old field names; switches that were once strings, and the values that meant off.
RENAMED = {
    "begin_with": "init_from",
    "begin_parts": "init_parts",
    "train_share": "train_fraction",
    "pieces": "pretrained_tokenizer",
    "control": "hide_expressions",
    "flips": "mirror",
    "broken": "skip_unreadable",
    "keep_features": "cache_features",
    "short_steps": "curriculum_steps",
    "short_words": "curriculum_words",
    "recompute": "gradient_checkpointing",
}
SWITCHES, OFF = ("hide_expressions", "skip_unreadable", "mixed_precision", "compile"), (False, None, "stop", "no")


@dataclass(frozen=True)
class RunConfig(Config):
    """Base of the configs of a run."""

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """From older runs; whether ``objects`` are needed now depends on the objective."""
        stored = {RENAMED.get(name, name): value for name, value in stored.items() if name != "objects"}
        return {name: value not in OFF if name in SWITCHES else value for name, value in stored.items()}


@dataclass(frozen=True)
class DataConfig(RunConfig):
    """What to train on and how it enters the network.

    Raises:
        RefsegError: a value that has no meaning, or two that exclude each other.
    """

    name: str = "refshapes"  # key of the data set
    root: str | None = None  # folder of its files or of its shards (``refseg shard``); None looks in data/
    train_split: str = "train"
    val_split: str = "val"
    split_by: str | None = None  # owner of the split (unc, umd, google, berkeley); None is the usual one
    train_fraction: float = 1.0  # of the training images, the first ones; validation and vocabulary stay as they are
    image_size: int = 96  # images are letterboxed to a square of this side, in pixels
    max_words: int = MAX_WORDS
    min_word_count: int = 1  # rarer words of the training expressions become <unk>
    pretrained_tokenizer: str | None = None  # use its word pieces instead of these words, see ``WordPieces``
    val_samples: int | None = 800  # validation during training uses this many samples, spread over the split
    hide_expressions: bool = False  # a control: every expression is blank, in training and in validation
    workers: int = 0  # processes that read images; 0 reads in the training process
    num_frames: int = 1  # of a clip: the window around the annotated frame, odd; images are clips of one frame
    frame_stride: int = 1  # distance of the frames in the window
    mirror: bool = False  # half of the training samples of every epoch are mirrored, left and right in words too
    skip_unreadable: bool = False  # omit training samples that cannot be read, and log them; else stop at the first
    cache_features: bool = False  # keep what a frozen backbone computes in memory: every image passes through it once

    def __post_init__(self):
        check_window(self.num_frames, self.frame_stride)
        if not 0 < self.train_fraction <= 1:
            raise RefsegError(f"train_fraction is {self.train_fraction}: give a number above 0 and at most 1.")
        if self.cache_features and self.workers:
            raise RefsegError("cache_features works within one process: set workers to 0, or switch it off.")


@dataclass(frozen=True)
class OptimConfig(RunConfig):
    """How the weights are found. Steps count updates, not epochs; the batch size is over all processes together.

    Raises:
        RefsegError: a value that has no meaning, or two that exclude each other.
    """

    steps: int = 6000
    batch_size: int = 32
    accumulate: int = 1  # parts in which a process works through its share of a batch: less memory, the same gradient
    expressions_per_image: int = 4  # samples of one image that stay together in a batch
    curriculum_steps: int = 0  # the first steps see short expressions only: attributes are learned sooner alone
    curriculum_words: int = 4  # what counts as short
    learning_rate: float = 2e-3  # peak, reached after the warm-up, then a cosine down to zero
    warmup_steps: int = 200
    weight_decay: float = 1e-2  # on matrices and kernels only
    clip_norm: float = 1.0
    backbone_rate: float = 1.0  # times the learning rate, for the backbone; to fix it set ``frozen`` in its config
    ema: float = 0.0  # above 0: decay of an average of the weights, which is validated and kept as ``best``
    channels_last: bool = False  # these three change speed and memory only, see ``tuning.fit_to_machine``
    compile: bool = False  # the stages of the backbone, by torch.compile
    gradient_checkpointing: bool = False  # of the backbone
    mixed_precision: bool = False  # bfloat16 where torch's autocast allows: faster on GPUs and on some CPUs
    seed: int = 0
    eval_every: int = 1000  # steps between validations; the best one is kept
    save_every: int = 500  # steps between checkpoints to resume from
    log_every: int = 20

    def __post_init__(self):
        counts = ("steps", "batch_size", "accumulate", "expressions_per_image", "eval_every", "save_every", "log_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise RefsegError(f"{name} is {getattr(self, name)}: give a whole number of at least 1.")
        if not 0 <= self.ema < 1:
            raise RefsegError(f"ema is {self.ema}: give a decay of at least 0 and below 1, for instance 0.999.")
        if self.backbone_rate <= 0:
            raise RefsegError(f"backbone_rate is {self.backbone_rate}: to fix the backbone set frozen in its config.")
        if self.compile and self.gradient_checkpointing:
            raise RefsegError("A compiled backbone saves memory by itself: set compile or gradient_checkpointing.")


@dataclass(frozen=True)
class Experiment(RunConfig):
    """Everything that decides a training run."""

    model: ModelConfig
    objective: ObjectiveConfig = ObjectiveConfig((MaskLossConfig(),))
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    init_from: str | None = None  # a shipped checkpoint, or a folder: training begins with its weights where they fit
    init_parts: tuple[str, ...] = ()  # only these parts of the model take them, e.g. ("backbone",); empty means all
    about: str = field(default="", compare=False)  # one line for people

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """In older runs the parts had no types, and the objective was not a list of terms."""
        stored = super().migrate(stored)
        typed = {
            name: {TYPE: kind, **stored[name]} for name, kind in (("data", "DataConfig"), ("optim", "OptimConfig"))
        }
        return {**stored, **typed, "objective": upgraded(stored["objective"])}


def variant(experiment: Experiment, about: str = "", **changes: Any) -> Experiment:
    """``experiment`` with other values; a dict changes fields of a part: ``variant(CMSA, data={"image_size": 64})``.

    Args:
        experiment: stays as it is.
        about: one line that says what the variant is.
        changes: fields of the experiment.
    """
    return _changed(experiment, {"about": about or experiment.about, **changes})


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    new = {n: _changed(getattr(config, n), value) if isinstance(value, dict) else value for n, value in changes.items()}
    return replace(config, **new)


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first field in which two configs differ, as "data.image_size was 96, now 128"."""
    pairs: dict[Any, tuple[Any, Any]] = {}
    if is_dataclass(old) and type(old) is type(new):
        pairs = {f.name: (getattr(old, f.name), getattr(new, f.name)) for f in fields(old) if f.compare}
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        pairs = dict(enumerate(zip(old, new)))
    for name, (before, now) in pairs.items():
        if before != now:
            return first_difference(before, now, f"{where}.{name}".lstrip("."))
    return f"{where} was {old}, now {new}"
