"""Commands about models: predict, explore, train, evaluate, score."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from refseg.errors import RefsegError
from refseg.files import alone_in, write_text
from refseg.paths import runs_dir, shipped

SHIPPED, SHIPPED_VIDEO = "cmsa_refshapes", "cmsa_refshapes_video"
Device = Literal["auto", "cpu"]


def predict(
    expression: str,
    image: Path | None = None,
    video: Path | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
) -> None:
    """Find in any photo or clip what an expression means, and save it with the mask drawn on it.

    Args:
        expression: What to find, for instance "the red star left of the circle".
        image: The photo: JPEG, PNG, ...
        video: Instead of a photo a clip: a folder of numbered frames, or a video file such as an mp4 (needs PyAV).
        checkpoint: Folder with model.safetensors and config.json, or a name. The shipped ones, for photos and for
            clips, know the words of RefShapes and RefShapes-Video only.
        out: The image with the mask drawn on it, by default prediction.png; for a clip the folder, by default
            prediction, of a mask per frame and a sheet that shows up to 24 of them. After a stop, the same command
            continues.
    """
    from refseg.datasets import open_clip
    from refseg.predict import Predictor, save_clip, save_prediction

    if (image is None) == (video is None):
        raise RefsegError("Name either a photo with --image or a clip with --video.")
    predictor = Predictor(checkpoint or shipped(SHIPPED if video is None else SHIPPED_VIDEO))
    if image is not None:
        out = out or Path("prediction.png")
        found = predictor.predict(image, expression, word_maps=False)
        save_prediction(found, out)
        said = f"{int(found.pred_mask.sum())} of {found.pred_mask.numel()} pixels found; the image is {out}."
    else:
        assert video is not None
        out = out or Path("prediction")
        with open_clip(video) as clip, alone_in(out):
            masks, sheet = save_clip(predictor, clip, expression, out)
        said = f"{sheet}\n{len(masks)} masks are in {masks[0].parent}; the sheet is {out / 'sheet.png'}."
    tokenizer = predictor.checkpoint.tokenizer
    _warn_of_unknown(tokenizer.unknown(expression))
    if tokenizer.max_words < len(tokenizer.split(expression)):
        print(f"Only the first {tokenizer.max_words} words are read.", file=sys.stderr)
    print(said)


def explore(
    image: Path | None = None,
    expression: str | None = None,
    compare: str | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
    open: bool = False,
) -> None:
    """Write a page to explore what words do: hover, click, strike out. It works offline; without a photo: examples.

    Args:
        image: The photo: JPEG, PNG, ... Without one the page shows the shipped examples.
        expression: What to find in the photo, for instance "the red star left of the circle".
        compare: A second expression, beside the first.
        checkpoint: Folder with model.safetensors and config.json, or a name. The shipped one knows the words of
            RefShapes only.
        out: The page. Default: runs/explorer.html.
        open: Open the page in a browser too.
    """
    from refseg.explorer import Explorer

    if (image is None) != (expression is None):
        raise RefsegError("A photo and an expression go together: give both --image and --expression, or neither.")
    if image is None:
        explorer = Explorer()
    else:
        explorer = Explorer(checkpoint or SHIPPED, image, expression, compare=compare)
        _warn_of_unknown(explorer.reading.unknown)
    page = explorer.export_html(out or runs_dir() / "explorer.html", "" if image else "The word-region explorer")
    print(f"{explorer.sentence()}\nThe page is {page}.")
    if open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def train(
    preset: str = "cmsa_refshapes",
    data: str | None = None,
    split_by: str | None = None,
    out: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    root: str | None = None,
    workers: int | None = None,
    skip_unreadable: bool = False,
    broken: Literal["stop", "skip"] | None = None,
    weights: str | None = None,
    accumulate: int | None = None,
    device: Device = "auto",
) -> None:
    """Train a network from a preset. After a stop, the same command continues.

    Args:
        preset: Name of the experiment; a wrong one lists them all.
        data: Another data set than the preset's, for instance refcoco+.
        split_by: Owner of its split: unc, umd, google, berkeley.
        out: Folder for log, last/ and best/ checkpoints. Default: runs/PRESET, and the data set if it is named.
        steps: Number of updates, instead of the preset's.
        batch_size: Samples per update over all processes, instead of the preset's.
        learning_rate: Peak learning rate, instead of the preset's.
        seed: Decides initial weights and order of samples.
        root: Folder of the data set or of its shards, if it is not in data/.
        workers: Processes that read images, instead of the preset's.
        skip_unreadable: Leave out training samples that cannot be read and name them in the log, instead of stopping at
            the first.
        broken: skip is an older spelling of --skip-unreadable.
        weights: What the backbone begins with, instead of the preset's: none for random weights, in the text too; a
            name of torchvision's (or timm's, for Swin), or a safetensors file.
        accumulate: Number of parts in which each process computes its share of a batch: less memory, the same gradient.
        device: auto takes a GPU if there is one.
    """
    from refseg.evaluation.evaluate import is_main_process
    from refseg.training.experiment import variant
    from refseg.training.loop import train
    from refseg.training.presets import find_preset, on_benchmark

    experiment, name = find_preset(preset), "-".join(part for part in (preset, data, split_by) if part)
    if data is not None:
        experiment = on_benchmark(experiment, data, split_by)
    elif split_by is not None:
        raise RefsegError("--split-by belongs to a data set: name that, too, with --data.")
    optim = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    experiment = variant(
        experiment,
        model=with_weights(experiment.model, weights),
        optim=_given(optim | {"accumulate": accumulate}),
        data=_given({"root": root, "workers": workers, "skip_unreadable": skip_unreadable or broken == "skip"}),
    )
    best = train(experiment, out or runs_dir() / name, device=device)
    if is_main_process():
        print(f"The best checkpoint is in {best}. Next: refseg evaluate --checkpoint {best}")


def evaluate(
    checkpoint: str | None = None,
    data: str = "refshapes",
    split: str = "val",
    root: Path | None = None,
    image_root: Path | None = None,
    split_by: str | None = None,
    control: Literal["blank", "other"] | None = None,
    protocol: tuple[str, ...] = (),
    json: str | None = None,
    device: Device = "auto",
) -> None:
    """Score a checkpoint on a split: oIoU, mIoU, P@K, of clips mAP; at the original size, every expression counted.

    Args:
        checkpoint: Folder with model.safetensors and config.json, or a name. Default: the shipped one, for images or
            for clips.
        data: Name of the data set; a wrong one lists them all.
        split: A wrong one lists the right ones.
        root: Folder of the data set, if it is not in data/.
        image_root: Folder of its images, if they are elsewhere.
        split_by: Owner of the split: unc, umd, google, berkeley.
        control: blank hides the expression; other gives that of another object in the same image.
        protocol: One or more of original, original-video, cmsa-release, lavt480, cris, mttr: score as these do, too.
        json: Write the numbers as one JSON object to this file; - prints it and nothing else.
        device: auto takes a GPU if there is one.
    """
    from refseg.datasets import dataset_info
    from refseg.evaluation.evaluate import evaluate_checkpoint, is_main_process
    from refseg.evaluation.tables import format_results

    results = evaluate_checkpoint(
        checkpoint or shipped(SHIPPED_VIDEO if dataset_info(data).is_clips else SHIPPED),
        data,
        split,
        root=root,
        image_root=image_root,
        split_by=split_by,
        expression_control=control,
        protocols=protocol,
        device=device,
    )
    if is_main_process():
        _give(results, format_results(results), json)


def score(truth: Path, predictions: Path, protocol: tuple[str, ...] = ("mttr",), json: str | None = None) -> None:
    """Score the masks of any model, given as COCO-style JSON: oIoU, mIoU, P@K, and mAP as papers on A2D report it.

    Args:
        truth: The true masks, laid out as MTTR's ground-truth file of A2D Sentences: one "image" per sample.
        predictions: A list of {image_id, category_id, segmentation, score}, masks as run lengths; any number per
            sample.
        protocol: One or more of original, original-video, cmsa-release, lavt480, cris, mttr: how masks are resized and
            counted.
        json: Write the numbers as one JSON object to this file; - prints it and nothing else.
    """
    from refseg.evaluation.mask_files import score_files
    from refseg.evaluation.tables import format_scores

    results = score_files(truth, predictions, protocol)
    _give(results, format_scores(results), json)


def with_weights(config: Any, weights: str | None) -> Any:
    """The model, its backbone beginning with ``weights``, if they are given.

    Raises:
        RefsegError: the backbone has no pretrained weights.
    """
    if weights is None:
        return config
    config = replace(config, backbone=config.backbone.with_weights(weights))
    return config.without_weights() if weights == "none" else config


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _give(results: dict[str, Any], text: str, target: str | None) -> None:
    """Print ``text``; and write the numbers to the file ``target``, or only print them if that is "-"."""
    if target == "-":
        print(json_format.dumps(results))
        return
    print(text)
    if target:
        write_text(target, json_format.dumps(results, indent=1) + "\n")


def _warn_of_unknown(words: list[str]) -> None:
    if words:
        print(f"Not in the vocabulary: {', '.join(words)}", file=sys.stderr)
