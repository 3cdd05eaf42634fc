"""One image, one expression: sizes, orientation, one forward pass, files written all or not at all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from refseg.checkpoint import Checkpoint
from refseg.datasets import Collate, build_transform
from refseg.errors import RefsegError
from refseg.inference import predict_masks
from refseg.models.base import Explanation, ReferringModel
from refseg.paths import shipped_names
from refseg.predict import Predictor, save_prediction
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction, RefSample

H, W, SIZE = 13, 29, 32
VOCABULARY = WordVocabulary(["the", "red", "one"], max_words=4)


class RedFinder(ReferringModel):
    """Red pixels of the picture, whatever is said; its word maps lie half in the padding."""

    def forward(self, batch):
        self.seen = batch
        return Prediction((batch.images[:, :1] - batch.images[:, 1:2]) - 1, {})

    def explain(self, batch, prediction, *, region_rows=False):
        maps = torch.zeros(1, batch.token_ids.shape[1], 8, 8)
        maps[:, :, 0] = 9.0  # the first row of cells is padding for a wide picture
        maps[:, 0, 3, 7] = 1.0
        return Explanation(word_maps={"c4": maps, "c5": maps[..., ::2, ::2]})


class NoAttention(RedFinder):
    def explain(self, batch, prediction, *, region_rows=False):
        return Explanation()


def predictor(model: ReferringModel | None = None) -> Predictor:
    return Predictor(Checkpoint(model or RedFinder(), VOCABULARY, SIZE, {}), "cpu")


def picture(height: int = H, width: int = W) -> torch.Tensor:
    """Black, its left third red."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :, : -(-width // 3)] = 255
    return image


def save(image: torch.Tensor, path, **options):
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, **options)
    return path


def test_the_answer_has_the_size_of_the_picture():
    result = predictor().predict(picture(), "the red zebra, now or never")
    assert result.pred_mask.shape == result.mask_prob.shape == (H, W)
    assert result.pred_mask.dtype == torch.bool
    assert result.pred_mask[:, :9].all() and not result.pred_mask[:, 11:].any()
    assert torch.equal(result.mask_prob > 0.5, result.pred_mask)
    assert 0 <= result.mask_prob.min() and result.mask_prob.max() <= 1
    assert torch.equal(result.image, picture())


def test_words_read_and_words_unknown():
    result = predictor().predict(picture(), "The red zebra, now")
    assert result.words == ["the", "red", "zebra", ","]  # cut where the model stops reading
    assert result.unknown_words == ["zebra", ",", "now"]
    assert len(result.word_maps["c4"]) == len(result.words)


def test_the_same_mask_as_in_evaluation():
    image, truth = torch.randint(0, 256, (3, H, W), dtype=torch.uint8), torch.zeros(H, W, dtype=torch.bool)
    sample = build_transform(SIZE)(RefSample(image[None], truth, "red", "1", "toy", (H, W), truth))
    (mask,) = predict_masks(RedFinder(), Collate(VOCABULARY)([sample]))
    result = predictor().predict(image, "red")
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(result.pred_mask, mask)


def test_word_maps_are_cut_like_the_picture():
    maps = predictor().predict(picture(), "red one").word_maps
    assert maps["c4"].shape == maps["c5"].shape == (2, H, W)
    assert maps["c4"][0].max() > 0.1 and maps["c4"][0].argmax() % W > W // 2
    assert maps["c4"][1].max() == 0  # the padding's attention is not shown


def test_a_model_without_word_maps_still_predicts():
    result = predictor(NoAttention()).predict(picture(), "red")
    assert result.word_maps == {} and result.pred_mask.any()


def test_an_error_inside_a_model_is_not_taken_for_a_model_without_maps():
    class Mistaken(RedFinder):
        def explain(self, batch, prediction, *, region_rows=False):
            return self.word_mapps

    with pytest.raises(AttributeError, match="word_mapps"):
        predictor(Mistaken()).predict(picture(), "red")
    assert predictor(Mistaken()).predict(picture(), "red", word_maps=False).pred_mask.any()


def test_whatever_an_image_comes_as_it_is_the_same(tmp_path):
    path, pixels = save(picture(), tmp_path / "a.png"), picture().permute(1, 2, 0).numpy()
    clear = np.dstack([pixels, np.full((H, W), 255, np.uint8)])
    for image in (path, str(path), Image.open(path), Image.fromarray(clear), pixels, clear, picture()):
        result = predictor().predict(image, "red")
        assert torch.equal(result.image, picture()), type(image)
        assert torch.equal(result.mask_prob, predictor().predict(picture(), "red").mask_prob)
    clear[..., 3] = 0  # transparent, as a file is: laid over white
    assert predictor().predict(clear, "red").image.min() == 255
    assert predictor().predict(pixels[..., 0], "red").image.shape == (3, H, W)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    path = save(picture(), tmp_path / "phone.png", exif=exif)
    for image in (path, Image.open(path)):
        result = predictor().predict(image, "red")
        assert result.image.shape == (3, W, H)
        assert result.pred_mask[0].all() and not result.pred_mask[-1].any()


def test_tiny_and_thin_pictures(tmp_path):
    for size in [(1, 1), (1, 997), (997, 1), (2, 3)]:
        result = predictor().predict(picture(*size), "red")
        assert result.pred_mask.shape == size
        save_prediction(result, tmp_path / "out.png")
        assert Image.open(tmp_path / "out.png").size == (size[1], size[0])


def test_a_large_picture_is_saved_small_and_its_mask_whole(tmp_path):
    result = predictor().predict(picture(300, 2500), "red")
    assert result.word_maps["c5"].shape == (1, 77, 640)
    shown, bare = save_prediction(result, tmp_path / "out.png")
    assert Image.open(shown).size == (2048, 246)
    assert Image.open(bare).size == (2500, 300)


@pytest.mark.slow
def test_a_picture_of_48_million_pixels(tmp_path):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = predictor().predict(picture(6000, 8000), "the red one")
    save_prediction(result, tmp_path / "out.png")
    assert result.pred_mask.shape == (6000, 8000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 2.0  # GiB


def test_what_is_no_image_is_refused(tmp_path):
    path = save(torch.randint(0, 256, (3, 99, 99), dtype=torch.uint8), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:5000])
    for wrong, message in (
        (torch.zeros(3, 5, 5), r"torch.float32 of shape \(3, 5, 5\)"),
        (torch.zeros(5, 5, 3, dtype=torch.uint8), r"\[3,H,W\] uint8"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), "uint8"),
        (np.zeros((5, 5, 3)), r"array of float64 of shape \(5, 5, 3\)"),
        (np.zeros((3, 5, 5), np.uint8), "H,W,3"),
        (np.zeros((0, 5, 3), np.uint8), "H,W,3"),
        (np.zeros(5, np.uint8), "H,W,3"),
        ([[1]], "cannot be a list"),
        (Image.open(path), "is not readable"),
    ):
        with pytest.raises(RefsegError, match=message):
            predictor().predict(wrong, "red")


def test_no_picture_and_no_words_are_refused(tmp_path):
    with pytest.raises(RefsegError, match="nowhere.jpg"):
        predictor().predict(tmp_path / "nowhere.jpg", "red")
    with pytest.raises(RefsegError, match="no word"):
        predictor().predict(picture(), " . ")


# ---- files -----------------------------------------------------------------------------------------------------


def test_saved_files_hold_the_mask(tmp_path):
    result = predictor().predict(picture(), "red")
    files = save_prediction(result, tmp_path / "red car.png")
    assert files == [tmp_path / "red car.png", tmp_path / "red car_mask.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)  # and nothing else
    bare = np.asarray(Image.open(files[1]))
    assert np.array_equal(bare, result.pred_mask.numpy() * np.uint8(255))
    shown = np.asarray(Image.open(files[0]))
    assert shown.shape == (H, W, 3)
    assert shown[6, 4, 0] > 150 and shown[6, 20].max() < 60


def test_bad_targets_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "full.png").mkdir()
    result = predictor().predict(picture(), "red")
    for name, message in (("a.jpg", r"name it a\.png"), ("full.png", "is a folder: name a file in it")):
        with pytest.raises(RefsegError, match=message) as caught:
            save_prediction(result, tmp_path / name)
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["full.png"]


def test_a_full_disk_leaves_the_old_files_and_no_half_ones(tmp_path, monkeypatch):
    result = predictor().predict(picture(), "red")
    files = save_prediction(result, tmp_path / "a.png")
    before = [path.read_bytes() for path in files]
    written = []

    def full_disk(image, file, kind, **options):
        file.write_bytes(b"half of a picture")
        written.append(image)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(RefsegError, match="No space left"):
        save_prediction(result, tmp_path / "a.png")
    assert len(written) == 2
    assert [path.read_bytes() for path in files] == before
    assert sorted(tmp_path.iterdir()) == sorted(files)


# ---- one forward pass ------------------------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """How often each of torch's operations is computed inside."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_a_prediction_is_one_forward_pass_of_every_shipped_network():
    """Asking for maps repeats no convolution and no projection; no attention score is computed again."""
    layers = ("conv2d", "linear", "scaled_dot_product_attention")
    # Cosines of the pixels with the centre, and frame weights, which the kernel does not return.
    products = {"alignformer_refshapes": 1, "cmsa_refshapes_video": 3}
    image = torch.randint(0, 256, (3, 90, 70), dtype=torch.uint8)
    for name in shipped_names():
        ready = Predictor(name, "cpu")
        stem = next(part for part in ready.model.backbone.modules() if isinstance(part, torch.nn.Conv2d))
        passes = []
        stem.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with Counted() as plain:
            ready.predict(image, "the red star left of the circle", word_maps=False)
        with Counted() as asked:
            result = ready.predict(image, "the red star left of the circle")
        assert len(passes) == 2 and result.word_maps, name  # one for each of the two predictions
        assert [asked.found[layer] for layer in layers] == [plain.found[layer] for layer in layers], name
        more = asked.found["matmul"] + asked.found["einsum"] - plain.found["matmul"] - plain.found["einsum"]
        assert plain.found["conv2d"] > 0 and more == products.get(name, 0), name
