"""What the papers report for the benchmarks that presets train on, with where each figure was read.

A figure stands beside the preset that is meant to reach it. None has been reached or missed here: the presets of full
size are not yet run. Compare only under the protocol that is named, and only where the backbone knew as much: see
``ResNet101Backbone`` on the leak in weights that were trained on the masks of COCO.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_YET_RUN = "not yet run"


@dataclass(frozen=True)
class Published:
    """Figures of one row of a table."""

    trained_on: str
    figures: str  # "split value, split value"; empty where none was found in a source that may be quoted
    measure: str
    source: str
    ours: str = NOT_YET_RUN


_CVPR = "CMSA (CVPR 2019) as listed by Papers with Code and a survey; the paper's own table was not at hand"
_CRF = "oIoU, % (DenseCRF)"
_TPAMI = "CMSA+CFSA (TPAMI 2021) as listed by Papers with Code and hyper.ai"
_MAGNET = "README of yxchng/mask-grounding"
_NONE = "no figure found in a source that may be quoted"

_CMSA_ROWS = {
    "refcoco": ("UNC", "val 58.32, testA 60.61, testB 55.09"),
    "refcoco+": ("UNC+", "val 43.76, testA 47.60, testB 37.89"),
    "refcocog": ("G-Ref (google)", "val 39.98"),
}

PUBLISHED: dict[str, tuple[Published, ...]] = {
    **{f"cmsa_{key}": (Published(*row, _CRF, _CVPR),) for key, row in _CMSA_ROWS.items()},
    "cmsa_referit": (Published("ReferIt trainval", "", _CRF, _NONE),),
    **{f"cmsa_release_{key}": (Published(*row, _CRF, _CVPR),) for key, row in _CMSA_ROWS.items()},
    "cmsa_release_refcocog": (
        Published("G-Ref (google)", "val 39.98", _CRF, _CVPR),
        Published("G-Ref (google)", "val 39.96, with DenseCRF 40.07", "oIoU, %", "README of lwye/CMSA-Net"),
    ),
    "cmsa_release_referit": (Published("ReferIt trainval", "", _CRF, _NONE),),
    "cmsa_a2d": (
        Published("A2D", "oIoU .618, mIoU .432, P@.5 .487, P@.6 .431, P@.7 .358, P@.8 .231, P@.9 .052", "test", _TPAMI),
        Published("A2D, tested on J-HMDB", "oIoU .628, mIoU .581, P@.5 .764, P@.6 .625, P@.7 .389", "test", _TPAMI),
    ),
    "magnet_refcoco": (Published("RefCOCO (unc)", "val 75.24, testA 78.24, testB 71.05", "oIoU, %", _MAGNET),),
    "magnet_refcoco+": (Published("RefCOCO+ (unc)", "val 66.16, testA 71.32, testB 58.14", "oIoU, %", _MAGNET),),
    "magnet_refcocog": (Published("RefCOCOg (umd)", "val 65.36, test 66.03", "oIoU, %", _MAGNET),),
    "magnet_refcocog_google": (Published("RefCOCOg (google)", "", "oIoU, %", _NONE),),
    "alignformer_refcoco": (Published("RefCOCO (unc)", "", "oIoU, %", _NONE),),
    "alignformer_refcoco+": (Published("RefCOCO+ (unc)", "", "oIoU, %", _NONE),),
    "alignformer_refcocog": (Published("RefCOCOg (umd)", "", "oIoU, %", _NONE),),
    "alignformer_refcocog_google": (Published("RefCOCOg (google)", "", "oIoU, %", _NONE),),
    "alignformer_referit": (Published("ReferIt trainval", "", "oIoU, %", _NONE),),
}


def published_table() -> str:
    """All rows as Markdown."""
    lines = ["| preset | trained on | published | measure | read in | ours |", "|---|---|---|---|---|---|"]
    for preset, rows in PUBLISHED.items():
        for row in rows:
            cells = (f"`{preset}`", row.trained_on, row.figures or "-", row.measure, row.source, row.ours)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
