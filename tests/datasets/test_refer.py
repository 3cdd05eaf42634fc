"""The REFER layout: genuine samples, masks against pycocotools, and every broken file with its sentence."""

import json
import pickle
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from refseg.datasets import DATASETS, build_dataset, build_transform
from refseg.datasets import refer as module
from refseg.datasets.masks import decompress_run_lengths, segmentation_mask
from refseg.datasets.obtain.safe_pickle import load_plain_pickle
from refseg.errors import RefsegError
from refseg.types import Annotations


def tiny(folder, *, change=None, refs_file="refs(refseg).json"):
    """A RefShapes-like benchmark of two 5 x 7 images; ``change(instances, refs)`` breaks it."""
    (folder / "images").mkdir(parents=True)
    for i in range(2):
        pixels = np.full((5, 7, 3), 40 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:06d}.png")
    instances = {
        "images": [{"id": i, "file_name": f"{i:06d}.png", "height": 5, "width": 7} for i in range(2)],
        "annotations": [
            {"id": 11, "image_id": 0, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
            {"id": 13, "image_id": 1, "segmentation": {"size": [5, 7], "counts": [5, 10, 20]}},
        ],
    }
    refs = [
        {"ref_id": 0, "ann_id": 11, "image_id": 0, "split": "val", "sentences": [
            {"sent_id": 0, "sent": "red box", "raw": "Red box!", "tokens": ["red", "box"], "kind": "colour"},
            {"sent_id": 1, "sent": "box", "raw": "box", "tokens": ["box"]}]},
        {"ref_id": 1, "ann_id": 13, "image_id": 1, "split": "val", "sentences": [
            {"sent_id": 2, "sent": "left bar", "raw": "left bar", "tokens": ["left", "bar"]}]},
    ]  # fmt: skip
    if change:
        change(instances, refs)
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / refs_file).write_text(json.dumps(refs))
    return folder


def load(folder, split="val", **options):
    return build_dataset("refshapes", split, root=folder, **options)


# ------------------------------------------------------------------------------------------ sound files


def test_word_objects_need_no_tokens(tmp_path):
    def change(instances, refs):
        sentence = refs[0]["sentences"][0]
        del sentence["tokens"]
        sentence["word_objects"] = [[11], None]

    known = load(tiny(tmp_path, change=change))[0].annotations
    assert known.word_objects == [[11], None] and known.word_kinds == ["colour", "shape"]


def test_one_sample_per_sentence_in_order(tmp_path):
    data = load(tiny(tmp_path))
    assert len(data) == 3 and data.expressions == ["red box", "box", "left bar"]
    assert data.sample_ids == ["0_0", "0_1", "1_2"] and data.image_ids == [0, 0, 1]
    sample = data[0]
    assert sample.frames.shape == (1, 3, 5, 7) and sample.frames.dtype == torch.uint8
    assert sample.mask.dtype == torch.bool and sample.mask.shape == (5, 7) and sample.pixel_valid is None
    assert sample.source == "refshapes/val" and sample.original_size == (5, 7) and sample.target_frame == 0
    assert sample.annotations == Annotations(kind="colour", ref_id=0, ann_id=11, image_id=0)
    assert sample.mask.nonzero().tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    assert data[-1].mask.nonzero().tolist() == [[y, x] for y in range(5) for x in (1, 2)]  # run lengths go down first
    assert [s.sample_id for s in data] == data.sample_ids  # iteration ends


def test_the_folder_above_will_do_and_the_transform_is_applied(tmp_path):
    tiny(tmp_path / "refshapes")
    data = load(tmp_path, transform=build_transform(16))
    assert data[0].frames.shape == (1, 3, 16, 16) and data[0].original_size == (5, 7)


def test_default_root_is_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_DATA", str(tmp_path))
    tiny(tmp_path / "refcoco", refs_file="refs(unc).json")
    assert len(build_dataset("refcoco", "val")) == 3


def test_sentences_about_one_image_decode_it_once(tmp_path, monkeypatch):
    opened = []
    real = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: opened.append(path.name) or real(path))
    data = load(tiny(tmp_path), cache_images=False)
    first = data[2].frames.clone()
    data[2].frames.fill_(7)  # what a caller does to its sample stays with it
    assert torch.equal(data[2].frames, first) and opened == ["000001.png"]
    assert data[0].frames.unique().tolist() == data[1].frames.unique().tolist() == [0]
    assert torch.equal(data[2].frames, first) and opened == ["000001.png", "000000.png", "000001.png"]


def with_objects(instances, refs):
    """A large plain box behind the red one, and a crowd, which counts as no object."""
    red, bar = instances["annotations"]
    red |= {"category_id": 4, "area": 6, "attributes": {"colour": "red"}}
    bar |= {"category_id": 4, "area": 10, "attributes": {"colour": "blue"}}
    behind = [[0, 0, 6, 0, 6, 4, 0, 4]]
    large = {"id": 12, "image_id": 0, "category_id": 9, "area": 24, "segmentation": behind}
    crowd = {"id": 14, "image_id": 0, "category_id": 9, "area": 35, "iscrowd": 1, "segmentation": behind}
    instances["annotations"] += [{**large, "attributes": {"colour": "blue"}}, crowd]
    instances["categories"] = [{"id": 4, "name": "box"}, {"id": 9, "name": "plate"}]
    instances["attributes"] = {"colour": ["blue", "green", "red"]}


@pytest.mark.parametrize("cache_images", [False, True])
def test_what_every_pixel_shows(tmp_path, cache_images):
    data = load(tiny(tmp_path, change=with_objects), objects=True, cache_images=cache_images)
    assert data.class_names == {"category": ("box", "plate"), "colour": ("blue", "green", "red")}
    for _ in range(2):  # the second time from the cache, which the first must not reach
        sample = data[0]
        assert sample.object_classes.tolist() == [[0, 0], [2, 1], [1, 3]]  # none, the plate, the red box upon it
        assert (sample.objects == 2).equal(sample.mask) and sample.annotations.object_ids == [
            12,
            sample.annotations.ann_id,
        ]
        assert (sample.objects == 1).sum() == 4 * 6 - sample.mask.sum()
        sample.objects.fill_(9)
    plain = load(tmp_path)[0]
    assert plain.objects is None and plain.annotations.object_ids is None


def test_objects_without_what_they_need(tmp_path):
    for n, (spoil, says) in enumerate(
        [
            (lambda instances: instances.pop("categories"), "does not name its categories"),
            (lambda instances: instances["annotations"][0].pop("area"), "lacks 'area'"),
            (lambda instances: instances["annotations"][0].update(category_id=5), "its category is unknown"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        tiny(folder, change=lambda instances, refs, spoil=spoil: (with_objects(instances, refs), spoil(instances)))
        load(folder)
        with pytest.raises(RefsegError, match=says):
            load(folder, objects=True)


def test_the_cache_gives_the_same_and_cannot_be_written_to(tmp_path):
    cached, plain = load(tiny(tmp_path), cache_images=True), load(tmp_path)
    cached[0].frames.fill_(99)
    cached[1].frames.fill_(99)
    (tmp_path / "images/000000.png").rename(tmp_path / "images/moved.png")
    assert (cached[0].frames == 0).all()  # comes from memory
    with pytest.raises(RefsegError, match="000000.png"):
        plain[0]


def test_json_goes_before_pickle(tmp_path):
    tiny(tmp_path)
    (tmp_path / "refs(refseg).p").write_bytes(pickle.dumps([]))
    assert len(load(tmp_path)) == 3


def test_the_typed_sentence_stands_in_where_cleaning_left_nothing(tmp_path):
    assert (
        load(tiny(tmp_path, change=lambda _, refs: refs[0]["sentences"][0].update(sent=" "))).expressions[0]
        == "Red box!"
    )


def test_a_long_expression_is_passed_on_whole(tmp_path):
    data = load(tiny(tmp_path, change=lambda _, refs: refs[1]["sentences"][0].update(sent="very " * 200 + "left")))
    assert len(data.expressions[2].split()) == 201


def test_string_annotation_ids_as_in_referit(tmp_path):
    def change(instances, refs):
        instances["annotations"][0]["id"] = refs[0]["ann_id"] = "8756_2"
        for ref in refs:
            ref["split"] = "train" if ref["ref_id"] == 0 else "val"

    folder = tiny(tmp_path / "refclef", change=change, refs_file="refs(berkeley).json")
    data = build_dataset("referit", "trainval", root=folder, image_root=folder / "images")
    assert len(data) == 3 and data[0].annotations.ann_id == "8756_2" and data[0].source == "referit/trainval"
    assert len(build_dataset("referit", "train", root=folder)) == 2


def test_refclef_unc_letters_overlap(tmp_path):
    def change(_, refs):
        refs[0]["split"], refs[1]["split"] = "testAB", "testB"

    folder = tiny(tmp_path / "refclef", change=change, refs_file="refs(unc).json")
    sizes = {split: len(build_dataset("referit", split, root=folder, split_by="unc")) for split in ("testA", "testB")}
    assert sizes == {"testA": 2, "testB": 3}


def test_images_are_found_where_people_put_them(tmp_path):
    for n, (explicit, (where, name)) in enumerate(
        product(
            [True, False],
            [
                ("images/mscoco/images/train2014", "COCO_train2014_000000000009.jpg"),
                ("images/train2014", "COCO_train2014_000000000009.jpg"),
                ("train2014", "000000000009.jpg"),
                ("coco/train2017", "000000000009.jpg"),
                ("", "COCO_train2014_000000000009.jpg"),
            ],
        )
    ):
        folder = tmp_path / str(n)
        folder.mkdir()

        def change(instances, refs):
            instances["images"][0]["file_name"] = "COCO_train2014_000000000009.jpg"

        root = tiny(folder / "data/refcoco", change=change, refs_file="refs(unc).json")
        base = folder / "elsewhere" if explicit else folder / "data"
        (base / where).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (7, 5), "white").save(base / where / name)
        if not where and not explicit:
            (base / name).rename(root / name)
        data = build_dataset("refcoco", "val", root=root, image_root=base if explicit else None)
        assert (data[0].frames > 250).all()


def test_names_that_leave_the_folder_of_the_images(tmp_path, refseg):
    """Not even by shards does an annotation file carry away what else lies on the machine; one's own links may stay."""
    (tmp_path / "secret.key").write_text("secret")
    names = "../../secret.key", str(tmp_path / "secret.key"), r"..\..\secret.key", "a/../../../secret.key", r"C:\key", 7
    for number, name in enumerate(names):
        folder = tmp_path / f"refshapes{number}"
        tiny(folder, change=lambda instances, refs, name=name: instances["images"][0].update(file_name=name))
        with pytest.raises(RefsegError, match=r"Ref 0 in .* is about an image .*leads out of the images' folder"):
            load(folder)
        status, _, err = refseg("shard", "refshapes", "--root", folder, "--out", tmp_path / "shards")
        assert status == 2 and err.count("\n") == 1 and not (tmp_path / "shards").exists(), err
    folder = tiny(tmp_path / "linked")
    (folder / "images" / "000000.png").rename(tmp_path / "elsewhere.png")
    (folder / "images" / "000000.png").symlink_to(tmp_path / "elsewhere.png")
    assert len(load(folder)[0].frames) == 1


def test_saiapr_spellings(tmp_path):
    for n, where in enumerate(["saiapr_tc-12", "saiaprtc12/38/images"]):
        folder = tmp_path / str(n)
        folder.mkdir()

        def change(instances, refs):
            instances["images"][0]["file_name"] = "38100.jpg"

        root = tiny(folder / "refclef", change=change, refs_file="refs(berkeley).json")
        (folder / "images" / where).mkdir(parents=True)
        Image.new("RGB", (7, 5)).save(folder / "images" / where / "38100.jpg")
        assert build_dataset("referit", "val", root=root)[0].original_size == (5, 7)


def test_loader_ignores_exif_because_masks_count_stored_pixels(tmp_path):
    tiny(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save(tmp_path / "images/000000.png", exif=exif)
    assert load(tmp_path)[0].frames.shape == (1, 3, 5, 7)


def test_images_of_every_mode(tmp_path):
    for n, mode in enumerate(["L", "RGBA", "P", "I;16", "1", "LA"]):
        folder = tmp_path / str(n)
        folder.mkdir()
        tiny(folder)
        Image.new(mode, (7, 5)).save(folder / "images/000000.png")
        assert load(folder)[0].frames.shape == (1, 3, 5, 7)


# ------------------------------------------------------------------------------------------ genuine files


def real4(shared_dir):
    folder = shared_dir / "data/refcocog_real4/refcocog"
    if not folder.is_dir():
        pytest.skip("no genuine RefCOCOg samples")
    return folder


@pytest.mark.parametrize("refs_file", ["refs(google).p", "refs(google).py2proto0.p", "refs(google).json"])
def test_genuine_refcocog_from_every_kind_of_file(shared_dir, tmp_path, refs_file):
    source = real4(shared_dir)
    shutil.copyfile(source / "instances.json", tmp_path / "instances.json")
    ending = "json" if refs_file.endswith("json") else "p"
    shutil.copyfile(source / refs_file, tmp_path / f"refs(google).{ending}")
    data = build_dataset("refcocog", "val", root=tmp_path, image_root=source.parent, split_by="google")
    assert data.image_ids == [25, 529, 625, 123457]
    assert data.expressions[0] == "a tall brown and tan giraffe eating from a tree"
    coco = COCO(source / "instances.json")
    for sample, (height, width) in zip(data, [(426, 640), (640, 427), (446, 640), (438, 640)], strict=True):
        annotation = coco.loadAnns(sample.annotations.ann_id)[0]
        assert sample.original_size == (height, width) and sample.source == "refcocog/val"
        assert np.array_equal(sample.mask.numpy(), coco.annToMask(annotation).astype(bool))
        assert sample.mask.sum().item() == pytest.approx(annotation["area"], rel=0.02)
    assert len(data.segmentation(187798)) == 2


def coco128(shared_dir, tmp_path):
    """Every one of the 939 annotations becomes a ref."""
    source = shared_dir / "data/coco128"
    if not source.is_dir():
        pytest.skip("no COCO images")
    instances = source / "annotations/instances_train2017.json"
    refs = [
        {"ref_id": n, "ann_id": a["id"], "image_id": a["image_id"], "split": "val",
         "sentences": [{"sent_id": n, "sent": "thing"}]}
        for n, a in enumerate(json.loads(instances.read_text())["annotations"])
    ]  # fmt: skip
    shutil.copyfile(instances, tmp_path / "instances.json")
    (tmp_path / "refs(unc).json").write_text(json.dumps(refs))
    return build_dataset("refcoco", "val", root=tmp_path, image_root=source, cache_images=True)


def test_every_mask_of_coco128_is_the_one_of_pycocotools(shared_dir, tmp_path):
    data = coco128(shared_dir, tmp_path)
    coco = COCO(tmp_path / "instances.json")
    several, crowds = 0, 0
    for sample in data:
        annotation = coco.loadAnns(sample.annotations.ann_id)[0]
        assert np.array_equal(sample.mask.numpy(), coco.annToMask(annotation).astype(bool))
        crowds += isinstance(annotation["segmentation"], dict)
        several += isinstance(annotation["segmentation"], list) and len(annotation["segmentation"]) > 1
    assert (len(data), several, crowds) == (939, 82, 10)


def test_pixels_where_pieces_overlap_stay_foreground(shared_dir, tmp_path):
    data = coco128(shared_dir, tmp_path)
    index = data.referent_ids.index(1280168)
    sample = data[index]
    pieces = data.segmentation(1280168)
    layers = coco_mask.decode(coco_mask.frPyObjects(pieces, *sample.original_size)).sum(axis=2)
    assert (layers > 1).sum() == 19 and sample.mask[torch.from_numpy(layers > 1)].all()
    assert sample.mask.sum() == 28759


# ------------------------------------------------------------------------------------------ masks


def square(top, left):
    """A 2 x 2 polygon."""
    return [left, top, left + 2, top, left + 2, top + 2, left, top + 2]


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_pieces_are_united_not_added():
    mask = segmentation_mask([square(0, 0), square(1, 1)], (5, 7), "Ann")
    assert mask.sum() == 7 and mask.dtype == torch.bool  # 4 + 4 - 1


def test_list_of_run_lengths_as_in_refclef():
    one, two = np.zeros((5, 7)), np.zeros((5, 7))
    one[0:2, 0:2] = two[1:3, 1:3] = 1
    assert segmentation_mask([compressed(one), compressed(two)], (5, 7), "Ann").sum() == 7
    assert segmentation_mask(compressed(one), (5, 7), "Ann").sum() == 4


def test_compressed_run_lengths_are_read_as_pycocotools_reads_them():
    assert decompress_run_lengths("5:d0").tolist() == [5, 10, 20]
    random = np.random.default_rng(0)
    for height, width in [(1, 1), (13, 17), (401, 307)]:
        for share in (0.0, 0.01, 0.5, 0.99, 1.0):
            mask = random.random((height, width)) < share
            mask[0, 0] = True
            rle = compressed(mask)
            assert np.array_equal(segmentation_mask(rle, (height, width), "Ann").numpy(), mask)
            rle["counts"] = rle["counts"].encode()
            assert np.array_equal(segmentation_mask([rle], (height, width), "Ann").numpy(), mask)


def test_random_run_lengths_neither_hang_nor_crash():
    """Bytes like these make pycocotools' own merge run for ever and its decode corrupt the heap."""
    random = np.random.default_rng(0)
    for length in range(300):
        counts = bytes(random.integers(48, 112, length % 31).astype(np.uint8)).decode()
        with pytest.raises(RefsegError, match="do not add up"):
            segmentation_mask([{"size": [50, 70], "counts": counts}], (50, 70), "Ann")


def test_a_piece_without_area_is_passed_over_beside_a_sound_one():
    assert segmentation_mask([[1, 1, 2, 2], square(0, 0), []], (5, 7), "Ann").sum() == 4


def test_broken_segmentations():
    for segmentation, sentence in [
        ([], "Ann 5 has an empty polygon"),
        ([[]], "Ann 5 has an empty polygon"),
        (None, "Ann 5 has an empty polygon"),
        ([[1, 1, 3, 3]], "Ann 5 has an empty polygon"),  # pycocotools alone would take four numbers for a box
        ([[1, 1, 3, 3, 1, 3, 2]], "not a flat list of x, y pairs"),
        ([square(0, 0), [1, 1, 3]], "not a flat list of x, y pairs"),
        ([1, 1, 3, 3, 1, 3], "not a flat list of x, y pairs"),
        ([[1, 1, 3, float("nan"), 1, 3]], "not a flat list of x, y pairs"),
        ([[1, 1, 3, 1e12, 1, 3]], "not a flat list of x, y pairs"),
        ([["a", "b", "c", "d", "e", "f"]], "not a flat list of x, y pairs"),
        ([square(20, 20)], "covers no pixel"),
        ({"size": [5, 7], "counts": [35]}, "covers no pixel"),
        ({"size": [5, 7], "counts": [5, 10]}, "do not add up"),
        ({"size": [5, 7], "counts": [-5, 40]}, "do not add up"),
        ({"size": [7, 5], "counts": [5, 10, 20]}, r"of size \[7, 5\] \(height, width\) but its image is of \[5, 7\]"),
        ({"size": [5, 7], "counts": "ZZZZZ"}, "do not add up"),  # ends in the middle of a number
        ({"size": [5, 7], "counts": "5:"}, "do not add up"),
        ({"size": [5, 7]}, "do not add up"),
    ]:
        with pytest.raises(RefsegError, match=sentence):
            segmentation_mask(segmentation, (5, 7), "Ann 5")


# ------------------------------------------------------------------------------------------ broken files


def change_ref(**fields):
    return lambda instances, refs: refs[0].update(fields)


def test_files_that_contradict_each_other(tmp_path):
    for n, (change, sentence) in enumerate(
        [
            (change_ref(ann_id=99), "Ref 0 in .* names annotation 99, which instances.json does not hold"),
            (change_ref(image_id=99), "Ref 0 in .* names image 99, which instances.json does not hold"),
            (change_ref(image_id=1), "is about image 1 but its annotation 11 about image 0"),
            (change_ref(sentences=[{"sent_id": 0}]), "sentence without sent_id or sent"),
            (change_ref(sentences=[{"sent_id": 4, "sent": " ", "raw": ""}]), "Sentence 4 of ref 0 .* is empty"),
            (change_ref(ref_id=1, sentences=[{"sent_id": 2, "sent": "a"}]), "the same ref_id and sent_id"),
            (lambda _, refs: refs[0].pop("ann_id"), "lacks ann_id"),
            (lambda instances, _: instances.pop("annotations"), "not a COCO instances file"),
            (lambda _, refs: refs.clear(), "holds no ref of split 'val' but only: nothing"),
            (lambda _, refs: [ref.update(split="train") for ref in refs], "of split 'val' but only: train"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(RefsegError, match=sentence):
            load(tiny(folder, change=change))


def test_empty_polygon_names_the_annotation(tmp_path):
    data = load(tiny(tmp_path, change=lambda instances, _: instances["annotations"][0].update(segmentation=[[]])))
    with pytest.raises(RefsegError, match=r"Annotation 11 in .*instances.json has an empty polygon"):
        data[0]
    assert data[2].mask.any()


def test_image_of_another_size(tmp_path):
    data = load(tiny(tmp_path))
    Image.new("RGB", (5, 7)).save(tmp_path / "images/000000.png")
    with pytest.raises(RefsegError, match=r"000000.png is 5 x 7 pixels but its annotations are for 7 x 5"):
        data[0]


def test_missing_image_tells_where_it_was_looked_for(tmp_path):
    data = load(tiny(tmp_path))
    (tmp_path / "images/000000.png").unlink()
    with pytest.raises(RefsegError, match=r"image 000000.png of refshapes is in none of .*images.*: give image_root"):
        data[0]


def test_truncated_image(tmp_path):
    data = load(tiny(tmp_path))
    path = tmp_path / "images/000000.png"
    path.write_bytes(path.read_bytes()[:43])
    with pytest.raises(RefsegError, match=r"000000.png is not a readable image"):
        data[0]


def test_missing_files(tmp_path):
    with pytest.raises(RefsegError, match=r"no instances.json of refshapes in .*: run `refseg check-data refshapes`"):
        load(tmp_path)
    with pytest.raises(RefsegError, match="image_root .* is not a folder"):
        load(tiny(tmp_path), image_root=tmp_path / "nowhere")
    (tmp_path / "refs(refseg).json").unlink()
    with pytest.raises(RefsegError, match=r"no refs\(refseg\).p or refs\(refseg\).json in"):
        load(tmp_path)


def test_damaged_json(tmp_path):
    tiny(tmp_path)
    (tmp_path / "instances.json").write_text('{"images": [')
    with pytest.raises(RefsegError, match="instances.json is not valid JSON"):
        load(tmp_path)
    (tmp_path / "refs(refseg).json").write_text('{"a": 1}')
    with pytest.raises(RefsegError, match="is not a list of refs"):
        load(tmp_path)


def test_wrong_names_list_the_right_ones():
    for name, split, split_by, sentence in [
        ("refcoco", "test", None, r"refcoco \(unc\) has no split 'test': choose one of train, val, testA, testB"),
        ("refcocog", "testA", None, r"refcocog \(umd\) has no split 'testA': choose one of train, val, test\."),
        ("refcocog", "test", "google", r"\(google\) has no split 'test': choose one of train, val\."),
        ("refcoco+", "val", "google", "refcoco\\+ has no split by 'google': choose one of unc"),
        ("Gref", "val", None, "no data set 'Gref': choose one of refcoco, refcoco\\+, refcocog, referit, refshapes"),
    ]:
        with pytest.raises(RefsegError, match=sentence):
            build_dataset(name, split, split_by=split_by)


def test_default_owners():
    owners = {name: info.owner() for name, info in DATASETS.items()}
    assert owners == {
        "refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "referit": "berkeley", "refshapes": "refseg",
        "a2d": "gavrilyuk", "jhmdb": "gavrilyuk", "refshapes_video": "refseg",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ pickles


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path):
    for n, protocol in enumerate(range(pickle.HIGHEST_PROTOCOL + 1)):
        folder = tmp_path / str(n)
        folder.mkdir()
        tiny(folder)
        (folder / "refs(refseg).json").unlink()
        path = folder / "refs(refseg).p"
        path.write_bytes(pickle.dumps([Bomb(folder / "ran")], protocol))
        with pytest.raises(RefsegError, match=r"is not a plain pickle \(it asks for (posix|nt|os).mkdir\)"):
            load(folder)
        assert not (folder / "ran").exists()
        pickle.loads(path.read_bytes())  # the very same bytes do run where pickle is trusted
        assert (folder / "ran").exists()


def test_plain_pickles_of_every_protocol(tmp_path):
    for n, protocol in enumerate(range(pickle.HIGHEST_PROTOCOL + 1)):
        folder = tmp_path / str(n)
        folder.mkdir()
        value = [{"a": [1, -(2**40), 1.5, None, True], "b": "building\u2122", "c": {"d": ()}}]
        (folder / "x.p").write_bytes(pickle.dumps(value, protocol))
        assert load_plain_pickle(folder / "x.p") == value


@pytest.mark.parametrize("stored, read", [(b"caf\\xc3\\xa9", "café"), (b"caf\\xe9", "café")])
def test_byte_strings_of_python_2(tmp_path, stored, read):
    (tmp_path / "x.p").write_bytes(b"(lp0\nS'" + stored + b"'\np1\na.")
    assert load_plain_pickle(tmp_path / "x.p") == [read]


def test_a_cut_pickle(tmp_path):
    for n, keep in enumerate([0, 1, 20, -1, -9]):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "refs(unc).p").write_bytes(pickle.dumps([{"ref_id": 1}], 0)[:keep])
        with pytest.raises(RefsegError, match=r"refs\(unc\).p is not a plain pickle .* refs\(unc\).json instead"):
            load_plain_pickle(folder / "refs(unc).p")


def test_a_pickle_fetched_in_text_mode_is_healed(tmp_path):
    refs = [{"ref_id": 10, "sent": "a cup"}, {"ref_id": 2573}]
    (tmp_path / "x.p").write_bytes(pickle.dumps(refs, 0).replace(b"\n", b"\r\n"))
    assert load_plain_pickle(tmp_path / "x.p") == refs
    for protocol in (1, 2):  # here the bytes of 2573 are a carriage return and a line feed
        data = pickle.dumps([2573], protocol)
        assert b"\r\n" in data
        (tmp_path / "x.p").write_bytes(data)
        assert load_plain_pickle(tmp_path / "x.p") == [2573]
