"""Objectives of older runs, which were one config with all weights side by side, as lists of terms."""

from __future__ import annotations

from typing import Any

from refseg.errors import RefsegError
from refseg.models.serialise import config_from_dict
from refseg.objectives.base import ObjectiveConfig

OLDER = ("SegmentationConfig", "TaughtMapsConfig", "SupervisedWordMapsConfig", "AlignmentConfig", "MaskGroundingConfig")
RENAMED = {"kept": "unreplaced", "untold": "mask_dropout", "ground": "weight", "contrast": "weight", "maps": "weight"}
PIXEL_ALIGNMENT = ("pixel_to_pixel", "pixel_to_text", "temperature", "referent_pixels", "other_pixels")


def objective_from_dict(plain: Any) -> ObjectiveConfig:
    """The objective that ``config_to_dict`` wrote, of older runs too.

    Raises:
        RefsegError: it is not one.
    """
    try:
        return config_from_dict(upgraded(plain), "The objective")
    except (KeyError, TypeError) as error:
        raise RefsegError(f"The objective is not one that refseg wrote ({error}): copy the file again.") from error


def upgraded(plain: dict[str, Any]) -> dict[str, Any]:
    """The same losses with the same weights, as a list of terms; what is a list of terms already stays as it is."""
    if plain["type"] not in OLDER:
        return plain
    kind, old = plain["type"], {RENAMED.get(name, name): value for name, value in plain.items() if name != "type"}
    deep = kind in ("AlignmentConfig", "MaskGroundingConfig")
    terms = [{"type": "MaskLossConfig", "bce": old.pop("bce"), "dice": old.pop("dice"), "deep_supervision": deep}]
    if semantics := old.pop("semantics"):
        terms.append({"type": "SemanticsConfig", "weight": semantics})
    alignment = {name: old.pop(name) for name in PIXEL_ALIGNMENT if kind == "MaskGroundingConfig"}
    if kind == "AlignmentConfig":
        form = "InstanceContrastConfig" if old.pop("other_samples", True) else "ImageContrastConfig"
        kind = "PixelContrastConfig" if old.pop("pixel_wise") else form
    if old.get("weight"):
        terms.append({"type": kind.replace("TaughtMaps", "SupervisedWordMaps"), **old})
    if alignment.get("pixel_to_pixel") or alignment.get("pixel_to_text"):
        terms.append({"type": "PixelAlignmentConfig", **alignment})
    return {"type": "ObjectiveConfig", "terms": terms}
