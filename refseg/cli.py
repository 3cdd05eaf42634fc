"""The command line: ``refseg COMMAND``, and ``refseg --help`` lists the commands.

A command is a dataclass: its fields are the options, its docstring is the help, ``run`` does the work.
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from refseg.errors import RefsegError
from refseg.files import write_text
from refseg.paths import PROJECT, checkpoints_dir, runs_dir

if TYPE_CHECKING:
    from refseg.predict import Predictor

DataSetName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
SHIPPED = checkpoints_dir() / "cmsa_refshapes"
SHIPPED_VIDEO = checkpoints_dir() / "cmsa_refshapes_video"


@dataclass
class Prepare:
    """Make a data set ready: draws ours, downloads and counts those of others, says what to obtain by hand."""

    name: DataSetName = "refshapes"
    """Of the data set; a wrong one lists them all."""
    pictures: bool = True
    """With --no-pictures texts and masks only: the pictures of RefCOCO are 13 GB."""
    parquet: Path | None = None
    """A folder of parquet files to make the annotations of, laid out as those of jxu124/refcoco."""

    def run(self) -> None:
        """Draw one of ours; or obtain another one, exit status 1 if something is missing or differs."""
        from refseg.datasets.obtain.prepare import prepare

        if not prepare(self.name, pictures=self.pictures, parquet=self.parquet):
            raise SystemExit(1)


@dataclass
class Shard:
    """Write a benchmark's pictures into a few tar files, for storage slow at many small ones; run again: check them."""

    name: DataSetName
    """Of a data set in the REFER layout; a wrong one lists them all."""
    out: Path
    """The folder of the shards, and of the annotations: all that is needed, see the --root of train and evaluate."""
    root: Path | None = None
    """Folder of the data set, if it is not in data/."""
    image_root: Path | None = None
    """Folder of its pictures, if they lie elsewhere."""
    split_by: str | None = None
    """Owner of the split: unc, umd, google, berkeley."""
    megabytes: int = 512
    """Size of a shard."""

    def run(self) -> None:
        """Write, or check; exit status 1 if a shard is damaged."""
        from refseg.datasets.shards.read import INDEX, ShardedImages
        from refseg.datasets.shards.write import splits_there, write_shards

        if not (self.out / INDEX).exists():
            datasets = splits_there(self.name, self.root, self.image_root, self.split_by)
            count = write_shards(datasets, self.out, self.megabytes)
            print(f"{count} shards are in {self.out}. Next: refseg train --root {self.out}")
            return
        pictures = ShardedImages(self.out)
        problems = list(pictures.check())
        for problem in problems:
            print(f"[FAIL] {problem}")
        if problems:
            raise SystemExit(1)
        print(f"{self.out} is whole: {len(pictures.shards)} shards with {len(pictures)} images.")


@dataclass
class Train:
    """Train a network from a preset. Stopped at any moment, the same command goes on where it was."""

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
    """Parts in which each process works through its share of a batch: less memory, the same gradient."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> None:
        """Train and say where the best checkpoint is."""
        from refseg.evaluation.evaluate import launched_processes
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
        launched = launched_processes()
        if launched is None or launched.is_main_process:
            print(f"The best checkpoint is in {best}. Next: refseg evaluate --checkpoint {best}")

    def _model(self, config: Any) -> Any:
        """The preset's model, beginning with the weights that are asked for."""
        if self.weights is None:
            return config
        if not hasattr(config.backbone, "weights"):
            raise RefsegError(f"The backbone of {self.preset} has no pretrained weights: leave --weights out.")
        if self.weights != "none":
            return replace(config, backbone=replace(config.backbone, weights=self.weights))
        random = {part: getattr(config, part) for part in ("backbone", "text")}
        return replace(config, **{p: replace(c, weights=None) for p, c in random.items() if hasattr(c, "weights")})

    def _given(self, *names: str) -> dict[str, Any]:
        """Those of the options that replace the preset's."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class Evaluate:
    """Score a checkpoint on a split: oIoU, mIoU, P@K, of clips mAP; at the original size, every expression counted."""

    checkpoint: Path | None = None
    """Folder with model.safetensors and config.json. Default: the shipped one, for pictures or for clips."""
    data: str = "refshapes"
    """Name of the data set; a wrong one lists them all."""
    split: str = "val"
    """A wrong one lists the right ones."""
    root: Path | None = None
    """Folder of the data set, if it is not in data/."""
    image_root: Path | None = None
    """Folder of its pictures, if they lie elsewhere."""
    split_by: str | None = None
    """Owner of the split: unc, umd, google, berkeley."""
    control: Literal["blank", "other"] | None = None
    """blank hides the expression; other gives that of another object of the same picture."""
    protocol: tuple[str, ...] = ()
    """One or more of original, original-video, cmsa-release, lavt480, cris, mttr: score as these releases do, too."""
    json: str | None = None
    """Write the numbers as one JSON object to this file; - prints it and nothing else."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""

    def run(self) -> None:
        """Score and print a table or JSON."""
        from refseg.datasets import dataset_info
        from refseg.evaluation.evaluate import evaluate_checkpoint, launched_processes

        results = evaluate_checkpoint(
            self.checkpoint or (SHIPPED_VIDEO if dataset_info(self.data).is_clips else SHIPPED),
            self.data,
            self.split,
            root=self.root,
            image_root=self.image_root,
            split_by=self.split_by,
            expression_control=self.control,
            protocols=self.protocol,
            device=None if self.device == "auto" else self.device,
        )
        launched = launched_processes()
        if launched is not None and not launched.is_main_process:
            return
        if self.json == "-":
            print(json.dumps(results))
            return
        print(format_results(results))
        if self.json:
            write_text(Path(self.json), json.dumps(results, indent=1) + "\n")


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
        from refseg.evaluation.mask_files import format_scores, score_files

        results = score_files(self.truth, self.predictions, self.protocol)
        if self.json == "-":
            print(json.dumps(results))
            return
        print(format_scores(results))
        if self.json:
            write_text(Path(self.json), json.dumps(results, indent=1) + "\n")


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
    """Where the picture with the mask goes, by default prediction.png; of a clip the folder, by default prediction, for
    a mask per frame and a sheet that shows up to 24 of them. Stopped, the same command goes on where it was."""

    def run(self) -> None:
        """Predict and write the pictures."""
        from refseg.predict import Predictor

        if (self.image is None) == (self.video is None):
            raise RefsegError("Name either a photo with --image or a clip with --video.")
        predictor = Predictor(self.checkpoint or (SHIPPED_VIDEO if self.video is not None else SHIPPED))
        tell = self._of_image if self.image is not None else self._of_video
        told = tell(predictor)
        tokenizer = predictor.loaded.tokenizer
        if unknown := tokenizer.unknown(self.expression):
            print(f"Not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
        if tokenizer.max_words < len(tokenizer.split(self.expression)):
            print(f"Only the first {tokenizer.max_words} words are read.", file=sys.stderr)
        print(told)

    def _of_image(self, predictor: Predictor) -> str:
        from refseg.predict import save_prediction

        out = self.out or Path("prediction.png")
        result = predictor.predict(self.image, self.expression)
        save_prediction(result, out)
        return f"{int(result.pred_mask.sum())} of {result.pred_mask.numel()} pixels found; the picture is {out}."

    def _of_video(self, predictor: Predictor) -> str:
        from refseg.datasets import open_clip
        from refseg.predict import save_clip

        out = self.out or Path("prediction")
        with open_clip(self.video) as clip:
            masks, sheet = save_clip(predictor, clip, self.expression, out)
        return f"{sheet.alt}\n{len(masks)} masks are in {masks[0].parent}; the sheet is {out / 'sheet.png'}."


@dataclass
class Explore:
    """Write a page to explore what words do: hover, click, strike out. It works offline; without a photo: examples."""

    image: Path | None = None
    """The photo: JPEG, PNG, ... Without one the page shows the shipped examples."""
    expression: str | None = None
    """What to find in the photo, for instance "the red star left of the circle"."""
    compare: str | None = None
    """A second expression, beside the first."""
    checkpoint: Path = SHIPPED
    """Folder with model.safetensors and config.json. The shipped one knows the words of RefShapes only."""
    out: Path = runs_dir() / "explorer.html"
    """The page."""
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
            explorer = Explorer(self.checkpoint, self.image, self.expression, compare=self.compare)
            if unknown := explorer.reading.unknown:
                print(f"Not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
        if self.out == runs_dir() / "explorer.html":
            self.out.parent.mkdir(parents=True, exist_ok=True)
        page = explorer.export_html(self.out, "" if self.image else "The word-region explorer")
        print(f"{explorer.sentence()}\nThe page is {page}.")
        if self.open:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())


@dataclass
class CheckData:
    """Count a data set on disk beside the official numbers, and say which file is missing and where to get it."""

    name: DataSetName
    """Of the data set; a wrong one lists them all."""
    split: str | None = None
    """One split, or all of them."""
    root: Path | None = None
    """Folder of the data set, if it is not in data/."""
    image_root: Path | None = None
    """Folder of its pictures, if they lie elsewhere."""
    split_by: str | None = None
    """Owner of the split: unc, umd, google, berkeley."""
    num_frames: int = 1
    """Of data sets of clips: note the clips that are shorter than this window."""

    def run(self) -> None:
        """Print a report per split; exit status 1 if anything is missing or differs."""
        from refseg.datasets import dataset_info
        from refseg.datasets.obtain.check import check_data

        ok = True
        info = dataset_info(self.name)
        for split in [self.split] if self.split else info.splits[info.owner(self.split_by)]:
            report = check_data(self.name, split, self.root, self.image_root, self.split_by, self.num_frames)
            print(report)
            ok = ok and report.ok
            if report.found is None:  # the files of one split are those of all
                break
        if not ok:
            raise SystemExit(1)


@dataclass
class ConvertCmsaRelease:
    """Turn a TensorFlow checkpoint of the authors' CMSA release into one of ours; TensorFlow is not needed."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The name that its .index and .data files begin with."""
    out: Path
    """Folder of the new checkpoint."""
    vocabulary: Path
    """The release's vocabulary file that it was trained with, e.g. vocabulary_Gref.txt."""

    def run(self) -> None:
        """Convert and say what was not used."""
        from refseg.convert.cmsa import convert_cmsa_release

        conversion = convert_cmsa_release(self.checkpoint, self.vocabulary, self.out)
        print(f"{conversion.converted} variables are now the network in {self.out}.")
        if conversion.unused:
            print(f"Not used: {', '.join(conversion.unused)}", file=sys.stderr)


@dataclass
class ConvertMagnetRelease:
    """Turn a checkpoint of the authors' MagNet release into one of ours; nothing in it is run."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The released file."""
    out: Path
    """Folder of the new checkpoint."""
    vocabulary: str = "bert-base-uncased"
    """The word pieces: a vocab.txt, a folder, or a model of the Hugging Face hub, which is fetched once."""

    def run(self) -> None:
        """Convert and say what was not used."""
        from refseg.convert.cmsa import convert_magnet_release

        conversion = convert_magnet_release(self.checkpoint, self.vocabulary, self.out)
        print(f"{conversion.converted} tensors are now the network in {self.out}.")
        if conversion.unused:
            print(f"Not used: {', '.join(conversion.unused)}", file=sys.stderr)


def commands() -> tuple[type, ...]:
    """All commands: ours, and those that other packages offer (the course does).

    A package offers commands by an entry point of the group ``refseg.commands``: a tuple of dataclasses like these.
    """
    group, project = "refseg.commands", PROJECT / "pyproject.toml"
    offered = list(entry_points(group=group))
    if not offered and project.is_file():  # a checkout that is not installed: what installing it would offer
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"][group]
        offered = [EntryPoint(name, value, group) for name, value in declared.items()]
    return (*OWN, *(command for entry in offered for command in entry.load()))


OWN = (Prepare, Shard, Train, Evaluate, Score, Predict, Explore, CheckData, ConvertCmsaRelease, ConvertMagnetRelease)


def format_results(results: dict) -> str:
    """The numbers of one evaluation as a small table, and per kind of expression where the data set tells."""
    from refseg.evaluation.mask_files import protocol_table
    from refseg.evaluation.metrics import AP_COLUMNS, COLUMNS

    parts = {name: results[name] for name in ("motion", "static") if name in results}
    rows = {"all": results, **parts, **results.get("by_kind", {})}
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{name:>8}" for name in COLUMNS)]
    for name, row in rows.items():
        cells = "".join(f"{row[c]:>8}" if c == "N" else f"{row[c]:>8.3f}" for c in COLUMNS)
        lines.append(f"{name:<{width}}{cells}")
    if "mAP" in results:
        found = ", ".join(f"{name} {results[name]:.3f}" for name in AP_COLUMNS if results[name] is not None)
        lines.append(f"{found}, of {results['n_predictions']} predictions.")
    lines.append(f"P@K counts IoU {results['at_threshold']} K (protocol {results['protocol']}).")
    if "protocols" in results:
        lines += ["", *protocol_table(results["protocols"])]
    return "\n".join(lines)


def main() -> None:
    """Parse, run, and turn a RefsegError into one line on stderr and exit status 2."""
    command = tyro.cli(
        reduce(or_, commands()), prog="refseg", description="Learn, explore and reproduce referring segmentation."
    )
    try:
        command.run()
    except RefsegError as error:
        print(f"refseg: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("refseg: stopped; the same command goes on where it was.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
