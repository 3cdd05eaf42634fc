"""An image that cannot be read in the middle of an epoch: named, counted, and the run stops or goes on as told."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_many_processes import task_train, together

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate
from refseg.datasets.wrappers import SafeDataset, collate_readable
from refseg.errors import RefsegError
from refseg.training.build import build_data
from refseg.training.log import Log, read_log
from refseg.training.loop import train

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


def image(root, number):
    return root / "images" / "train2014" / f"COCO_train2014_{number:012d}.jpg"


@pytest.fixture
def root(tmp_path, small_refcoco):
    return small_refcoco(tmp_path / "refcoco", ["train"] * 6 + ["val"])


@pytest.fixture
def experiment(tiny_experiment, root):
    """Twelve samples of six images in batches of six: the first epoch is two steps."""
    data = replace(tiny_experiment.data, name="refcoco", root=str(root), val_samples=None)
    optim = replace(tiny_experiment.optim, steps=6, eval_every=6, save_every=1, expressions_per_image=2)
    return replace(tiny_experiment, data=data, optim=optim)


def cut(path):
    """As if its transfer had stopped."""
    path.write_bytes(path.read_bytes()[:-400])


def fit(experiment, folder):
    return train(experiment, folder, device="cpu", progress=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_the_run_stops_with_the_name_of_the_image(experiment, root, tmp_path, workers):
    cut(image(root, 103))
    experiment = replace(experiment, data=replace(experiment.data, workers=workers))
    with pytest.raises(RefsegError) as caught:
        fit(experiment, tmp_path / "run")
    text = str(caught.value)
    assert text.startswith(str(image(root, 103))) and "truncated" in text and "--skip-unreadable" in text
    assert "\n" not in text and "Traceback" not in text


def test_it_goes_on_without_the_image_and_the_log_counts_and_names_it(experiment, root, tmp_path, capsys):
    cut(image(root, 103))
    image(root, 104).write_bytes(b"no image at all")
    experiment = replace(experiment, data=replace(experiment.data, skip_unreadable=True, workers=1))
    train(experiment, tmp_path / "run", device="cpu")
    told = f"12 samples could not be read and were left out: {tmp_path / 'run' / 'log.jsonl'} names them."
    assert told in capsys.readouterr().err
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row]
    assert len(rows) == 6 and all(torch.tensor(row["loss"]).isfinite() for row in rows)
    assert sum(row.get("unreadable", 0) for row in rows) == 3 * 4  # three epochs, two images of two sentences
    names = sum((row.get("unreadable_samples", []) for row in rows), [])
    assert len(names) == 2 and {str(image(root, n)) in name for n, name in zip((103, 104), sorted(names))} == {True}
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["unreadable"] == 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_count_together(experiment, root, tmp_path):
    """The first tells what any of them met, in its log and in the checkpoint."""
    cut(image(root, 103))
    optim = replace(experiment.optim, expressions_per_image=1)
    experiment = replace(experiment, optim=optim, data=replace(experiment.data, skip_unreadable=True))
    together(task_train, (experiment, tmp_path / "run"), 2, tmp_path)
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row]
    assert sum(row.get("unreadable", 0) for row in rows) == 3 * 2
    names = sum((row.get("unreadable_samples", []) for row in rows), [])
    assert names and all(str(image(root, 103)) in name for name in names)
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["unreadable"] == 6


def test_a_stopped_run_may_go_on_without_what_stopped_it(experiment, root, tmp_path):
    whole = image(root, 103).read_bytes()
    cut(image(root, 103))
    with pytest.raises(RefsegError, match="--skip-unreadable"):
        fit(experiment, tmp_path / "run")
    fit(replace(experiment, data=replace(experiment.data, skip_unreadable=True)), tmp_path / "run")
    assert [row["step"] for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row] == list(range(1, 7))
    image(root, 103).write_bytes(whole)  # and a mended one trains on as if nothing had been
    fit(experiment, tmp_path / "mended")
    with pytest.raises(RefsegError, match="optim.steps was 6, now 7"):
        fit(replace(experiment, optim=replace(experiment.optim, steps=7)), tmp_path / "mended")


def test_the_batch_is_that_of_the_samples_that_are_left(experiment, root):
    train_set, _, tokenizer = build_data(experiment)
    whole = Collate(tokenizer)([train_set[i] for i in (0, 1, 4, 5)])
    cut(image(root, 101))
    data, collate = SafeDataset(train_set), partial(collate_readable, Collate(tokenizer))
    left = collate([data[i] for i in (0, 2, 1, 3, 4, 5)])
    assert left.sample_ids == whole.sample_ids and torch.equal(left.frames, whole.frames)
    assert len(left.unreadable) == 2 and whole.unreadable == []
    assert collate([data[i] for i in (2, 3)]).reasons == left.unreadable


def test_a_batch_of_which_nothing_is_left_stops_the_run(experiment, root, tmp_path):
    for number in range(100, 106):
        cut(image(root, number))
    experiment = replace(experiment, data=replace(experiment.data, skip_unreadable=True))
    with pytest.raises(RefsegError, match="Not one sample of a batch could be read. .*COCO_train2014_00000000010"):
        fit(experiment, tmp_path / "run")


def test_validation_never_leaves_anything_out(experiment, root, tmp_path):
    cut(image(root, 106))
    experiment = replace(experiment, data=replace(experiment.data, skip_unreadable=True))
    with pytest.raises(RefsegError, match="COCO_train2014_000000000106.jpg is not a readable image"):
        fit(experiment, tmp_path / "run")


def test_a_full_disk_under_the_log_is_one_sentence_and_the_checkpoint_stays(experiment, tmp_path, monkeypatch):
    real, calls = Log.write, []

    def write(self, **line):
        calls.append(line)
        if len(calls) == 4:
            self.path = tmp_path / "full"
            (tmp_path / "full").symlink_to("/dev/full")
        real(self, **line)

    monkeypatch.setattr(Log, "write", write)
    with pytest.raises(RefsegError, match="could not be written .*No space left on device"):
        fit(experiment, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last").config["record"]["progress"]["step"] == 3
    monkeypatch.undo()


def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_log(tmp_path / "nowhere.jsonl") == []


def test_lines_of_another_file_are_refused(tmp_path):
    for line in ("{}", "[1]", "7", '{"step": null}', '{"step": "3"}', '{"epoch": 3}'):
        (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + "\n")
        for read in (read_log, lambda path: Log(path, 9)):
            with pytest.raises(RefsegError, match="log.jsonl is not the log of a training"):
                read(tmp_path / "log.jsonl")
