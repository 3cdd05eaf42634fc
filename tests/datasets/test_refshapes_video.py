"""RefShapes-Video: every sentence means one thing, the centre frame does not tell which, A2D's layout, it repeats."""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

from refseg.datasets.refshapes import ensure_video as ensure
from refseg.errors import RefsegError
from refshapes.motion import (
    CENTRE,
    FRAMES,
    KINDS,
    MOTIONS,
    SIDE,
    STATIC_KINDS,
    Clip,
    Motion,
    candidates,
    does,
    pixels,
    referent,
)
from refshapes.motion_drawing import invent
from refshapes.scene import COLOURS, MIN_VISIBLE, SHAPES, Thing, paint, paint_clip, visible_masks
from refshapes.video import CLIPS, SEED, _map, clip_rng, video_name

# Of the texts and facts of seven train, three val and two test clips.
DIGEST = "e3657f8328c255c42fb5d12539b5de91d6501bfc7e4f20e3c1055d2b06efad40"
TINY = {"train": 7, "val": 3, "test": 2}
SMALL = {"train": 83, "val": 11, "test": 13}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure(tmp_path_factory.mktemp("data") / "refshapes_video", SMALL)


@pytest.fixture(scope="module")
def texts(root):
    """facts.json, attributes.json and tracks.json."""
    folder = root / "text_annotations"
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("facts", "attributes", "tracks")]


@pytest.fixture(scope="module")
def clips(texts):
    """video -> Clip, as the files tell it."""
    return {video: clip_of(tracks) for video, tracks in texts[2].items()}


def clip_of(tracks):
    things = [
        [Thing(t["shape"], t["colour"], "small", "plain", *state) for state in t["track"]] for t in tracks.values()
    ]
    return Clip([list(frame) for frame in zip(*things)])


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def thing(shape="circle", colour="red", x=32.0, y=32.0, radius=8.0, angle=0.0):
    return Thing(shape, colour, "small", "plain", x, y, radius, angle)


def film(*pairs):
    return Clip([[motion.at(thing, t - CENTRE) for thing, motion in pairs] for t in range(FRAMES)])


CIRCLES = {"filter": {"shape": "circle"}}


# ---- meaning, by hand ------------------------------------------------------------------------------------------


def test_a_motion_is_defined_around_the_centre_frame():
    def xs(name):
        return [Motion(name, dx=3.0).at(thing(), time).x for time in (-2, -1, 0, 1, 2)]

    assert xs("right") == [26, 29, 32, 35, 38]
    assert xs("stopping") == [26, 29, 32, 32, 32]
    assert xs("starting") == [32, 32, 32, 35, 38]
    assert xs("returning") == [38, 35, 32, 35, 38]
    grown = [Motion("growing", growth=1.1).at(thing(radius=10), time).radius for time in (-2, 0, 2)]
    assert grown == [8.26, 10, 12.1]


def test_what_a_thing_does_is_yes_no_or_unclear():
    for asked, yes, no, unclear in [
        ("left", {"left"}, {"right", "up", "still", "turning", "growing", "stops up"}, {"stops left", "returning"}),
        ("up", {"up"}, {"right", "down", "still", "stops left"}, {"stops up"}),
        ("stopping", {"stops left", "stops up"}, {"left", "still", "starting", "turning"}, {"returning", "slow"}),
        ("starting", {"starting"}, {"left", "still", "stops left"}, {"returning", "slow"}),
        ("still", {"still"}, {"left", "up", "returning"}, {"stops left", "starting", "turning", "growing", "slow"}),
        ("turning", {"turning"}, {"still", "left", "growing"}, {"quarter turn"}),
        ("growing", {"growing"}, {"still", "left", "shrinking"}, {"growing a little"}),
        ("shrinking", {"shrinking"}, {"still", "turning", "growing"}, set()),
    ]:
        motions = {
            "left": Motion("left", dx=-3),
            "right": Motion("right", dx=3),
            "up": Motion("up", dy=-3),
            "down": Motion("down", dy=3),
            "stops left": Motion("stopping", dx=-3),
            "stops up": Motion("stopping", dy=-3),
            "starting": Motion("starting", dx=3),
            "returning": Motion("returning", dx=3),
            "still": Motion("still"),
            "slow": Motion("right", dx=1),
            "turning": Motion("turning", spin=27),
            "quarter turn": Motion("turning", spin=22.5),  # in frame 5 the square looks as in frame 1
            "growing": Motion("growing", growth=1.17),
            "growing a little": Motion("growing", growth=1.05),
            "shrinking": Motion("shrinking", growth=1 / 1.17),
        }
        for verdict, names in {True: yes, False: no, None: unclear}.items():
            for name in names:
                clip = film((thing("square"), motions[name]))
                assert does({"motion": asked, "of": CIRCLES}, 0, clip) is verdict, name


def test_passing_behind_needs_to_be_free_then_hidden_then_free():
    form = {"motion": "passing", "behind": "square", "of": CIRCLES}
    front = (thing("square", "blue", 32, 32, 8), Motion("still"))

    def verdict(dx, name="right", y=38.0, order=1):
        return does(form, 0 if order == 1 else 1, film(*[(thing(y=y, radius=7), Motion(name, dx=dx)), front][::order]))

    assert verdict(5) is True
    assert verdict(0, "still") is False and verdict(5, "returning") is False
    assert verdict(5, y=52) is False  # never hidden
    assert verdict(2) is None  # partly hidden all the time
    assert verdict(5, order=-1) is False  # in front of the square


def test_a_form_needs_its_motion_and_look_alikes():
    form = {"motion": "left", "of": CIRCLES}
    left, still = Motion("left", dx=-3), Motion("still")
    moving, resting = (thing(x=20, y=20), left), (thing(x=44, y=44), still)
    assert referent(form, film(moving, resting)) == 0
    assert referent(form, film(resting, moving)) == 1
    assert referent(form, film(moving)) is None  # the shape says it
    assert referent(form, film(moving, (thing(x=44, y=44), left))) is None  # two
    assert referent(form, film(moving, (thing(x=44, y=44), Motion("stopping", dx=-3)))) is None  # not clear
    assert referent(form, film(moving, (thing(x=44, y=44, colour="blue"), still))) is None  # no look-alike
    assert referent(form, film(moving, (thing(x=44, y=44, radius=9), still))) is None
    hidden = (thing("square", x=46, y=50, radius=9), still)
    assert referent(form, film(moving, resting, hidden)) is None  # half hidden, the other not


def test_static_forms_are_about_the_centre_frame():
    clip = film((thing(x=28), Motion("right", dx=4)), (thing(x=38, y=50), Motion("left", dx=-4)))
    most = {"most": "left", "of": CIRCLES}
    assert referent(most, clip) == 0  # though the other one is farther left in the end
    near = film((thing(x=28), Motion("still")), (thing(x=31, y=50), Motion("still")))
    assert referent(most, near) is None  # 3 pixels are no margin
    assert referent(CIRCLES, clip) is None
    assert referent({"filter": {"colour": "blue"}}, film((thing(), Motion("still")))) is None


# ---- what was drawn --------------------------------------------------------------------------------------------


def assert_proven(clip, kind, form, meant, fitting):
    """One thing satisfies the form; if it is about motion, the centre frame leaves all that fit the rest alike."""
    assert referent(form, clip) == meant
    assert candidates(form, clip) == list(fitting) and meant in fitting
    if kind in STATIC_KINDS:
        return
    verdicts = [does(form, i, clip) for i in fitting]
    assert sorted(verdicts) == [False] * (len(fitting) - 1) + [True] and len(fitting) >= 2
    alike = [clip.centre[i] for i in fitting]
    assert len({(t.shape, t.colour) for t in alike}) == 1
    assert max(t.radius for t in alike) <= 1.06 * min(t.radius for t in alike)
    hidden = [1 - clip.visible[i] for i in fitting]
    if kind == "pass":
        assert all(0.35 <= h <= 0.65 for h in hidden)
    else:
        assert max(hidden) <= 0.35 or min(hidden) >= 0.35


def test_every_sentence_of_the_files_is_proven(texts, clips):
    facts = texts[0]
    for name, fact in facts.items():
        video, instance = name.split("/")
        assert_proven(clips[video], fact["kind"], fact["form"], int(instance), fact["candidates"])
        assert fact["motion"] == ("motion" in fact["form"]) == (fact["kind"] not in STATIC_KINDS)
    kinds = Counter(fact["kind"] for fact in facts.values())
    assert set(kinds) == set(KINDS)
    assert 0.65 < sum(fact["motion"] for fact in facts.values()) / len(facts) < 0.85


@pytest.mark.slow
def test_the_benchmark_is_proven():
    """Every clip that scores are made of, and a sixth of those to train on, invented again without painting it."""
    words, total = Counter(), 0
    for split, number in [(split, n) for split, count in CLIPS.items() for n in range(min(count, 1000))]:
        clip, motions, sentences = invent(clip_rng(SEED, split, number))
        assert 2 <= len(sentences) == len({s.referent for s in sentences}) <= 3
        assert 3 <= len(motions) <= 6
        for s in sentences:
            assert_proven(clip, s.kind, s.form, s.referent, s.candidates)
            words[s.form.get("motion", "static")] += 1
            total += 1
    assert 0.72 < 1 - words.pop("static") / total < 0.78
    assert set(words) == set(MOTIONS) - {"returning"} and min(words.values()) > 0.03 * total


def test_sentences_say_what_their_forms_say(root, texts):
    said = {
        "turning": ("turns", "rotates", "turning"),
        "stopping": ("stops", "rest"),
        "starting": ("starts", "begins"),
        "still": ("still", "not"),
        "growing": ("grows", "growing", "bigger"),
        "shrinking": ("shrinks", "shrinking", "smaller"),
        "passing": ("passes", "passing", "behind"),
    }
    for video, instance, text in read_rows(root / "text_annotations" / "a2d_annotation.txt")[1:]:
        words, form = text.split(), texts[0][f"{video}/{instance}"]["form"]
        wanted = [*form.get("of", form)["filter"].values(), *([form["behind"]] if "behind" in form else [])]
        assert sorted(w for w in words if w in (*SHAPES, *COLOURS)) == sorted(wanted)
        motion = form.get("motion")
        assert {m for m, options in said.items() if set(options) & set(words)} == ({motion} & set(said))
        for place in ("left", "right"):
            assert (place in text) == (place in (motion, form.get("most")))


def test_the_centre_frame_gives_nothing_away():
    """Who of a group does what is drawn last: no place, size or tilt in the centre frame goes with a motion."""
    chances, meant, states = 0.0, 0, defaultdict(list)
    firsts = []
    for number in range(400):
        clip, _, sentences = invent(clip_rng(1, "train", number))
        for s in sentences:
            if s.kind in STATIC_KINDS:
                continue
            # A guess that is as good as any other without motion: the leftmost of those that fit.
            firsts.append(min(s.candidates, key=lambda i: clip.centre[i].x) == s.referent)
            chances += 1 / len(s.candidates)
            mine, others = clip.centre[s.referent], [clip.centre[i] for i in s.candidates if i != s.referent]
            for name in ("x", "y", "radius"):
                mean = np.mean([getattr(t, name) for t in others])
                states[s.form["motion"], name].append(getattr(mine, name) - mean)
                states["all", name].append(getattr(mine, name) - mean)
    meant = len(firsts)
    assert abs(sum(firsts) - chances) < 3 * np.sqrt(0.25 * meant)
    for key, values in states.items():
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values)) < 3.5 * error, key


def test_every_member_of_a_group_could_have_done_it():
    """The motions of look-alikes dealt out the other way round: as visible, and the sentence moves with its motion."""
    swapped = 0
    for number in range(60):
        clip, _, sentences = invent(clip_rng(2, "train", number))
        for s in sentences:
            if s.kind in STATIC_KINDS:
                continue
            a, b = s.referent, next(i for i in s.candidates if i != s.referent)
            other = swap(clip, a, b)
            assert referent(s.form, other) == b
            assert other.centre == clip.centre
            swapped += 1
            for things in other.frames:
                whole = [pixels(thing).sum() for thing in things]
                assert all(seen.sum() > 0.3 * all_of_it for seen, all_of_it in zip(visible_masks(things, SIDE), whole))
    assert swapped > 50


def swap(clip, a, b):
    """What a does in the clip, done by b around its own place, and the other way round."""

    def moved(mine, theirs):
        at, its = clip.centre[mine], clip.centre[theirs]
        return [
            replace(
                at,
                x=at.x + step.x - its.x,
                y=at.y + step.y - its.y,
                radius=at.radius * step.radius / its.radius,
                angle=at.angle + step.angle - its.angle,
            )
            for step in clip.track(theirs)
        ]

    frames = [list(things) for things in clip.frames]
    for things, at_a, at_b in zip(frames, moved(a, b), moved(b, a)):
        things[a], things[b] = at_a, at_b
    frames[CENTRE] = list(clip.centre)
    return Clip(frames)


def test_nothing_is_hidden_too_much_and_all_is_inside(clips):
    pairs = 0
    for clip in clips.values():
        hidden = [share for share in clip.visible if share < MIN_VISIBLE]
        assert len(hidden) in (0, 2) and all(share >= 0.35 for share in hidden)
        pairs += len(hidden) == 2
        points = np.concatenate([np.array(t.outline()) for t in clip.centre])
        assert points.min() >= 0 and points.max() <= SIDE
    assert 0.1 < pairs / len(clips) < 0.3


def test_frames_of_a_clip_share_background_and_looks():
    things = [thing(x=20.0), thing("star", "blue", x=45.0)]
    moved = [replace(things[0], x=26.0), things[1]]
    before, after = (p.astype(int) for p in paint_clip([things, moved], seed=3, side=SIDE, noise=1))
    changed = abs(after - before).max(2) > 3  # the noise of two frames, and rounding
    assert before.shape == (SIDE, SIDE, 3) and not changed[:, 40:].any() and changed[:, 10:36].sum() > 50
    scene = [thing(x=40.0, y=70.0, radius=15.0)]  # an image is a clip of one frame
    assert (paint(scene, 5) == paint_clip([scene], 5)[0]).all()


# ---- files -----------------------------------------------------------------------------------------------------


def test_the_layout_is_that_of_a2d(root, texts, clips):
    facts, attributes, tracks = texts
    videos = read_rows(root / "Release" / "videoset.csv")
    names = [video_name(split, number) for split, count in SMALL.items() for number in range(count)]
    assert [row[0] for row in videos] == names == list(clips)
    assert videos[0] == ["train00000", "0", "1", "5", "64", "64", "5", "1", "0"]
    assert Counter(row[8] for row in videos) == {"0": 83, "2": 11, "1": 13}
    rows = read_rows(root / "text_annotations" / "a2d_annotation.txt")
    assert rows[0] == ["video_id", "instance_id", "query"]
    assert [f"{video}/{instance}" for video, instance, _ in rows[1:]] == list(facts)  # one sentence for an instance
    assert attributes["attributes"].keys() == {"shape", "colour", "motion"}
    for video, clip in clips.items():
        files = sorted(p.name for p in (root / "Release" / "frames" / video).iterdir())
        assert files == [f"{n:05d}.png" for n in range(1, 6)]
        masks = [p.name for p in (root / "text_annotations/a2d_annotation_with_instances" / video).iterdir()]
        assert masks == ["00003.h5"]
        for described in attributes["objects"][video].values():
            for name, value in described.items():
                assert value in attributes["attributes"][name]
        assert len(attributes["objects"][video]) == len(clip.centre)


def test_masks_are_read_back_with_h5py(root, texts, clips):
    for video in list(clips)[:23]:
        path = root / "text_annotations/a2d_annotation_with_instances" / video / "00003.h5"
        with h5py.File(path) as file:
            ids, masks, boxes, shapes = (file[name][()] for name in ("instance", "reMask", "reBBox", "id"))
        count = len(clips[video].centre)
        assert ids.tolist() == list(range(count)) and masks.shape == (count, SIDE, SIDE) and boxes.shape == (4, count)
        assert masks.dtype == np.uint8 and masks.sum(0).max() == 1  # what is in front hides what is behind
        for i, expected in enumerate(visible_masks(clips[video].centre, SIDE)):
            assert (masks[i].T == expected).all()
            y, x = np.nonzero(expected)
            assert boxes[:, i].tolist() == [x.min(), y.min(), x.max(), y.max()]
            assert SHAPES[int(shapes[0, i]) - 1] == texts[1]["objects"][video][str(i)]["shape"]
        # The masks lie where the image shows the things: more alike inside than the image is all over.
        image = np.array(Image.open(root / "Release" / "frames" / video / "00003.png"), float)
        assert np.mean([image[m.T == 1].std(0).mean() for m in masks]) < 0.7 * image.std((0, 1)).mean()


def test_the_same_seed_draws_the_same_benchmark(root, tmp_path):
    again = ensure(tmp_path / "again", TINY)
    names = ("a2d_annotation.txt", "facts.json", "attributes.json", "tracks.json")
    texts = b"".join((again / "text_annotations" / name).read_bytes() for name in names)
    other = ensure(tmp_path / "other", TINY, seed=1)
    assert (other / "text_annotations" / names[0]).read_bytes() != (again / "text_annotations" / names[0]).read_bytes()
    # A clip depends on seed, split and number only, not on how many others are drawn.
    for file in (
        "Release/frames/val00002/00005.png",
        "text_annotations/a2d_annotation_with_instances/val00002/00003.h5",
    ):
        assert (again / file).read_bytes() == (root / file).read_bytes()
    changed = "sentences or outlines changed: raise VERSION in refshapes/video.py"
    assert hashlib.sha256(texts).hexdigest() == DIGEST, changed


def test_two_processes_give_what_one_gives(monkeypatch):
    items = list(range(-50, 51))
    alone = list(_map(abs, items))
    monkeypatch.setattr("refshapes.video._WORTH_A_PROCESS", 1)
    assert list(_map(abs, items)) == alone == [abs(i) for i in items]


def test_ensure_draws_once_and_guards_what_is_not_its_own(root, tmp_path):
    marker = root / "refshapes_video.json"
    before = marker.stat().st_mtime_ns
    assert ensure(root, SMALL) == root and marker.stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(RefsegError, match="holds thesis.txt, which was not written there"):
        ensure(tmp_path / "mine", {"train": 1})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose me"


def test_another_version_is_drawn_anew(tmp_path):
    folder = tmp_path / "refshapes_video"
    ensure(folder, {"train": 2})
    (folder / "refshapes_video.json").write_text('{"version": 0}')
    (folder / "text_annotations" / "facts.json").unlink()
    ensure(folder, {"train": 2})
    assert (folder / "text_annotations" / "facts.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["refshapes_video"]


@pytest.mark.parametrize("writes", ["refshapes.video.Image.Image.save", "pathlib.Path.write_bytes"])
def test_a_full_disk_says_so_and_leaves_nothing(monkeypatch, tmp_path, writes):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writes, full)
    with pytest.raises(RefsegError, match="No space left on device.*make room"):
        ensure(tmp_path / "refshapes_video", {"train": 1})
    assert list(tmp_path.iterdir()) == []
