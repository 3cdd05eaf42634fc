"""``make gallery``: 24 expressions of RefShapes with their explorer in one page; and the examples that are shipped.

A rule decides which ones, not taste: of each kind of expression the first images of val whose mask is right, and the
first whose mask is wrong.

    python -m refseg_course.gallery FILE            writes the page
    python -m refseg_course.gallery --examples      writes refseg/explorer/examples.json again
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.utils.data import Subset

from refseg.checkpoint import load_checkpoint
from refseg.datasets import ReferringDataset, build_dataset, build_transform
from refseg.evaluation.evaluate import score
from refseg.explorer.scene import Scene
from refseg.explorer.widget import EXAMPLES, SHIPPED, Explorer
from refseg.files import write_text
from refseg.paths import checkpoints_dir, runs_dir
from refshapes import KINDS

LOOKED_AT = 800  # expressions of val, from its beginning
RIGHT, WRONG = 0.8, 0.5  # a mask is right from this IoU on, and wrong below that
RIGHT_PER_KIND, PER_KIND = 3, 4
PER_SCENE = 2  # expressions of one image
SHIPPED_KINDS = ("position", "relation", "attribute", "two-step")  # of the examples; of the last a wrong one


def build_gallery(path: Path, looked_at: int = LOOKED_AT) -> Path:
    """Write the page.

    Raises:
        RefsegError: the file cannot be written.
    """
    scenes = choose_scenes(looked_at)
    explorer = read_all(scenes)
    wrong = sum(scene.readings[0, scene.first.expression].iou < WRONG for scene in scenes)
    right = len(scenes) - wrong
    introduction = _INTRODUCTION.format(count=len(scenes), right=right, wrong=wrong, looked=looked_at)
    return explorer.export_html(path, "Where do the words look?", introduction=introduction, closing=_CLOSING)


def write_examples(path: Path = EXAMPLES, looked_at: int = LOOKED_AT) -> Path:
    """Write the examples that ``Explorer()`` opens on: of the gallery one wrong and three right ones."""
    scenes = choose_scenes(looked_at)
    of_kind = {kind: [scene for scene in scenes if scene.first.annotations.kind == kind] for kind in KINDS}
    chosen = [of_kind[kind][0] for kind in SHIPPED_KINDS[:-1]] + [of_kind[SHIPPED_KINDS[-1]][-1]]
    content = read_all(chosen).still_content()
    write_text(path, json.dumps(content["scenes"], separators=(",", ":")) + "\n")
    return path


def read_all(scenes: list[Scene]) -> Explorer:
    """An explorer of the scenes in which the shipped checkpoint has read every expression."""
    explorer = Explorer(checkpoints_dir() / SHIPPED, scenes=scenes)
    for number, scene in enumerate(scenes):
        for sample in scene.samples:
            explorer.read(sample.expression, scene=number)
    return explorer


def choose_scenes(looked_at: int) -> list[Scene]:
    """Of each kind the first right ones and the first wrong one, each with another expression of its image.

    Where no mask of a kind is wrong there is one more right one.
    """
    val = build_dataset("refshapes", "val", objects=True)
    ious, kinds = _ious(looked_at), [val[n].annotations.kind for n in range(looked_at)]
    taken: set = set()
    chosen: list[int] = []
    for kind in KINDS:
        places = [n for n in range(looked_at) if kinds[n] == kind]
        right, wrong = [n for n in places if ious[n] >= RIGHT], [n for n in places if ious[n] < WRONG]
        of_kind: list[int] = []
        for some, until in ((right, RIGHT_PER_KIND), (wrong, PER_KIND), (right, PER_KIND)):
            for n in some:
                if len(of_kind) < until and val.image_ids[n] not in taken:
                    taken.add(val.image_ids[n])
                    of_kind.append(n)
        chosen += of_kind
    return [_scene(val, n) for n in chosen]


def _scene(val: ReferringDataset, index: int) -> Scene:
    others = [n for n, image in enumerate(val.image_ids) if image == val.image_ids[index] and n != index]
    return Scene([val[n] for n in [index, *others][:PER_SCENE]], known=True)


def _ious(looked_at: int) -> list[float]:
    loaded = load_checkpoint(checkpoints_dir() / SHIPPED)
    val = build_dataset("refshapes", "val", build_transform(loaded.image_size))
    return score(loaded.model, Subset(val, range(looked_at)), loaded.tokenizer).ious


_INTRODUCTION = """
<p>A network of 0.9 million parameters was given an image and an expression, and found the pixels that the expression
refers to. Point at a region: which words look there? Choose a word: where does it look? Strike a word out: how does the
mask change? Everything works with the keyboard, and offline.</p>
<p>{count} expressions of <b>RefShapes</b>, our own benchmark, chosen by a rule and not by taste: of each of six kinds
the first three of val whose mask is right (IoU of 0.8 or more) and the first whose mask is wrong (below 0.5; if there
is none, one more right one), among the first {looked}. Here {right} are right and {wrong} wrong. Over all of val about
6 of 100 are wrong: this page looks for them.</p>
"""

_CLOSING = """
<h2>What to look for</h2>
<p>Strike words out first: that shows what each is worth to the mask, and the mask is what the network was trained for.
Then look at the maps. They point, because this network was also shown where every word should look, with ground truth
that only a drawn benchmark has. The same network trained on masks alone finds the same objects and sends the attention
of all words to one place at the border. A map that convinces is not yet a map that explains.</p>
<p>Made by <code>make gallery</code> of refseg, a kit to learn, explore and reproduce referring segmentation.
RefShapes is CC0.</p>
"""


def main(arguments: list[str]) -> None:
    """Write what the arguments ask for."""
    if arguments == ["--examples"]:
        print(f"Wrote {write_examples()}.")
        return
    path = build_gallery(Path(arguments[0]) if arguments else runs_dir() / "gallery.html")
    print(f"{path.stat().st_size / 1e6:.1f} MB. Open in a browser:  {path.resolve()}")


if __name__ == "__main__":
    main(sys.argv[1:])
