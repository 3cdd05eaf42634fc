"""Pictures for people: a matplotlib figure with its alternative text, and the mask drawn on an image."""

from refseg.viz.figures import clip_figure, learning_curve, prediction_figure, show_sample, word_map_figure
from refseg.viz.picture import Picture, show, to_html, to_png_bytes
from refseg.viz.pixels import DARK, INK, PREDICTION, QUIET, TRUTH, as_mask, as_picture, overlay, where

__all__ = [
    "DARK",
    "INK",
    "PREDICTION",
    "QUIET",
    "TRUTH",
    "Picture",
    "as_mask",
    "as_picture",
    "clip_figure",
    "learning_curve",
    "overlay",
    "prediction_figure",
    "show",
    "show_sample",
    "to_html",
    "to_png_bytes",
    "where",
    "word_map_figure",
]
