"""Figures: what is drawn and said can be counted, and strange images do not break them."""

import base64
import html
import io
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.errors import RefsegError
from refseg.types import RefSample
from refseg.viz import overlay
from refseg_course.figures import (
    as_mask,
    as_picture,
    learning_curve,
    prediction_figure,
    show,
    show_sample,
    to_html,
    to_png_bytes,
    word_map_figure,
)

H, W = 11, 17


def picture(height: int = H, width: int = W) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def block(height: int = H, width: int = W) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: height // 3 + 1, : width // 3 + 1] = True
    return mask


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_prediction_figure_says_both_masks_and_the_iou():
    pred, mask = block(), torch.zeros(H, W, dtype=torch.bool)
    drawn = prediction_figure(picture(), "the red car", pred, mask, 0.0)
    assert "the red car" in drawn.alt and "IoU is 0.00" in drawn.alt
    assert "the true mask covers nothing" in drawn.alt and "at the upper left" in drawn.alt
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["prediction", "true mask"]


def test_prediction_and_truth_differ_without_hue():
    drawn = prediction_figure(picture(), "car", block(), block(), 1.0)
    solid, dashed = (line.get_linestyle() for line in drawn.figure.legends[0].get_lines())
    assert (solid, dashed) == ("-", "--")
    outlines = [contour for contour in drawn.figure.axes[1].collections]
    assert any(contour.get_linestyle()[0][1] is not None for contour in outlines)  # dashes on the picture too
    assert any(contour.get_linestyle()[0][1] is None for contour in outlines)


def test_a_prediction_without_truth_shows_no_iou():
    drawn = prediction_figure(picture(), "car", block(), None, float("nan"))
    assert "IoU" not in drawn.alt and "true" not in drawn.alt
    assert "nan" not in drawn.figure.axes[1].get_title()


def test_the_drawn_mask_changes_the_picture_where_it_lies():
    grey = torch.full((3, 60, 60), 128, dtype=torch.uint8)
    empty = torch.zeros(60, 60, dtype=torch.bool)
    corner = empty.clone()
    corner[:20, :20] = True
    without = pixels(to_png_bytes(prediction_figure(grey, "x", empty, None, 0)))
    with_it = pixels(to_png_bytes(prediction_figure(grey, "x", corner, None, 0)))
    changed = (without != with_it).any(2)
    rows, columns = np.nonzero(changed)
    assert without.shape == with_it.shape
    assert columns.min() > without.shape[1] * 0.45  # only the right panel
    assert 0.02 < changed.mean() < 0.12  # a ninth of that panel


def test_show_sample_draws_the_target_frame():
    frames = torch.stack([torch.zeros(3, H, W), torch.full((3, H, W), 255.0)]).to(torch.uint8)
    sample = RefSample(frames, block(), "left one", "1", "toy", (H, W), block(), target_frame=1)
    drawn = show_sample(sample)
    assert drawn.figure.axes[0].images[0].get_array().min() == 255
    assert "“left one”" in drawn.alt and "17 by 11" in drawn.alt


def test_dollars_quotes_and_tags_in_an_expression_are_text():
    expression = '<b>the $5 bill & the "$6" one</b>'
    drawn = prediction_figure(picture(), expression, block(), None, 0)
    page = to_html(drawn, "5 < 6")
    assert "<b>" not in page and "&lt;b&gt;" in page and "5 &lt; 6" in page
    alt = re.search(r'<img alt="([^"]*)"', page)
    assert alt is not None and "&quot;$6&quot;" in alt.group(1)
    data = re.search(r'base64,([^"]*)"', page).group(1)
    assert pixels(base64.b64decode(data)).ndim == 3


def test_a_picture_in_a_notebook_carries_its_alternative_text():
    drawn = prediction_figure(picture(), "car", block(), None, 0)
    assert repr(drawn) == f"Picture: {drawn.alt}"
    assert "alt=" in drawn._repr_html_()


def test_png_bytes_repeat():
    assert to_png_bytes(learning_curve([{"step": 1, "loss": 2.0}])) == to_png_bytes(
        learning_curve([{"step": 1, "loss": 2.0}])
    )


def test_strange_sizes_are_drawn():
    for size in [(1, 1), (1, 301), (301, 1), (1200, 900)]:
        mask, maps = torch.ones(size, dtype=torch.bool), torch.rand(2, 3, 5)
        assert to_png_bytes(prediction_figure(picture(*size), "it", mask, ~mask, 0.0), dpi=40)
        assert to_png_bytes(word_map_figure(picture(*size), ["a", "b"], maps, mask), dpi=40)
        assert overlay(picture(*size), mask).shape == (*size, 3)
    with pytest.raises(RefsegError, match="does not fit"):
        prediction_figure(picture(), "it", torch.ones(W, H, dtype=torch.bool), None, 0)


def test_word_maps_share_one_scale_and_say_what_they_are():
    maps = torch.full((2, 3, 5), 1.0)
    maps[1, 2, 4] = 16.0
    drawn = word_map_figure(picture(), ["the", "car"], maps, block(), level="c4")
    images = [axis.images[0] for axis in drawn.figure.axes[1:3]]
    assert len({image.get_clim() for image in images}) == 1
    assert all(image.get_cmap().name == "cividis" for image in images)
    mean = (29 * 1 + 16) / 30
    assert images[0].get_array().max() == pytest.approx(1 / mean)
    assert images[1].get_array().max() == pytest.approx(16 / mean)
    assert f"“car” is strongest at the lower right ({16 / mean:.1f})" in drawn.alt
    for word in ("Level c4", "region", "mean", "shared by all words", "predicted mask"):
        assert word in drawn.caption
    assert [axis.get_title() for axis in drawn.figure.axes[:3]] == ["picture", "“the”", "“car”"]


def test_twenty_words_and_one_word_have_a_panel_each():
    for count in (1, 20):
        drawn = word_map_figure(picture(), ["w"] * count, torch.rand(count, 3, 5))
        titled = [axis for axis in drawn.figure.axes if axis.get_title()]
        assert len(titled) == count + 1


def test_wrong_maps_are_refused():
    for words, maps in (
        (["a"], torch.rand(2, 3, 5)),
        ([], torch.rand(0, 3, 5)),
        (["a"], -torch.ones(1, 3, 5)),
        (["a"], torch.full((1, 3, 5), float("nan"))),
    ):
        with pytest.raises(RefsegError, match="map"):
            word_map_figure(picture(), words, maps)


def test_learning_curve_tells_first_last_and_best():
    rows = [{"step": 0, "seconds": 0.0, "loss": 2.0}, {"step": 10, "seconds": 3.0, "loss": 1.0, "val": {"mIoU": 0.5}},
            {"step": 20, "seconds": 7.0, "loss": 0.5}, {"step": 20, "seconds": 7.0, "val": {"mIoU": 0.4}}]  # fmt: skip
    drawn = learning_curve(rows)
    assert "20 steps" in drawn.alt and "from 2 to 0.5" in drawn.alt and "best 0.5" in drawn.alt
    assert len(drawn.figure.axes) == 2
    assert drawn.figure.axes[1].lines[0].get_xydata().tolist() == [[10, 0.5], [20, 0.4]]
    assert "7 seconds" in learning_curve(rows, over="seconds").alt
    assert len(learning_curve(rows[:1]).figure.axes) == 1
    with pytest.raises(RefsegError, match="nothing to draw"):
        learning_curve([{"loss": 1.0}])


@pytest.fixture
def displayed(monkeypatch):
    """The HTML that ``show`` displays, in place of a notebook."""
    import IPython.display

    pages = []
    monkeypatch.setattr(IPython.display, "display", lambda page: pages.append(page.data))
    return pages


def test_show_displays_the_figure_with_its_words_and_closes_it(displayed):
    from matplotlib import pyplot

    for _ in range(2):
        figure, axis = pyplot.subplots()
        axis.plot([1, 2, 3])
        show(figure, "A line that <rises>.", "a caption")
    assert pyplot.get_fignums() == []
    assert displayed[0] == displayed[1], "the same figure, other bytes"
    assert 'alt="A line that &lt;rises&gt;."' in displayed[0]
    assert "<figcaption>a caption</figcaption>" in displayed[0]


def test_show_takes_a_picture_with_its_own_words(displayed):
    ours = learning_curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    show(ours)
    assert html.escape(ours.alt) in displayed[0] and "figcaption" not in displayed[0]
    show(ours, alt="Falls.")
    assert 'alt="Falls."' in displayed[1]


def test_show_wants_words(displayed):
    from matplotlib.figure import Figure

    with pytest.raises(RefsegError, match="alternative text"):
        show(Figure(), " ")
    assert displayed == []


def test_images_of_wrong_kind_are_refused():
    for wrong in (torch.zeros(2, 5, 5), torch.zeros(5, 5), torch.full((3, 5, 5), -1.3), torch.zeros(3, 0, 5)):
        with pytest.raises(RefsegError, match="image"):
            as_picture(wrong)
    with pytest.raises(RefsegError, match="image"):
        as_picture(torch.full((3, 5, 5), float("nan")))
    with pytest.raises(RefsegError, match="bool"):
        as_mask(torch.ones(5, 5))


def test_as_picture_takes_floats_arrays_and_shrinks():
    assert as_picture(torch.ones(3, H, W)).max() == 255
    assert as_picture(picture().permute(1, 2, 0).numpy()).shape == (H, W, 3)
    assert as_picture(picture(2000, 500)).shape == (640, 160, 3)
