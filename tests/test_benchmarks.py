"""The benchmarks measure what they say, at sizes that take no time."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from refseg.training.experiment import variant
from refseg.training.presets import PRESETS

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_all_forms_of_the_block_compute_the_same(monkeypatch):
    cmsa = load("cmsa", monkeypatch)
    point = cmsa.Point(positions=35, words=3, dim=11, batch=2)
    assert point.grid() == (5, 7)
    outputs = {}
    for form in ("rank_n", "per_word", "literal_sdpa", "literal"):
        block, inputs = cmsa.make(point, form)
        outputs[form] = cmsa.whole_block(form, block, *inputs).flatten(2)
    for output in outputs.values():
        assert torch.allclose(output, outputs["literal"], atol=1e-5)
    plain, inputs = cmsa.make(point, "plain")
    assert plain(*inputs).shape == (2, 11 + 8, 35)


def test_one_point_is_one_json_object(monkeypatch, capsys):
    cmsa = load("cmsa", monkeypatch)
    cmsa.Bench(positions=20, words=3, dim=7, rounds=1, memory=False, json="-").run()
    result = json.loads(capsys.readouterr().out)
    assert result["size"]["positions"] == 20 and result["machine"]["device"] == "cpu"
    forms = result["forms"]
    assert set(forms) == {"plain", "rank_n", "per_word", "literal_sdpa", "literal"}
    for form, row in forms.items():
        assert row["forward_s"] > 0 and row["backward_s"] > 0
        assert form == "plain" or row["error"] < 2e-6
        for other in {"plain", "literal_sdpa"} - {form}:
            expected = row["backward_s"] / forms[other]["backward_s"]
            assert row[f"over_{other}"]["backward"] == pytest.approx(expected)


def test_errors_at_spread_logits_are_no_worse_than_the_literal_forms_own(monkeypatch):
    cmsa = load("cmsa", monkeypatch)
    for row in cmsa.precision(seeds=3):
        for what in ("value", "gradient"):
            for form in ("rank_n", "per_word"):
                assert row[f"{form}_{what}"] < max(2e-6, 2 * row[f"literal_{what}"]), (row["spread"], form, what)


def test_the_profile_of_the_network_finds_its_parts(monkeypatch, tmp_path, capsys):
    network = load("network", monkeypatch)
    monkeypatch.setattr(network, "results_dir", lambda: tmp_path)
    monkeypatch.setattr(network.CMSANetConfig, "paper", network.CMSANetConfig.lesson)
    network.Network(size=48, words=3, rounds=1).run()
    result = json.loads((tmp_path / "cmsa_network.json").read_text())
    parts = {"CMSA c3", "CMSA c4", "CMSA c5", "GMLF"}
    assert set(result["seconds"]) == {"training step", *parts}
    assert 0 < result["share of CMSA and GMLF"] < 1.5


def test_the_network_for_clips_is_timed_as_a_whole(monkeypatch, tmp_path, capsys):
    network = load("network", monkeypatch)
    monkeypatch.setattr(network, "results_dir", lambda: tmp_path)
    experiment = network.PRESETS["cmsa_refshapes_video"]
    monkeypatch.setitem(network.PRESETS, "cmsa_a2d", experiment)
    network.Network(size=48, words=3, frames=5, rounds=1).run()
    result = json.loads((tmp_path / "cmsa_network_5_frames.json").read_text())
    assert result["frames"] == 5 and list(result["seconds"]) == ["training step"]


def test_the_literal_network_is_the_same_network(monkeypatch):
    network = load("network", monkeypatch)
    torch.manual_seed(0)
    model = network.build_model(network.CMSANetConfig.lesson(), network.VOCABULARY).eval()
    batch = network.make_batch(2, 40, 3)
    with torch.no_grad():
        ours = model(batch).mask_logits
        network.make_literal(model)
        assert torch.allclose(model(batch).mask_logits, ours, atol=1e-4)


def test_the_pointing_benchmark(monkeypatch, tiny_refshapes, tiny_checkpoint, tmp_path, capsys):
    pointing, out = load("pointing", monkeypatch), tmp_path / "pointing.json"
    pointing.PointingBenchmark(tiny_checkpoint, splits=("val", "testB"), samples=5, ablated=3, out=out).run()
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert {"machine", "versions", "commit", "checkpoint"} <= result.keys()
    for split in ("val", "testB"):
        assert result["pointing"][split]["expressions"] == 5
        for name in pointing.MAPS:
            row = result["pointing"][split][name]["c5"]["all"]
            assert (
                row["N"] > 5 and f"| c5 | all | {row['N']} | {row['pointing']:.3f} | {row['chance']:.3f} |" in printed
            )
    assert result["ablation"]["expressions"] == 3 and "| shape |" in printed


def test_both_forms_of_attention_across_frames_compute_the_same(monkeypatch):
    cfsa = load("cfsa", monkeypatch)
    block, clip = cfsa.make(cfsa.Size(side=3, dim=10, heads=5), frames=7)
    torch.nn.init.normal_(block.out[-1].weight)  # it starts as if it were not there
    fused, explicit = (cfsa.run(form, block, clip, backward=False) for form in cfsa.FORMS)
    assert (fused - clip[:, 3]).abs().max() > 0.1
    assert torch.allclose(fused, explicit, atol=1e-5)


def test_how_far_from_a_line(monkeypatch):
    cfsa = load("cfsa", monkeypatch)
    assert cfsa.off_line([1, 2, 4, 8], [3.0, 5.0, 9.0, 17.0]) < 1e-9
    assert cfsa.off_line([1, 2, 4, 8], [1.0, 4.0, 16.0, 64.0]) > 0.3


def test_time_against_frames(monkeypatch, tmp_path, capsys):
    cfsa = load("cfsa", monkeypatch)
    monkeypatch.setattr(cfsa, "results_dir", lambda: tmp_path)
    cfsa.Bench(frames=(1, 3), side=2, dim=6, heads=2, rounds=1, memory=False).run()
    result = json.loads((tmp_path / "cfsa_speed.json").read_text())
    assert (tmp_path / "cfsa_speed.png").stat().st_size > 1000
    assert set(result["forms"]) == {"fused", "explicit"} and set(result["forms"]["fused"]) == {"1", "3"}
    assert "| 3 |" in capsys.readouterr().out


def test_the_table_of_video_by_hand(monkeypatch):
    video = load("video", monkeypatch)
    score = {"parameters": 1234, "static": {"mIoU": 0.5}}
    rows = {"all": {"0": score | {"motion": {"mIoU": 0.1}}, "1": score | {"motion": {"mIoU": 0.3}}}}
    rows["one"] = {"0": score | {"motion": {"mIoU": 0.25}}}
    assert video.table({"rows": rows}).splitlines()[2:] == [
        "| all | 2 | 1,234 | 0.200 ± 0.141 | 0.500 ± 0.000 |",
        "| one | 1 | 1,234 | 0.250 | 0.500 |",
    ]


def test_two_rows_of_video_are_trained_again_for_longer(monkeypatch, tmp_path, capsys):
    video = load("video", monkeypatch)
    trained = []
    monkeypatch.setattr(video, "trained", lambda name, *training: trained.append(training) or tmp_path)
    group = {"mIoU": 0.5}
    monkeypatch.setattr(video.Video, "score", lambda *_: {"parameters": 7, "motion": group, "static": group})
    video.Video(steps=10, seeds=(3, 4), out=tmp_path / "video.json").run()
    rows = json.loads((tmp_path / "video.json").read_text())["rows"]
    assert len(rows) == len(video.ROWS) + 2 and list(rows)[-1] == "CFSA on visual features, 20 steps"
    assert [training for training in trained if training[1] == 20] == [
        (preset, 20, seed)
        for preset in ("cmsa_refshapes_video_centre", "cmsa_refshapes_video_visual")
        for seed in (3, 4)
    ]
    assert "| centre frame only, 20 steps | 2 | 7 | 0.500 ± 0.000 |" in capsys.readouterr().out


def test_every_row_of_video_is_a_preset_of_one_budget(monkeypatch):
    """Same batches, steps and learning rate, and the same beginning."""
    video = load("video", monkeypatch)
    experiments = [PRESETS[preset] for preset in video.ROWS.values()]
    assert all(e.optim == experiments[0].optim for e in experiments)
    assert {e.init_from for e in experiments} == {"cmsa_refshapes"}
    assert all(e.model.backbone.frozen for e in experiments)


def test_the_rows_of_fusions_differ_in_the_fusion_alone(monkeypatch):
    fusions = load("fusions", monkeypatch)
    first, *others = [PRESETS[preset] for preset in fusions.ROWS.values()]
    assert len({type(e.model.fusion) for e in [first, *others]}) == len(fusions.ROWS) == 6
    assert all(variant(e, model={"fusion": first.model.fusion}) == first for e in others)
    assert first.init_parts == ("backbone",) and first.model.backbone.frozen


def test_the_table_of_trainings_by_hand(monkeypatch):
    trainings = load("trainings", monkeypatch)
    by_seed = {
        str(seed): {split: {"parameters": 1234, "mIoU": value} for split in trainings.SPLITS}
        for seed, value in enumerate((0.1, 0.3))
    }
    assert trainings.table({"rows": {"sum": by_seed}}).splitlines()[2] == "| sum | 1,234 |" + " 0.200 ± 0.141 |" * 4


def test_the_rows_of_magnet_have_one_budget(monkeypatch):
    magnet = load("magnet", monkeypatch)
    experiments = {name: magnet.PRESETS[preset] for name, preset in magnet.ROWS.items()}
    steps = {(e.optim.steps, e.optim.batch_size, e.optim.expressions_per_image) for e in experiments.values()}
    assert len(steps) == 1 and len({str(e.data) for e in experiments.values()}) == 1
    assert set(magnet.GROUNDED) <= set(magnet.ROWS.values())


def test_the_table_of_hidden_words_by_hand(monkeypatch):
    magnet = load("magnet", monkeypatch)
    run = {"asked": {"shape of another": 7}, "right": {"words alone": {"shape of another": 0.25}}}
    run["right of its kind"] = {"words alone": {"shape of another": 0.5}}
    assert magnet.recovery_table({"net": {"0": run}}).splitlines() == [
        "| net | shape of another |",
        "|---|---|",
        "| asked | 7 |",
        "| words alone | 0.250 |",
        "| words alone, of its kind | 0.500 |",
    ]


def test_where_mask_grounding_helps_by_hand(monkeypatch):
    magnet = load("magnet", monkeypatch)
    groups = [*magnet.KINDS, "rare words", "no rare words"]
    by_seed = {
        str(seed): {
            "val": {
                "by_kind": {kind: {"N": 1300, "mIoU": value} for kind in magnet.KINDS},
                "by_rarity": {group: {"N": 17, "mIoU": 2 * value} for group in groups[-2:]},
            }
        }
        for seed, value in enumerate((0.1, 0.3))
    }
    assert magnet.where_table({"rows": {"CMSA": by_seed, "another row": by_seed}}).splitlines()[2:] == [
        "| N |" + " 1,300 |" * 6 + " 17 |" * 2,
        "| CMSA |" + " 0.200 ± 0.141 |" * 6 + " 0.400 ± 0.283 |" * 2,
    ]


def test_systems_of_two_benchmarks_in_one_table(monkeypatch):
    """A training that both know stands once, with its times if there are any."""
    results = load("results", monkeypatch)
    scores = {split: {"parameters": 1234, "mIoU": 0.5} for split in results.SPLITS}
    about = {"steps": 1000, "machine": {"processor": "P", "cores": 2}, "versions": {"torch": "2"}}
    first = about | {"rows": {"MagNet": {"0": scores, "1": scores}, "without CAM": {"0": scores}}}
    both = [first, about | {"rows": {"MagNet": {"0": scores}}}]
    lines = results.by_system(both, None).splitlines()
    assert lines[2] == "| MagNet | 2 | 1,234 |" + " 0.500 ± 0.000 |" * 4
    assert lines[3] == "| without CAM | 1 | 1,234 |" + " 0.500 |" * 4
    assert results.by_system(both, None).count("Measured on P, 2 cores") == 1
    elsewhere = both[1] | {"machine": {"processor": "Q", "cores": 3}}
    assert "Measured on P, 2 cores, torch 2. Measured on Q, 3 cores" in results.by_system(
        [first, elsewhere], None
    ).replace("\n", " ")
    taken = {"seconds per step": 0.3214, "seconds per mask": 0.0071}
    times = about | {"rounds": 5, "rows": {"MagNet": taken, "without CAM": taken}}
    timed = results.by_system(both, times).splitlines()
    assert timed[2:4] == [f"{line} 321 | 7 |" for line in lines[2:4]]


def test_less_data_by_hand(monkeypatch):
    results = load("results", monkeypatch)
    about = {"steps": 1000, "machine": {"processor": "P", "cores": 2}, "versions": {"torch": "2"}}

    def found(*values):
        runs = {str(seed): {"val": {"mIoU": value}} for seed, value in enumerate(values)}
        return about | {"rows": {name: runs for name in results.WITH_AND_WITHOUT}}

    less = found(0.25)
    del less["rows"]["CMSA"]  # not trained yet
    lines = results.by_share({"10 % of train": less, "all": found(0.1, 0.3)}).splitlines()
    assert lines[0] == "| mIoU, val | 10 % of train | all |"
    assert lines[2] == "| MagNet | 0.250 | 0.200 ± 0.141 |"
    assert lines[5] == "| CMSA |  | 0.200 ± 0.141 |" and "seeds: 1, 2." in lines[-1]


def test_times_of_every_system_are_taken_in_turn(monkeypatch, tmp_path):
    """Each row in each round; the median over the rounds is written."""
    times = load("system_times", monkeypatch)
    asked, seconds = [], iter([1.0, 2.0, 5.0, 7.0, 3.0, 4.0])

    def per_step(experiment, repeats, device):
        asked.append(type(experiment.model).__name__)
        return next(seconds)

    monkeypatch.setattr(times, "ROWS", {"MagNet": "magnet_refshapes", "CMSA": "cmsa_refshapes"})
    monkeypatch.setattr(times, "seconds_per_step", per_step)
    monkeypatch.setattr(times, "seconds_per_mask", lambda preset, repeats: 0.25)
    times.SystemTimes(rounds=3, out=tmp_path / "times.json").run()
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert asked == ["MagNetConfig", "CMSANetConfig"] * 3
    assert rows == {
        "MagNet": {"seconds per step": 3.0, "seconds per mask": 0.25},
        "CMSA": {"seconds per step": 4.0, "seconds per mask": 0.25},
    }


def test_the_time_of_a_mask_is_of_one_sentence(monkeypatch, tiny_refshapes):
    times = load("system_times", monkeypatch)
    assert 0 < times.seconds_per_mask("alignformer_refshapes", repeats=2) < 5


@pytest.fixture
def trained_grounded(monkeypatch, tiny_experiment, tmp_path, no_accelerate_state):
    """The benchmark's module, where both grounded rows are a network of 13 steps and words alone learn for two."""
    from dataclasses import replace

    magnet = load("magnet", monkeypatch)
    objective = replace(magnet.PRESETS["cmsa_refshapes_mask_grounding"].objective, dim=8, heads=2, semantics=0.0)
    experiment = replace(tiny_experiment, objective=objective)
    for name in set(magnet.ROWS.values()):
        monkeypatch.setitem(magnet.PRESETS, name, experiment)
    alone = magnet.train_on_words_alone
    monkeypatch.setattr(magnet, "train_on_words_alone", lambda tokenizer: alone(tokenizer, steps=2, batch_size=3))
    for module in (magnet, magnet.trainings):
        monkeypatch.setattr(module, "runs_dir", lambda: tmp_path / "runs")
        monkeypatch.setattr(module, "checkpoints_dir", lambda: tmp_path / "checkpoints")
    monkeypatch.setattr(magnet, "results_dir", lambda: tmp_path)
    return magnet


def test_magnet_goes_on_row_by_row(trained_grounded, monkeypatch, tmp_path, capsys):
    """Stopped in the second row, the first is there; the same command trains only what is missing."""
    magnet = trained_grounded
    monkeypatch.setattr(magnet, "ROWS", {"one": "magnet_refshapes", "two": "cmsa_refshapes"})
    for module in (magnet, magnet.trainings):
        monkeypatch.setattr(module, "SPLITS", ("val",))
    benchmark, trained, really = magnet.Magnet(steps=2, seeds=(0, 1), recovered=7), [], magnet.trainings.train

    def train(experiment, folder, **options):
        trained.append(folder.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return really(experiment, folder, progress=False, **options)

    monkeypatch.setattr(magnet.trainings, "train", train)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run()
    assert set(json.loads((tmp_path / "magnet.json").read_text())["rows"]) == {"one"}
    benchmark.run()
    result = json.loads((tmp_path / "magnet.json").read_text())
    assert {name: set(by_seed) for name, by_seed in result["rows"].items()} == {"one": {"0", "1"}, "two": {"0", "1"}}
    (recovery,) = result["recovery"].values()
    for counted in ("right", "right of its kind"):
        assert set(recovery["0"][counted]) == {"picture and mask", "picture", "words alone"}
        for shares in recovery["1"][counted].values():
            assert shares.keys() == recovery["1"]["asked"].keys() and all(0 <= share <= 1 for share in shares.values())
    val = result["rows"]["two"]["1"]["val"]
    assert sum(group["N"] for group in val["by_rarity"].values()) == val["N"]
    assert "| two | " in capsys.readouterr().out


def test_a_training_is_shipped_with_its_heads(trained_grounded, tmp_path, capsys):
    from refseg.checkpoint import load_training
    from refseg.evaluation.hidden_words import WordGuesser

    magnet = trained_grounded
    last = magnet.Magnet(steps=2).train("magnet_refshapes", 0)
    folder = tmp_path / "checkpoints" / magnet.SHIPPED
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("card")
    magnet.Magnet(ship=last).run()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "heads.safetensors",
        "model.safetensors",
    ]
    guesser = WordGuesser.of(folder)
    trained = load_training(last)["objective"]["predictor.head.weight"]
    assert torch.equal(guesser.objective.predictor.head.weight, trained)
    magnet.Magnet(shipped=True).run()
    assert json.loads((tmp_path / "magnet_recovery.json").read_text())["expressions"] > 5


def test_the_rows_of_alignformer_have_one_budget(monkeypatch):
    """All of one, and that of the systems of ``magnet.py``, since one table has both."""
    alignformer, magnet = load("alignformer", monkeypatch), load("magnet", monkeypatch)
    experiments = [PRESETS[preset] for preset in alignformer.ROWS.values()]
    assert all(e.optim == experiments[0].optim and e.data == experiments[0].data for e in experiments)
    for preset in magnet.ROWS.values():  # CMSA keeps its learning rate
        other, own = PRESETS[preset], experiments[0]
        assert other.data == own.data
        for name in ("steps", "batch_size", "curriculum_steps", "expressions_per_image"):
            assert getattr(other.optim, name) == getattr(own.optim, name)


def test_how_pixels_gather_by_hand(monkeypatch):
    """Four regions, two of them the referent's; the second centre tells them apart, the first puts two on a tie."""
    alignformer = load("alignformer", monkeypatch)
    pixels = torch.tensor([[[[1.0, 1.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    centres = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :] = True
    batch = alignformer.RefBatch(*[None] * 4, mask, torch.ones_like(mask), ["x"], *[None] * 5, frame_valid=mask)
    batch.objects = mask.long()
    batch.objects[..., 2:, 2:] = 3  # another object; the region beside it is background
    areas = alignformer.batch_areas(alignformer.Prediction(mask, {"pixels": pixels, "centres": centres}), batch)
    # Cosines with the first centre: 0 and 0.71 for the referent, 1 and 0 for the others.
    assert areas == {
        "sentence alone": [pytest.approx(1.5 / 4)],
        "last step": [1.0],
        "last step, among objects": [1.0],
    }


def test_the_tables_of_alignformer_by_hand(monkeypatch):
    alignformer = load("alignformer", monkeypatch)
    values = {"before": (0.5, 0.25, 0.0), "after": (0.75, 1.0, 0.625)}
    run = {time: dict(zip(alignformer.CENTRES, areas)) for time, areas in values.items()}
    head, _, row = alignformer.gathering_table({"gathering": {"net": {"0": run}}}).splitlines()
    columns = [f"{name}, {time}" for name in alignformer.CENTRES for time in ("before", "after")]
    assert head == f"| AUC around the centre | {' | '.join(columns)} |"
    assert row == "| net | 0.500 | 0.750 | 0.250 | 1.000 | 0.000 | 0.625 |"


def test_a_run_of_the_alignformer_benchmark(monkeypatch, tiny_refshapes, no_accelerate_state, tmp_path, capsys):
    """Every row, at the size of a toy: what is trained is scored, measured and written."""
    alignformer = load("alignformer", monkeypatch)
    monkeypatch.setattr(sys.modules["trainings"], "runs_dir", lambda: tmp_path)
    monkeypatch.setattr(alignformer, "ROWS", {"AlignFormer": "alignformer_refshapes"})
    whole = PRESETS["alignformer_refshapes"]

    tiny = variant(whole, data={"val_samples": 3}, optim={"batch_size": 4})
    monkeypatch.setitem(sys.modules["trainings"].PRESETS, "alignformer_refshapes", tiny)
    out = tmp_path / "alignformer.json"
    alignformer.AlignFormerBenchmark(steps=2, seeds=(0,), gathered=5, out=out).run()
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert {"machine", "versions", "commit"} <= result.keys() and "| AlignFormer |" in printed
    areas = result["gathering"]["AlignFormer"]["0"]
    assert all(0 <= areas[time][centre] <= 1 for time in ("before", "after") for centre in alignformer.CENTRES)
    assert areas["before"] != areas["after"]
    assert 0 <= result["rows"]["AlignFormer"]["0"]["val"]["mIoU"] <= 1

    # The same training becomes the shipped checkpoint, beside a card that is there already, and is asked again.
    shipped = tmp_path / "checkpoints" / alignformer.SHIPPED
    shipped.mkdir(parents=True)
    (shipped / "README.md").write_text("a card")
    for module in (alignformer, sys.modules["trainings"]):
        monkeypatch.setattr(module, "checkpoints_dir", lambda: tmp_path / "checkpoints")
    last = tmp_path / "compared" / "alignformer_refshapes-2-1.0-0" / "last"
    alignformer.AlignFormerBenchmark(ship=last).run()
    alignformer.AlignFormerBenchmark(shipped=True, out=out).run()
    again = json.loads(out.read_text())
    assert (shipped / "README.md").read_text() == "a card" and again["samples"] >= 5
    assert again["gathering"]["before"].keys() == areas["before"].keys()
