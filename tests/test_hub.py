"""A checkpoint goes to the hub and comes back as it was; no test asks the real one."""

import sys
from pathlib import Path

import pytest
import torch

from refseg.checkpoint import load_checkpoint
from refseg.errors import RefsegError
from refseg.hub import from_pretrained, push_to_hub, save_pretrained
from refseg.paths import shipped, shipped_names

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A folder that plays the hub: repositories are its subfolders."""
    root = tmp_path / "hub"

    def snapshot_download(name, revision, allow_patterns):
        if not (root / name).is_dir():
            raise OSError(f"no repository {name}\nwith more lines")
        return str(root / name)

    class Api:
        def __init__(self, token):
            self.token = token

        def create_repo(self, name, private, exist_ok):
            (root / name).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://hub.example/{name}"

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            for path in Path(folder_path).iterdir():
                if path.name in allow_patterns:
                    (root / repo_id / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return root


def assert_same(one, other):
    assert one.config == other.config and one.tokenizer.words == other.tokenizer.words
    left, right = one.model.state_dict(), other.model.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_there_and_back(tiny_checkpoint, hub, tmp_path):
    loaded = load_checkpoint(tiny_checkpoint)
    save_pretrained(loaded, tmp_path / "out", "# Tiny\n\nTrained on nothing.")
    (tmp_path / "out" / "notes.txt").write_text("private")
    address = push_to_hub(tmp_path / "out", "me/tiny")
    assert address == "https://hub.example/me/tiny"
    there = sorted(path.name for path in (hub / "me" / "tiny").iterdir())
    assert there == ["README.md", "config.json", "model.safetensors"]
    card = (hub / "me" / "tiny" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: refseg\n") and "Trained on nothing." in card
    assert_same(from_pretrained("me/tiny"), loaded)


def test_a_folder_needs_no_hub(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_same(from_pretrained(tiny_checkpoint), load_checkpoint(tiny_checkpoint))
    with pytest.raises(RefsegError, match=r'pip install "refseg\[hub\]"'):
        from_pretrained("me/tiny")


def test_what_is_not_there_is_one_sentence(hub, tmp_path):
    with pytest.raises(
        RefsegError, match=r"no checkpoint in me/none: .*cmsa_refshapes, .*could not be loaded: no repository me/none"
    ) as caught:
        from_pretrained("me/none")
    assert "\n" not in str(caught.value)
    for wrong in ("cmsa_refshape", tmp_path, "a/b/c", "a" * 5000, "a\0"):
        with pytest.raises(RefsegError, match="no checkpoint in .*: name a folder .*cmsa_refshapes, .*hub.$"):
            from_pretrained(wrong)


def test_shipped_ones_are_known_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_same(from_pretrained("cmsa_refshapes"), load_checkpoint(shipped("cmsa_refshapes")))
    assert {"cmsa_refshapes", "cmsa_refshapes_video"} <= set(shipped_names())


def test_nothing_damaged_goes_out(tiny_checkpoint, hub):
    (tiny_checkpoint / "model.safetensors").write_bytes(b"half")
    with pytest.raises(RefsegError, match="is damaged"):
        push_to_hub(tiny_checkpoint, "me/tiny")
    assert not hub.exists()
