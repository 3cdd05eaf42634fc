"""The gallery: chosen by its rule, small enough, one file."""

import json
import re

import pytest

from refseg.datasets import build_dataset
from refseg_course import gallery
from refshapes import KINDS


@pytest.fixture
def small(tiny_refshapes, tiny_checkpoint, monkeypatch):
    """The small RefShapes, an untrained network, and scores that are made up: every fourth mask is wrong."""
    tiny_checkpoint.rename(tiny_checkpoint.with_name(gallery.SHIPPED))
    monkeypatch.setattr(gallery, "checkpoints_dir", lambda: tiny_checkpoint.parent)
    monkeypatch.setattr(gallery, "_ious", lambda looked_at: [0.1 if n % 4 == 3 else 0.9 for n in range(looked_at)])
    return len(build_dataset("refshapes", "val"))


def test_the_rule(small):
    scenes = gallery.choose_scenes(small)
    val = build_dataset("refshapes", "val")
    kinds = [scene.first.annotations.kind for scene in scenes]
    assert kinds == sorted(kinds, key=KINDS.index) and max(map(kinds.count, kinds)) <= gallery.PER_KIND
    pictures = [scene.first.annotations.image_id for scene in scenes]
    assert len(set(pictures)) == len(pictures), "every image once"
    assert scenes[0].first.sample_id == next(
        val[n].sample_id for n in range(small) if val[n].annotations.kind == kinds[0]
    )
    for scene in scenes:
        assert (
            len({sample.annotations.image_id for sample in scene.samples}) == 1
            and len(scene.samples) == gallery.PER_SCENE
        )


def test_the_page_is_one_file_with_all_of_them(small, tmp_path):
    path = gallery.build_gallery(tmp_path / "new" / "gallery.html", small)
    text = path.read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', text).group(1))
    assert len(content["scenes"]) == len(gallery.choose_scenes(small)) and not content["live"]
    for scene in content["scenes"]:
        assert len(scene["readings"]) == gallery.PER_SCENE
        assert all(len(reading["strikes"]) in (0, len(reading["words"])) for reading in scene["readings"])
    assert "https:" not in text and f"{len(content['scenes'])} expressions" in text


def test_the_examples_are_written_in_the_same_way(small, tmp_path, monkeypatch):
    kinds = list(dict.fromkeys(scene.first.annotations.kind for scene in gallery.choose_scenes(small)))
    monkeypatch.setattr(gallery, "SHIPPED_KINDS", kinds[:2])
    scenes = json.loads(gallery.write_examples(tmp_path / "examples.json", small).read_text(encoding="utf-8"))
    assert len(scenes) == 2 and all(scene["readings"][0]["iou"] is not None for scene in scenes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_one_is_small_enough(tmp_path):
    path = gallery.build_gallery(tmp_path / "gallery.html")
    assert path.stat().st_size <= 8_000_000
    assert "24 expressions" in path.read_text(encoding="utf-8")
