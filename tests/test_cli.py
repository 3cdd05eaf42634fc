"""The commands as a person meets them: help, right names offered for wrong ones, one line for every refusal."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg import __version__, cli
from refseg.checkpoint import load_checkpoint
from refseg.cli.models import with_weights
from refseg.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
SIX = ["predict", "explore", "train", "evaluate", "score", "prepare"]  # what a researcher needs


def assert_refused(answer, *parts):
    status, out, err = answer
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("refseg: "), answer
    assert [part for part in parts if part not in err] == [], err


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


# ---- help ------------------------------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    """``refseg --help | head``, and a command of many lines as ``python -m refseg``."""
    version = subprocess.run([sys.executable, "-m", "refseg", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert version.stdout == f"refseg {__version__}\n"
    closed = "import sys; from refseg import cli; sys.argv = ['refseg', 'doctor']; sys.stdin.read(1); cli.main()"
    command = [sys.executable, "-c", closed]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        process.stdin.write("x")
        process.stdin.flush()
        assert "Traceback" not in process.stderr.read()


def test_help_names_every_command_and_every_option(refseg):
    status, out, _ = refseg("--help")
    names = re.findall(r"• ([a-z-]+)", out)
    assert status == 0 and names[:6] == SIX and "check-data" in names and "tour" in names, out
    assert names == list(cli.commands())
    for name, command in cli.commands().items():
        status, out, _ = refseg(name, "--help")
        said = re.sub(r"[\s│]+", " ", out)
        about, _, options = inspect.getdoc(command).partition("\n\nArgs:\n")
        assert status == 0 and about in said, name
        for option in inspect.signature(command).parameters:
            assert f"--{option.replace('_', '-')}" in out or option.upper() in out, (name, option)
        for line in re.findall(r"^    \w+: (.*(?:\n        .*)*)", options, re.MULTILINE):
            assert " ".join(line.split()) in said, (name, line)


def test_help_appears_at_once():
    code = "import sys, refseg.cli; refseg.cli.commands(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_random_weights_are_taken_only_when_asked_for():
    paper = PRESETS["magnet_refcoco"].model
    begun = with_weights(paper, "none")
    assert paper.backbone.weights and paper.text.weights and with_weights(paper, None) is paper
    assert begun.backbone.weights is None and begun.text.weights is None
    named = with_weights(paper, "other")
    assert named.backbone.weights == "other" and named.text == paper.text


def test_weights_for_a_backbone_that_has_none_are_refused(refseg):
    assert_refused(refseg("train", "--weights", "IMAGENET1K_V2"), "SmallBackboneConfig has no pretrained weights")


def test_an_unknown_command_or_option_offers_the_right_ones(refseg):
    status, out, err = refseg("trian")
    assert status == 2 and "train" in out + err
    status, out, err = refseg("train", "--learning-rat", "1")
    assert status == 2 and "--learning-rate" in out + err


# ---- refusals --------------------------------------------------------------------------------------------------


def test_a_wrong_preset_lists_the_right_ones(refseg):
    assert_refused(refseg("train", "--preset", "cmsa"), "no preset 'cmsa'", *PRESETS)


def test_a_wrong_split_lists_the_right_ones(refseg, tiny_checkpoint):
    answer = refseg("evaluate", "--checkpoint", tiny_checkpoint, "--split", "test")
    assert_refused(answer, "no split 'test'", "train", "val", "testA", "testB", "testC")
    assert_refused(refseg("check-data", "refcoco+", "--split", "test"), "train, val, testA, testB")


def test_a_wrong_data_set_lists_the_right_ones(refseg, tiny_checkpoint):
    names = "refcoco, refcoco+, refcocog, referit, refshapes"
    assert_refused(refseg("evaluate", "--checkpoint", tiny_checkpoint, "--data", "coco"), names)
    assert_refused(refseg("check-data", "coco"), names)
    assert_refused(refseg("prepare", "coco"), names)


def test_a_missing_picture_and_a_missing_checkpoint(refseg, tiny_checkpoint, photo, tmp_path):
    answer = refseg("predict", "--image", tmp_path / "no.jpg", "--expression", "x", "--checkpoint", tiny_checkpoint)
    assert_refused(answer, "no image at", "no.jpg")
    nowhere = ("--checkpoint", tmp_path / "nowhere")
    assert_refused(refseg("predict", "--image", photo, "--expression", "x", *nowhere), "no checkpoint in", "nowhere")
    assert_refused(refseg("evaluate", *nowhere), "no checkpoint in", "nowhere")


def test_a_target_that_cannot_be_written(refseg, tiny_checkpoint, photo, tmp_path):
    words = ("--image", photo, "--expression", "x", "--checkpoint", tiny_checkpoint, "--out", photo / "a.png")
    assert_refused(refseg("predict", *words), "could not be written")


def test_nothing_to_train(refseg, tmp_path):
    for option in ("steps", "batch-size"):
        answer = refseg("train", f"--{option}", "0", "--out", tmp_path / "run")
        assert_refused(answer, f"{option.replace('-', '_')} is 0")


def test_control_c_is_no_traceback(refseg, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("refseg.training.loop.train", stop)
    assert refseg("train") == (130, "", "refseg: stopped; the same command continues.\n")


def test_a_bug_of_ours_is_not_hidden(refseg, monkeypatch):
    monkeypatch.setattr("refseg.training.loop.train", lambda *args, **kwargs: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        refseg("train")


def test_a_real_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "refseg.cli", "evaluate", "--checkpoint", "nowhere"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("refseg: There is no checkpoint in nowhere") and done.stderr.count("\n") == 1


# ---- what they do ----------------------------------------------------------------------------------------------

SCORES = ("N", "oIoU", "mIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9")


def test_evaluate_prints_one_json_object_and_nothing_else(refseg, tiny_checkpoint):
    status, out, _ = refseg("evaluate", "--checkpoint", tiny_checkpoint, "--json", "-", "--device", "cpu")
    results = json.loads(out)
    assert status == 0 and out.count("\n") == 1
    assert results["N"] == 28 and all(0 <= results[name] <= 1 for name in SCORES[1:])


def test_evaluate_prints_a_table_and_writes_the_same_numbers(refseg, tiny_checkpoint, tmp_path):
    words = ("--checkpoint", tiny_checkpoint, "--split", "testB", "--control", "blank", "--device", "cpu")
    status, out, _ = refseg("evaluate", *words, "--json", tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert status == 0 and results["expression_control"] == "blank" and results["split"] == "testB"
    head, first, *kinds, last = out.splitlines()
    assert last == "P@K counts IoU >= K (protocol original)." and results["protocol"] == "original"
    assert tuple(head.split()) == SCORES
    assert first.split() == ["all", "12", *(f"{results[name]:.3f}" for name in SCORES[1:])]
    assert [line.split()[0] for line in kinds] == list(results["by_kind"])
    status, _, err = refseg("evaluate", *words, "--json", tmp_path / "results.json" / "no.json")
    assert status == 2 and "no.json could not be written" in err.splitlines()[-1]


def test_one_evaluation_reports_several_protocols(refseg, tiny_checkpoint, tmp_path):
    names = ("lavt480", "mttr", "original")
    words = ("--checkpoint", tiny_checkpoint, "--device", "cpu", "--json", tmp_path / "results.json", "--protocol")
    status, out, _ = refseg("evaluate", *words, *names)
    results = json.loads((tmp_path / "results.json").read_text())
    assert status == 0 and tuple(results["protocols"]) == names
    table = out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[1:]] == list(names) and "mAP" in table[0]
    ours = results["protocols"]["original"]
    assert [ours[name] for name in SCORES] == [results[name] for name in SCORES]
    assert table[1].split()[1:-1] == ["28", *(f"{results['protocols']['lavt480'][name]:.3f}" for name in SCORES[1:])]
    assert_refused(refseg("evaluate", *words[:4], "--protocol", "coco"), "no protocol 'coco'", "cmsa-release", *names)


def test_predict_draws_on_a_jpeg_and_names_unknown_words(refseg, tiny_checkpoint, photo, tmp_path):
    out = tmp_path / "out.png"
    words = ("--checkpoint", tiny_checkpoint, "--image", photo, "--out", out)
    status, said, err = refseg("predict", *words, "--expression", "the red zebra of Ulm")
    assert status == 0 and str(out) in said and "of 1961 pixels" in said
    assert err == "Not in the vocabulary: zebra, ulm\n"
    assert Image.open(out).size == Image.open(tmp_path / "out_mask.png").size == (53, 37)
    status, _, err = refseg("predict", *words, "--expression", "the red circle")
    assert (status, err) == (0, "")


def test_train_takes_the_preset_and_its_changes(refseg, tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny_experiment)
    words = ("--preset", "tiny", "--steps", 3, "--batch-size", 5, "--learning-rate", 0.01, "--seed", 7)
    status, out, _ = refseg("train", *words, "--out", tmp_path / "run", "--device", "cpu")
    assert status == 0 and str(tmp_path / "run" / "best") in out
    optim = load_checkpoint(tmp_path / "run" / "best").config["record"]["experiment"]["optim"]
    assert [optim[name] for name in ("steps", "batch_size", "learning_rate", "seed")] == [3, 5, 0.01, 7]
    assert optim["warmup_steps"] == 3  # the preset's
    answer = refseg("train", "--preset", "tiny", "--out", tmp_path / "run", "--device", "cpu")
    assert_refused(answer, "optim.steps was 3, now 13")


def test_prepare_draws_and_check_data_counts_every_split(refseg, tiny_refshapes):
    status, out, _ = refseg("prepare")
    assert (status, out) == (0, f"refshapes is in {tiny_refshapes / 'refshapes'}.\n")
    status, out, _ = refseg("check-data", "refshapes")
    assert status == 0
    assert [line.split()[2] for line in out.splitlines() if line.startswith("refshapes")] == [
        "train",
        "val",
        "testA",
        "testB",
        "testC",
    ]
    status, out, _ = refseg("check-data", "refshapes", "--split", "val")
    assert status == 0 and "sentences      28" in out and "all 7 images are there" in out


def test_data_that_is_not_there_is_told_once_and_where_to_get_it(refseg, tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    status, out, _ = refseg("check-data", "refcoco")
    assert status == 1 and out.count("[FAIL]") == 1
    assert "refcoco/instances.json" in out and "web.archive.org" in out


def test_prepare_passes_its_options_on_and_fails_if_something_is_missing(refseg, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(
        "refseg.datasets.obtain.prepare.prepare", lambda name, **options: called.append((name, options))
    )
    status, _, _ = refseg("prepare", "refcoco+", "--no-pictures", "--parquet", tmp_path)
    assert status == 1 and called == [("refcoco+", {"images": False, "parquet": tmp_path})]
    monkeypatch.setattr("refseg.datasets.obtain.prepare.prepare", lambda name, **options: True)
    assert refseg("prepare", "jhmdb")[0] == 0


def test_tour_passes_its_options_on(refseg, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr("refseg_course.tour.run_tour", lambda *args: called.append(args))
    assert refseg("tour", "--minutes", "0.5", "--out", tmp_path / "t")[0] == 0
    assert called == [(tmp_path / "t", 0.5)]


# ---- explore ---------------------------------------------------------------------------------------------------


def test_explore_writes_one_page(refseg, tiny_checkpoint, photo, tmp_path):
    page = tmp_path / "page.html"
    options = ["--checkpoint", tiny_checkpoint, "--image", photo, "--out", page]
    status, out, err = refseg("explore", *options, "--expression", "the unheard star", "--compare", "the circle")
    assert status == 0 and str(page) in out and err == "Not in the vocabulary: unheard\n"
    text = page.read_text(encoding="utf-8")
    assert "the unheard star" in text and '"second_expression":"the circle"' in text and "https:" not in text


def test_explore_shows_the_shipped_examples(refseg, tmp_path):
    status, out, _ = refseg("explore", "--out", tmp_path / "page.html")
    assert status == 0 and "IoU" in out and (tmp_path / "page.html").stat().st_size < 1_600_000


def test_explore_needs_both_or_none(refseg, photo, tmp_path):
    assert_refused(refseg("explore", "--image", photo), "both --image and --expression")
    assert_refused(refseg("explore", "--expression", "star"), "both --image and --expression")
    assert_refused(refseg("explore", "--out", photo / "page.html"), "could not be written")
