"""Commands about models: predict, explore, train, evaluate, score."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refseg.cli.data import Place
from refseg.errors import RefsegError
from refseg.files import write_text
from refseg.paths import runs_dir, shipped

if TYPE_CHECKING:
    from refseg.tokenizer import WordVocabulary

SHIPPED, SHIPPED_VIDEO = "cmsa_refshapes", "cmsa_refshapes_video"


@dataclass
class Predict:
    """Find in any photo or clip what an expression means, and save it with the mask drawn on it."""

    expression: str
    """What to find, for instance "the red star left of the circle"."""
    image: Path | None = None
    """The photo: JPEG, PNG, ..."""
    video: Path | None = None
    """Instead of a photo a clip: a folder of numbered frames, or a video file such as an mp4 (needs PyAV)."""
    checkpoint: Path | None = None
    """Folder with model.safetensors and config.json. The shipped ones, for photos and for clips, know the words of
    RefShapes and RefShapes-Video only."""
    out: Path | None = None
    """The image with the mask drawn on it, by default prediction.png; for a clip the folder, by default prediction, of
    a mask per frame and a sheet that shows up to 24 of them. After a stop, the same command continues."""

    def run(self) -> None:
        """Predict, write the files, and say what was found."""
        from refseg.datasets import open_clip
        from refseg.predict import Predictor, save_clip, save_prediction

        if (self.image is None) == (self.video is None):
            raise RefsegError("Name either a photo with --image or a clip with --video.")
        predictor = Predictor(self.checkpoint or shipped(SHIPPED if self.video is None else SHIPPED_VIDEO))
        if self.image is not None:
            out = self.out or Path("prediction.png")
            found = predictor.predict(self.image, self.expression, word_maps=False)
            save_prediction(found, out)
            said = f"{int(found.pred_mask.sum())} of {found.pred_mask.numel()} pixels found; the picture is {out}."
        else:
            out = self.out or Path("prediction")
            with open_clip(self.video) as clip:
                masks, sheet = save_clip(predictor, clip, self.expression, out)
            said = f"{sheet}\n{len(masks)} masks are in {masks[0].parent}; the sheet is {out / 'sheet.png'}."
        _warn_of_words(self.expression, predictor.checkpoint.tokenizer)
        print(said)


@dataclass
class Explore:
    """Write a page to explore what words do: hover, click, strike out. It works offline; without a photo: examples."""

    image: Path | None = None
    """The photo: JPEG, PNG, ... Without one the page shows the shipped examples."""
    expression: str | None = None
    """What to find in the photo, for instance "the red star left of the circle"."""
    compare: str | None = None
    """A second expression, beside the first."""
    checkpoint: Path | None = None
    """Folder with model.safetensors and config.json. The shipped one knows the words of RefShapes only."""
    out: Path | None = None
    """The page. Default: runs/explorer.html."""
    open: bool = False
    """Open the page in a browser too."""

    def run(self) -> None:
        """Write the page and say where it is."""
        from refseg.explorer import Explorer

        if (self.image is None) != (self.expression is None):
            raise RefsegError("A photo and an expression go together: give both --image and --expression, or neither.")
        if self.image is None:
            explorer = Explorer()
        else:
            explorer = Explorer(self.checkpoint or shipped(SHIPPED), self.image, self.expression, compare=self.compare)
            if unknown := explorer.reading.unknown:
                print(f"Not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
        out = self.out or runs_dir() / "explorer.html"
        page = explorer.export_html(out, "" if self.image else "The word-region explorer")
        print(f"{explorer.sentence()}\nThe page is {page}.")
        if self.open:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())


@dataclass
class Train:
    """Train a network from a preset. After a stop, the same command continues."""

    preset: str = "cmsa_refshapes"
    """Name of the experiment; a wrong one lists them all."""
    data: str | None = None
    """Another data set than the preset's, for instance refcoco+."""
    split_by: str | None = None
    """Owner of its split: unc, umd, google, berkeley."""
    out: Path | None = None
    """Folder for log, last/ and best/ checkpoints. Default: runs/PRESET, and the data set if it is named."""
    steps: int | None = None
    """Number of updates, instead of the preset's."""
    batch_size: int | None = None
    """Samples per update over all processes, instead of the preset's."""
    learning_rate: float | None = None
    """Peak learning rate, instead of the preset's."""
    seed: int | None = None
    """Decides initial weights and order of samples."""
    root: str | None = None
    """Folder of the data set or of its shards, if it is not in data/."""
    workers: int | None = None
    """Processes that read images, instead of the preset's."""
    skip_unreadable: bool = False
    """Leave out training samples that cannot be read and name them in the log, instead of stopping at the first."""
    broken: Literal["stop", "skip"] | None = None
    """skip is an older spelling of --skip-unreadable."""
    weights: str | None = None
    """What the backbone begins with, instead of the preset's: none for random weights, in the text too; a name of
    torchvision's (or timm's, for Swin), or a safetensors file."""
    accumulate: int | None = None
    """Number of parts in which each process computes its share of a batch: less memory, the same gradient."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> None:
        """Train and say where the best checkpoint is."""
        from refseg.evaluation.evaluate import is_main_process
        from refseg.training.experiment import variant
        from refseg.training.loop import train
        from refseg.training.presets import find_preset, on_benchmark

        experiment, name = find_preset(self.preset), self.preset
        if self.data is not None:
            experiment = on_benchmark(experiment, self.data, self.split_by)
            name = "-".join(part for part in (self.preset, self.data, self.split_by) if part)
        elif self.split_by is not None:
            raise RefsegError("--split-by belongs to a data set: name that, too, with --data.")
        experiment = variant(
            experiment,
            model=self._model(experiment.model),
            optim=self._given("steps", "batch_size", "learning_rate", "seed", "accumulate"),
            data={**self._given("root", "workers"), "skip_unreadable": self.skip_unreadable or self.broken == "skip"},
        )
        best = train(experiment, self.out or runs_dir() / name, device=self.device)
        if is_main_process():
            print(f"The best checkpoint is in {best}. Next: refseg evaluate --checkpoint {best}")

    def _model(self, config: Any) -> Any:
        """The preset's model, beginning with the weights that are asked for."""
        if self.weights is None:
            return config
        if not hasattr(config.backbone, "weights"):
            raise RefsegError(f"The backbone of {self.preset} has no pretrained weights: leave --weights out.")
        if self.weights == "none":
            return config.without_weights()
        return replace(config, backbone=replace(config.backbone, weights=self.weights))

    def _given(self, *names: str) -> dict[str, Any]:
        """Those of the options that replace the preset's."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class Evaluate(Place):
    """Score a checkpoint on a split: oIoU, mIoU, P@K, of clips mAP; at the original size, every expression counted."""

    checkpoint: Path | None = None
    """Folder with model.safetensors and config.json. Default: the shipped one, for images or for clips."""
    data: str = "refshapes"
    """Data set, e.g. refshapes, refcoco+ or a2d; a wrong one lists them all."""
    split: str = "val"
    """A wrong one lists the right ones."""
    control: Literal["blank", "other"] | None = None
    """blank hides the expression; other gives that of another object in the same image."""
    protocol: tuple[str, ...] = ()
    """One or more of original, original-video, cmsa-release, lavt480, cris, mttr: score as these releases do, too."""
    json: str | None = None
    """Write the numbers as one JSON object to this file; - prints it and nothing else."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> None:
        """Score and print a table or JSON."""
        from refseg.datasets import dataset_info
        from refseg.evaluation.evaluate import evaluate_checkpoint, is_main_process
        from refseg.evaluation.tables import format_results

        results = evaluate_checkpoint(
            self.checkpoint or shipped(SHIPPED_VIDEO if dataset_info(self.data).is_clips else SHIPPED),
            self.data,
            self.split,
            root=self.root,
            image_root=self.image_root,
            split_by=self.split_by,
            expression_control=self.control,
            protocols=self.protocol,
            device=None if self.device == "auto" else self.device,
        )
        if is_main_process():
            _give(results, format_results(results), self.json)


@dataclass
class Score:
    """Score the masks of any model, given as COCO-style JSON: oIoU, mIoU, P@K, and mAP as papers on A2D report it."""

    truth: Path
    """The true masks, laid out as MTTR's ground-truth file of A2D Sentences: one "image" per sample."""
    predictions: Path
    """A list of {image_id, category_id, segmentation, score}, masks as run lengths; any number per sample."""
    protocol: tuple[str, ...] = ("mttr",)
    """One or more of original, original-video, cmsa-release, lavt480, cris, mttr: how masks are resized and counted."""
    json: str | None = None
    """Write the numbers as one JSON object to this file; - prints it and nothing else."""

    def run(self) -> None:
        """Score and print a table or JSON."""
        from refseg.evaluation.mask_files import score_files
        from refseg.evaluation.tables import format_scores

        results = score_files(self.truth, self.predictions, self.protocol)
        _give(results, format_scores(results), self.json)


def _give(results: dict[str, Any], text: str, target: str | None) -> None:
    """Print ``text``; and write the numbers to the file ``target``, or only print them if that is "-"."""
    if target == "-":
        print(json.dumps(results))
        return
    print(text)
    if target:
        write_text(target, json.dumps(results, indent=1) + "\n")


def _warn_of_words(expression: str, tokenizer: WordVocabulary) -> None:
    if unknown := tokenizer.unknown(expression):
        print(f"Not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
    if tokenizer.max_words < len(tokenizer.split(expression)):
        print(f"Only the first {tokenizer.max_words} words are read.", file=sys.stderr)
