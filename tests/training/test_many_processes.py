"""Several processes do what one does: the same losses, the same scores, and one that is killed costs nothing but time.

The processes are real and talk through gloo, as `accelerate launch` would start them on a machine without GPUs.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from small_runs import ROOT, change, fit, logged, weights

from refseg.checkpoint import load_checkpoint
from refseg.datasets import refshapes
from refseg.errors import RefsegError
from refseg.evaluation.evaluate import batches_of, evaluate
from refseg.evaluation.protocols import PROTOCOLS, Meter
from refseg.models import build_model
from refseg.models.backbones import ResNet101BackboneConfig
from refseg.models.blocks.mask_head import MaskHeadConfig
from refseg.training.build import build_data
from refseg.training.log import read_log

pytestmark = [pytest.mark.usefixtures("no_accelerate_state"), pytest.mark.timeout(600)]

START = """
import importlib, pickle, sys
from pathlib import Path
from refseg.datasets import refshapes
tests, name, arguments, refshapes.IMAGES = pickle.loads(Path(sys.argv[1]).read_bytes())
getattr(importlib.import_module(tests), name)(*arguments)
"""
SECONDS = 240  # for a group of processes; a healthy one takes about ten, on a busy machine more


@contextmanager
def launched(task, arguments, count, tmp_path):
    """``task`` with ``arguments`` in ``count`` processes of one group; none of them outlives the block."""
    port = free_port()
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "training")])
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    file = tmp_path / f"task-{port}.pickle"
    file.write_bytes(pickle.dumps((task.__module__, task.__name__, arguments, refshapes.IMAGES)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(file)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def together(task, arguments, count, tmp_path) -> None:
    """Run to the end; a process that fails shows what it said."""
    with launched(task, arguments, count, tmp_path) as processes:
        deadline = time.monotonic() + SECONDS
        errors = [process.communicate(timeout=max(1, deadline - time.monotonic()))[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)


@pytest.fixture
def plain(tiny_experiment):
    """A network in which no sample sees its neighbours: BatchNorm with fixed statistics only."""
    model = replace(
        tiny_experiment.model,
        backbone=ResNet101BackboneConfig(frozen=True, layers=(1, 1, 1, 1)),
        c5_dim=8,
        normalize_levels=False,
        head=MaskHeadConfig(),
    )
    return change(replace(tiny_experiment, model=model), steps=6, save_every=2, eval_every=3)


def losses(folder):
    return [row["loss"] for row in logged(folder) if "loss" in row]


# ---- training ----------------------------------------------------------------------------------------------------


def task_train(experiment, folder):
    fit(experiment, folder)


@pytest.mark.slow
@pytest.mark.parametrize("count, accumulate", [(2, 1), (3, 2)])
def test_several_processes_train_like_one(plain, tmp_path, count, accumulate):
    fit(plain, tmp_path / "one")
    together(task_train, (change(plain, accumulate=accumulate), tmp_path / "many"), count, tmp_path)
    assert len(losses(tmp_path / "one")) == 6
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, many = (weights(tmp_path / name)[0] for name in ("one", "many"))
    assert [name for name in one if not torch.allclose(one[name], many[name], atol=1e-4)] == []
    one, many = ([row["val"] for row in logged(tmp_path / name) if "val" in row] for name in ("one", "many"))
    assert [row["N"] for row in many] == [5, 5]
    assert [row["mIoU"] for row in many] == pytest.approx([row["mIoU"] for row in one], abs=1e-3)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(plain, tmp_path):
    """Two processes, killed; then three; then one."""
    fit(plain, tmp_path / "whole")
    for steps, count in ((2, 2), (4, 3), (6, 1)):
        together(task_train_until, (plain, tmp_path / "changing", steps), count, tmp_path)
    assert losses(tmp_path / "changing") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def task_train_until(experiment, folder, steps):
    """As if all were killed at once behind step ``steps``."""
    from small_runs import up_to

    from refseg.training.batches import ShuffledBatches

    ShuffledBatches.__iter__ = up_to(steps)
    fit(experiment, folder)


@pytest.mark.slow
def test_one_of_two_is_killed_and_the_run_resumes_to_the_same_end(plain, tmp_path):
    experiment = change(plain, steps=24, save_every=4, eval_every=24)
    together(task_train, (experiment, tmp_path / "whole"), 2, tmp_path)
    folder = tmp_path / "killed"
    with launched(task_train_slowly, (experiment, folder), 2, tmp_path) as processes:
        deadline = time.monotonic() + SECONDS
        while not any(row["step"] >= 6 for row in read_log(folder / "log.jsonl")):
            assert processes[0].poll() is None, processes[0].stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGKILL)
        errors = processes[0].communicate(timeout=SECONDS)[1]
        assert processes[0].returncode == 1 and "RefsegError: Another process of this run has stopped" in errors
    assert read_log(folder / "log.jsonl")[-1]["step"] < 24
    together(task_train, (experiment, folder), 2, tmp_path)
    assert losses(folder) == losses(tmp_path / "whole") and len(losses(folder)) == 24
    for one, other in zip(weights(folder), weights(tmp_path / "whole")):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def task_train_slowly(experiment, folder):
    import refseg.training.loop as loop

    real = loop.train_step

    def step(*args):
        time.sleep(0.15)
        return real(*args)

    loop.train_step = step
    fit(experiment, folder)


@pytest.mark.slow
def test_what_is_saved_is_what_was_scored(tiny_experiment, tmp_path):
    """BatchNorm's statistics differ between processes; the checkpoint has those with which all of them scored."""
    experiment = change(tiny_experiment, steps=4, eval_every=4, save_every=4)
    together(task_train, (experiment, tmp_path / "run"), 2, tmp_path)
    _, val_set, _ = build_data(experiment)
    loaded = load_checkpoint(tmp_path / "run" / "best")
    again = evaluate(loaded.model, val_set, loaded.tokenizer, progress=False)
    (told,) = [row["val"] for row in logged(tmp_path / "run") if "val" in row]
    assert told == {name: value for name, value in again.items() if name != "seconds"}


def test_parts_of_a_batch_add_up_to_the_same_gradient(plain, tmp_path):
    """In one process; the samples of a picture may fall into two parts."""
    for accumulate in (1, 3, 6):
        fit(change(plain, accumulate=accumulate, steps=4), tmp_path / str(accumulate))
    whole = losses(tmp_path / "1")
    assert losses(tmp_path / "3") == pytest.approx(whole, abs=1e-5)
    assert losses(tmp_path / "6") == pytest.approx(whole, abs=1e-5)
    assert whole[-1] < whole[0]


def test_a_share_that_cannot_be_divided_is_refused(plain, tmp_path):
    with pytest.raises(RefsegError, match="6 samples of a batch per process cannot be worked through in 4 equal parts"):
        fit(change(plain, accumulate=4), tmp_path / "run")


def test_other_failures_are_not_taken_for_a_lost_process():
    from refseg.training.loop import explain_lost_process

    with pytest.raises(RuntimeError, match="out of memory"), explain_lost_process():
        raise RuntimeError("out of memory")
    with pytest.raises(RefsegError, match="start all of them again"), explain_lost_process():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4711")


# ---- evaluation --------------------------------------------------------------------------------------------------


def scores(experiment, batch_size, share=(0, 1)):
    """All that can be scored at once, by an untrained network."""
    train_set, _, tokenizer = build_data(experiment)
    torch.manual_seed(0)
    model = build_model(experiment.model, len(tokenizer))
    meters = [Meter(protocol) for protocol in PROTOCOLS.values() if protocol.name != "cmsa-release"]
    found = evaluate(model, train_set, tokenizer, meters, progress=False, share=share, batch_size=batch_size)
    return {name: value for name, value in found.items() if name != "seconds"}


def task_evaluate(experiment, batch_sizes, out):
    from accelerate import PartialState

    state = PartialState(cpu=True)
    share = (state.process_index, state.num_processes)
    found = [scores(experiment, size, share) for size in batch_sizes]
    (out / f"{share[0]}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_scores_of_several_processes_are_those_of_one(tiny_experiment, tmp_path, count):
    """48 samples in batches of 5 (ten, the last of three), 7 (seven) and 100 (one: some processes have nothing)."""
    sizes = (5, 7, 100)
    together(task_evaluate, (tiny_experiment, sizes, tmp_path), count, tmp_path)
    expected = [scores(tiny_experiment, size) for size in sizes]
    assert [one["N"] for one in expected] == [48] * 3 and expected[0]["oIoU"] > 0 and len(expected[0]["by_kind"]) > 2
    for process in range(count):
        found = json.loads((tmp_path / f"{process}.json").read_text())
        assert found == json.loads(json.dumps(expected))  # to the last digit, in every process


@pytest.mark.parametrize("count, size, processes", [(48, 5, 3), (7, 7, 2), (1, 3, 3), (10, 3, 4), (0, 3, 2)])
def test_every_sample_falls_to_one_process_in_a_batch_of_its_own(count, size, processes):
    alone = batches_of(count, size, 0, 1)
    shares = [batches_of(count, size, process, processes) for process in range(processes)]
    assert sum(shares, []) == alone and [i for batch in alone for i in batch] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
def test_evaluate_under_accelerate_launch_prints_one_table(tiny_checkpoint, small_data_dir, tmp_path, refseg):
    words = ["evaluate", "--checkpoint", str(tiny_checkpoint), "--split", "val", "--device", "cpu", "--json", "-"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", free_port(), str(tmp_path / "start.py")]
    # The small RefShapes passes for whole in a process of its own only where its sizes are set.
    small = f"from refseg.datasets import refshapes\nrefshapes.IMAGES = {refshapes.IMAGES}\n"
    (tmp_path / "start.py").write_text(f"from refseg import cli\n{small}cli.main()\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "REFSEG_DATA": str(small_data_dir)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    group = subprocess.Popen([*launch, *words], env=environment, cwd=tmp_path, start_new_session=True, **pipes)
    try:
        out, errors = group.communicate(timeout=SECONDS)
    finally:
        if group.poll() is None:  # what it launched must not outlive it
            os.killpg(group.pid, signal.SIGKILL)
    assert group.returncode == 0, errors
    (line,) = out.strip().splitlines()
    status, alone, _ = refseg(*words)
    assert status == 0
    ours, theirs = json.loads(line), json.loads(alone)
    assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
