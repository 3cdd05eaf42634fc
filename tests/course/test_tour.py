"""The tour on a small benchmark: one page that needs nothing else, whose numbers are the measured ones."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import refseg_course.tour as module
from refseg.errors import RefsegError
from refseg.training.experiment import variant
from refseg.training.log import read_log
from refseg.training.presets import PRESETS
from refseg_course.tour import COLUMNS, plan, run_tour

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


class Page(HTMLParser):
    """What a browser would see: images, links, table rows, tags left open."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.images, self.addresses, self.rows, self.open, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.images += [named] if tag == "img" else []
        self.addresses += [named[name] for name in ("src", "href", "srcset", "data") if name in named]
        self.rows += [[]] if tag == "tr" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


@pytest.fixture
def tour(tiny_experiment, tiny_checkpoint, tmp_path, monkeypatch):
    """Runs the tour with few steps; the shipped checkpoint is an untrained one."""
    shipped = tmp_path / "checkpoints" / module.SHIPPED
    shipped.parent.mkdir()
    tiny_checkpoint.rename(shipped)
    optim = replace(tiny_experiment.optim, steps=4, eval_every=2, save_every=2)
    monkeypatch.setattr(module, "checkpoints_dir", lambda: shipped.parent)
    monkeypatch.setattr(module, "EXAMPLES_PER_KIND", 1)  # drawing takes time
    monkeypatch.setattr(module, "plan", lambda folder, minutes: replace(tiny_experiment, optim=optim))
    return lambda: run_tour(tmp_path / "tour")


def cell(value):
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def test_the_report_stands_alone_and_shows_the_measured_numbers(tour, tmp_path, capsys, monkeypatch):
    report = tour()
    text = report.read_text(encoding="utf-8")
    assert report == tmp_path / "tour" / "report.html" and str(report) in capsys.readouterr().out

    page = Page(text)
    assert page.open == [] and "script" not in page.tags  # every tag is closed
    assert not re.search(r"https?://", text) and "url(" not in text
    assert [address for address in page.addresses if not address.startswith("data:image/png;base64,")] == [
        module.EXPLORER
    ]
    explorer = (tmp_path / "tour" / module.EXPLORER).read_text(encoding="utf-8")
    assert '"name":"best"' in explorer and '"name":"cmsa_refshapes"' in explorer and "https:" not in explorer
    examples = text.count('class="example"')
    assert len(page.images) == 1 + 3 * examples
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert not re.search(r"\{[a-z_]+\}|\bnan\b|None", re.sub("base64,[^\"']*", "", text))

    results = {}
    for name, file in (("trained just now", "val-tour-best.json"), ("shipped", "val-checkpoints-cmsa_refshapes.json")):
        results[name] = json.loads((tmp_path / "tour" / file).read_text())["results"]
    rows = {row[0]: row[1:] for row in page.rows if row[0] not in COLUMNS}
    for name, scores in {**results, **results["shipped"]["by_kind"]}.items():
        assert rows.pop(name) == [cell(scores[column]) for column in COLUMNS]
    assert rows == {} and results["shipped"]["N"] == 28
    assert 3 <= examples <= len(results["shipped"]["by_kind"])  # one a kind, each from a picture of its own: here are 7

    # Once more: nothing is trained or scored again.
    kept = {path.name: path.read_text() for path in (tmp_path / "tour").glob("*.json*")}
    monkeypatch.setattr("refseg.training.loop.train_step", None)
    monkeypatch.setattr(module, "evaluate_checkpoint", None)
    again = Page(tour().read_text(encoding="utf-8"))
    assert again.rows == page.rows and again.images == page.images
    assert {path.name: path.read_text() for path in (tmp_path / "tour").glob("*.json*")} == kept
    assert [row["step"] for row in read_log(tmp_path / "tour" / "log.jsonl") if "loss" in row] == [1, 2, 3, 4]


def test_other_weights_are_scored_again(tour, tmp_path, tiny_experiment, monkeypatch):
    (tmp_path / "tour").mkdir()
    shipped = tmp_path / "checkpoints" / module.SHIPPED
    scored = []
    monkeypatch.setattr(module, "evaluate_checkpoint", lambda *what: scored.append(what) or {"mIoU": len(scored)})
    assert [module._score(shipped, tmp_path / "tour")["mIoU"] for _ in range(2)] == [1, 1]
    weights = shipped / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert module._score(shipped, tmp_path / "tour")["mIoU"] == 2


def test_a_missing_shipped_checkpoint_is_named(tour, tmp_path):
    (tmp_path / "checkpoints" / module.SHIPPED).rename(tmp_path / "elsewhere")
    with pytest.raises(RefsegError, match="no checkpoint in .*cmsa_refshapes"):
        tour()


# ---- how many steps fit ----------------------------------------------------------------------------------------


def at_speed(monkeypatch, seconds):
    """A machine that takes this long for a step."""
    monkeypatch.setattr(module, "seconds_per_step", lambda experiment: seconds)


def test_seconds_per_step_times_whole_steps(tiny_experiment):
    experiment = variant(tiny_experiment, optim={"curriculum_steps": 800, "log_every": 1})
    assert 0 < module.seconds_per_step(experiment, steps=3) < 5


def test_the_plan_fits_the_time(tmp_path, monkeypatch):
    at_speed(monkeypatch, 0.1)
    optim = plan(tmp_path / "new", 2.0).optim
    assert (optim.steps, optim.eval_every, optim.save_every) == (1200, 300, 300)
    assert 0 < optim.warmup_steps < optim.curriculum_steps < optim.steps  # all expressions are seen before the end
    assert optim.learning_rate == PRESETS["cmsa_refshapes"].optim.learning_rate


def test_a_slow_machine_trains_a_little_all_the_same(tmp_path, monkeypatch):
    at_speed(monkeypatch, 60.0)
    assert plan(tmp_path, 0.5).optim.steps == 40


def test_a_second_run_keeps_the_plan_of_the_first(tmp_path, monkeypatch):
    at_speed(monkeypatch, 0.1)
    first = plan(tmp_path, 2.0)
    at_speed(monkeypatch, 0.3)
    assert plan(tmp_path, 2.0) == first
    for strange in ('{"minutes": 2.0, "st', "[]", '{"minutes": 2.0}'):
        (tmp_path / "plan.json").write_text(strange)
        with pytest.raises(RefsegError, match="holds plan.json, which was not written there by refseg"):
            plan(tmp_path, 2.0)
        assert (tmp_path / "plan.json").read_text() == strange


def test_another_length_is_refused_and_the_first_plan_stays(tmp_path, monkeypatch):
    at_speed(monkeypatch, 0.1)
    first = plan(tmp_path, 2.0)
    with pytest.raises(RefsegError, match="holds a tour of 2 minutes: name another folder with --out"):
        plan(tmp_path, 5.0)
    assert plan(tmp_path, 2.0) == first


def test_no_time_is_refused(tmp_path):
    for minutes in (0, -1, float("nan")):
        with pytest.raises(RefsegError, match="give more than 0"):
            plan(tmp_path, minutes)
