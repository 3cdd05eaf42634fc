"""Commands that turn the authors' checkpoints into ours."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass
class ConvertCmsaRelease:
    """Turn a TensorFlow checkpoint of the authors' CMSA release into one of ours; TensorFlow is not needed."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The name that its .index and .data files begin with."""
    out: Path
    """Folder of the new checkpoint."""
    vocabulary: Path
    """The release's vocabulary file that it was trained with, e.g. vocabulary_Gref.txt."""

    def run(self) -> None:
        """Convert and say what was not used."""
        from refseg.convert.cmsa import convert_cmsa_release

        conversion = convert_cmsa_release(self.checkpoint, self.vocabulary, self.out)
        _report_conversion(conversion, "variables", self.out)


@dataclass
class ConvertMagnetRelease:
    """Turn a checkpoint of the authors' MagNet release into one of ours; nothing in it is run."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """The released file."""
    out: Path
    """Folder of the new checkpoint."""
    vocabulary: str = "bert-base-uncased"
    """The word pieces: a vocab.txt, a folder, or a model of the Hugging Face hub, which is downloaded once."""

    def run(self) -> None:
        """Convert and say what was not used."""
        from refseg.convert.cmsa import convert_magnet_release

        conversion = convert_magnet_release(self.checkpoint, self.vocabulary, self.out)
        _report_conversion(conversion, "tensors", self.out)


def _report_conversion(conversion: Any, what: str, out: Path) -> None:
    print(f"{conversion.converted} {what} are now the network in {out}.")
    if conversion.unused:
        print(f"Not used: {', '.join(conversion.unused)}", file=sys.stderr)
