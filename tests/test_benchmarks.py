"""The benchmarks measure what they say, at sizes that take no time."""

import json
import shutil
from dataclasses import replace

import alignformer
import cfsa
import cmsa
import cmsa_forms
import controls
import fusions
import magnet
import network
import pointing
import pytest
import results
import study
import system_times
import torch
import video

from refseg.checkpoint import load_checkpoint, load_training, save_checkpoint
from refseg.evaluation.hidden_words import WordGuesser
from refseg.objectives import MaskGroundingConfig, MaskLossConfig, ObjectiveConfig
from refseg.training.experiment import variant
from refseg.training.presets import PRESETS


def test_all_forms_of_the_block_compute_the_same():
    point = cmsa_forms.Point(positions=35, words=3, dim=11, batch=2)
    assert point.grid() == (5, 7)
    outputs = {}
    for form in ("rank_n", "per_word", "literal_sdpa", "literal"):
        block, inputs = cmsa_forms.make(point, form)
        outputs[form] = cmsa_forms.whole_block(form, block, *inputs).flatten(2)
    for output in outputs.values():
        assert torch.allclose(output, outputs["literal"], atol=1e-5)
    plain, inputs = cmsa_forms.make(point, "plain")
    assert plain(*inputs).shape == (2, 11 + 8, 35)


def test_one_point_is_one_json_object(monkeypatch, capsys):
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


def test_errors_at_spread_logits_are_no_worse_than_the_literal_forms_own():
    for row in cmsa.precision(seeds=3):
        for what in ("value", "gradient"):
            for form in ("rank_n", "per_word"):
                assert row[f"{form}_{what}"] < max(2e-6, 2 * row[f"literal_{what}"]), (row["spread"], form, what)


def test_the_profile_of_the_network_finds_its_parts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(network, "results_dir", lambda: tmp_path)
    monkeypatch.setattr(network.CMSANetConfig, "paper", network.CMSANetConfig.lesson)
    network.Network(size=48, words=3, rounds=1).run()
    result = json.loads((tmp_path / "cmsa_network.json").read_text())
    parts = {"CMSA c3", "CMSA c4", "CMSA c5", "GMLF"}
    assert set(result["seconds"]) == {"training step", *parts}
    assert 0 < result["share of CMSA and GMLF"] < 1.5


def test_the_network_for_clips_is_timed_as_a_whole(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(network, "results_dir", lambda: tmp_path)
    experiment = network.PRESETS["cmsa_refshapes_video"]
    monkeypatch.setitem(network.PRESETS, "cmsa_a2d", experiment)
    network.Network(size=48, words=3, frames=5, rounds=1).run()
    result = json.loads((tmp_path / "cmsa_network_5_frames.json").read_text())
    assert result["frames"] == 5 and list(result["seconds"]) == ["training step"]


def test_the_literal_network_is_the_same_network():
    torch.manual_seed(0)
    model = network.build_model(network.CMSANetConfig.lesson(), network.VOCABULARY).eval()
    batch = network.make_batch(2, 40, 3)
    with torch.no_grad():
        ours = model(batch).mask_logits
        network.make_literal(model)
        assert torch.allclose(model(batch).mask_logits, ours, atol=1e-4)


def test_the_pointing_benchmark(monkeypatch, tiny_refshapes, tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "pointing.json"
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


def test_both_forms_of_attention_across_frames_compute_the_same():
    block, clip = cfsa.make(cfsa.Size(side=3, dim=10, heads=5), frames=7)
    torch.nn.init.normal_(block.out[-1].weight)  # it starts as if it were not there
    fused, explicit = (cfsa.run(form, block, clip, backward=False) for form in cfsa.FORMS)
    assert (fused - clip[:, 3]).abs().max() > 0.1
    assert torch.allclose(fused, explicit, atol=1e-5)


def test_how_far_from_a_line():
    assert cfsa.off_line([1, 2, 4, 8], [3.0, 5.0, 9.0, 17.0]) < 1e-9
    assert cfsa.off_line([1, 2, 4, 8], [1.0, 4.0, 16.0, 64.0]) > 0.3


def test_time_against_frames(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cfsa, "results_dir", lambda: tmp_path)
    cfsa.Bench(frames=(1, 3), side=2, dim=6, heads=2, rounds=1, memory=False).run()
    result = json.loads((tmp_path / "cfsa_speed.json").read_text())
    assert (tmp_path / "cfsa_speed.png").stat().st_size > 1000
    assert set(result["forms"]) == {"fused", "explicit"} and set(result["forms"]["fused"]) == {"1", "3"}
    assert "| 3 |" in capsys.readouterr().out


# ---- studies -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_studies(monkeypatch, tiny_experiment, tmp_path, no_accelerate_state):
    """Every preset of the studies is a network of few steps, which is trained in a temporary folder."""
    for module in (study, magnet, alignformer):
        for name in ("runs_dir", "checkpoints_dir", "results_dir"):
            if name in vars(module):
                monkeypatch.setattr(module, name, lambda name=name: tmp_path / name)
    (tmp_path / "results_dir").mkdir()
    monkeypatch.setattr(study, "SPLITS", ("val",))
    monkeypatch.setattr(controls, "SPLITS", ("val",))
    grounding = ObjectiveConfig((MaskLossConfig(), MaskGroundingConfig(dim=8, heads=2)))
    for module in (controls, fusions, magnet):
        for preset in module.ROWS.values():
            monkeypatch.setitem(PRESETS, preset, replace(tiny_experiment, objective=grounding))
    tiny = variant(PRESETS["alignformer_refshapes"], data={"val_samples": 3}, optim={"batch_size": 4})
    monkeypatch.setitem(PRESETS, "alignformer_refshapes", tiny)
    alone = magnet.train_on_words_alone
    monkeypatch.setattr(magnet, "train_on_words_alone", lambda tokenizer: alone(tokenizer, steps=2, batch_size=3))
    return tmp_path


def test_a_study_goes_on_row_by_row(tiny_studies, monkeypatch, capsys):
    """Stopped in the second row, the first is there; the same command trains only what is missing."""
    monkeypatch.setattr(magnet, "ROWS", {"one": "magnet_refshapes", "two": "cmsa_refshapes"})
    out, trained, really = tiny_studies / "magnet.json", [], study.train

    def train(experiment, folder, **options):
        trained.append(folder.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return really(experiment, folder, progress=False, **options)

    monkeypatch.setattr(study, "train", train)
    with pytest.raises(KeyboardInterrupt):
        magnet.main(steps=2, seeds=(0, 1), recovered=7, out=out)
    assert set(json.loads(out.read_text())["rows"]) == {"one"}
    magnet.main(steps=2, seeds=(0, 1), recovered=7, out=out)
    result = json.loads(out.read_text())
    assert {"machine", "versions", "commit", "steps", "share"} <= result.keys()
    assert {row: set(by_seed) for row, by_seed in result["rows"].items()} == {"one": {"0", "1"}, "two": {"0", "1"}}
    assert trained[0] == "magnet_refshapes-2-1.0-0"
    (recovery,) = result["recovery"].values()
    for counted in ("right", "right of its kind"):
        assert set(recovery["0"][counted]) == {"picture and mask", "picture", "words alone"}
        for shares in recovery["1"][counted].values():
            assert shares.keys() == recovery["1"]["asked"].keys() and all(0 <= share <= 1 for share in shares.values())
    val = result["rows"]["two"]["1"]["val"]
    assert sum(group["N"] for group in val["by_rarity"].values()) == val["N"]
    assert "| two | " in capsys.readouterr().out


def test_a_training_is_shipped_with_its_heads(tiny_studies, capsys):
    last = study.Study("magnet", {}).train("magnet_refshapes", 2, 0)
    folder = tiny_studies / "checkpoints_dir" / magnet.SHIPPED
    save_checkpoint(folder, load_checkpoint(last), card="card")
    magnet.main(ship=last)
    names = [path.name for path in folder.iterdir()]
    assert sorted(names) == ["README.md", "config.json", "heads.safetensors", "model.safetensors"]
    assert (folder / "README.md").read_text() == "card"
    heads = WordGuesser.of(folder).grounding.predictor.head.weight
    trained = load_training(last)["objective"]
    assert torch.equal(heads, next(x for name, x in trained.items() if name.endswith("predictor.head.weight")))
    magnet.main(shipped=True)
    assert json.loads((tiny_studies / "results_dir" / "magnet_recovery.json").read_text())["expressions"] > 5


def test_controls_have_one_run_each_and_two_more_rows(tiny_studies, monkeypatch, capsys):
    monkeypatch.setattr(controls, "ROWS", {"full model": "cmsa_refshapes", "blanked": "cmsa_refshapes_blank"})
    controls.main(steps=2, out=tiny_studies / "controls.json")
    result = json.loads((tiny_studies / "controls.json").read_text())
    assert len(result["rows"]) == 4 and result["seed"] == 0
    assert all(0 <= scores["val"]["mIoU"] <= 1 for scores in result["rows"].values())
    assert sum("expression_control" in scores["val"] for scores in result["rows"].values()) == 3
    assert controls.table(result) in capsys.readouterr().out


def test_a_run_of_the_alignformer_benchmark(tiny_studies, monkeypatch, capsys):
    """What is trained is scored, measured and written; it becomes the shipped checkpoint, which is measured again."""
    monkeypatch.setattr(alignformer, "ROWS", {"AlignFormer": "alignformer_refshapes"})
    out = tiny_studies / "alignformer.json"
    alignformer.main(steps=2, seeds=(0,), gathered=5, out=out)
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert "| AlignFormer |" in printed and 0 <= result["rows"]["AlignFormer"]["0"]["val"]["mIoU"] <= 1
    areas = result["gathering"]["AlignFormer"]["0"]
    assert all(0 <= areas[time][centre] <= 1 for time in ("before", "after") for centre in alignformer.CENTRES)
    assert areas["before"] != areas["after"]
    alignformer.main(ship=tiny_studies / "runs_dir" / "compared" / "alignformer_refshapes-2-1.0-0" / "last")
    alignformer.main(shipped=True, out=out)
    again = json.loads(out.read_text())
    assert again["samples"] >= 5 and again["gathering"]["before"].keys() == areas["before"].keys()


def test_two_rows_of_video_are_trained_again_for_longer(monkeypatch, tmp_path, capsys):
    trained, group = [], {"mIoU": 0.5}
    monkeypatch.setattr(study.Study, "train", lambda self, *training: trained.append(training) or tmp_path / "last")
    scores = {"parameters": 7, "motion": group, "static": group}
    monkeypatch.setattr(video, "evaluate_checkpoint", lambda *_, **__: scores)
    video.main(steps=10, seeds=(3, 4), out=tmp_path / "video.json")
    rows = json.loads((tmp_path / "video.json").read_text())["rows"]
    assert len(rows) == len(video.ROWS) + 2 and list(rows)[-1] == "CFSA on visual features, 20 steps"
    assert sorted(training for training in trained if training[1] == 20) == [
        (preset, 20, seed)
        for preset in ("cmsa_refshapes_video_centre", "cmsa_refshapes_video_visual")
        for seed in (3, 4)
    ]
    assert [preset for preset, _, seed in trained if seed == 4].count("cmsa_refshapes_video_no_offsets") == 0
    assert "| centre frame only, 20 steps | 2 | 7 | 0.500 ± 0.000 |" in capsys.readouterr().out


def test_the_rows_of_fusions_differ_in_the_fusion_alone():
    first, *others = [PRESETS[preset] for preset in fusions.ROWS.values()]
    assert len({type(e.model.fusion) for e in [first, *others]}) == len(fusions.ROWS) == 6
    assert all(variant(e, model={"fusion": first.model.fusion}) == first for e in others)


def test_tables_by_hand():
    one, two = ({"a": {"x": value}, "n": 1234} for value in (0.1, 0.3))
    columns = {"n": study.count("n"), "x": study.mean("a", "x"), "y": study.mean("a", "y")}
    assert study.table("what", {"both": [one, two], "one": [one]}, columns).splitlines() == [
        "| what | n | x | y |",
        "|---|---|---|---|",
        "| both | 1,234 | 0.200 ± 0.141 |  |",
        "| one | 1,234 | 0.100 |  |",
    ]


def test_the_table_of_hidden_words_by_hand():
    run = {"asked": {"shape of another": 7}, "right": {"words alone": {"shape of another": 0.25}}}
    run["right of its kind"] = {"words alone": {"shape of another": 0.5}}
    assert magnet.recovery_table({"net": {"0": run}}).splitlines() == [
        "| net | shape of another |",
        "|---|---|",
        "| asked | 7 |",
        "| words alone | 0.250 |",
        "| words alone, of its kind | 0.500 |",
    ]


def test_where_mask_grounding_helps_by_hand():
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


def test_systems_of_two_benchmarks_in_one_table():
    """A training that both know stands once, with its times if there are any."""
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


def test_less_data_by_hand():
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
    asked, seconds = [], iter([1.0, 2.0, 5.0, 7.0, 3.0, 4.0])

    def per_step(experiment, repeats, device):
        asked.append(type(experiment.model).__name__)
        return next(seconds)

    monkeypatch.setattr(system_times, "ROWS", {"MagNet": "magnet_refshapes", "CMSA": "cmsa_refshapes"})
    monkeypatch.setattr(system_times, "seconds_per_step", per_step)
    monkeypatch.setattr(system_times, "seconds_per_mask", lambda preset, repeats: 0.25)
    system_times.main(rounds=3, out=tmp_path / "times.json")
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert asked == ["MagNetConfig", "CMSANetConfig"] * 3
    assert rows == {
        "MagNet": {"seconds per step": 3.0, "seconds per mask": 0.25},
        "CMSA": {"seconds per step": 4.0, "seconds per mask": 0.25},
    }


def test_the_time_of_a_mask_is_of_one_expression(monkeypatch, tiny_refshapes):
    assert 0 < system_times.seconds_per_mask("alignformer_refshapes", repeats=2) < 5


def test_how_pixels_gather_by_hand():
    """Four regions, two of them the referent's; the second centre tells them apart, the first puts two on a tie."""
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


def test_the_tables_of_alignformer_by_hand():
    values = {"before": (0.5, 0.25, 0.0), "after": (0.75, 1.0, 0.625)}
    run = {time: dict(zip(alignformer.CENTRES, areas)) for time, areas in values.items()}
    head, _, row = alignformer.gathering_table({"gathering": {"net": {"0": run}}}).splitlines()
    columns = [f"{name}, {time}" for name in alignformer.CENTRES for time in ("before", "after")]
    assert head == f"| AUC around the centre | {' | '.join(columns)} |"
    assert row == "| net | 0.500 | 0.750 | 0.250 | 1.000 | 0.000 | 0.625 |"


def test_the_pages_show_the_stored_results(monkeypatch, tmp_path, capsys):
    """Somebody changed a table by hand, or a JSON file without: ``python benchmarks/results.py --no-score``."""
    root = results.PROJECT
    pages = [path.relative_to(root) for path in (root / "README.md", *root.glob("data/*/**/README.md"))]
    for page in pages:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / page, tmp_path / page)
    monkeypatch.setattr(results, "PROJECT", tmp_path)
    monkeypatch.setattr(results, "checkpoints_dir", lambda: tmp_path / "data" / "checkpoints")
    monkeypatch.setattr(results, "page", lambda: tmp_path / "data" / "results" / "README.md")
    results.main(score=False)
    changed = [str(page) for page in pages if (tmp_path / page).read_bytes() != (root / page).read_bytes()]
    assert changed == []
