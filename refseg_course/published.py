"""What the papers report for the benchmarks, with the source of each figure, and the command that is meant to reach it.

Compare only under the named protocol, and only where the backbone knew as much: see ``ResNet101Config`` on the leak in
weights that were trained on the masks of COCO.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_YET_RUN = "not yet run"


@dataclass(frozen=True)
class Published:
    """Figures of one row of a table.

    Args:
        preset, data, split_by: what ``refseg train`` is given; ``split_by`` is None for a benchmark's usual split.
        trained_on: in the papers' words.
        figures: "split value, split value"; empty where no source that may be quoted has one.
        measure: of the figures.
        source: where they were read.
        ours: the score of our own run.
    """

    preset: str
    data: str
    split_by: str | None
    trained_on: str
    figures: str
    measure: str
    source: str
    ours: str = NOT_YET_RUN

    @property
    def options(self) -> str:
        """The words for ``refseg train``."""
        own_data = self.preset.endswith(f"_{self.data}") and not self.split_by
        split = f" --split-by {self.split_by}" if self.split_by else ""
        return f"--preset {self.preset}" + ("" if own_data else f" --data {self.data}{split}")


_CVPR = "CMSA (CVPR 2019) as listed by Papers with Code and a survey; the paper's own table was not available"
_CRF = "oIoU, % (DenseCRF)"
_RELEASE = "README of lwye/CMSA-Net"
_TPAMI = "CMSA+CFSA (TPAMI 2021) as listed by Papers with Code and hyper.ai"
_MAGNET = "README of yxchng/mask-grounding"
_NONE = "no figure found in a source that may be quoted"

PUBLISHED: tuple[Published, ...] = (
    Published("cmsa_refcoco", "refcoco", None, "UNC", "val 58.32, testA 60.61, testB 55.09", _CRF, _CVPR),
    Published("cmsa_refcoco", "refcoco+", None, "UNC+", "val 43.76, testA 47.60, testB 37.89", _CRF, _CVPR),
    Published("cmsa_refcoco", "refcocog", "google", "G-Ref (google)", "val 39.98", _CRF, _CVPR),
    Published("cmsa_refcoco", "referit", None, "ReferIt trainval", "", _CRF, _NONE),
    Published("cmsa_release_refcoco", "refcoco", None, "UNC", "val 58.32, testA 60.61, testB 55.09", _CRF, _CVPR),
    Published("cmsa_release_refcoco", "refcoco+", None, "UNC+", "val 43.76, testA 47.60, testB 37.89", _CRF, _CVPR),
    Published("cmsa_release_refcoco", "refcocog", "google", "G-Ref (google)", "val 39.98", _CRF, _CVPR),
    Published(
        "cmsa_release_refcoco",
        "refcocog",
        "google",
        "G-Ref (google)",
        "val 39.96, with DenseCRF 40.07",
        "oIoU, %",
        _RELEASE,
    ),
    Published("cmsa_release_refcoco", "referit", None, "ReferIt trainval", "", _CRF, _NONE),
    Published(
        "cmsa_a2d",
        "a2d",
        None,
        "A2D",
        "oIoU .618, mIoU .432, P@.5 .487, P@.6 .431, P@.7 .358, P@.8 .231, P@.9 .052",
        "test",
        _TPAMI,
    ),
    Published(
        "cmsa_a2d",
        "a2d",
        None,
        "A2D, tested on J-HMDB",
        "oIoU .628, mIoU .581, P@.5 .764, P@.6 .625, P@.7 .389",
        "test",
        _TPAMI,
    ),
    Published(
        "magnet_refcoco", "refcoco", None, "RefCOCO (unc)", "val 75.24, testA 78.24, testB 71.05", "oIoU, %", _MAGNET
    ),
    Published(
        "magnet_refcoco", "refcoco+", None, "RefCOCO+ (unc)", "val 66.16, testA 71.32, testB 58.14", "oIoU, %", _MAGNET
    ),
    Published("magnet_refcoco", "refcocog", "umd", "RefCOCOg (umd)", "val 65.36, test 66.03", "oIoU, %", _MAGNET),
    Published("magnet_refcoco", "refcocog", "google", "RefCOCOg (google)", "", "oIoU, %", _NONE),
    Published("alignformer_refcoco", "refcoco", None, "RefCOCO (unc)", "", "oIoU, %", _NONE),
    Published("alignformer_refcoco", "refcoco+", None, "RefCOCO+ (unc)", "", "oIoU, %", _NONE),
    Published("alignformer_refcoco", "refcocog", "umd", "RefCOCOg (umd)", "", "oIoU, %", _NONE),
    Published("alignformer_refcoco", "refcocog", "google", "RefCOCOg (google)", "", "oIoU, %", _NONE),
    Published("alignformer_refcoco", "referit", None, "ReferIt trainval", "", "oIoU, %", _NONE),
)


def published_table() -> str:
    """All rows as Markdown."""
    lines = ["| refseg train | trained on | published | measure | read in | ours |", "|---|---|---|---|---|---|"]
    for row in PUBLISHED:
        cells = (f"`{row.options}`", row.trained_on, row.figures or "-", row.measure, row.source, row.ours)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
